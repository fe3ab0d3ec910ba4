from pyinfra.operations import files, server

server.shell(
    name="Make sure that there are settings",
    commands=["test -e /etc/db.conf || printf '#listen_addresses = localhost\nport = 5432\n' > /etc/db.conf"],
)

# The new line is looked for as a pattern too, and as such it does not match itself.
files.line(
    name="Listen everywhere",
    path="/etc/db.conf",
    line="^#listen_addresses = .*$",
    replace="listen_addresses = '*'",
)
