from pyinfra.operations import files, systemd

rules = files.put(
    name="Write the firewall rules",
    src="files/nftables.conf",
    dest="/etc/nftables.conf",
    mode="0644",
)

systemd.service(
    name="Load the changed firewall rules",
    service="nftables.service",
    reloaded=True,
    _if=rules.did_change,
)

systemd.service(
    name="Load the firewall at boot",
    service="nftables.service",
    enabled=True,
)
