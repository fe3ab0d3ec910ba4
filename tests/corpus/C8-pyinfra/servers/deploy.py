from pyinfra.operations import files, systemd

unit = files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

settings = files.put(
    name="Configure the application",
    src="files/app.conf",
    dest="/etc/app.conf",
)

systemd.service(
    name="Restart the application after a change",
    service="app.service",
    restarted=True,
    daemon_reload=True,
    _if=lambda: unit.did_change() or settings.did_change(),
)

systemd.service(
    name="Start the application, also at boot",
    service="app.service",
    enabled=True,
)
