from pyinfra.operations import apt, server

apt.packages(name="Install git", packages=["git"], no_recommends=True, update=True, cache_time=86400)

server.shell(
    name="Make a place to pull from",
    commands=[
        "test -d /srv/notes.git || { git init -q -b main /tmp/notes && cd /tmp/notes && echo 1 > notes && git add . && "
        "git -c user.name=ada -c user.email=ada@example.org commit -qm first && "
        "git clone -q --bare /tmp/notes /srv/notes.git && rm -rf /tmp/notes; }",
    ],
)

server.shell(
    name="Get the newest notes",
    commands=[
        "test -d /opt/notes || git clone -q file:///srv/notes.git /opt/notes",
        "cd /opt/notes && git pull -q --ff-only && git reset -q --hard",
    ],
)
