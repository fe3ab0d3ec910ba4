//! What seals the programs of a repo: namespaces, and containers of an engine where the host refuses those. Cells of both
//! kinds are looked at from inside, by programs that want out; drills with either kind come to the same verdict; where
//! nothing seals, nothing runs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_machines::{Home, RunDir};
use redrill_sandbox::{Cell, Lead, Ledger};
use redrill_tests::{Sandbox, leftovers, processes_of, program, verdicts, wait_for};
use serde_json::Value;

/// What `REDRILL_SANDBOX` calls the means.
const MEANS: [&str; 2] = ["namespaces", "engine"];
/// Moments at which cells are killed, in the long suite and in CI.
const MANY: u32 = 60;
const FEW: u32 = 6;

type Test = fn(&'static str);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacking = redrill_machines::container::engine_version().is_err() && std::env::var_os("CI").is_none();
    let inside: [(&str, Test); 10] = [
        ("nothing_of_the_host_is_there", nothing_of_the_host_is_there),
        ("a_program_has_no_rights", a_program_has_no_rights),
        ("no_file_runs_as_its_owner_and_no_device_is_changed", nothing_is_left_that_has_rights),
        ("no_try_is_lost_behind_many_others", no_try_is_lost),
        ("what_is_tried_is_written_down", what_is_tried_is_written_down),
        ("leads_lead_out_and_nothing_else_does", leads_lead_out),
        ("output_and_status_pass_through", output_and_status_pass_through),
        ("what_a_program_leaves_ends_with_it", what_a_program_leaves_ends_with_it),
        ("the_watcher_cannot_be_ended_or_told_lies", the_watcher_cannot_be_ended),
        ("the_environment_reaches_nobody_else", the_environment_reaches_nobody_else),
    ];
    let mut trials = Vec::new();
    for means in MEANS {
        let ignored = means == "engine" && lacking;
        for (name, test) in inside {
            let run = move || {
                test(means);
                Ok(())
            };
            trials.push(Trial::test(format!("sandbox::{means}::{name}"), run).with_ignored_flag(ignored));
        }
        for (name, count) in
            [(format!("sandbox::{means}::kills"), FEW), (format!("long::sandbox::{means}::kills"), MANY)]
        {
            trials.push(Trial::test(name, move || kills(means, count)).with_ignored_flag(ignored));
        }
    }
    let drills: [(&str, fn()); 7] = [
        ("a_healthy_controller_is_not_blamed", a_healthy_controller_is_not_blamed),
        ("a_package_leaves_no_mark_outside_of_its_environment", a_package_leaves_no_mark),
        ("doctor_tells_what_seals", doctor),
        ("where_namespaces_are_refused_an_engine_seals", where_namespaces_are_refused_an_engine_seals),
        ("either_kind_comes_to_the_same_verdict", either_kind_comes_to_the_same_verdict),
        ("what_cannot_be_sealed_is_not_run", what_cannot_be_sealed_is_not_run),
        ("not_to_run_it_can_be_waived", not_to_run_it_can_be_waived),
    ];
    for (name, test) in drills {
        let run = move || {
            test();
            Ok(())
        };
        trials.push(Trial::test(format!("sandbox::drills::{name}"), run).with_ignored_flag(lacking));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A run directory with a cell in it, and what to call it with.
struct Sealed {
    sandbox: Sandbox,
    run: PathBuf,
    place: PathBuf,
    /// Where the program may write, which is where it starts.
    own: PathBuf,
    cell: Cell,
    means: &'static str,
}

impl Sealed {
    fn new(means: &'static str) -> Self {
        let sandbox = Sandbox::new();
        let home = Home { cache: sandbox.path().join("cache"), state: sandbox.state() };
        let run = RunDir::create(&home, "cell", SystemTime::now()).expect("made").path().to_owned();
        std::fs::write(run.join("engine"), redrill_machines::container::engine_socket().display().to_string())
            .expect("written");
        let (place, own) = (run.join("controller/cells/0000"), run.join("own"));
        std::fs::create_dir(&own).expect("made");
        let path = ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin".to_owned());
        let cell = Cell {
            host_name: "controller".to_owned(),
            machine_id: "7".repeat(32),
            user: "ann".to_owned(),
            home: own.clone(),
            directory: own.clone(),
            environment: BTreeMap::from([path]),
            read_only: Vec::new(),
            writable: vec![own.clone()],
            moved: Vec::new(),
            moved_writable: Vec::new(),
            leads: Vec::new(),
            ssh: None,
        };
        Self { sandbox, run, place, own, cell, means }
    }

    /// The command that runs `words` in the cell, under a guard.
    fn command(&self, words: &[&str]) -> Command {
        self.cell.write(&self.place).expect("written");
        let mut command = Command::new(program());
        command.arg("guard").arg("--");
        if self.means == "engine" {
            let id = |flag: &str| {
                let output = Command::new("id").arg(flag).output().expect("id runs");
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            };
            command.arg(program()).args(["enclose", "--user", &id("-u"), "--group", &id("-g")]);
        } else {
            command.args(["unshare", "--user", "--map-root-user", "--net", "--mount"]).arg(program()).arg("warden");
        }
        command.arg(&self.place).arg("--").args(words).env("REDRILL_RUN", &self.run).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end; its standard input is the guard's leash.
    fn run(&self, words: &[&str]) -> Output {
        let mut child = self.command(words).spawn().expect("starts");
        let leash = child.stdin.take();
        let output = child.wait_with_output().expect("ends");
        drop(leash);
        output
    }

    /// What a shell script prints that ends well.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = self.run(&["sh", "-c", script]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ledger = self.ledger();
        assert!(output.status.success(), "{ledger:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
        assert!(ledger.over, "{ledger:?}");
        text(&output.stdout)
    }

    fn ledger(&self) -> Ledger {
        Ledger::read(&self.place)
    }

    fn wanted(&self) -> Vec<String> {
        let mut targets: Vec<String> = self.ledger().attempts.iter().map(|attempt| attempt.target()).collect();
        targets.sort();
        targets.dedup();
        targets
    }
}

fn nothing_of_the_host_is_there(means: &'static str) {
    let sealed = Sealed::new(means);
    let script = "for path in /root/.ssh /home /run/docker.sock /var/run/docker.sock /etc/shadow /etc/ssh /sys/class \
                  /proc/1/root/etc/shadow /boot /var/lib /opt /srv /mnt; do
                      [ ! -e $path ] || echo \"$path is there\"
                  done
                  find / -xdev -name cell.json -o -name wanted.jsonl 2>/dev/null
                  hostname; cat /etc/machine-id; whoami; id -un; getent passwd \"$(id -u)\" | cut -d: -f6
                  touch /usr/x /x /etc/x 2>/dev/null && echo written
                  find /proc -path '/proc/[0-9]*' -prune -o -path /proc/self -prune -o -writable -exec test -f {} ';' -print 2>/dev/null
                  echo ours > mine; : > /tmp/x; : > /var/tmp/x; cat /etc/resolv.conf | head -1";
    let lines = sealed.sh(script);
    let own = sealed.own.display().to_string();
    let machine = "7".repeat(32);
    let expected = ["controller", &machine, "ann", "ann", &own, "nameserver 127.0.0.53"];
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected, "{lines}");
    assert_eq!(std::fs::read_to_string(sealed.own.join("mine")).expect("written"), "ours\n");
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).expect("there"));
    assert_eq!(owner(&sealed.own.join("mine")), owner(&sealed.own), "what it writes is the caller's");
}

fn a_program_has_no_rights(means: &'static str) {
    let sealed = Sealed::new(means);
    let status = sealed.sh("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name}: {status}")).trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
        assert_eq!(of(set), "0".repeat(16), "{set}: {status}");
    }
    assert_eq!((of("NoNewPrivs"), of("Seccomp")), ("1".to_owned(), "2".to_owned()));
    let python = "import socket, sys
for family in (socket.AF_PACKET, socket.AF_VSOCK, socket.AF_INET):
    for kind in (socket.SOCK_STREAM, socket.SOCK_RAW):
        try:
            socket.socket(family, kind); print(family, kind)
        except OSError: pass";
    let opened = sealed_python(means, python);
    assert_eq!(opened.trim(), "2 1", "of all sockets only plain ones");
    let sealed = Sealed::new(means);
    let said =
        sealed.sh("ip link add x type dummy 2>/dev/null && echo link; ip route del local 0.0.0.0/0 2>/dev/null && \
                          echo route; unshare --net true 2>/dev/null && echo net; mount -t tmpfs x /tmp 2>/dev/null && \
                          echo mount; true");
    assert!(!["link", "route", "mount"].iter().any(|word| said.lines().any(|line| line == *word)), "{said}");
}

/// Of root's drills what a sealed program writes is root's on the host.
fn nothing_is_left_that_has_rights(means: &'static str) {
    let sealed = Sealed::new(means);
    sealed.sh("cp /bin/true x; chmod 4755 x || true; chmod 2755 x || true; install -m 6755 /bin/true y || true; \
               chmod 600 /dev/null || true; chmod 600 /dev/urandom || true; unshare -Ur true || true");
    for name in ["x", "y"] {
        let mode = sealed.own.join(name).metadata().map_or(0, |about| about.permissions().mode());
        assert_eq!(mode & 0o6000, 0, "{name}: {mode:o}");
    }
    for device in ["/dev/null", "/dev/urandom"] {
        let mode = Path::new(device).metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o666, "{device}");
    }
}

/// A buffer that is full, or a list that is, must hide nothing.
fn no_try_is_lost(means: &'static str) {
    let script = "import socket, threading
server = socket.create_server(('127.0.0.1', 7001))
def sink():
    peer, _ = server.accept()
    while peer.recv(1 << 20): pass
threading.Thread(target=sink, daemon=True).start()
bulk = socket.create_connection(('127.0.0.1', 7001))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3000): datagrams.sendto(b'x', ('198.51.100.1', 9))
for number in range(100):
    bulk.sendall(b'x' * (1 << 20))
    try: socket.create_connection(('203.0.113.7', 1000 + number), 2)
    except OSError: pass";
    let sealed = Sealed::new(means);
    std::fs::write(sealed.own.join("script.py"), script).expect("written");
    sealed.sh("python3 script.py");
    let wanted = sealed.wanted();
    let lost: Vec<u16> = (1000..1100).filter(|port| !wanted.contains(&format!("tcp 203.0.113.7:{port}"))).collect();
    assert_eq!(lost, [0_u16; 0], "of 100 tries beside 100 MiB and 3000 datagrams");
    assert!(sealed.ledger().over);
}

#[track_caller]
fn sealed_python(means: &'static str, script: &str) -> String {
    let sealed = Sealed::new(means);
    std::fs::write(sealed.own.join("script.py"), script).expect("written");
    sealed.sh("python3 -I script.py")
}

fn what_is_tried_is_written_down(means: &'static str) {
    let sealed = Sealed::new(means);
    sealed.sh("curl -s -m 5 https://203.0.113.7/; curl -s -m 5 http://api.example.org:8080/; \
               curl -s -g -m 5 'http://[2001:db8::7]:81/'; exec 3<>/dev/null; true");
    let six = Path::new("/proc/net/if_inet6").exists();
    let six = six.then_some("tcp [2001:db8::7]:81");
    let expected: Vec<&str> =
        ["tcp 203.0.113.7:443"].into_iter().chain(six).chain(["tcp api.example.org:8080"]).collect();
    let mut wanted = sealed.wanted();
    wanted.retain(|target| !target.starts_with("the host's file"));
    let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(wanted, expected);
    assert!(
        means == "namespaces" || sealed.ledger().files_unseen.is_some(),
        "no container sees which files are missed"
    );
}

fn leads_lead_out(means: &'static str) {
    let mut sealed = Sealed::new(means);
    let ways = sealed.run.join("ways");
    std::fs::create_dir(&ways).expect("made");
    // Only its owner may use it.
    std::fs::set_permissions(&ways, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
    let socket = ways.join("web.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"from the machine\n");
        }
    });
    let addresses = vec!["203.0.113.9".parse().expect("an address")];
    sealed.cell.leads.push(Lead { names: vec!["web.example.org".to_owned()], addresses, port: 22, socket });
    let python = "import socket
for host, port in (('203.0.113.9', 22), ('web.example.org', 22), ('203.0.113.9', 23), ('203.0.113.10', 22)):
    try:
        print(socket.create_connection((host, port), 5).makefile().readline().strip())
    except OSError as error: print(type(error).__name__)";
    std::fs::write(sealed.own.join("script.py"), python).expect("written");
    let said = sealed.sh("python3 -I script.py");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["from the machine", "from the machine", "ConnectionRefusedError"], "{said}");
    assert!(["", "ConnectionResetError"].contains(&lines[3]), "another address of the same port: {said}");
    let wanted = sealed.wanted();
    assert!(wanted.contains(&"tcp 203.0.113.9:23".to_owned()) && wanted.contains(&"tcp 203.0.113.10:22".to_owned()));
    assert!(!wanted.contains(&"tcp 203.0.113.9:22".to_owned()), "{wanted:?}");
}

fn output_and_status_pass_through(means: &'static str) {
    let sealed = Sealed::new(means);
    let output = sealed.run(&["sh", "-c", "head -c 3000000 /dev/zero; printf 'to stderr' >&2; exit 7"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 3_000_000));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "to stderr");
    let sealed = Sealed::new(means);
    assert_eq!(sealed.run(&["sh", "-c", "kill -TERM $$"]).status.code(), Some(143));
    let sealed = Sealed::new(means);
    let output = sealed.run(&["sh", "-c", "read line; echo \"$? $line\""]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 \n", "it has no standard input");
    let sealed = Sealed::new(means);
    let output = sealed.run(&["/nonexistent/program"]);
    assert!(!output.status.success());
    // A line is there when it is printed, and not when the program ends.
    let sealed = Sealed::new(means);
    let mut child = sealed.command(&["sh", "-c", "echo early; sleep 30"]).spawn().expect("starts");
    let mut line = [0; 6];
    let began = Instant::now();
    child.stdout.take().expect("piped").read_exact(&mut line).expect("printed");
    assert!(&line == b"early\n" && began.elapsed() < Duration::from_secs(20));
    drop(child.stdin.take());
    child.wait().expect("ends");
}

fn what_a_program_leaves_ends_with_it(means: &'static str) {
    let sealed = Sealed::new(means);
    let beat = "while :; do date +%s%N > beat; sleep 0.05; done";
    sealed.sh(&format!("env -i setsid sh -c '{beat}' > /dev/null 2>&1 & until [ -s beat ]; do sleep 0.05; done"));
    let read = || std::fs::read_to_string(sealed.own.join("beat")).expect("written");
    let last = read();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(read(), last, "nobody writes any more");
    assert_eq!(processes_of(&sealed.sandbox.state()), [0_u32; 0]);
    assert_eq!(leftovers(&sealed.sandbox.state()), [""; 0]);
}

fn the_watcher_cannot_be_ended(means: &'static str) {
    let sealed = Sealed::new(means);
    let python = "import glob, os, signal, socket
for pid in [int(path[6:]) for path in glob.glob('/proc/[0-9]*')]:
    if pid in (os.getpid(), os.getppid()): continue
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV):
        try: os.kill(pid, number)
        except OSError: pass
for path in ['/proc/1/mem', '/proc/1/environ', '/proc/1/root/etc/passwd'] + ['/proc/1/fd/%d' % n for n in range(64)]:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        print(path)
    except OSError: pass
for path in glob.glob('/run/redrill/**', recursive=True) + ['/run/redrill/warden/wire']:
    try:
        wire = socket.socket(socket.AF_UNIX); wire.connect(path); print('connected to', path)
    except OSError: pass
    try: open(path, 'wb'); print('wrote', path)
    except OSError: pass
try: socket.create_connection(('203.0.113.7', 443), 5)
except OSError: pass";
    std::fs::write(sealed.own.join("script.py"), python).expect("written");
    let said = sealed.sh("python3 -I script.py");
    // In namespaces the first process is bubblewrap's, which holds nothing.
    if means == "engine" {
        assert_eq!(said, "");
    }
    assert!(sealed.wanted().contains(&"tcp 203.0.113.7:443".to_owned()), "what came after is seen");
}

/// A library that the repo's environment names is loaded by the program, and by nothing with more rights than it.
fn the_environment_reaches_nobody_else(means: &'static str) {
    let mut sealed = Sealed::new(means);
    let source = sealed.sandbox.file(
        "spy.c",
        "#include <stdio.h>\n#include <string.h>\n__attribute__((constructor)) static void look(void) {\n\
         char line[256]; FILE *from = fopen(\"/proc/self/status\", \"r\"), *to = fopen(\"SEEN\", \"a\");\n\
         while (from && to && fgets(line, sizeof line, from)) if (!strncmp(line, \"CapPrm\", 6)) fputs(line, to);\n\
         if (to) fclose(to); }\n"
            .replace("SEEN", &sealed.own.join("seen").display().to_string())
            .as_str(),
    );
    let library = sealed.own.join("spy.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.expect("cc runs").success());
    sealed.cell.environment.insert("LD_PRELOAD".to_owned(), library.display().to_string());
    sealed.sh("true");
    let seen = std::fs::read_to_string(sealed.own.join("seen")).expect("the program loaded it");
    assert!(seen.lines().all(|line| line.ends_with("0000000000000000")), "{seen}");
}

/// SIGKILL of the guard, or of what it guards, at any moment of a cell's life.
fn kills(means: &'static str, count: u32) -> Result<(), Failed> {
    let mut leaks = Vec::new();
    for number in 0..count {
        let sealed = Sealed::new(means);
        let mut child = sealed.command(&["sh", "-c", "env -i setsid sleep 300 & sleep 300"]).spawn().expect("starts");
        let moment = Duration::from_millis(u64::from(random(900)));
        std::thread::sleep(moment);
        let victims = processes_of(&sealed.sandbox.state());
        let victim = match number % 3 {
            0 => child.id(),
            1 => victims.last().copied().unwrap_or(child.id()),
            _ => victims[random(u32::try_from(victims.len().max(1)).expect("few")) as usize % victims.len().max(1)],
        };
        let _ = Command::new("kill").args(["-KILL", &victim.to_string()]).stderr(Stdio::null()).status();
        if number % 3 != 0 {
            // The harness ends too.
            drop(child.stdin.take());
        }
        child.wait().expect("ends");
        wait_for(Duration::from_secs(20), || processes_of(&sealed.sandbox.state()).is_empty());
        let _ = sealed.sandbox.run(&["clean"]);
        let left = leftovers(&sealed.sandbox.state());
        if !left.is_empty() {
            leaks.push(format!("{number}: after {moment:?}: {left:?}"));
        }
    }
    let _ = writeln!(std::io::stderr(), "{means}: {count} kills of cells, {} leaks", leaks.len());
    if leaks.is_empty() { Ok(()) } else { Err(leaks.join("\n").into()) }
}

fn random(below: u32) -> u32 {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom").expect("there").read_exact(&mut bytes).expect("read");
    u32::from_le_bytes(bytes) % below
}

const SCRIPT: &str = "#!/bin/bash
set -eu
echo ran > \"$MARKER\" || true
echo 'redrill-op: Deploy'
ssh root@web.example.org 'echo deployed > /srv/deployed'
echo 'redrill-op: Ask'
curl -s -m 5 https://203.0.113.7/ || true
cat /root/x || true
";

/// What people's scripts do: connections that are shared, a server of its own that is waited for, git, what everybody may
/// read of the host, and a look at the service that was deployed.
const HEALTHY: &str = "#!/bin/bash
set -eu
echo 'redrill-op: Deploy'
ssh -o ControlMaster=auto -o ControlPersist=5 -o ControlPath=~/.ssh/cm-%C root@web.example.org 'cat > /root/serve.py' <<'P'
import http.server
http.server.HTTPServer(('', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
P
ssh -o ControlPath=~/.ssh/cm-%C root@web.example.org 'perl -MIO::Socket::INET -e '\\''
my $l = IO::Socket::INET->new(LocalPort => 8000, Listen => 5, ReuseAddr => 1) or die; exit if fork;
while (my $c = $l->accept) { sysread($c, my $b, 2000); print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n\"; close $c }'\\'' \
>/dev/null 2>&1 </dev/null'
echo 'redrill-op: Look'
curl -sf -m 10 http://web.example.org:8000/ | grep -q hello
(sleep 0.5; exec python3 -m http.server 7799 --bind 127.0.0.1 >/dev/null 2>&1) &
until curl -s -o /dev/null http://127.0.0.1:7799/; do sleep 0.1; done
cat /etc/mtab /etc/login.defs /etc/iproute2/rt_tables >/dev/null 2>&1 || true
git init -q /tmp/x && getent hosts \"$(hostname)\" >/dev/null
";

fn a_healthy_controller_is_not_blamed() {
    let sandbox = Sandbox::new();
    let way = "[network]\ncontroller = [{ to = 'web.example.org:8000', why = 'a smoke test' }]\n";
    let (status, report) = drill_of(&sandbox, HEALTHY, "namespaces", way);
    assert_eq!((status, findings(&report)), (0, Vec::new()), "{:#}", report["remarks"]);
    assert!(report["remarks"].to_string().contains("a smoke test"), "{:#}", report["remarks"]);
}

/// A local project whose build puts a link to a file of the host where redrill may write.
fn a_package_leaves_no_mark() {
    let sandbox = Sandbox::new();
    let victim = sandbox.file("victim", "precious");
    let backend = format!(
        "import os, sys\nfor name in ('whole', 'pyvenv.cfg'):\n    at = os.path.join(sys.prefix, name)\n    \
         try: os.unlink(at)\n    except OSError: pass\n    os.symlink('{}', at)\nraise SystemExit('no wheel')\n",
        victim.display()
    );
    sandbox.file("scenario/servers/lib/backend.py", &backend);
    let project =
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n[project]\nname = 'x'\n";
    sandbox.file("scenario/servers/lib/pyproject.toml", project);
    sandbox.file("scenario/servers/requirements.txt", "--no-build-isolation\n./lib\n");
    let text = "claims = ['rebuilds']\n[servers]\npath = 'servers'\n[deploy]\ntool = 'shell'\nscript = 'deploy.sh'\n\
                on = 'controller'\nrequirements = 'requirements.txt'\n[[machine]]\nname = 'web.example.org'\n\
                image = 'debian-13'\n";
    sandbox.file("scenario/servers/deploy.sh", "#!/bin/sh\nssh root@web.example.org true\n");
    let (cache, scenario) = (sandbox.path().join("cache"), commit(&sandbox, text));
    let mut command = sandbox.command(&["run", &scenario, "--backend", "container"]);
    let ran = redrill_tests::Ran::of(command.env("REDRILL_CACHE_DIR", &cache).output().expect("redrill runs"));
    assert_ne!(ran.status, 0, "{}", ran.stdout);
    assert_eq!(std::fs::read_to_string(victim).expect("there"), "precious", "{}", ran.stderr);
    let left = std::fs::read_dir(cache.join("venvs")).into_iter().flatten().flatten();
    assert!(!left.into_iter().any(|entry| entry.path().is_dir()), "nothing half-made stays");
}

/// A drill of a script that wants out, in containers.
fn drill(sandbox: &Sandbox, means: &str, more: &str) -> (i32, Value) {
    drill_of(sandbox, SCRIPT, means, more)
}

/// Writes the scenario, commits its servers, and tells where it lies.
fn commit(sandbox: &Sandbox, text: &str) -> String {
    let scenario = sandbox.file("scenario/scenario.toml", text);
    let images = sandbox.path().join("scenario/images");
    let _ = std::os::unix::fs::symlink(redrill_tests::root().join("images"), images);
    for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "a script"]] {
        let mut git = Command::new("git");
        git.arg("-C").arg(sandbox.path().join("scenario/servers"));
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]).args(words);
        assert!(git.status().expect("git runs").success());
    }
    scenario.display().to_string()
}

fn drill_of(sandbox: &Sandbox, script: &str, means: &str, more: &str) -> (i32, Value) {
    let marker = sandbox.path().join("marker");
    let text = format!(
        "claims = ['rebuilds']\n[servers]\npath = 'servers'\n[deploy]\ntool = 'shell'\nscript = 'deploy.sh'\n\
         on = 'controller'\nenv = {{ MARKER = '{}' }}\n[[machine]]\nname = 'web.example.org'\nimage = 'debian-13'\n{more}",
        marker.display()
    );
    sandbox.file("scenario/servers/deploy.sh", script);
    let path = commit(sandbox, &text);
    let mut command = sandbox.command(&["run", &path, "--backend", "container"]);
    let ran = redrill_tests::Ran::of(command.env("REDRILL_SANDBOX", means).output().expect("redrill runs"));
    assert!([0, 1, 3].contains(&ran.status), "\n{}\n{}", ran.stdout, ran.stderr);
    assert!(!marker.exists(), "it ran outside of a sandbox:\n{}", ran.stderr);
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
    (ran.status, sandbox.report())
}

/// Codes and subjects.
fn findings(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let claims = report["claims"].as_array().into_iter().flatten();
    let findings = claims.flat_map(|claim| claim["findings"].as_array()).flatten();
    findings.map(|finding| (text(&finding["code"]), text(&finding["subject"]))).collect()
}

fn either_kind_comes_to_the_same_verdict() {
    let (status, first) = drill(&Sandbox::new(), "namespaces", "");
    let (again, second) = drill(&Sandbox::new(), "engine", "");
    assert_eq!((status, again), (3, 3));
    assert_eq!(verdicts(&first), [("rebuilds".to_owned(), "UNPROVEN".to_owned())]);
    assert_eq!(verdicts(&first), verdicts(&second));
    let network = |report: &Value| {
        let mut all = findings(report);
        all.retain(|(_, subject)| !subject.starts_with("the host's file"));
        all
    };
    assert_eq!(network(&first), [("OUTSIDE".to_owned(), "tcp 203.0.113.7:443".to_owned())]);
    assert_eq!(network(&first), network(&second));
    let remarks = |report: &Value| report["remarks"].to_string().contains("sealed in containers of the engine");
    assert_eq!((remarks(&first), remarks(&second)), (false, true));
}

fn what_cannot_be_sealed_is_not_run() {
    let sandbox = Sandbox::new();
    let (status, report) = drill(&sandbox, "none", "");
    assert_eq!((status, verdicts(&report)), (3, vec![("rebuilds".to_owned(), "UNPROVEN".to_owned())]));
    assert_eq!(findings(&report), [("UNSEALED".to_owned(), "sandbox".to_owned())]);
    assert!(report["claims"].to_string().contains("unset REDRILL_SANDBOX"), "what mends it: {report}");
    assert!(!sandbox.run_dir().join("controller").exists());
}

fn not_to_run_it_can_be_waived() {
    let waiver = "[[waiver]]\nclaim = 'rebuilds'\npath = 'sandbox'\nreason = 'CI has neither'\nby = 'ann'\n\
                  until = 2999-01-01\n";
    let (status, report) = drill(&Sandbox::new(), "none", waiver);
    assert_eq!((status, verdicts(&report)), (0, vec![("rebuilds".to_owned(), "WAIVED".to_owned())]));
    assert!(report["claims"].to_string().contains("CI has neither"), "{report}");
}

/// A user namespace in which no more can be made is a host that refuses them.
fn where_namespaces_are_refused_an_engine_seals() {
    let sandbox = Sandbox::new();
    let refuse = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", refuse]).arg(program()).current_dir(sandbox.path());
    let output = command.env("REDRILL_STATE_DIR", sandbox.state()).env("NO_COLOR", "1").output().expect("unshare runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(" sandbox ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.starts_with("limited") && line.contains("a container of the engine (this host refuses"), "{line}");
    assert!(text.contains("max_user_namespaces=10000"), "what mends it: {text}");
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
}

fn doctor() {
    for (means, health) in [("namespaces", "good"), ("engine", "limited"), ("none", "missing")] {
        let sandbox = Sandbox::new();
        let output = sandbox.command(&["doctor"]).env("REDRILL_SANDBOX", means).output().expect("redrill runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains(" sandbox ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with(health), "{means}: {line}");
        assert_eq!(leftovers(&sandbox.state()), [""; 0]);
        let runs = std::fs::read_dir(sandbox.state().join("runs")).map_or(0, Iterator::count);
        assert_eq!(runs, 0, "its own run directory is gone");
    }
}
