//! A production of the test's own, and an operator's host with secrets: what nothing of a drill may reach.
//!
//! Production is a network namespace behind a pair of virtual links: whatever the host itself, or a container by way of
//! the host, sends to [`Production::HOST`], to 10.99.1.0/24 or to fd99:1::/64 arrives there and is counted. Everything
//! ends with the process that made it: the namespace with its only program, which reads the end of a pipe.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{has, has_sshd, root, wait_for};

const LINK: &str = "redrill-prod";
/// Longer than any of the programs here takes to start on a busy machine.
const START: Duration = Duration::from_secs(20);

/// A packet that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// `tcp`, `udp`, `icmp`, or a number.
    pub protocol: String,
    /// Where to.
    pub to: IpAddr,
    /// The port that it was for; 0 without ports.
    pub port: u16,
}

/// The hosts that a real inventory would name, for as long as this lives.
pub struct Production {
    directory: TempDir,
    program: Child,
    /// The addresses are the same in every run: there is one production at a time on a machine.
    _turn: fs::File,
}

impl Production {
    /// What the inventories name.
    pub const HOST: &str = "10.99.0.2";
    /// The operator's own address on that network.
    pub const NEIGHBOUR: &str = "10.99.0.1";

    /// Why it cannot be made here.
    pub fn lacking() -> Option<String> {
        if !is_root() {
            return Some("a network namespace of its own and a link to it need root".to_owned());
        }
        let programs = ["ip", "unshare", "python3", "ssh-keygen", "script"];
        let missing = programs.into_iter().find(|program| !has(program));
        missing.or_else(|| (!has_sshd()).then_some("sshd")).map(|program| format!("{program} is missing"))
    }

    /// An address for the way with this number, and that of IPv6.
    pub fn address(number: usize) -> (String, String) {
        assert!(number < 250, "more ways than addresses");
        (format!("10.99.1.{number}"), format!("fd99:1::{number:x}"))
    }

    /// Starts it. `authorized` may run programs there, which are logged and not run.
    pub fn start(authorized: &Path) -> Self {
        let turn = fs::File::create(std::env::temp_dir().join("redrill-production.lock")).expect("a lock");
        turn.lock().expect("locked");
        let _ = Command::new("ip").args(["link", "delete", LINK]).stderr(Stdio::null()).status();
        let directory = tempfile::tempdir().expect("a directory");
        write_sshd(directory.path(), authorized);
        let mut program = Command::new("unshare");
        program.args(["--net", "--", "python3"]).arg(root().join("tests/isolation/production.py"));
        program.arg(directory.path()).process_group(0).stdin(Stdio::piped());
        let program = program.spawn().expect("unshare runs");
        let production = Self { directory, program, _turn: turn };
        production.link();
        production
    }

    fn link(&self) {
        let id = self.program.id().to_string();
        let foreign = || fs::read_link(format!("/proc/{id}/ns/net")).ok() != fs::read_link("/proc/self/ns/net").ok();
        assert!(wait_for(START, foreign), "production has no namespace");
        let inside = |words: &[&str]| run("nsenter", &[&["--net", "--target", &id, "ip"], words].concat());
        run("ip", &["link", "add", LINK, "type", "veth", "peer", "name", "production", "netns", &id]);
        // No wait for duplicates of an address on a link with two ends.
        run("ip", &["address", "add", "10.99.0.1/24", "dev", LINK]);
        run("ip", &["address", "add", "fd99::1/64", "dev", LINK, "nodad"]);
        run("ip", &["link", "set", LINK, "up"]);
        for words in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", "10.99.0.2/24", "dev", "production"],
            &["address", "add", "fd99::2/64", "dev", "production", "nodad"],
            &["link", "set", "production", "up"],
            &["route", "add", "default", "via", "10.99.0.1"],
            &["route", "add", "local", "10.99.1.0/24", "dev", "lo"],
            &["-6", "route", "add", "default", "via", "fd99::1"],
            &["-6", "route", "add", "local", "fd99:1::/64", "dev", "lo"],
        ] {
            inside(words);
        }
        run("ip", &["route", "add", "10.99.1.0/24", "via", "10.99.0.2"]);
        run("ip", &["-6", "route", "add", "fd99:1::/64", "via", "fd99::2"]);
        fs::write(self.directory.path().join("linked"), "").expect("written");
        let ready = self.directory.path().join("ready");
        assert!(wait_for(START, || ready.exists()), "production does not answer");
    }

    /// What arrived since the start, but for what two hosts on a link say unasked.
    pub fn packets(&self) -> Vec<Packet> {
        let text = fs::read_to_string(self.directory.path().join("packets.log")).unwrap_or_default();
        let packet = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let [protocol, _, to, _, port] = words[..] else { return None };
            Some(Packet { protocol: protocol.to_owned(), to: to.parse().ok()?, port: port.parse().ok()? })
        };
        text.lines().filter_map(packet).collect()
    }

    /// What somebody wanted to run there over SSH.
    pub fn programs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("programs.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whatever was sent there.
    pub fn got(&self) -> Vec<u8> {
        let read = |name: &str| fs::read(self.directory.path().join(name)).unwrap_or_default();
        [read("got.log"), read("programs.log")].concat()
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        // The kernel takes its time with a namespace; the next production wants the link's name.
        let _ = Command::new("ip").args(["link", "delete", LINK]).stderr(Stdio::null()).status();
        end(&mut self.program);
    }
}

/// One account, one key; every program is written down instead of run.
fn write_sshd(directory: &Path, authorized: &Path) {
    let at = |name: &str| directory.join(name);
    key(&at("host"));
    fs::copy(authorized, at("authorized")).expect("copied");
    let path = directory.display();
    let forced = format!(
        "#!/bin/sh\nprintf '%s\\n' \"ran: $SSH_ORIGINAL_COMMAND\" >>'{path}/programs.log'\necho PRODUCTION RAN IT\n"
    );
    fs::write(at("forced"), forced).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(at("forced"), executable).expect("made executable");
    let settings = format!(
        "HostKey {path}/host\nAuthorizedKeysFile {path}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         ForceCommand /bin/sh {path}/forced\nSubsystem sftp internal-sftp\n"
    );
    fs::write(at("sshd"), settings).expect("written");
}

/// A key pair without a passphrase.
pub fn key(file: &Path) {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "isolation", "-f", &file.display().to_string()]);
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Kills a program with its group.
fn end(program: &mut Child) {
    let group = format!("-{}", program.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    let _ = program.wait();
}

/// The operator's host: files of the home, of /etc, /srv and of temporary places, sockets, shared memory, keys, a
/// variable, an agent for SSH. Each holds text that stands nowhere else.
pub struct Host {
    directory: TempDir,
    /// Outside of /tmp.
    elsewhere: Vec<TempDir>,
    /// It serves all that is no file, and is there from [`Host::serve`] on.
    program: Option<Child>,
    mark: String,
    files: BTreeMap<&'static str, PathBuf>,
    ports: BTreeMap<String, u32>,
}

/// What lies over the host's own directories, and what it is called in tests.
const OVER: [(&str, &str); 7] = [
    ("root-key", "/root/.ssh/id_ed25519"),
    ("aws", "/root/.aws/credentials"),
    ("netrc", "/root/.netrc"),
    ("vault-pass", "/root/.vault-pass"),
    ("docker-config", "/root/.docker/config.json"),
    ("etc", "/etc/redrill-isolation/secret"),
    ("srv", "/srv/redrill-isolation/secret"),
];
/// Temporary places that all programs of a host share.
const SHARED: [(&str, &str); 4] =
    [("temporary", "/tmp"), ("var-tmp", "/var/tmp"), ("run", "/run"), ("dev-shm", "/dev/shm")];
/// What is no file by itself.
const SOCKETS: [&str; 7] = ["any", "any6", "loopback", "loopback6", "abstract", "unix", "shm"];
const OTHERS: [&str; 4] = ["variable", "inherited", "key", "hosts"];
/// Of the only name that this host's `/etc/hosts` knows.
const ONLY_HERE: &str = "10.99.1.250";

impl Host {
    /// Lays everything out. `cache` is kept as it is, wherever it lies, and `key` is the agent's.
    pub fn start(cache: &Path, key: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mark = format!("isolation-{}", nonce());
        let mut host = Self {
            directory,
            elsewhere: Vec::new(),
            program: None,
            mark,
            files: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        fs::create_dir_all(cache).expect("made");
        host.write("keep", &format!("{}\n", cache.display()));
        host.write("inherited", &host.marker("inherited"));
        host.write("key", &host.marker("key"));
        host.write_files();
        host.serve();
        host.agent(key);
        host
    }

    /// The text of this secret.
    pub fn marker(&self, name: &str) -> String {
        match name {
            // This file is read by programs that want no more than a number in it.
            "machine-id" => format!("{:0>32}", self.mark.trim_start_matches("isolation-")),
            name => format!("{}-{name}", self.mark),
        }
    }

    /// Every secret by name, with its text.
    pub fn markers(&self) -> BTreeMap<&'static str, String> {
        let names = self.files.keys().copied().chain(SOCKETS).chain(OTHERS).chain(["machine-id"]);
        names.map(|name| (name, self.marker(name))).collect()
    }

    /// What stands for these places and numbers in the files of a case.
    pub fn words(&self) -> Vec<(String, String)> {
        let mut words = vec![
            ("@mark@".to_owned(), self.mark.clone()),
            ("@ran@".to_owned(), self.ran().display().to_string()),
            ("@victim@".to_owned(), self.ports["victim"].to_string()),
            ("@ONLYHERE@".to_owned(), ONLY_HERE.to_owned()),
            ("@secret:agent@".to_owned(), self.at("agent.sock").display().to_string()),
            ("@secret:unix@".to_owned(), self.at("unix.sock").display().to_string()),
            ("@secret:abstract-name@".to_owned(), self.abstract_name()),
            ("@secret:shm-key@".to_owned(), self.shm_key()),
        ];
        let all: Vec<String> = self.files.iter().map(|(name, path)| format!("{name}:{}", path.display())).collect();
        words.push(("@secrets@".to_owned(), all.join(" ")));
        words.extend(self.files.iter().map(|(name, path)| (format!("@secret:{name}@"), path.display().to_string())));
        words.extend(self.ports.iter().map(|(name, port)| (format!("@port:{name}@"), port.to_string())));
        words
    }

    /// Where a secret lies, if it is a file.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.files.get(name).map(PathBuf::as_path)
    }

    /// Where a program that runs on the host leaves a file with its name.
    pub fn ran(&self) -> PathBuf {
        self.at("ran")
    }

    /// Connections to the host's own sockets: which one, and what was said.
    pub fn came(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("came.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A program on this host, as its operator starts it: in a terminal, whose input goes to `ran/terminal` afterwards,
    /// and with `words` as its standard output and error in `out` and `err` below `results`.
    pub fn command(&self, results: &Path, program: &Command) -> Command {
        let at = |name: &str| quoted(&results.join(name).display().to_string());
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
        let inner = format!(
            "{} >{} 2>{}; echo $? >{}; IFS= read -r -t 1 line && printf %s \"$line\" >{}; true",
            words.join(" "),
            at("out"),
            at("err"),
            at("status"),
            quoted(&self.ran().join("terminal").display().to_string())
        );
        let operator = root().join("tests/isolation/operator.py");
        let outer = format!(
            "exec unshare --mount -- python3 {} {} bash -c {}",
            quoted(&operator.display().to_string()),
            quoted(&self.directory.path().display().to_string()),
            quoted(&inner)
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &outer, "/dev/null"]);
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("HOME", "/root").env("SSH_AUTH_SOCK", self.at("agent.sock")).env("SHELL", "/bin/bash");
        command.env("AWS_SECRET_ACCESS_KEY", self.marker("variable"));
        if let Some(directory) = program.get_current_dir() {
            command.current_dir(directory);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn write_files(&mut self) {
        fs::create_dir_all(self.ran()).expect("made");
        for (name, path) in OVER {
            let text = format!("token = {}\n", self.marker(name));
            self.write(&format!("over{path}"), &text);
            self.files.insert(name, path.into());
        }
        let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
        self.write("over/etc/hosts", &format!("{own}\n{ONLY_HERE} {}\n", self.marker("hosts")));
        self.write("over/etc/machine-id", &format!("{}\n", self.marker("machine-id")));
        for (name, place) in SHARED {
            let directory = tempfile::Builder::new().prefix("redrill-isolation-").tempdir_in(place).expect("made");
            let path = directory.path().join("secret");
            fs::write(&path, self.marker(name)).expect("written");
            self.files.insert(name, path);
            self.elsewhere.push(directory);
        }
    }

    fn serve(&mut self) {
        let lines = SOCKETS.map(|name| format!("{name} {}\n", self.marker(name))).concat();
        self.write("markers", &format!("{lines}abstract-name {}\nshm-key {}\n", self.abstract_name(), self.shm_key()));
        let mut command = Command::new("python3");
        command.arg(root().join("tests/isolation/host.py")).arg(self.directory.path());
        self.program = Some(command.process_group(0).stdin(Stdio::piped()).spawn().expect("python3 runs"));
        let ports = self.at("ports");
        assert!(wait_for(START, || ports.exists()), "the host's sockets are not there");
        let text = fs::read_to_string(ports).expect("there");
        let port = |line: &str| {
            let (name, port) = line.split_once(' ')?;
            Some((name.to_owned(), port.parse().ok()?))
        };
        self.ports = text.lines().filter_map(port).collect();
    }

    fn agent(&self, key: &Path) {
        let mut add = Command::new("ssh-add");
        let added = add.arg("-q").arg(key).env("SSH_AUTH_SOCK", self.at("agent.sock")).status();
        assert!(added.expect("ssh-add runs").success());
    }

    fn abstract_name(&self) -> String {
        format!("redrill-isolation-{}", std::process::id())
    }

    fn shm_key(&self) -> String {
        (0x0152_0000 + std::process::id() % 0xffff).to_string()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(program) = &mut self.program else { return };
        // It ends with its input, and takes back what the kernel would keep.
        drop(program.stdin.take());
        if !wait_for(Duration::from_secs(2), || program.try_wait().is_ok_and(|status| status.is_some())) {
            end(program);
        }
    }
}

fn nonce() -> String {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").expect("there"), &mut bytes).expect("read");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
