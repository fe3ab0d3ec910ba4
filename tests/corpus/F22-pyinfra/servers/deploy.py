from pyinfra.operations import files, server

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

server.shell(
    name="Keep the shipped profile aside",
    commands=["mv /etc/skel/.profile /opt/app/profile.orig"],
)
