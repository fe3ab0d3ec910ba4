from pyinfra.operations import files, server

server.shell(
    name="Make sure that there are settings",
    commands=["test -e /etc/app.conf || echo 'options = rw' > /etc/app.conf"],
)

files.replace(
    name="Mount without access times",
    path="/etc/app.conf",
    text="rw",
    replace="rw,noatime",
)
