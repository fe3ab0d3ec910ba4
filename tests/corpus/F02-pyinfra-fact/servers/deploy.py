from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.operations import files, server


class Editor(FactBase):
    """Which editor is set; sets one, too."""

    def command(self):
        return "echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh; cat /etc/profile.d/editor.sh"


files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

server.user(
    name="Create the application's account",
    user="app",
    shell="/usr/sbin/nologin" if host.get_fact(Editor) else "/bin/sh",
    ensure_home=False,
)
