from pyinfra.operations import files, server

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

upgrade = server.shell(
    name="Upgrade everything",
    commands=["apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get upgrade -qqy"],
)

server.reboot(
    name="Reboot after an upgrade",
    delay=5,
    reboot_timeout=600,
    _if=upgrade.did_change,
)
