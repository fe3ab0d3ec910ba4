from pathlib import Path

from pyinfra.operations import files, systemd
from pyinfra.operations.util import any_changed

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"

# Closed to others before the password is put into it.
files.directory(
    name="Create the directory of the configuration",
    path="/etc/papers",
    group="papers",
    mode="0750",
)

password = files.put(
    name="Install the password of the administrator",
    src=str(KEYS / "admin-password"),
    dest="/etc/papers/admin-password",
    group="papers",
    mode="0640",
)

code = files.put(
    name="Install papers",
    src="files/papers.py",
    dest="/opt/papers/papers.py",
    mode="0644",
)

files.put(
    name="Install the client of papers",
    src="files/papers_client.py",
    dest="/opt/papers/papers_client.py",
    mode="0644",
)

for script in ["seed-papers", "verify-papers"]:
    files.put(
        name=f"Install {script}",
        src=f"scripts/{script}",
        dest=f"/usr/local/sbin/{script}",
        mode="0755",
    )

unit = files.put(
    name="Install the unit of papers",
    src="files/papers.service",
    dest="/etc/systemd/system/papers.service",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about the changed unit",
    _if=unit.did_change,
)

# Before "Start ...": at the first deploy this one starts the service, once.
systemd.service(
    name="Restart papers after a change",
    service="papers.service",
    restarted=True,
    _if=any_changed(password, code, unit),
)

systemd.service(
    name="Start papers, also at boot",
    service="papers.service",
    enabled=True,
)
