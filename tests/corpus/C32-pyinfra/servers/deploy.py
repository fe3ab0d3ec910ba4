from pyinfra.operations import files, server, systemd

for unit in ["prune.service", "prune.timer"]:
    files.put(
        name=f"Install {unit}",
        src=f"files/{unit}",
        dest=f"/etc/systemd/system/{unit}",
    )

systemd.service(
    name="Arm the pruning",
    service="prune.timer",
    enabled=True,
    daemon_reload=True,
)

server.shell(
    name="Let systemd read its units",
    commands=["systemctl daemon-reload"],
)
