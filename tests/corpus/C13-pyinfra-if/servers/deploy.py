from pyinfra.operations import files, server

banner = files.line(
    name="Write the banner",
    path="/etc/banner",
    line="welcome",
)

server.shell(
    name="Announce the banner",
    commands=["date > /etc/banner.since"],
    _if=banner.did_change,
)
