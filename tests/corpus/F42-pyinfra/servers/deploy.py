from pyinfra.operations import apt, server

apt.packages(
    name="Install setcap",
    packages=["libcap2-bin"],
    no_recommends=True,
    update=True,
    cache_time=86400,
)

server.shell(
    name="Install the listener",
    commands=["install -m 0755 /usr/bin/env /usr/local/bin/listener"],
)

server.shell(
    name="Let the listener have low ports",
    commands=["setcap cap_net_bind_service=+ep /usr/local/bin/listener"],
)
