from pyinfra.operations import files, systemd

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
    restarted=True,
    daemon_reload=True,
)
