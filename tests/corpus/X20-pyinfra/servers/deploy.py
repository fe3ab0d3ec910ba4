from pyinfra.operations import apt, server

apt.packages(
    name="Install the firewall",
    packages=["nftables"],
    no_recommends=True,
    update=True,
    cache_time=24 * 3600,
)

server.shell(
    name="Make sure that there is a table",
    commands=["nft add table inet filter && nft add chain inet filter input '{ type filter hook input priority 0; }'"],
)

server.shell(
    name="Admit the web",
    commands=["nft add rule inet filter input tcp dport 80 accept"],
)
