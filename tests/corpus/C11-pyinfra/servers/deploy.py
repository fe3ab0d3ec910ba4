from pyinfra.operations import files, server, systemd

files.put(
    name="Install the unit",
    src="files/beat.service",
    dest="/etc/systemd/system/beat.service",
)

systemd.service(
    name="Start the service, also at boot",
    service="beat.service",
    enabled=True,
    daemon_reload=True,
)

server.shell(
    name="Take some time",
    commands=["sleep 2"],
)
