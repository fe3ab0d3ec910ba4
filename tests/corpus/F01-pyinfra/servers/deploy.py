from pyinfra.operations import files, server

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

server.shell(
    name="Append to the profile",
    commands=["echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh"],
)
