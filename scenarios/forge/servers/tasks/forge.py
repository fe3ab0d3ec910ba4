from pathlib import Path

from pyinfra.operations import files, server, systemd
from pyinfra.operations.util import any_changed

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"

server.user(
    name="Create the account that everybody pushes as",
    user="git",
    system=True,
    home="/var/lib/forge",
    ensure_home=False,
    shell="/usr/bin/git-shell",
)

files.directory(
    name="Create the directory of the repositories",
    path="/srv/git",
    user="git",
    group="git",
    mode="0750",
)

# Not git's own: whoever may push must not be able to add commands, or hooks to all repositories to come.
for path in ["/var/lib/forge", "/var/lib/forge/git-shell-commands", "/etc/forge", "/etc/forge/template/hooks"]:
    files.directory(
        name=f"Create {path}",
        path=path,
        mode="0755",
    )

for command in ["create", "list", "no-interactive-login"]:
    files.put(
        name=f"Install the command {command}",
        src=f"files/git-shell-commands/{command}",
        dest=f"/var/lib/forge/git-shell-commands/{command}",
        mode="0755",
    )

files.put(
    name="Install the hook that new repositories get",
    src="files/template/hooks/update",
    dest="/etc/forge/template/hooks/update",
    mode="0755",
)

files.put(
    name="Configure git for all accounts",
    src="files/gitconfig",
    dest="/etc/gitconfig",
    mode="0644",
)

files.put(
    name="Say who may pull and push",
    src="files/members.pub",
    dest="/etc/forge/authorized_keys",
    mode="0644",
)

# The server's identity: with another host key everybody's git refuses to talk to it.
host_key = files.put(
    name="Install the host key of the forge",
    src=str(KEYS / "ssh_host_ed25519_key"),
    dest="/etc/forge/ssh_host_ed25519_key",
    mode="0600",
)

files.put(
    name="Install the public half of the host key",
    src="files/ssh_host_ed25519_key.pub",
    dest="/etc/forge/ssh_host_ed25519_key.pub",
    mode="0644",
)

config = files.put(
    name="Configure the SSH server of the forge",
    src="files/sshd_config",
    dest="/etc/forge/sshd_config",
    mode="0644",
)

files.put(
    name="Install what our scripts share",
    src="files/forge_guest.py",
    dest="/opt/forge/forge_guest.py",
    mode="0644",
)

for script in ["seed-forge", "verify-forge"]:
    files.put(
        name=f"Install {script}",
        src=f"scripts/{script}",
        dest=f"/usr/local/sbin/{script}",
        mode="0755",
    )

unit = files.put(
    name="Install the unit of the forge",
    src="files/forge.service",
    dest="/etc/systemd/system/forge.service",
    mode="0644",
)

systemd.daemon_reload(
    name="Tell systemd about the changed unit",
    _if=unit.did_change,
)

# Before "Start ...": at the first deploy this one starts the service, once.
systemd.service(
    name="Restart the forge after a change",
    service="forge.service",
    restarted=True,
    _if=any_changed(host_key, config, unit),
)

systemd.service(
    name="Start the forge, also at boot",
    service="forge.service",
    enabled=True,
)
