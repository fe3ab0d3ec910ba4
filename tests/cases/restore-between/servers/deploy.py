from pyinfra.operations import files, server

files.directory(name="Make the directory of notes", path="/srv/notes")
# Fails where there are no notes.
server.shell(
    name="Keep a copy of the journal",
    commands=["cmp -s /srv/notes/journal /srv/journal || cp /srv/notes/journal /srv/journal"],
)
