"""Machines by what people would take instead, on the kernel and root file system of our image; for ci/bench machines.

Each is started by its own command and asked for a first command in its own way:

    autopkgtest-virt-qemu   its protocol on standard input; `open`, then its auxverb runs `true`. A unit, handed over as
                            systemd's credential, opens the root shell that `autopkgtest-build-qemu` would have installed
    debvm-run               `debvm-waitssh`, then ssh runs `true`; the key comes as a credential too
    vmtest                  the crate, with an image: it runs its command by QEMU's guest agent, which our image lacks. So
                            the same recipe is built once more with that package

They boot kernel and initrd directly, as our images have no bootloader, with as much memory and as many processors as our
machines. All three take /dev/kvm for granted where it exists: where it does not work they run with a /dev that lacks it.
"""

import base64
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

from bench_kept import REDRILL, ROOT
from bench_machines import RUNS, Library, median, say, since, template_image

PACKAGES = {"autopkgtest-virt-qemu": "autopkgtest", "debvm-run": "debvm"}
VMTEST = "vmtest"
MEMORY_MIB, CPUS = 1024, 2
# autopkgtest waits for a minute by default, vmtest at least for half one.
PATIENCE = 600
CMDLINE = "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off"
# As /usr/share/autopkgtest/setup-commands/setup-testbed writes it.
SHELL = """[Unit]
Description=root shell for autopkgtest
ConditionPathExists=/dev/hvc1
[Service]
ExecStart=/bin/sh
StandardInput=tty-fail
StandardOutput=tty
StandardError=tty
TTYPath=/dev/hvc1
SendSIGHUP=yes
SuccessExitStatus=0 208 SIGHUP SIGINT SIGTERM SIGPIPE
"""
# What a program needs of /dev, and no more.
DEVICES = "null zero full random urandom tty"
WITHOUT_KVM = f"""set -e
mount -t tmpfs none "$1"
for name in {DEVICES}; do : > "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
mkdir "$1/shm" "$1/pts"
mount --rbind /dev/pts "$1/pts"
mount -t tmpfs none "$1/shm"
ln -s pts/ptmx "$1/ptmx"
ln -s /proc/self/fd "$1/fd"
mount --rbind "$1" /dev
shift
exec "$@"
"""


class Unable(Exception):
    """Why one was not measured."""


class Image:
    """Our image's files, and what a machine by hand is told."""

    def __init__(self, directory, acceleration, work):
        self.directory, self.acceleration, self.work = directory, acceleration, work
        for key in ("client", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / key], check=True)

    def credentials(self, **contents):
        """Arguments for QEMU."""
        words = []
        for name, content in contents.items():
            path = self.work / f"credential-{name}"
            path.write_text(f"io.systemd.credential.binary:{name}={base64.b64encode(content).decode()}")
            words += ["-smbios", f"type=11,path={path}"]
        return words

    def keys(self):
        host = base64.b64encode((self.work / "host").read_bytes()).decode()
        return self.credentials(**{
            "tmpfiles.extra": f"f~ /etc/ssh/ssh_host_ed25519_key 0600 root root - {host}\n".encode(),
            "ssh.authorized_keys.root": (self.work / "client.pub").read_bytes(),
        })

    def boot(self, more=""):
        return ["-kernel", self.directory / "vmlinuz", "-initrd", self.directory / "initrd", "-append", f"{CMDLINE} {more}".strip()]

    def start(self, words, name, **options):
        """A process group of its own, without a /dev/kvm that only looks like one."""
        if self.acceleration == "tcg":
            place = self.work / f"dev-{name}"
            place.mkdir(exist_ok=True)
            mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
            words = ["unshare", *mapped, "--mount", "--", "sh", "-c", WITHOUT_KVM, "sh", place, *words]
        with open(self.work / f"{name}.log", "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options}
            return subprocess.Popen([str(word) for word in words], cwd=self.work, start_new_session=True, **options)

    def said(self, name):
        return (self.work / f"{name}.log").read_text(errors="replace")[-1500:]


def end(process):
    """The whole group: QEMU is a child of what was started."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def free_port():
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return asking.getsockname()[1]


class Autopkgtest:
    name = "autopkgtest-virt-qemu"

    def __init__(self, image):
        self.image = image
        # Its own option for QEMU's arguments is split at blanks.
        self.qemu = image.work / "qemu-system-x86_64-with-our-kernel"
        words = image.boot("systemd.wants=autopkgtest.service") + image.credentials(**{"systemd.extra-unit.autopkgtest.service": SHELL.encode()})
        self.qemu.write_text(f"#!/bin/sh\nexec qemu-system-x86_64 \"$@\" {' '.join(shlex.quote(str(word)) for word in words)}\n")
        self.qemu.chmod(0o755)

    def run(self):
        """Seconds to the end of a first command."""
        words = [self.name, f"--qemu-command={self.qemu}", f"--cpus={CPUS}", f"--ram-size={MEMORY_MIB}",
                 f"--timeout-reboot={PATIENCE}", self.image.directory / "disk.img"]
        began = time.monotonic()
        process = self.image.start(words, self.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.answer(process)
            self.ask(process, "open")
            auxverb = self.ask(process, "print-auxverb-command").split(",")
            # In the server's own view of the host: where it has a /dev of its own, that does not matter to this.
            subprocess.run([*auxverb, "true"], stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE)
            seconds = since(began)
            self.ask(process, "close")
            self.ask(process, "quit", last=True)
            return {"first_command": seconds}
        finally:
            end(process)

    def ask(self, process, command, last=False):
        process.stdin.write(f"{command}\n".encode())
        process.stdin.flush()
        return "" if last else self.answer(process)

    def answer(self, process):
        line = process.stdout.readline().decode().strip()
        if not line.startswith("ok"):
            raise Unable(f"it said {line!r}: {self.image.said(self.name)}")
        return line[2:].strip()


class Debvm:
    name = "debvm-run"

    def __init__(self, image):
        self.image = image
        # It takes a raw image, and writes into it: each run has a copy.
        self.disk = image.work / "debvm.ext4"

    def run(self):
        """Seconds to the end of a first command over SSH; the copy of the disk is made before."""
        subprocess.run(["qemu-img", "convert", "-O", "raw", self.image.directory / "disk.img", self.disk], check=True)
        port = free_port()
        began = time.monotonic()
        process = self.image.start([self.name, "--image", self.disk, "--sshport", port, "--", "-smp", CPUS, "-m", f"{MEMORY_MIB}M", *self.image.keys()], self.name)
        try:
            waiting = subprocess.run(["debvm-waitssh", "--timeout", str(PATIENCE), str(port)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if waiting.returncode != 0:
                raise Unable(f"debvm-waitssh: {waiting.stderr.strip()}: {self.image.said(self.name)}")
            ssh = ["ssh", "-F", "none", "-i", self.image.work / "client", "-p", str(port), "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR"]
            while subprocess.run([*ssh, "root@127.0.0.1", "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode != 0:
                if process.poll() is not None or since(began) > PATIENCE:
                    raise Unable(f"no login: {self.image.said(self.name)}")
                time.sleep(0.1)
            return {"first_command": since(began)}
        finally:
            end(process)
            self.disk.unlink()


class Vmtest:
    name = VMTEST

    def __init__(self, image):
        self.image, self.program = image, shutil.which(VMTEST)
        self.made = self.with_agent()

    def with_agent(self):
        """Our recipe with the guest agent, built in a cache of its own: the user's shall not grow."""
        recipe = (ROOT / "images/debian-13/image.toml").read_text()
        if '"python3-minimal",' not in recipe:
            raise Unable("images/debian-13/image.toml has no line of python3-minimal any more; mend ci/bench_others.py")
        place = self.image.work / "agent"
        (place / "images/debian-13-agent").mkdir(parents=True)
        (place / "images/debian-13-agent/image.toml").write_text(recipe.replace('"python3-minimal",', '"python3-minimal",\n    "qemu-guest-agent",'))
        ran = subprocess.run([REDRILL, "image", "build", "debian-13-agent"], cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             env={**os.environ, "REDRILL_CACHE_DIR": str(place / "cache")})
        found = list((place / "cache/images").glob("*/image.json"))
        if ran.returncode != 0 or len(found) != 1:
            raise Unable(f"the image with the guest agent cannot be built: {ran.stderr.strip()}")
        return found[0].parent

    def run(self):
        """Seconds until what the first command says is heard."""
        disk = self.image.work / "vmtest.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.made / "disk.img", disk], check=True)
        boot = ["-kernel", str(self.made / "vmlinuz"), "-initrd", str(self.made / "initrd"), "-append", CMDLINE]
        config = self.image.work / "vmtest.toml"
        # A path in JSON is one in TOML.
        config.write_text(f"""[[target]]
name = "ours"
image = {json.dumps(str(disk))}
command = "/bin/sh -c 'echo redrill''-answers'"
[target.vm]
num_cpus = {CPUS}
memory = "{MEMORY_MIB}M"
extra_args = {json.dumps(boot)}
""")
        began = time.monotonic()
        process = self.image.start([self.program, "--config", config], self.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = b""
        try:
            for line in process.stdout:
                said += line
                if b"redrill-answers" in line:
                    return {"first_command": since(began)}
            raise Unable(f"it ended with status {process.wait()}: {said.decode(errors='replace')[-1500:]}")
        finally:
            end(process)


KINDS = (Autopkgtest, Debvm, Vmtest)


def installed():
    """Which of them are there; installs what is missing where nobody's choice is overruled."""
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    lacks = {}
    if missing and (os.geteuid() == 0 or os.environ.get("CI") == "true"):
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        words = [*sudo, "apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    for program, package in PACKAGES.items():
        if not shutil.which(program):
            lacks[program] = f"not measured: not installed (apt package {package})"
    if not shutil.which(VMTEST) and os.environ.get("CI") == "true":
        subprocess.run(["cargo", "install", "--locked", "--quiet", VMTEST], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if not shutil.which(VMTEST):
        lacks[VMTEST] = "not measured: not installed (cargo install vmtest)"
    return lacks


def version(program):
    if package := PACKAGES.get(program):
        return subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True).stdout
    return subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split()[-1]


def measured(work, result):
    """What people would take instead: taking turns with our forks."""
    found, names = installed(), [kind.name for kind in KINDS]
    result["others"] = {name: {"not_measured": found[name]} if name in found else {"version": version(name)} for name in names}
    there, ours = [], []
    with Library("fork", RUNS, work) as library:
        place = work / "others"
        place.mkdir()
        image = Image(template_image(library.about["arguments"]), library.about["acceleration"], place)
        for kind in KINDS:
            if kind.name not in found:
                there += attempted(result, kind.name, lambda: [kind(image)]) or []
        runs = {one.name: [] for one in there}
        for number in range(1, RUNS + 1):
            ours.append(library.run())
            for one in list(there):
                say(f"run {number} of {RUNS}: {one.name}")
                seconds = attempted(result, one.name, one.run)
                if seconds is None:
                    there.remove(one)
                else:
                    runs[one.name].append(seconds)
    for one in there:
        mine = result["others"][one.name]
        mine["over_fork"] = median(runs[one.name], "first_command") / median(ours, "first_answer")
        mine["over_fork_ssh"] = median(runs[one.name], "first_command") / median(ours, "ssh")
    result["runs"].update(others={"fork": ours, **runs})


def attempted(result, name, act):
    """What an act gives; or nothing, and the reason in the result."""
    try:
        return act()
    except Unable as why:
        result["others"][name] = {**result["others"][name], "not_measured": str(why)}
        return None
