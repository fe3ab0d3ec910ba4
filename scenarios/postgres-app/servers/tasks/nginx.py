from pathlib import Path

from pyinfra import host
from pyinfra.operations import files, server, systemd
from pyinfra.operations.util import any_changed

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"

# Closed to others before the key is put into it.
files.directory(
    name="Create the TLS directory",
    path="/etc/nginx/tls",
    mode="0700",
)

certificate = files.put(
    name="Install the TLS certificate",
    src=str(KEYS / f"{host.name}.pem"),
    dest=f"/etc/nginx/tls/{host.name}.pem",
    mode="0644",
)

key = files.put(
    name="Install the TLS key",
    src=str(KEYS / f"{host.name}.key"),
    dest=f"/etc/nginx/tls/{host.name}.key",
    mode="0600",
)

site = files.template(
    name="Configure the site",
    src="templates/site.conf.j2",
    dest="/etc/nginx/conf.d/site.conf",
    mode="0644",
    domain=host.name,
)

default_site = files.link(
    name="Remove the default site",
    path="/etc/nginx/sites-enabled/default",
    present=False,
)

changed = any_changed(certificate, key, site, default_site)

# A reload with a broken configuration fails in silence; this does not.
server.shell(
    name="Check the nginx configuration",
    commands=["nginx -t"],
    _if=changed,
)

systemd.service(
    name="Reload nginx after a change",
    service="nginx.service",
    reloaded=True,
    _if=changed,
)

systemd.service(
    name="Start nginx, also at boot",
    service="nginx.service",
    enabled=True,
)
