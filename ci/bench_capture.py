"""Speed of captures, against what one would use without redrill; prints one JSON object.

    ci/bench capture [growth] [diff] [native] [machine]     all four if none is named

    growth   trees of 10,000, 100,000 and 1,000,000 small files, of which 100 change: microseconds that the second
             capture takes per file, and memory of the probe; at most 64 MiB at a million. As in a drill it builds on
             the first, which the reader has
    diff     two captures of a million files: seconds to read both, seconds to compare, memory; read and compared in at
             most 2 s, below 500 MiB
    native   the second capture of /usr on this host / `find -type f -exec sha256sum {} +` / `aide --check`
    machine  the same in the deployed machine of scenarios/web: one capture of all sections, which builds on the one
             before as in a drill, against `aide --check` with Debian's settings, and against `find`; at most 0.1 of
             either. `capture_whole` is one that tells everything again

`native` and `machine` need Debian's aide: here installed by hand, in the machine by the drill's deploy. Runs of both sides take
turns, and the best of three counts. Nothing here is a test: the numbers depend on the host and on what else it does.
"""

import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from bench_kept import Kept, commit

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ("growth", "diff", "native", "machine")
SIZES = (10_000, 100_000, 1_000_000)
CHANGED = 100
RUNS = 3
# A list of digests holds no file that changed within the last two seconds.
SETTLE = 2.5
LIMITS = {
    "probe_mib_at_a_million": ("<=", 64),
    "diff_seconds": ("<=", 2),
    "diff_mib": ("<", 500),
    "capture_over_aide": ("<=", 0.1),
    "capture_over_find": ("<=", 0.1),
}


def say(text):
    print(f"ci/bench: {text}", file=sys.stderr, flush=True)


def probe():
    """The probe as machines run it; harness/machines/build.rs builds it the same way."""
    target = f"{os.uname().machine}-unknown-linux-gnu"
    words = ["cargo", "build", "--quiet", "--locked", "--profile", "probe", "--package", "redrill-probe"]
    subprocess.run([*words, "--target", target, "--target-dir", ROOT / "target/probe"], cwd=ROOT, check=True,
                   env={**os.environ, "RUSTFLAGS": "-C target-feature=+crt-static"})
    return ROOT / "target/probe" / target / "probe/redrill-probe"


def timed(words, out=subprocess.DEVNULL, statuses=(0,)):
    """Seconds and peak MiB of a program; the kernel counts what this script held when it started it (some 15 MiB)."""
    began = time.monotonic()
    process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in statuses:
        sys.exit(f"ci/bench: {words[0]} ended with status {process.returncode}")
    return time.monotonic() - began, used.ru_maxrss / 1024


def tree(root, count):
    for number in range(count):
        directory = root / f"{number // 100_000:03}" / f"{number // 1000:05}"
        if number % 1000 == 0:
            directory.mkdir(parents=True)
        (directory / f"file-{number:07}.txt").write_text(f"content {number}\n" * 4)


def list_of(path):
    """The name of the list that a capture left."""
    with gzip.open(path, "rt") as lines:
        return json.loads(next(lines))["header"]["list"]


def captured(program, root, work, count):
    """Two captures of a tree with changes between: the second's seconds and memory, and where both lie, whole."""
    digests, paths = work / f"digests-{count}", [work / f"{count}-{name}.jsonl.gz" for name in ("before", "after")]
    time.sleep(SETTLE)
    with open(paths[0], "wb") as out:
        first, _ = timed([program, "files", root, digests], out)
    step = count // CHANGED
    for number in range(0, count, step):
        with open(root / f"{number // 100_000:03}" / f"{number // 1000:05}" / f"file-{number:07}.txt", "a") as file:
            file.write("changed\n")
    best = None
    for _ in range(RUNS):
        # A capture keeps what it learnt: each shall begin with the list of the first.
        fresh = work / "digests"
        shutil.copy(digests, fresh)
        with open(paths[1], "wb") as out:
            ran = timed([program, "files", root, fresh, list_of(paths[0])], out)
        best = min(best or ran, ran)
    shutil.copy(digests, fresh)
    with open(paths[1], "wb") as out:
        timed([program, "files", root, fresh], out)
    return first, best, paths


def growth(work, sizes=SIZES):
    program, result, paths = probe(), {}, None
    for count in sizes:
        say(f"growth: {count} files")
        root = work / f"tree-{count}"
        tree(root, count)
        first, (second, mib), paths = captured(program, root, work, count)
        result[str(count)] = {
            "first_seconds": round(first, 2), "second_seconds": round(second, 3),
            "microseconds_per_file": round(second / count * 1e6, 2), "probe_mib": round(mib, 1),
        }
        shutil.rmtree(root)
    return result, paths


def diff(paths):
    say("diff: two captures of a million files")
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked", "-p", "redrill-state", "--example", "diff"],
                   cwd=ROOT, check=True)
    runs = []
    for _ in range(RUNS):
        words = [ROOT / "target/release/examples/diff", *paths]
        runs.append(json.loads(subprocess.run(words, check=True, capture_output=True).stdout))
    best = min(runs, key=lambda ran: ran["read_seconds"] + ran["diff_seconds"])
    if best["changes"] != CHANGED:
        sys.exit(f"ci/bench: {best['changes']} changes found, {CHANGED} made")
    return best


def native(work, root="/usr"):
    say(f"native: {root}")
    program, digests = probe(), work / "digests-native"
    config, database = work / "aide.conf", work / "aide.db"
    # What a capture compares, and nothing more.
    config.write_text(f"database_in=file:{database}\ndatabase_out=file:{database}\n"
                      f"{root} p+u+g+ftype+s+l+acl+xattrs+sha256\n")
    first = work / "native.jsonl.gz"
    with open(first, "wb") as out:
        timed([program, "files", root, digests], out)
    kept = work / "digests-first"
    shutil.copy(digests, kept)
    capture = [program, "files", root, digests, list_of(first)]
    timed(["aide", "--config", config, "--init"])
    sums = ["find", root, "-xdev", "-type", "f", "-exec", "sha256sum", "{}", "+"]
    best = {}
    for _ in range(RUNS):
        for name, words, statuses in (("capture", capture, (0,)), ("find_sha256sum", sums, (0,)),
                                      ("aide_check", ["aide", "--config", config, "--check"], range(8))):
            shutil.copy(kept, digests)  # A capture leaves a list of its own.
            seconds, _ = timed(words, statuses=statuses)
            best[name] = min(best.get(name, seconds), seconds)
    return ratios(best)


def ratios(seconds):
    return {
        "capture_over_aide": round(seconds["capture"] / seconds["aide_check"], 3),
        "capture_over_find": round(seconds["capture"] / seconds["find_sha256sum"], 3),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def with_aide(work):
    """scenarios/web, whose deploy brings aide too: the package mirror is open only as long as a drill runs."""
    scenario = work / "web"
    shutil.copytree(ROOT / "scenarios/web", scenario)
    text = (scenario / "scenario.toml").read_text()
    # A deployed machine is all that is wanted of it.
    (scenario / "scenario.toml").write_text(re.sub("(?m)^claims = .*$", 'claims = ["rebuilds"]', text))
    with open(scenario / "servers/deploy.py", "a") as deploy:
        deploy.write("\nfrom pyinfra.operations import apt\n\napt.packages(packages=['aide', 'aide-common'], no_recommends=True)\n")
    commit(scenario)
    return scenario


def machine(work):
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=ROOT, check=True)
    return measured(with_aide(work))


def measured(scenario):
    say("machine: a drill of scenarios/web, whose machine is kept")
    with Kept(scenario) as kept:
        say("machine: aide --init")
        # Debian's package has it run by itself once a day, and that is when the clock of a new machine says so.
        kept("systemctl stop dailyaidecheck.timer dailyaidecheck.service")
        aide, capture = "aide --config /etc/aide/aide.conf", "/run/redrill/probe capture"
        init = kept.timed(f"{aide} --init")
        kept("cp /var/lib/aide/aide.db.new /var/lib/aide/aide.db")
        # The drill itself has captured it before; so has whoever asks aide.
        kept.timed(capture)
        # The list that the last capture left, by its name: what the reader has.
        last = f'{capture} --base=$(od -An -tx1 -j18 -N16 /run/redrill/digests | tr -d " \\n")'
        sides = {
            "capture": (last, (0,)),
            "capture_whole": (capture, (0,)),
            # What is gone before it is read is no fault of the machine.
            "find_sha256sum": ("find / -xdev -type f -exec sha256sum {} +", (0, 1)),
            "aide_check": (f"{aide} --check", range(8)),
        }
        runs = {name: [] for name in sides}
        for number in range(1, RUNS + 1):
            say(f"machine: run {number} of {RUNS}: captures, find, aide --check")
            for name, (command, statuses) in sides.items():
                runs[name].append(kept.timed(command, statuses))
        # aide tells in its report how much it looked at; its check is the last of a turn.
        checked = kept("grep -i \"number of entries\" /run/bench.out")
        sections = kept(f"{last} --times 2>&1 > /dev/null")
        return {
            **ratios({name: min(seconds) for name, seconds in runs.items()}),
            "acceleration": kept.report["host"]["acceleration"],
            "aide_version": kept("dpkg-query -W -f \\${Version} aide"),
            "aide_entries": next(iter(re.findall(r"\d+", checked)), ""),
            "aide_init_seconds": round(init, 2),
            "sections_ms": {name: float(ms) for ms, name in re.findall(r"([\d.]+) ms  (.+)", sections)},
            "runs": {name: [round(one, 3) for one in seconds] for name, seconds in runs.items()},
        }


def main(words):
    if unknown := [word for word in words if word not in PARTS]:
        sys.exit(f"ci/bench: there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    parts, result = words or PARTS, {}
    if "native" in parts and not shutil.which("aide"):
        sys.exit("ci/bench: aide is not installed: apt-get install --no-install-recommends aide")
    with tempfile.TemporaryDirectory(prefix="redrill-bench-") as directory:
        work = pathlib.Path(directory)
        if "growth" in parts or "diff" in parts:
            sizes = SIZES if "growth" in parts else SIZES[-1:]
            result["growth"], paths = growth(work, sizes)
            result["probe_mib_at_a_million"] = result["growth"][str(SIZES[-1])]["probe_mib"]
            if "diff" in parts:
                result["diff"] = compared = diff(paths)
                result["diff_seconds"] = round(compared["read_seconds"] + compared["diff_seconds"], 3)
                result["diff_mib"] = compared["peak_mib"]
        if "native" in parts:
            result["native"] = native(work)
        if "machine" in parts:
            result["machine"] = machine(work)
            result.update({name: result["machine"][name] for name in ("capture_over_aide", "capture_over_find")})
    compare = {"<=": lambda value, limit: value <= limit, "<": lambda value, limit: value < limit}
    missed = [f"{name} is {result[name]}, and shall be {sign} {limit}"
              for name, (sign, limit) in LIMITS.items() if name in result and not compare[sign](result[name], limit)]
    print(json.dumps({**result, "missed": missed}, indent=2))
