from pyinfra.operations import files, server

files.put(
    name="Install the report's unit",
    src="files/report.service",
    dest="/etc/systemd/system/report.service",
)

server.shell(
    name="Make the report",
    commands=["systemctl daemon-reload && systemctl start report.service"],
)
