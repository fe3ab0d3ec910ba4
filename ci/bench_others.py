"""Machines by what people would take instead, made of the same kernel and packages as ours; for ci/bench machines.

Each is started by its own command and asked for a first command in its own way:

    debvm-run               ssh runs `true` as soon as it can; the key is handed over as a credential of systemd
    autopkgtest-virt-qemu   its protocol on standard input: `open`, then its auxverb runs `true`. A unit, as a credential
                            too, opens the root shell that `autopkgtest-build-qemu` would have installed
    vmtest                  the crate, with an image: it runs its command by QEMU's guest agent

debvm-run takes our image as it is. The others cannot: both mount a directory of the host by 9P, which the kernel of our
image, Debian's for clouds, was built without, and vmtest needs an agent. For them our recipe is built with Debian's
general kernel of the same version, whose initrd is larger, and with that agent.

They boot kernel and initrd directly, as our images have no bootloader, with as much memory and as many processors as our
machines. All three take /dev/kvm for granted where it exists: where it does not work they run with a /dev that lacks it.
"""

import base64
import functools
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
from urllib.parse import unquote

from bench_kept import REDRILL, ROOT
from bench_machines import RUNS, Library, greets, median, say, since, template_image

PACKAGES = {"autopkgtest-virt-qemu": "autopkgtest", "debvm-run": "debvm"}
VMTEST = "vmtest"
MEMORY_MIB, CPUS = 1024, 2
# autopkgtest waits for a minute by default, vmtest at least for half one.
PATIENCE = 600
CMDLINE = "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off"
# As autopkgtest's setup-testbed writes it for a machine.
SHELL = """[Unit]
Description=root shell for autopkgtest
BindsTo=dev-hvc1.device
After=dev-hvc1.device
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


class Host:
    """Images, and what a machine by hand is told."""

    def __init__(self, ours, acceleration, work):
        self.ours, self.acceleration, self.work = ours, acceleration, work
        for key in ("client", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / key], check=True)

    @functools.cached_property
    def general(self):
        """Our recipe with what the others need, built in a cache of its own: the user's shall not grow."""
        say("others: an image with 9P and a guest agent")
        recipe = (ROOT / "images/debian-13/image.toml").read_text()
        kernel, name = '"linux-image-cloud-amd64",', "debian-13-general"
        if kernel not in recipe:
            raise Unable(f"images/debian-13/image.toml has no line {kernel} any more; mend ci/bench_others.py")
        place = self.work / "general"
        (place / "images" / name).mkdir(parents=True, exist_ok=True)
        (place / "images" / name / "image.toml").write_text(recipe.replace(kernel, '"linux-image-amd64",\n    "qemu-guest-agent",'))
        ran = subprocess.run([REDRILL, "image", "build", name], cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             env={**os.environ, "REDRILL_CACHE_DIR": str(place / "cache")})
        found = list((place / "cache/images").glob("*/image.json"))
        if ran.returncode != 0 or len(found) != 1:
            raise Unable(f"the image cannot be built: {ran.stderr.strip()}")
        return found[0].parent

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
        """The general image's."""
        words = ["-kernel", self.general / "vmlinuz", "-initrd", self.general / "initrd", "-append", f"{CMDLINE} {more}".strip()]
        return [str(word) for word in words]

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

    def __init__(self, host):
        self.host = host
        # Its own option for QEMU's arguments is split at blanks.
        self.qemu = host.work / "qemu-system-x86_64-with-our-kernel"
        words = host.boot("systemd.wants=autopkgtest.service") + host.credentials(**{"systemd.extra-unit.autopkgtest.service": SHELL.encode()})
        self.qemu.write_text(f"#!/bin/sh\nexec qemu-system-x86_64 \"$@\" {' '.join(shlex.quote(str(word)) for word in words)}\n")
        self.qemu.chmod(0o755)

    def run(self):
        """Seconds to the end of a first command."""
        words = [self.name, f"--qemu-command={self.qemu}", f"--cpus={CPUS}", f"--ram-size={MEMORY_MIB}",
                 f"--timeout-reboot={PATIENCE}", self.host.general / "disk.img"]
        began = time.monotonic()
        process = self.host.start(words, self.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            self.answer(process)
            self.ask(process, "open")
            auxverb = [unquote(word) for word in self.ask(process, "print-execute-command").split(",")]
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
            raise Unable(f"it said {line!r}: {self.host.said(self.name)}")
        return line[2:].strip()


class Debvm:
    name = "debvm-run"

    def __init__(self, host):
        self.host = host
        # It takes a raw image, and writes into it: each run has a copy.
        self.disk = host.work / "debvm.ext4"

    def run(self):
        """Seconds to the end of a first command over SSH; the copy of the disk is made before."""
        subprocess.run(["qemu-img", "convert", "-O", "raw", self.host.ours / "disk.img", self.disk], check=True)
        port = free_port()
        began = time.monotonic()
        words = [self.name, "--image", self.disk, "--sshport", port, "--", "-smp", CPUS, "-m", f"{MEMORY_MIB}M"]
        process = self.host.start([*words, *self.host.keys()], self.name)
        try:
            ssh = ["ssh", "-F", "none", "-i", self.host.work / "client", "-p", str(port), "-oConnectTimeout=20",
                   "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "root@127.0.0.1", "true"]
            # debvm-waitssh waits for an RSA key, which our machines have none of.
            while not (greets(port) and subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0):
                if process.poll() is not None or since(began) > PATIENCE:
                    raise Unable(f"no login: {self.host.said(self.name)}")
                time.sleep(0.1)
            return {"first_command": since(began)}
        finally:
            end(process)
            self.disk.unlink()


class Vmtest:
    name = VMTEST

    def __init__(self, host):
        self.host, self.boot = host, host.boot()

    def run(self):
        """Seconds until what the first command says is heard."""
        disk = self.host.work / "vmtest.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.host.general / "disk.img", disk], check=True)
        config = self.host.work / "vmtest.toml"
        # A path in JSON is one in TOML.
        config.write_text(f"""[[target]]
name = "ours"
image = {json.dumps(str(disk))}
command = "/bin/sh -c 'echo redrill''-answers'"
[target.vm]
num_cpus = {CPUS}
memory = "{MEMORY_MIB}M"
extra_args = {json.dumps(self.boot)}
""")
        began = time.monotonic()
        process = self.host.start([self.name, "--config", config], self.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = b""
        try:
            for line in process.stdout:
                said += line
                if b"redrill-answers" in line:
                    return {"first_command": since(began)}
            raise Unable(f"it ended with status {process.wait()}: {said.decode(errors='replace')[-1500:]}")
        finally:
            end(process)


KINDS = (Debvm, Autopkgtest, Vmtest)


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
        host = Host(template_image(library.about["arguments"]), library.about["acceleration"], place)
        for kind in KINDS:
            if kind.name not in found:
                there += attempted(result, kind.name, lambda: [kind(host)]) or []
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
    except (Unable, subprocess.SubprocessError) as why:
        result["others"][name] = {**result["others"][name], "not_measured": str(why)}
        return None
