from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import files, server, systemd
from pyinfra.operations.util import any_changed

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"
SERVICE = "syncthing@syncthing.service"
HOME = "/var/lib/syncthing"


def differs():
    """Whether Syncthing's own configuration lacks something that the repo declares. It only looks."""
    return host.get_fact(Command, "/usr/local/sbin/configure-files --check || true") != "as declared"


server.user(
    name="Create the account of Syncthing",
    user="syncthing",
    system=True,
    home=HOME,
    ensure_home=False,
    shell="/usr/sbin/nologin",
)

for path in [HOME, "/srv/files"]:
    files.directory(
        name=f"Create {path}",
        path=path,
        user="syncthing",
        group="syncthing",
        mode="0700",
    )

# The identity of the server: everybody's devices know it by the digest of this certificate.
certificate = files.put(
    name="Install the certificate of the server",
    src=str(KEYS / "syncthing.pem"),
    dest=f"{HOME}/cert.pem",
    user="syncthing",
    group="syncthing",
    mode="0600",
)

key = files.put(
    name="Install the key of the server",
    src=str(KEYS / "syncthing.key"),
    dest=f"{HOME}/key.pem",
    user="syncthing",
    group="syncthing",
    mode="0600",
)

files.directory(
    name="Create the directory of what we declare",
    path="/etc/files",
    mode="0700",
)

files.put(
    name="Declare folders, devices and options",
    src="files/declared.json",
    dest="/etc/files/declared.json",
    mode="0600",
)

files.put(
    name="Declare the password of the GUI, hashed",
    src=str(KEYS / "gui-password-hash"),
    dest="/etc/files/gui-password-hash",
    mode="0600",
)

files.put(
    name="Install what our scripts share",
    src="files/syncthing_server.py",
    dest="/opt/files/syncthing_server.py",
    mode="0644",
)

for script in ["configure-files", "seed-files", "verify-files"]:
    files.put(
        name=f"Install {script}",
        src=f"scripts/{script}",
        dest=f"/usr/local/sbin/{script}",
        mode="0755",
    )

settings = files.put(
    name="Say where Syncthing lives",
    src="files/home.conf",
    dest="/etc/systemd/system/syncthing@syncthing.service.d/home.conf",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about the changed unit",
    _if=settings.did_change,
)

# Before Syncthing is started for the first time: as it comes, it would tell discovery servers all over the world about
# itself. Also when somebody has undone in the GUI what is declared here. It stops Syncthing, and the next starts it.
configured = server.shell(
    name="Configure Syncthing as declared",
    commands=["/usr/local/sbin/configure-files"],
    _if=differs,
)

systemd.service(
    name="Restart Syncthing after a change",
    service=SERVICE,
    restarted=True,
    _if=any_changed(certificate, key, settings, configured),
)

systemd.service(
    name="Start Syncthing, also at boot",
    service=SERVICE,
    enabled=True,
)
