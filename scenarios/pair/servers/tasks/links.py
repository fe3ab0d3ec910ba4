from pathlib import Path

from pyinfra.operations import files, server, systemd
from pyinfra.operations.util import any_changed

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"

server.user(
    name="Create the account of the links service",
    user="links",
    system=True,
    home="/nonexistent",
    ensure_home=False,
    shell="/usr/sbin/nologin",
)

# Closed to others before the password is put into it.
files.directory(
    name="Create the directory of the links service's configuration",
    path="/etc/links",
    group="links",
    mode="0750",
)

database = files.template(
    name="Tell the links service its database and password",
    src="templates/database.conf.j2",
    dest="/etc/links/database.conf",
    group="links",
    mode="0640",
    password=(KEYS / "database-password").read_text().strip(),
)

code = files.put(
    name="Install the links service",
    src="files/links.py",
    dest="/opt/links/links.py",
    mode="0644",
)

unit = files.put(
    name="Install the unit of the links service",
    src="files/links.service",
    dest="/etc/systemd/system/links.service",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about the changed unit",
    _if=unit.did_change,
)

# Before "Start ...": at the first deploy this one starts the service, once.
systemd.service(
    name="Restart the links service after a change",
    service="links.service",
    restarted=True,
    _if=any_changed(database, code, unit),
)

systemd.service(
    name="Start the links service, also at boot",
    service="links.service",
    enabled=True,
)
