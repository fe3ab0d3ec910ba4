from datetime import datetime

from pyinfra.operations import files, server

release = f"/srv/app/releases/{datetime.now():%Y%m%d%H%M%S}"

server.shell(
    name="Unpack the release",
    commands=[f"mkdir -p {release} && cp /etc/os-release {release}/app.conf"],
)

files.link(
    name="Point to the release",
    path="/srv/app/current",
    target=release,
    force=True,
    force_backup=False,
)
