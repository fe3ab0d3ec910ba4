from pyinfra.operations import files, server, systemd

files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

systemd.service(
    name="Stop the application",
    service="app.service",
    running=False,
    daemon_reload=True,
)

server.shell(
    name="Check the application's data",
    commands=["test -d /etc"],
)

systemd.service(
    name="Start the application",
    service="app.service",
    running=True,
    enabled=True,
)
