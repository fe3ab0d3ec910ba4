//! What seals the programs of a repo: namespaces, and containers of an engine where the host refuses those. Cells of both
//! kinds are looked at from inside, by programs that want out; drills with either kind come to the same verdict; where
//! nothing seals, nothing runs.

#[path = "sandbox/drills.rs"]
mod drills;

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
use redrill_tests::{Sandbox, leftovers, processes_of, program, wait_for};

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
        ("a_healthy_controller_is_not_blamed", drills::a_healthy_controller_is_not_blamed),
        ("a_package_leaves_no_mark_outside_of_its_environment", drills::a_package_leaves_no_mark),
        ("doctor_tells_what_seals", drills::doctor),
        ("where_namespaces_are_refused_an_engine_seals", drills::where_namespaces_are_refused_an_engine_seals),
        ("either_kind_comes_to_the_same_verdict", drills::either_kind_comes_to_the_same_verdict),
        ("what_cannot_be_sealed_is_not_run", drills::what_cannot_be_sealed_is_not_run),
        ("not_to_run_it_can_be_waived", drills::not_to_run_it_can_be_waived),
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
