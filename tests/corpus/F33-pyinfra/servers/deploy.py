from pyinfra.operations import server

server.shell(
    name="Lead the backups by their own table",
    commands=["ip rule add to 10.44.0.0/16 table 44 priority $((2000 + $(ip rule | wc -l)))"],
)
