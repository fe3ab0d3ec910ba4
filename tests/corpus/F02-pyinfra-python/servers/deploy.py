from pyinfra import host
from pyinfra.operations import files

# No operation: it runs whenever this file is read.
host.run_shell_command("echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh")

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)
