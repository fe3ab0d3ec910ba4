from pyinfra import host
from pyinfra.operations import files, server

# No operation: it runs whenever this file is read.
host.run_shell_command("echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh")

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

server.user(
    name="Create the application's account",
    user="app",
    shell="/usr/sbin/nologin",
    ensure_home=False,
)

files.put(
    name="Install the application's settings",
    src="files/app.conf",
    dest="/opt/app/app.conf",
)
