"""Speed of the machines themselves, without a deploy, against the same by hand; prints one JSON object.

    ci/bench machines [fork] [freeze] [eight] [container] [others]     all five if none is named

The library's own numbers come from `tests/bench.rs`; ours and the other side's runs take turns, so that what else the
host does meets both. "By hand" is a QEMU or a container started by this script, with the arguments that the library's
own QEMU was started with. What is compared are medians: of three runs, of five forks.

    fork_speedup_first_command  cold boot to a machine at rest that answers / fork to the first answer; at least 40
    fork_speedup_ssh            the same to the first login over SSH, keys and all; at least 12
    fork_over_bare              fork to the first answer / the same state loaded by hand into a bare QEMU; at most 1.5
    freeze_beyond_bare          seconds that a freeze takes beyond a bare `stop` and `migrate`; under 1
    fork_private_mib            memory of its own that a further fork of a frozen machine adds to the host; at most 200
    eight                       eight forks at once: seconds to the last login, memory of their own of all
    container_over_bare         container to the first login over SSH / bare `docker run` to the same; at most 1.3
    others                      what people would take instead, each in its own way to the end of a first command / our
                                fork to the first answer, and to the first login over SSH; see ci/bench_others.py

Beside them, without a limit: `fork_speedup_first_answer` takes a cold machine's first answer instead, given while it is
still booting, and `cold_over_bare` is our cold boot against one by hand.
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "target/release/examples/bench"
PARTS = ("fork", "freeze", "eight", "container", "others")
RUNS = 3
# Five forks, spread over the three runs.
FORKS = (2, 2, 1)
LIMITS = {
    "fork_speedup_first_command": (">=", 40),
    "fork_speedup_ssh": (">=", 12),
    "fork_over_bare": ("<=", 1.5),
    "freeze_beyond_bare": ("<", 1),
    "fork_private_mib": ("<=", 200),
    "container_over_bare": ("<=", 1.3),
}
# Names in a machine's directory: harness/machines/src/qemu/args.rs and freeze.rs.
OVERLAY, MONITOR, AGENT, MEMORY, STATE = "overlay.qcow2", "qmp.sock", "agent.sock", "memory.ram", "device.state"
# Longer than any boot under emulation on a loaded host.
PATIENCE = 900
LIBC = ctypes.CDLL(None)


def say(text):
    print(f"ci/bench: {text}", file=sys.stderr, flush=True)


def run(*words, **options):
    """What a program of the host printed; its end is ours if it fails."""
    ran = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if ran.returncode != 0:
        sys.exit(f"ci/bench: {words[0]} failed: {ran.stderr.strip()}")
    return ran.stdout.strip()


def since(began):
    return time.monotonic() - began


class Library:
    """`tests/bench.rs` in one of its modes: a run whenever we ask for one."""

    def __init__(self, mode, count, work):
        self.mode = mode
        words = [EXAMPLE, mode, str(count), "--paced"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(work)})

    def __enter__(self):
        # It has warmed up when it says this.
        self.about = self.read()
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
            self.process.wait(60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"ci/bench: `bench {self.mode}` ended with status {self.process.wait()}")
        return json.loads(line)


class Monitor:
    """QEMU's monitor protocol, one command at a time."""

    def __init__(self, connection):
        self.stream = connection.makefile("rw")
        self.stream.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while line := self.stream.readline():
            message = json.loads(line)
            if "error" in message:
                sys.exit(f"ci/bench: QEMU refuses {command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
        sys.exit(f"ci/bench: QEMU ended at {command}")

    def migrate(self, command, uri):
        self("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self(command, uri=uri)
        while (answer := self("query-migrate")).get("status") != "completed":
            if answer.get("status") in ("failed", "cancelled"):
                sys.exit(f"ci/bench: {command}: {answer.get('error-desc', 'QEMU does not say why')}")
            time.sleep(0.002)


class Agent:
    """The agent in a machine: frames as in harness/wire/src/lib.rs."""

    def __init__(self, connection):
        self.connection, self.buffer, self.channel = connection, b"", 0

    def send(self, kind, channel, payload=b""):
        self.connection.settimeout(60)
        self.connection.sendall(struct.pack("<cII", kind, channel, len(payload)) + payload)

    def feed(self, seconds):
        self.connection.settimeout(seconds)
        try:
            data = self.connection.recv(65536)
        except TimeoutError:
            return
        if not data:
            sys.exit("ci/bench: QEMU closed the agent's port")
        self.buffer += data

    def frame(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if len(self.buffer) >= 9:
                kind, channel, length = struct.unpack_from("<cII", self.buffer)
                if len(self.buffer) >= 9 + length:
                    payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
                    return kind, channel, payload
            self.feed(1)
        sys.exit("ci/bench: the agent does not answer any more")

    def ready(self):
        """Asks until it answers; what came before the answer is the rest of an earlier conversation."""
        nonce, until = os.urandom(8), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.send(b"h", 0, nonce)
            again = time.monotonic() + 0.5
            while (left := again - time.monotonic()) > 0:
                self.feed(left)
                at = self.buffer.find(nonce, 9)
                if at >= 0 and self.buffer[at - 9 : at - 8] == b"r":
                    self.buffer = self.buffer[at - 9 :]
                    self.frame()
                    return
        sys.exit("ci/bench: the agent never answered")

    def run(self, *words):
        """Exit status of a command."""
        self.channel += 1
        self.send(b"x", self.channel, "\0".join(words).encode())
        self.send(b"e", self.channel)
        while True:
            kind, channel, payload = self.frame()
            if kind == b"q" and channel == self.channel:
                return struct.unpack("<i", payload)[0]


class Bare:
    """A QEMU started by hand, in a directory of its own that ends with it."""

    def __init__(self, arguments, work):
        self.arguments, self.process = arguments, None
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="bare-", dir=work))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory)

    def start(self, backing):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, self.directory / OVERLAY)
        with open(self.directory / "qemu.log", "w") as log:
            # PR_SET_PDEATHSIG, SIGKILL: it does not outlive us.
            self.process = subprocess.Popen(self.arguments, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=lambda: LIBC.prctl(1, 9))
        self.monitor = Monitor(self.connect(MONITOR))
        self.agent = Agent(self.connect(AGENT))

    def connect(self, name):
        # A socket's path has at most 107 bytes: go by way of the open directory.
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            while True:
                connection = socket.socket(socket.AF_UNIX)
                try:
                    connection.connect(f"/proc/self/fd/{directory}/{name}")
                    return connection
                except OSError:
                    connection.close()
                    if self.process.poll() is not None:
                        sys.exit(f"ci/bench: QEMU ended: {(self.directory / 'qemu.log').read_text().strip()}")
                    time.sleep(0.002)
        finally:
            os.close(directory)

    def load(self, state):
        self.monitor.migrate("migrate-incoming", f"file:{state}")
        self.monitor("cont")


def memory_of(arguments):
    """Where the word about the machine's memory is, and the file in it as QEMU wants it written."""
    for at, word in enumerate(arguments):
        if found := re.search(r"mem-path=((?:[^,]|,,)+)", word):
            return at, found.group(1)
    sys.exit("ci/bench: no memory file among the arguments of a fork")


def template_of(arguments):
    return pathlib.Path(memory_of(arguments)[1].replace(",,", ",")).parent


def template_image(arguments):
    """Where the image lies that a fork's template was booted from."""
    return pathlib.Path(arguments[arguments.index("-kernel") + 1]).parent


def bare_fork(arguments, work):
    """The template's state loaded by hand: seconds to the agent's answer, and to the end of a first command."""
    template = template_of(arguments)
    with Bare(arguments, work) as bare:
        began = time.monotonic()
        bare.start(template / OVERLAY)
        bare.load(template / STATE)
        bare.agent.ready()
        answer = since(began)
        bare.agent.run("true")
        return {"first_answer": answer, "first_command": since(began)}


def bare_cold(arguments, work):
    """The same machine booted by hand: seconds to the agent's answer, to a first command, to no more jobs."""
    words = list(arguments)
    at = words.index("-incoming")
    del words[at : at + 2]
    at, _ = memory_of(words)
    del words[at - 1 : at + 1]
    words = [word.replace(",memory-backend=ram", "") for word in words]
    image = template_image(words)
    with Bare(words, work) as bare:
        began = time.monotonic()
        bare.start(image / "disk.img")
        bare.agent.ready()
        answer = since(began)
        bare.agent.run("true")
        command = since(began)
        bare.agent.run("systemctl", "is-system-running", "--wait")
        return {"first_answer": answer, "first_command": command, "at_rest": since(began)}


def bare_freeze(arguments, work):
    """A machine with its memory in a file of its own, frozen by hand: seconds of `stop` and `migrate`."""
    template = template_of(arguments)
    with Bare(list(arguments), work) as bare:
        memory = bare.directory / MEMORY
        run("cp", "--reflink=auto", "--sparse=auto", template / MEMORY, memory)
        at, path = memory_of(bare.arguments)
        word = bare.arguments[at].replace(path, str(memory).replace(",", ",,"))
        bare.arguments[at] = word.replace("share=off", "share=on")
        bare.start(template / OVERLAY)
        bare.load(template / STATE)
        bare.agent.ready()
        bare.agent.run("true")
        began = time.monotonic()
        bare.monitor("stop")
        bare.monitor.migrate("migrate", f"file:{STATE}")
        return since(began)


class Containers:
    """Containers started by hand as harness/machines/src/container/start.rs starts them."""

    def __init__(self, image, work):
        self.image, self.work, self.made = image, work, 0
        self.name = f"redrill-bench-{os.getpid()}"
        source = (ROOT / "harness/machines/src/container/start.rs").read_text()
        entry = re.search(r'const ENTRY: &str = r#"(.*?)"#;', source, re.S)
        capabilities = re.search(r"const CAPABILITIES: .*? = \[(.*?)\];", source)
        if not entry or not capabilities:
            sys.exit("ci/bench: container/start.rs has no ENTRY or CAPABILITIES any more; mend ci/bench_machines.py")
        self.entry, self.capabilities = entry.group(1), re.findall(r'"(\w+)"', capabilities.group(1))
        [self.probe] = (ROOT / "target/probe").glob("*/probe/redrill-probe")
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "client")

    def __enter__(self):
        run("docker", "network", "create", "-o", "com.docker.network.bridge.enable_ip_masquerade=false", self.name)
        return self

    def __exit__(self, *_):
        subprocess.run(["docker", "network", "rm", self.name], stdout=subprocess.DEVNULL)

    def share(self):
        """What the machine finds at /run/redrill, and the socket of a relay that nobody asks anything."""
        self.made += 1
        shared = self.work / f"shared-{self.made}"
        shared.mkdir()
        shutil.copy(self.probe, shared / "probe")
        (shared / "entry").write_text(self.entry)
        for name in ("probe", "entry"):
            (shared / name).chmod(0o755)
        host = self.work / f"host-{self.made}"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host)
        proxies = "".join(f'Acquire::{scheme}::Proxy "http://127.0.0.1:3128";\n' for scheme in ("http", "https"))
        place = lambda path, mode, content: {"path": path, "mode": mode, "content": content}
        # harness/wire/src/identity.rs
        identity = {
            "clock": None, "hostname": "bare.example.org", "machine_id": uuid.uuid4().hex, "mac": None,
            "seed": os.urandom(32).hex(), "lan": None, "hang_up": ["/run/sshd.pid"], "restart": [], "timers": False,
            "files": [
                place("/root/.ssh/authorized_keys", 0o600, (self.work / "client.pub").read_text()),
                place("/etc/ssh/ssh_host_ed25519_key", 0o600, host.read_text()),
                place("/etc/ssh/ssh_host_ed25519_key.pub", 0o644, host.with_suffix(".pub").read_text()),
                place("/etc/apt/apt.conf.d/90redrill-mirror", 0o644, proxies),
            ],
        }
        (shared / "identity.json").write_text(json.dumps(identity))
        (shared / "identity.json").chmod(0o600)
        relay = socket.socket(socket.AF_UNIX)
        relay.bind(str(shared / "relay.sock"))
        relay.listen()
        return shared, relay

    def run(self):
        """Seconds to the first login over SSH, and to no more jobs."""
        shared, relay = self.share()
        name = f"{self.name}-{self.made}"
        words = ["docker", "run", "-d", "--name", name, "--hostname", "bare.example.org", "--network", self.name]
        words += ["--cgroupns", "private", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
        words += [f"--cap-add={capability}" for capability in self.capabilities]
        words += ["--mount", f"type=bind,src={shared},dst=/run/redrill", "--tmpfs", "/run:exec,mode=755"]
        words += ["--memory", "1024m", "--cpus", str(min(2, len(os.sched_getaffinity(0)))), "-p", "127.0.0.1::22", self.image, "/bin/sh", "/run/redrill/entry"]
        try:
            began = time.monotonic()
            run(*words)
            port = run("docker", "port", name, "22/tcp").splitlines()[0].rpartition(":")[2]
            while not (greets(int(port)) and self.login(port)):
                if since(began) > 60:
                    sys.exit(f"ci/bench: the container did not come up: docker logs said\n{run('docker', 'logs', name)}")
                time.sleep(0.05)
            login = since(began)
            subprocess.run(["docker", "exec", name, "systemctl", "is-system-running", "--wait"], stdout=subprocess.DEVNULL)
            return {"ssh": login, "at_rest": since(began)}
        finally:
            subprocess.run(["docker", "rm", "-f", "-v", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            relay.close()
            shutil.rmtree(shared)

    def login(self, port):
        # As harness/machines/src/ssh.rs does it.
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
                   "LogLevel=ERROR", "ConnectTimeout=20", "KexAlgorithms=curve25519-sha256",
                   "Ciphers=aes128-gcm@openssh.com,aes256-ctr"]
        words = ["ssh", "-F", "none", "-i", str(self.work / "client"), "-p", port, *(f"-o{option}" for option in options)]
        return subprocess.run([*words, "root@127.0.0.1", "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def greets(port):
    """The engine's proxy accepts every connection: only what is read counts."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def median(runs, *keys):
    """Of what lies under these keys."""
    def value(found):
        for key in keys:
            found = found[key]
        return found
    return statistics.median(value(found) for found in runs)


def total(memories, key):
    return sum(memory[key] for memory in memories)


def fork(work, result):
    cold, ours, bare, bare_colds = [], [], [], []
    with Library("fork", sum(FORKS), work) as forks, Library("fresh", RUNS, work) as fresh:
        arguments = forks.about["arguments"]
        result["acceleration"], result["qemu"] = forks.about["acceleration"], forks.about["qemu"]
        for number, count in enumerate(FORKS, 1):
            say(f"run {number} of {RUNS}: cold boots, ours and by hand")
            cold.append(fresh.run())
            bare_colds.append(bare_cold(arguments, work))
            say(f"run {number} of {RUNS}: forks, ours and by hand")
            for _ in range(count):
                ours.append(forks.run())
                bare.append(bare_fork(arguments, work))
    answer = median(ours, "first_answer")
    result["fork_speedup_first_command"] = median(cold, "first_answer") / answer
    result["fork_speedup_ssh"] = median(cold, "ssh") / median(ours, "ssh")
    result["fork_over_bare"] = answer / median(bare, "first_answer")
    result["fork_speedup_first_answer"] = median(bare_colds, "first_answer") / answer
    result["cold_over_bare"] = median(cold, "first_answer") / median(bare_colds, "at_rest")
    result["runs"].update(cold=cold, bare_cold=bare_colds, fork=ours, bare_fork=bare)


def freeze(work, result):
    ours, bare = [], []
    with Library("freeze", RUNS, work) as library:
        for number in range(1, RUNS + 1):
            say(f"run {number} of {RUNS}: freeze, ours and by hand")
            ours.append(library.run())
            bare.append(bare_freeze(library.about["arguments"], work))
    result["freeze"] = median(ours, "freeze")
    result["freeze_beyond_bare"] = median(ours, "freeze") - statistics.median(bare)
    # The larger of each two.
    result["fork_private_mib"] = statistics.median(max(one["memory"]["own_mib"] for one in run["forks"]) for run in ours)
    result["runs"].update(freeze=ours, bare_freeze=bare)


def eight(work, result):
    runs = []
    for number in range(1, RUNS + 1):
        say(f"run {number} of {RUNS}: eight forks at once")
        with Library("many", 8, work) as library:
            runs.append(library.run())
    result["eight"] = {
        "seconds": median(runs, "ssh"),
        "seconds_to_first_answers": median(runs, "first_answer"),
        "own_mib": statistics.median(total(run["memory"], "own_mib") for run in runs),
        "private_mib": statistics.median(total(run["memory"], "private_mib") for run in runs),
    }
    result["runs"].update(eight=runs)


def container(work, result):
    if not shutil.which("docker"):
        result["container_over_bare"] = "not measured: no docker command"
        return
    ours, bare = [], []
    with Library("container", RUNS, work) as library:
        if why := library.about.get("unable"):
            result["container_over_bare"] = f"not measured: {why}"
            return
        with Containers(library.about["image"], work) as containers:
            say("a first container by hand, not counted")
            containers.run()
            for number in range(1, RUNS + 1):
                say(f"run {number} of {RUNS}: container, ours and by hand")
                ours.append(library.run())
                bare.append(containers.run())
    result["container_over_bare"] = median(ours, "ssh") / median(bare, "ssh")
    result["runs"].update(container=ours, bare_container=bare)


def others(work, result):
    import bench_others  # It imports this one.

    bench_others.measured(work, result)


def rounded(value):
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def held(name, value):
    word, limit = LIMITS[name]
    return {">=": value >= limit, "<=": value <= limit, "<": value < limit}[word]


def main(words):
    if unknown := [word for word in words if word not in PARTS]:
        sys.exit(f"ci/bench: no such part: {' '.join(unknown)}; there are {' '.join(PARTS)}")
    subprocess.run([ROOT / "ci/setup"], check=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked", "--package", "redrill", "--bins", "--example", "bench"], cwd=ROOT, check=True)
    result = {"runs": {}}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        for part in PARTS:
            if part in words or not words:
                {"fork": fork, "freeze": freeze, "eight": eight, "container": container, "others": others}[part](pathlib.Path(directory), result)
    load.append(os.getloadavg()[0])
    # The raw numbers come last.
    result["limits"] = {
        name: {"limit": " ".join(map(str, LIMITS[name])), "held": held(name, result[name])}
        for name in LIMITS if isinstance(result.get(name), float)
    }
    result["host"] = {"processors": os.cpu_count(), "load_before_and_after": load}
    result["runs"] = result.pop("runs")
    print(json.dumps(rounded(result), indent=2))
