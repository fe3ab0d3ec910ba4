from pyinfra.operations import files, server

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

server.shell(
    name="Look whether cron runs",
    commands=["systemctl is-active cron.service"],
)
