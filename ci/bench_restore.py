"""Restores through redrill against the bare tools, and manifests; prints one JSON object.

    ci/bench restore [restic] [borg] [postgres] [manifest]     all four if none is named

The data: 200 MB in 20,000 files for restic and for Borg, a database of a million rows in the custom form for pg_restore.
It is made and backed up once, in a container that is kept. Then three times a drill restores it into a clean container,
and in that same container the tool is run by hand, with the same backup and into targets made empty.

    KIND_over_bare         the restore as far as the data is there / the same by hand; at most 1.1. Of the report's phases
                           these are `fetch` (a copy of the repository comes into the machine), `list` (which points there
                           are, and whether they hold anything) and `load`; by hand the copy comes by `docker exec` and tar
    KIND_tool_over_bare    the phase `load` alone / `restic restore`, `borg extract`, `pg_restore` alone; at most 1.1
    KIND_proof_over_bare   with the phase `look` too, in which all that was restored is read and digested, which nobody
                           does by hand: no limit
    manifest               `redrill manifest` of 100,000 files and of a million rows: seconds, and memory of the larger of
                           its two processes

What is compared are medians of three. The numbers depend on the host and on what else it does.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from bench_kept import REDRILL, ROOT, Kept, commit
from bench_machines import RUNS, rounded, run, say

KINDS = ("restic", "borg", "postgres")
PARTS = (*KINDS, "manifest")
LIMIT = 1.1
FILES, FILE_BYTES, ROWS, MANY = 20_000, 10_000, 1_000_000, 100_000
HOST = "data.example.org"
# By hand the repository lies here.
BY_HAND = "/srv/by-hand"
SECRETS = "RESTIC_PASSWORD_FILE=/root/passphrase BORG_PASSCOMMAND=\"cat /root/passphrase\""
SETTINGS = "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes"

DEPLOY = """#!/bin/sh
set -eu
export DEBIAN_FRONTEND=noninteractive
cd /
echo "redrill-op: Install what makes and restores backups"
dpkg -s restic borgbackup postgresql > /dev/null 2>&1 || {
    apt-get -qq update
    apt-get -qqy install --no-install-recommends restic borgbackup postgresql
}
echo "redrill-op: Make the database"
runuser -u postgres -- psql -lqAt | grep -q '^bench|' || runuser -u postgres -- createdb bench
"""

HEAD = """summary = "data to be measured with"
claims = ["{claim}"]
backend = "container"

[servers]
path = "servers"

[keys]
path = "keys"

[deploy]
tool = "shell"
on = "machine"
inventory = "hosts"
script = "deploy.sh"

[[machine]]
name = "{host}"
image = "debian-13"
memory-mib = 2048
"""

BACKUP = """
[[backup]]
name = "{kind}"
kind = "{kind}"
repository = "backups/{kind}"
into = ["{into}"]
{passphrase}
[backup.oracle]
{oracle}
"""

# Runs in the machine: python3-minimal has what it takes.
MAKE_FILES = """
import os, sys
root, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    directory = f"{root}/{number // 100:05}"
    if number % 100 == 0:
        os.makedirs(directory)
    with open(f"{directory}/file-{number:07}", "wb") as file:
        file.write(os.urandom(size))
"""

MAKE_BACKUPS = f"""
set -eu
cd /
umask 022
export {SECRETS}
mkdir -p /srv/made/postgres
python3 /root/make-files /srv/restic {FILES} {FILE_BYTES}
cp -a /srv/restic /srv/borg
restic -q --no-cache -r /srv/made/restic init
restic -q --no-cache -r /srv/made/restic backup /srv/restic
borg init -e repokey /srv/made/borg
borg create /srv/made/borg::night srv/borg
runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -d bench -c "
    create table records (id bigint primary key, made timestamptz not null, owner text not null, body text not null);
    insert into records select n, now() - n * interval '1 second', 'owner ' || n % 1000, md5(n::text) || md5((n + 1)::text)
    from generate_series(1, {ROWS}) n;
    create index on records (owner);"
runuser -u postgres -- pg_dump -Fc bench > /srv/made/postgres/bench.dump
"""

# The tools by hand: what makes the target empty, and what fills it.
BARE = {
    "restic": ("rm -rf /srv/restic", f"env {SECRETS} restic -r {BY_HAND}/restic --no-cache --quiet restore latest --target /"),
    "borg": ("rm -rf /srv/borg", f"env -C / {SECRETS} {SETTINGS} borg extract --numeric-ids {BY_HAND}/borg::night"),
    "postgres": (
        "cd / && runuser -u postgres -- dropdb bench && runuser -u postgres -- createdb bench && runuser -u postgres -- psql -X -q -c checkpoint",
        f"env -C / runuser -u postgres -- pg_restore --exit-on-error -d bench {BY_HAND}/postgres/bench.dump",
    ),
}

# Seconds, status and memory of a program, by who waits for it.
MEASURE = """
import os, sys, time
began = time.monotonic()
out = [(os.POSIX_SPAWN_OPEN, 1, "/root/manifest.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=out)
_, status, used = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), time.monotonic() - began, used.ru_maxrss, os.path.getsize("/root/manifest.json"))
"""


def scenario(work, name, claim, backups=""):
    directory = work / name
    for inner in ("servers", "keys", "backups"):
        (directory / inner).mkdir(parents=True)
    (directory / "servers/hosts").write_text(f"{HOST}\n")
    (directory / "servers/deploy.sh").write_text(DEPLOY)
    (directory / "servers/deploy.sh").chmod(0o755)
    (directory / "keys/passphrase").write_text("correct horse battery staple")
    (directory / "scenario.toml").write_text(HEAD.format(claim=claim, host=HOST) + backups)
    commit(directory / "servers")
    return directory


def backup(kind):
    if kind == "postgres":
        return BACKUP.format(kind=kind, into="postgres:bench", passphrase="", oracle=f'min-rows = {{ "bench.records" = {ROWS} }}')
    return BACKUP.format(kind=kind, into=f"/srv/{kind}", passphrase='passphrase = "keys/passphrase"', oracle=f"min-files = {FILES}")


class Drilled(Kept):
    """A drill's container, which the engine's own command reaches too."""

    def __enter__(self):
        super().__enter__()
        self.container = run("docker", "ps", "-q", "--filter", f"label=redrill.run={self.report['run_dir']}")
        if not self.container or "\n" in self.container:
            sys.exit(f"ci/bench: the engine shows not one container of {self.run}: {self.container!r}")
        return self

    def put(self, path, text):
        self(f"umask 077; cat > {path}", stdin=None, input=text.encode())

    def brought(self, source, to):
        """Seconds in which a directory of the host comes into the machine by hand."""
        self(f"rm -rf {to} && mkdir -p {to}")
        began = time.monotonic()
        words = ["docker", "exec", "-i", self.container, "tar", "-x", "-p", "-C", to]
        with subprocess.Popen(["tar", "-c", "-C", source, "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(words, stdin=packed.stdout, check=True)
        if packed.returncode != 0:
            sys.exit(f"ci/bench: tar ended with status {packed.returncode}")
        return time.monotonic() - began


def made(work, kinds):
    """A scenario whose backups are there, and what manifests of the data take if that is asked."""
    maker = scenario(work, "maker", "rebuilds")
    restores = scenario(work, "restores", "restores", "".join(backup(kind) for kind in KINDS if kind in kinds))
    say("a drill whose container is filled and backed up")
    with Drilled(maker) as machine:
        machine.proven()
        machine.put("/root/passphrase", (maker / "keys/passphrase").read_text())
        machine.put("/root/make-files", MAKE_FILES)
        machine.put("/root/make-backups", MAKE_BACKUPS)
        machine("bash /root/make-backups > /dev/null")
        # Nobody else writes there, and no restore of ours may: the drill compares digests.
        with subprocess.Popen(["docker", "exec", machine.container, "tar", "-c", "-C", "/srv/made", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(["tar", "-x", "--no-same-owner", "-C", restores / "backups"], stdin=packed.stdout, check=True)
        manifests = manifest(machine) if "manifest" in kinds else {}
    return restores, manifests


def manifest(machine):
    say("manifests of 100,000 files and a million rows")
    run("docker", "cp", REDRILL, f"{machine.container}:/usr/local/bin/redrill")
    machine.put("/root/measure", MEASURE)
    machine(f"python3 /root/make-files /srv/many {MANY} 1000")
    found = {}
    for name, target in (("files", "/srv/many"), ("rows", "postgres:bench")):
        runs = []
        for _ in range(RUNS):
            status, seconds, peak, size = machine(f"python3 /root/measure redrill manifest {target}").split()
            if status != "0":
                sys.exit(f"ci/bench: redrill manifest {target} ended with status {status}")
            runs.append({"seconds": float(seconds), "mib": int(peak) / 1024, "manifest_bytes": int(size)})
        found[name] = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        found[name]["runs"] = runs
    return found


def restored(scenario, kinds):
    """One drill, and the same by hand in its machine."""
    ours, bare = {}, {}
    with Drilled(scenario) as machine:
        machine.proven()
        for one in machine.report["restores"]:
            ours[one["kind"]] = {phase["name"]: phase["seconds"] for phase in one["phases"]}
        machine.put("/root/passphrase", (scenario / "keys/passphrase").read_text())
        for kind in kinds:
            empty, fill = BARE[kind]
            # What was written before is on disk when the clock starts.
            machine(f"{empty} && sync")
            copy = machine.brought(scenario / "backups" / kind, f"{BY_HAND}/{kind}")
            # Postgres reads it by an account of its own.
            machine(f"chmod -R a+rX {BY_HAND}")
            bare[kind] = {"copy": copy, "tool": machine.timed(fill)}
            if kind != "postgres":
                count = int(machine(f"find /srv/{kind} -type f | wc -l"))
                if count != FILES:
                    sys.exit(f"ci/bench: by hand {kind} brought {count} files of {FILES}")
        versions = machine("dpkg-query -W -f \"\\${Package} \\${Version}\\n\" restic borgbackup postgresql")
    return ours, bare, dict(line.split(" ", 1) for line in versions.splitlines())


def compared(drills, kind):
    """Ratios of one kind."""
    of_phases = lambda run, names: sum(run[kind].get(name, 0.0) for name in names)
    middle = lambda side, names: statistics.median(of_phases(one[side], names) for one in drills)
    whole, tool = middle("bare", ("copy", "tool")), middle("bare", ("tool",))
    return {
        f"{kind}_over_bare": middle("ours", ("fetch", "list", "load")) / whole,
        f"{kind}_tool_over_bare": middle("ours", ("load",)) / tool,
        f"{kind}_proof_over_bare": middle("ours", ("fetch", "list", "load", "look")) / whole,
    }


def measured(work, parts):
    kinds = [kind for kind in KINDS if kind in parts]
    scenario, manifests = made(work, parts)
    result, drills = {}, []
    for number in range(1, RUNS + 1) if kinds else ():
        say(f"run {number} of {RUNS}: a drill, and the same by hand")
        ours, bare, result["versions"] = restored(scenario, kinds)
        drills.append({"ours": ours, "bare": bare})
    for kind in kinds:
        result |= compared(drills, kind)
    if manifests:
        result["manifest"] = manifests
    limited = [name for name in result if name.endswith("_over_bare") and "_proof_" not in name]
    result["limits"] = {name: {"limit": f"<= {LIMIT}", "held": result[name] <= LIMIT} for name in limited}
    result["runs"] = drills
    return result


def main(words):
    if unknown := [word for word in words if word not in PARTS]:
        sys.exit(f"ci/bench: no such part: {' '.join(unknown)}; there are {' '.join(PARTS)}")
    subprocess.run([ROOT / "ci/setup"], check=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=ROOT, check=True)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        result = measured(pathlib.Path(directory), words or PARTS)
    result["host"] = {"processors": os.cpu_count(), "load_before_and_after": [*load, os.getloadavg()[0]]}
    result["runs"] = result.pop("runs")
    print(json.dumps(rounded(result), indent=2))
