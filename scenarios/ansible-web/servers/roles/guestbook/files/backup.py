"""Copy the live guestbook into /var/backups/guestbook, one file a day."""

import os
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

DATABASE = "/var/lib/guestbook/guestbook.db"
BACKUPS = Path("/var/backups/guestbook")
KEEP = int(os.environ["GUESTBOOK_BACKUPS_KEPT"])

target = BACKUPS / f"guestbook-{date.today()}.db"
partial = target.with_suffix(".partial")
partial.unlink(missing_ok=True)

# SQLite's own backup: a plain file copy could catch the database in the middle of a write.
with (
    closing(sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True)) as live,
    closing(sqlite3.connect(partial)) as copy,
):
    live.backup(copy)

# Only now under its real name, so that a broken-off copy is never taken for a backup.
partial.replace(target)

for old in sorted(BACKUPS.glob("guestbook-*.db"))[:-KEEP]:
    old.unlink()
