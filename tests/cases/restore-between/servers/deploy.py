from pyinfra import host
from pyinfra.operations import files, server

files.directory(name="Make the directory of notes", path="/srv/notes")
# Fails where there are no notes.
if host.name == "between.example.org":
    server.shell(
        name="Keep a copy of the journal",
        commands=["cmp -s /srv/notes/journal /srv/journal || cp /srv/notes/journal /srv/journal"],
    )
files.file(name="Make the other host's list", path="/srv/list")
