from pyinfra.operations import files, systemd

files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

systemd.service(
    name="Start the application, also at boot",
    service="app.service",
    enabled=True,
    daemon_reload=True,
)

files.put(
    name="Raise the application's limits",
    src="files/limits.conf",
    dest="/etc/systemd/system/app.service.d/limits.conf",
)
