"""The machine that a drill leaves, for parts of ci/bench that do by hand in it what the drill did."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
REDRILL = ROOT / "target/release/redrill"


def manifest(digest):
    """What an image in the cache is made of."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    cache = pathlib.Path(os.environ.get("REDRILL_CACHE_DIR") or home / "redrill")
    return json.loads((cache / "images" / digest / "image.json").read_text())


def commit(directory):
    """Makes a repository of a directory: what is committed is what a drill deploys."""
    git = ["git", "-C", directory, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "for a benchmark"]):
        subprocess.run([*git, *words], check=True)


class Kept:
    """A drill whose only machine is kept until the block ends."""

    def __init__(self, scenario, *options):
        self.words = [REDRILL, "run", scenario, "--quiet", "--keep", "--format", "json", *options]

    def __enter__(self):
        ran = subprocess.run(self.words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        # What the verdicts are is another question; a machine must be there.
        if not ran.stdout.startswith("{"):
            sys.exit(f"ci/bench: the drill ended with status {ran.returncode}\n{ran.stderr}")
        self.report = json.loads(ran.stdout)
        self.run = pathlib.Path(self.report["run_dir"]).name
        return self

    def __exit__(self, *_):
        subprocess.run([REDRILL, "clean", self.run], check=True, stdin=subprocess.DEVNULL, capture_output=True)

    def proven(self):
        """Ends the benchmark unless all that the scenario claims is proven."""
        if bad := [claim for claim in self.report["claims"] if claim["verdict"].upper() not in ("PROVEN", "UNDECLARED")]:
            sys.exit(f"ci/bench: the drill is of no use for a measurement:\n{json.dumps(bad, indent=2)}")
        return self

    def words_for(self, script):
        # ssh joins its words with blanks: the shell there shall see one.
        return [str(word) for word in (REDRILL, "shell", "--run", self.run, "--", "sh", "-c", f"'{script}'")]

    def __call__(self, script, statuses=(0,), **options):
        """What a script printed in the machine. It holds no single quotes."""
        if "'" in script:
            raise ValueError(script)
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options}
        ran = subprocess.run(self.words_for(script), stderr=subprocess.PIPE, **options)
        if ran.returncode not in statuses:
            sys.exit(f"ci/bench: in the machine: {script}: {ran.stderr.decode().strip()}")
        return ran.stdout.decode() if ran.stdout else ""

    def timed(self, command, statuses=(0,)):
        """Seconds by the machine's own clock, without what ssh takes; what the command prints is in /run/bench.out."""
        printed = self(f"a=$(date +%s%N); {command} > /run/bench.out 2> /run/bench.err; s=$?; b=$(date +%s%N); echo $s $((b - a))")
        status, nanoseconds = map(int, printed.split())
        if status not in statuses:
            sys.exit(f"ci/bench: in the machine: {command} ended with status {status}: {self('cat /run/bench.err')}")
        return nanoseconds / 1e9
