from pyinfra.operations import files, server, systemd
from pyinfra.operations.util import any_changed

server.user(
    name="Create the account of the notes service",
    user="notes",
    system=True,
    home="/var/lib/notes",
    ensure_home=False,  # StateDirectory= in the unit makes it
    shell="/usr/sbin/nologin",
)

files.put(
    name="Install the notes service",
    src="files/notes.py",
    dest="/opt/notes/notes.py",
    mode="0644",
)

files.put(
    name="Install the backup program",
    src="files/backup.py",
    dest="/opt/notes/backup.py",
    mode="0644",
)

files.directory(
    name="Create the backup directory",
    path="/var/backups/notes",
    user="notes",
    group="notes",
    mode="0750",
)

unit = files.put(
    name="Install the unit of the notes service",
    src="files/notes.service",
    dest="/etc/systemd/system/notes.service",
    mode="0644",
)

backup_unit = files.put(
    name="Install the unit of the backup",
    src="files/notes-backup.service",
    dest="/etc/systemd/system/notes-backup.service",
    mode="0644",
)

backup_timer = files.put(
    name="Install the timer of the backup",
    src="files/notes-backup.timer",
    dest="/etc/systemd/system/notes-backup.timer",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about changed units",
    _if=any_changed(unit, backup_unit, backup_timer),
)

systemd.service(
    name="Restart the notes service",
    service="notes.service",
    restarted=True,
)

systemd.service(
    name="Start the notes service, also at boot",
    service="notes.service",
    enabled=True,
)

systemd.service(
    name="Start the backup timer, also at boot",
    service="notes-backup.timer",
    enabled=True,
)
