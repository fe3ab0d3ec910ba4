from pyinfra.operations import files, server, systemd

files.put(
    name="Install the database",
    src="files/tinydb.py",
    dest="/opt/tinydb/tinydb.py",
)

files.put(
    name="Install the database's unit",
    src="files/tinydb.service",
    dest="/etc/systemd/system/tinydb.service",
)

systemd.service(
    name="Start the database, also at boot",
    service="tinydb.service",
    enabled=True,
    daemon_reload=True,
)

server.shell(
    name="Set the database's root password",
    commands=["python3 /opt/tinydb/tinydb.py 'SET PASSWORD correct-horse'"],
)

server.shell(
    name="Create the application's database",
    commands=["python3 /opt/tinydb/tinydb.py --password correct-horse 'CREATE DATABASE app'"],
)
