from pyinfra.operations import files, server, systemd

files.put(
    name="Rotate the application's log",
    src="files/app.logrotate",
    dest="/etc/logrotate.d/app",
)

# Whatever a machine does once in a day happens in the seconds of a second deploy.
for timer in ["logrotate", "apt-daily", "systemd-tmpfiles-clean", "dpkg-db-backup"]:
    files.put(
        name=f"Let {timer} run all the time",
        src="files/every-3-seconds.conf",
        dest=f"/etc/systemd/system/{timer}.timer.d/often.conf",
    )

for unit in ["app-log.service", "app-log.timer"]:
    files.put(
        name=f"Install {unit}",
        src=f"files/{unit}",
        dest=f"/etc/systemd/system/{unit}",
    )

for timer in ["app-log", "logrotate", "apt-daily", "systemd-tmpfiles-clean", "dpkg-db-backup"]:
    systemd.service(
        name=f"Start the timer of {timer}, also at boot",
        service=f"{timer}.timer",
        enabled=True,
        daemon_reload=True,
    )

server.shell(
    name="Take some time",
    commands=["sleep 4"],
)
