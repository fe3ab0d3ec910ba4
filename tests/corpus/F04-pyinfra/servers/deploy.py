from datetime import datetime

from pyinfra.operations import files, systemd

files.put(
    name="Install the application's unit",
    src="files/app.service",
    dest="/etc/systemd/system/app.service",
)

settings = files.template(
    name="Configure the application",
    src="templates/app.conf.j2",
    dest="/etc/app.conf",
    now=datetime.now(),
)

systemd.service(
    name="Start the application, also at boot",
    service="app.service",
    enabled=True,
    daemon_reload=True,
)

systemd.service(
    name="Restart the application after a change",
    service="app.service",
    restarted=True,
    _if=settings.did_change,
)
