from pyinfra.operations import files, server, systemd

files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

files.put(
    name="Configure the application",
    src="files/app.conf",
    dest="/etc/app.conf",
)

systemd.service(
    name="Start the application, also at boot",
    service="app.service",
    enabled=True,
    daemon_reload=True,
)

server.shell(
    name="Download the application",
    commands=["test -e /opt/app.bin || (seq 1000 > /opt/app.bin.part && mv /opt/app.bin.part /opt/app.bin)"],
)
