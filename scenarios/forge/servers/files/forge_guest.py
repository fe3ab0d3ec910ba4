"""What the scripts of this repo share: being a guest of the forge, with a key that is let in for a moment."""

import fcntl
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

REPOSITORIES = Path("/srv/git")
ADMITTED = Path("/run/forge/authorized_keys")
ONE_AT_A_TIME = Path("/run/forge/guest.lock")
HOST_KEY = Path("/etc/forge/ssh_host_ed25519_key.pub")
ADDRESS = "git@127.0.0.1"
PORT = 2222


class Guest:
    def __init__(self, home):
        self.home = home
        self.ssh_command = [
            "ssh", "-F", "none", "-p", str(PORT), "-i", str(home / "key"), "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={home / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
            "-o", "LogLevel=ERROR",
        ]  # fmt: skip

    def ssh(self, *command):
        """The output of a command of the forge."""
        return run([*self.ssh_command, ADDRESS, *command])

    def git(self, *arguments, cwd, env=None):
        """The output of git, which reaches the forge as this guest."""
        settings = {"GIT_SSH_COMMAND": " ".join(self.ssh_command), "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1"}
        return run(["git", *arguments], cwd=cwd, env=os.environ | settings | (env or {}))

    def url(self, repository):
        return f"ssh://{ADDRESS}{REPOSITORIES}/{repository}.git"


@contextmanager
def guest(who):
    """A guest whose key is admitted until the end, and who believes the declared host key only."""
    with ONE_AT_A_TIME.open("w") as lock, tempfile.TemporaryDirectory(prefix=f"{who}.") as home:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = Path(home)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", home / "key"])
        (home / "known_hosts").write_text(f"[127.0.0.1]:{PORT} {HOST_KEY.read_text()}")
        ADMITTED.write_text((home / "key.pub").read_text())
        ADMITTED.chmod(0o644)
        try:
            yield Guest(home)
        finally:
            ADMITTED.unlink()


def run(command, **options):
    """The output of a command; an error with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise RuntimeError(f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def as_git(*arguments):
    """The output of git as the account that owns the repositories."""
    return run(["runuser", "-u", "git", "--", "git", *arguments], cwd="/")
