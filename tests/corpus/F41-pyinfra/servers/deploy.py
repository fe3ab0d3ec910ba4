from pyinfra.operations import apt, server

# Nothing but the packages' own logs knows afterwards that it was there.
apt.packages(
    name="Install the compiler's driver",
    packages=["make"],
    no_recommends=True,
    update=True,
    cache_time=86400,
)

server.shell(
    name="Build the tool",
    commands=["test -e /opt/tool/version || { mkdir -p /opt/tool && make --version > /opt/tool/version; }"],
)

apt.packages(name="Remove the compiler's driver", packages=["make"], present=False)
