from pyinfra.operations import apt, files, server

# Not Borg: where the machine lacks a tool, the host restores with its own.
apt.packages(name="Install what restores", packages=["restic", "sqlite3", "postgresql"], update=True)
directories = ["not-empty", "speaks-of-trouble", "canary", "wrong-manifest"]
for name in directories:
    files.directory(name=f"Make the target {name}", path=f"/srv/in/{name}")
server.shell(
    name="Leave something in a target, and make a small disk",
    commands=[
        "echo old > /srv/in/not-empty/old",
        "mkdir -p /srv/small && mount -t tmpfs -o size=1m none /srv/small",
        "cd / && runuser -u postgres -- createdb notes",
    ],
)
