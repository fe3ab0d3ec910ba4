from pyinfra import host
from pyinfra.operations import server

# The inventory's group is called otherwise.
if "webservers" in host.groups:
    server.shell(
        name="Append to the profile",
        commands=["echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh"],
    )
