from pyinfra.operations import apt, files, server, systemd

apt.packages(
    name="Install Python's standard library",
    packages=["libpython3-stdlib"],
    no_recommends=True,
    update=True,
    cache_time=24 * 3600,
)

for program in ["objects.py", "post.py"]:
    files.put(
        name=f"Install {program}",
        src=f"files/{program}",
        dest=f"/opt/objects/{program}",
    )

files.put(
    name="Install the service's unit",
    src="files/objects.service",
    dest="/etc/systemd/system/objects.service",
)

systemd.service(
    name="Start the service, also at boot",
    service="objects.service",
    enabled=True,
    daemon_reload=True,
)

server.shell(
    name="Make the backup's object",
    commands=["""python3 /opt/objects/post.py '{"name": "backup"}'"""],
)
