from pyinfra.operations import apt, files, systemd

apt.packages(
    name="Install what sends mail",
    packages=["libpython3-stdlib", "msmtp-mta"],
    no_recommends=True,
    update=True,
    cache_time=86400,
)
files.put(name="Say where mail goes", src="msmtprc", dest="/etc/msmtprc", mode="644")
files.put(name="Install what sends what is due", src="scripts/send-due", dest="/usr/local/sbin/send-due", mode="755")
for name in ["reminders", "invoices"]:
    files.directory(name=f"Make the directory of {name}", path=f"/var/lib/{name}", mode="755")
    unit = files.put(
        name=f"Install the service of {name}",
        src=f"{name}.service",
        dest=f"/etc/systemd/system/{name}.service",
        mode="644",
    )
    systemd.daemon_reload(name=f"Tell systemd of {name}", _if=unit.did_change)
    systemd.service(name=f"Start {name}", service=f"{name}.service", running=True, enabled=True)
