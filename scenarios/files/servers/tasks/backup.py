import os
from pathlib import Path

from pyinfra.operations import files, systemd
from pyinfra.operations.util import any_changed

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"

# "folders-only" is the backup most people make of Syncthing. Kept so that a drill can show what it loses.
WHAT = os.environ.get("BACKUP", "everything")
if WHAT not in ("everything", "folders-only"):
    raise ValueError(f"BACKUP is {WHAT!r}; expected 'everything' or 'folders-only'")

files.put(
    name="Install the passphrase of the backup",
    src=str(KEYS / "borg-passphrase"),
    dest="/etc/files/borg-passphrase",
    mode="0600",
)

files.template(
    name="Say what is backed up, and where to",
    src="templates/backup.conf.j2",
    dest="/etc/files/backup.conf",
    mode="0644",
    repository="/var/backups/files",
    what=WHAT,
)

for script in ["backup-files", "restore-files"]:
    files.put(
        name=f"Install {script}",
        src=f"scripts/{script}",
        dest=f"/usr/local/sbin/{script}",
        mode="0755",
    )

service = files.put(
    name="Install the unit of the backup",
    src="files/files-backup.service",
    dest="/etc/systemd/system/files-backup.service",
    mode="0644",
)

timer = files.put(
    name="Install the timer of the backup",
    src="files/files-backup.timer",
    dest="/etc/systemd/system/files-backup.timer",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about the changed units of the backup",
    _if=any_changed(service, timer),
)

systemd.service(
    name="Start the backup timer, also at boot",
    service="files-backup.timer",
    enabled=True,
)
