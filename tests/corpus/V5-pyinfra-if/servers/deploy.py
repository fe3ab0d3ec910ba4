from pyinfra.operations import server

server.shell(
    name="Append to the banner",
    commands=["date >> /etc/motd"],
    _if=lambda: False,
)
