from pathlib import Path

from pyinfra.operations import server

password = Path("../keys/secrets.ini").read_text().split('"')[1]

server.shell(name="Make the first file", commands=["echo made by the first operation > /srv/first"])
server.shell(
    name="Migrate the database",
    commands=[f"echo connecting with {password}; echo 'no such table: users' >&2; exit 3"],
)
server.shell(name="Never reached", commands=["touch /srv/never"])
