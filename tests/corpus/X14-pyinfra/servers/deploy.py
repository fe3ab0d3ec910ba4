from pyinfra import host
from pyinfra.facts.files import Directory
from pyinfra.operations import files, server

# Looked at before anything is installed.
ready = host.get_fact(Directory, "/opt/app/plugins") is not None

server.shell(
    name="Install the application",
    commands=["test -d /opt/app/plugins || mkdir -p /opt/app/plugins"],
)

files.template(
    name="Configure the application",
    src="templates/app.conf.j2",
    dest="/etc/app.conf",
    plugins=ready,
)
