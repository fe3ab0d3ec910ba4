from pyinfra.operations import files, server

files.put(
    name="Configure the application",
    src="files/a.conf",
    dest="/etc/app.conf",
)

server.shell(
    name="Tune the application",
    commands=["sed -i 's/threads = 4/threads = 8/' /etc/app.conf"],
)
