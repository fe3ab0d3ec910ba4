"""What sealing costs, and how quickly secrets are found; prints one JSON object.

    ci/bench seal [--against PROGRAM] [--runs N]

    drill_over_before  `redrill run scenarios/web --backend container` with this build / the same with PROGRAM, another
                       build of redrill (such as one from before the sandbox); at most 1.03. Only with --against. The two
                       take turns, and medians of N (5) are compared, since what else the host does is noise to both.
                       `without_pauses` leaves out the stages in which both only wait (checks, the engine's end).
    start_milliseconds a sealed `true`, from start to end, less a plain one
    redaction          a log of 100 MiB with 300 secrets: MB/s (at least 200) and the process's peak of memory

Build both in the same profile. The numbers depend on the host and on what else it does.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from bench_machines import ROOT, say

REDRILL = ROOT / "target/release/redrill"
WAITS = ("check", "teardown", "idle")


def option(words, name, otherwise=None):
    return words[words.index(name) + 1] if name in words else otherwise


def drill(program, state):
    """Seconds of a whole drill, and of the stages that do more than wait."""
    command = [program, "run", ROOT / "scenarios/web", "--backend", "container", "--format", "json", "--quiet"]
    began = time.monotonic()
    done = subprocess.run(command, env={**os.environ, "REDRILL_STATE_DIR": str(state)}, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"ci/bench: the drill of {program} ended with status {done.returncode}")
    stages = json.loads(done.stdout)["stages"]
    return seconds, sum(stage["seconds"] for stage in stages if stage["stage"] not in WAITS)


def against(other, runs):
    with tempfile.TemporaryDirectory(prefix="redrill-bench-") as place:
        programs = {"now": REDRILL, "before": pathlib.Path(other).resolve()}
        for name, program in programs.items():
            say(f"warming up: {name}")
            drill(program, pathlib.Path(place) / name)
        seconds = {name: [] for name in programs}
        for number in range(runs):
            # Whoever goes second finds the host as the first one left it: they change places.
            for name in sorted(programs, reverse=bool(number % 2)):
                seconds[name].append(drill(programs[name], pathlib.Path(place) / name))
                say(f"{name}: {seconds[name][-1][0]:.1f} s, {seconds[name][-1][1]:.1f} s without pauses")
    medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in seconds.items()}
    whole, busy = (now / before for now, before in zip(medians["now"], medians["before"]))
    return {
        "drill_over_before": round(whole, 3),
        "without_pauses": round(busy, 3),
        "seconds": {name: [round(value, 2) for value in values] for name, values in medians.items()},
        "runs": runs,
    }


CELL = {"host_name": "bench", "machine_id": "0" * 32, "user": "bench", "directory": "/tmp", "read_only": [], "moved": [],
        "moved_writable": [],
        "environment": {"PATH": "/usr/bin:/bin"}, "leads": [], "ssh": None}
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def sealed(place, number):
    cell = pathlib.Path(place) / str(number)
    (cell / "etc/ssh").mkdir(parents=True)
    home = pathlib.Path(place) / "home"
    home.mkdir(exist_ok=True)
    (cell / "cell.json").write_text(json.dumps({**CELL, "home": str(home), "writable": [str(home)]}))
    for name in ("passwd", "group", "hosts", "hostname", "machine-id", "resolv.conf", "nsswitch.conf", "timezone"):
        (cell / "etc" / name).write_text("")
    return timed([*UNSHARE, REDRILL, "warden", cell, "--", "true"])


def timed(command):
    began = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - began


def start():
    with tempfile.TemporaryDirectory(prefix="redrill-bench-") as place:
        ours = statistics.median(sealed(place, number) for number in range(20))
        plain = statistics.median(timed(["true"]) for _ in range(20))
    return round((ours - plain) * 1000, 1)


def redaction():
    command = ["cargo", "run", "--quiet", "--release", "--locked", "-p", "redrill-redact", "--example", "rate"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(words):
    say("building redrill")
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    result = {"start_milliseconds": start(), "redaction": redaction()}
    other = option(words, "--against")
    if other:
        result |= against(other, int(option(words, "--runs", 5)))
    print(json.dumps(result, indent=2))
