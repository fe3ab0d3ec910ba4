from pyinfra.operations import server

for name in ["shop", "notes"]:
    server.shell(
        name=f"Append to the banner of {name}",
        commands=["date >> /etc/motd"],
        _if=[lambda: True, lambda: False],
    )
