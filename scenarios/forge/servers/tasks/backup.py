import os

from pyinfra.operations import files, systemd
from pyinfra.operations.util import any_changed

# "mirror" is what this group ran until they tried to restore. Kept so that a drill can show what it loses.
WHAT = os.environ.get("BACKUP", "everything")
if WHAT not in ("everything", "mirror"):
    raise ValueError(f"BACKUP is {WHAT!r}; expected 'everything' or 'mirror'")

files.template(
    name="Say how to back up, and where to",
    src="templates/backup.conf.j2",
    dest="/etc/forge/backup.conf",
    mode="0644",
    repository="/var/backups/forge",
    what=WHAT,
)

for script in ["backup-forge", "restore-forge"]:
    files.put(
        name=f"Install {script}",
        src=f"scripts/{script}",
        dest=f"/usr/local/sbin/{script}",
        mode="0755",
    )

service = files.put(
    name="Install the unit of the backup",
    src="files/forge-backup.service",
    dest="/etc/systemd/system/forge-backup.service",
    mode="0644",
)

timer = files.put(
    name="Install the timer of the backup",
    src="files/forge-backup.timer",
    dest="/etc/systemd/system/forge-backup.timer",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about the changed units of the backup",
    _if=any_changed(service, timer),
)

systemd.service(
    name="Start the backup timer, also at boot",
    service="forge-backup.timer",
    enabled=True,
)
