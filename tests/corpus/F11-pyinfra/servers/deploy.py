from pyinfra.operations import files, systemd

files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

systemd.service(
    name="Restart the application",
    service="app.service",
    restarted=True,
    enabled=True,
    daemon_reload=True,
)
