from pyinfra.operations import files, server, systemd

# Stands for the vendor, who goes on publishing.
files.put(
    name="Install the vendor",
    src="files/releases.service",
    dest="/etc/systemd/system/releases.service",
)

systemd.service(
    name="Start the vendor",
    service="releases.service",
    enabled=True,
    daemon_reload=True,
)

server.shell(
    name="Install the newest release",
    commands=["mkdir -p /opt/app && until cp /var/lib/releases/latest /opt/app/version; do sleep 0.2; done"],
)
