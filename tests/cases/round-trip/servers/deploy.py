import os

from pyinfra.operations import apt, files, server, systemd

apt.packages(name="Install SQLite", packages=["sqlite3"], update=True, cache_time=86400)
server.user(name="Make the account of the service", user="notes", home="/var/lib/notes", system=True, ensure_home=False)
files.directory(name="Make the directory of attachments", path="/var/lib/notes/attachments", user="notes", group="notes", mode="750")
for script in ["seed-notes", "restore-notes"]:
    files.put(name=f"Install {script}", src=f"scripts/{script}", dest=f"/usr/local/sbin/{script}", mode="755")
job = "backup-notes-in-part" if os.environ.get("BACKUP") == "in-part" else "backup-notes"
files.put(name="Install the backup job", src=f"scripts/{job}", dest="/usr/local/sbin/backup-notes", mode="755")
unit = files.put(name="Install the service", src="notes.service", dest="/etc/systemd/system/notes.service", mode="644")
files.put(name="Install the schema", src="schema.sql", dest="/usr/local/share/notes.sql", mode="644")
systemd.daemon_reload(name="Reload systemd", _if=unit.did_change)
systemd.service(name="Start the service", service="notes.service", running=True, enabled=True)
