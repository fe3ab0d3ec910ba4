from pyinfra.operations import files, systemd

files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

systemd.daemon_reload(
    name="Tell systemd about units",
)

systemd.service(
    name="Start the application, also at boot",
    service="app.service",
    enabled=True,
)
