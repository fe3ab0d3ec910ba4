//! Pebble, Let's Encrypt's server for tests, as a process of the drill.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::certificates::{Certificates, LOOPBACK};
use super::{Acme, AcmeError, AcmeMeans, Issued};
use crate::process::{Guard, Guarded};
use crate::ssh::write_private;

const PROGRAM: &str = "pebble";
/// In its directory.
const CONFIG: &str = "pebble.json";
const LOG: &str = "pebble.log";
/// As long as Let's Encrypt's are valid, in seconds.
const VALID: u64 = 90 * 24 * 3600;
/// It answers within a tenth of a second; a busy host takes longer.
const START: Duration = Duration::from_secs(30);
/// One answer of a server on loopback.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the end of its output may take to be read once it has ended.
const TOLD: Duration = Duration::from_secs(1);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of its output that an error tells.
const TAIL: usize = 5;
/// Nobody outside reaches a machine: challenges are met. A drill has no dice: Pebble would refuse one nonce in twenty, and
/// think better of it for half of all authorizations.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PEBBLE_VA_ALWAYS_VALID", "1"),
    ("PEBBLE_VA_NOSLEEP", "1"),
    ("PEBBLE_WFE_NONCEREJECT", "0"),
    ("PEBBLE_AUTHZREUSE", "0"),
];

type Redact = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// A Pebble that answers, and what stands in front of it.
pub struct Pebble {
    running: PebbleProcess,
    names: Vec<String>,
    means: Arc<AcmeMeans>,
}

/// Its process, whether it answers or not.
struct PebbleProcess {
    process: Mutex<Guarded>,
    /// The end of what it printed.
    said: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Pebble {
    /// In `dir`, for servers of these names. What it prints goes to a log there, line by line as `clean` makes it.
    pub async fn start(
        guard: &Guard,
        dir: &Path,
        names: &[String],
        clean: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Result<Self, AcmeError> {
        Launch { program: PROGRAM, guard, dir }.start(names, Arc::new(clean)).await
    }

    /// What machines need to ask it. `taken` is called for each certificate, from any thread.
    pub fn acme(&self, taken: impl Fn(Issued) + Send + Sync + 'static) -> Acme {
        Acme { names: self.names.clone(), means: Arc::clone(&self.means), taken: Arc::new(taken) }
    }

    /// The root of what it issues, as PEM.
    pub fn root(&self) -> &str {
        &self.means.roots[1]
    }

    /// Why it will never answer again, if its process has ended.
    pub async fn lost(&self) -> Option<AcmeError> {
        self.running.lost().await
    }

    /// Ends it, and waits for that.
    pub async fn end(self) {
        // What cannot be waited for its guard ends all the same.
        let _ = self.running.process.into_inner().expect("no panic while it is held").kill().await;
    }
}

/// What is started, and where.
struct Launch<'a> {
    program: &'a str,
    guard: &'a Guard,
    dir: &'a Path,
}

impl Launch<'_> {
    async fn start(&self, names: &[String], clean: Redact) -> Result<Pebble, AcmeError> {
        let made = Certificates::new(names)?;
        let (front, to_pebble) = made.ends()?;
        lay_out(self.dir, &made)?;
        let running = self.spawn(&clean)?;
        let (pebble, issued) = running.ready(&to_pebble).await?;
        let means = Arc::new(AcmeMeans { roots: [made.root, issued], front, to_pebble, pebble });
        Ok(Pebble { running, names: names.to_vec(), means })
    }

    fn spawn(&self, clean: &Redact) -> Result<PebbleProcess, AcmeError> {
        let mut command = self.guard.command(self.program);
        command.args(["-config", CONFIG, "-strict=false"]).current_dir(self.dir).envs(ENVIRONMENT);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let log = std::fs::File::create(self.dir.join(LOG)).map_err(failed("cannot write its log"))?;
        let mut process = self.guard.spawn(&mut command, self.program).map_err(AcmeError::Start)?;
        let (log, said) = (Arc::new(Mutex::new(log)), Arc::default());
        let sink = PebbleLog { log, said: Arc::clone(&said), clean: Arc::clone(clean) };
        let (out, errors) = (process.child().stdout.take(), process.child().stderr.take());
        let readers = [out.map(|out| listen(out, sink.clone())), errors.map(|errors| listen(errors, sink.clone()))];
        let readers = readers.into_iter().flatten().collect();
        Ok(PebbleProcess { process: Mutex::new(process), said, readers })
    }
}

impl PebbleProcess {
    async fn lost(&self) -> Option<AcmeError> {
        let status = self.process.lock().expect("no panic while it is held").ended()?;
        let began = Instant::now();
        while !self.readers.iter().all(JoinHandle::is_finished) && began.elapsed() < TOLD {
            tokio::time::sleep(LOOK).await;
        }
        let said: Vec<String> = self.said.lock().expect("no panic while it is held").iter().cloned().collect();
        let said = if said.is_empty() { "it said nothing".to_owned() } else { said.join("; ") };
        Some(AcmeError::Ended { status: status.to_string(), said })
    }

    /// Waits until both of its servers answer. Returns where the one for clients is, and the root of what it issues.
    async fn ready(&self, connector: &TlsConnector) -> Result<(SocketAddr, String), AcmeError> {
        let began = Instant::now();
        loop {
            if let Some(error) = self.lost().await {
                return Err(error);
            }
            let guard = self.process.lock().expect("no panic while it is held").child().id();
            let ports = guard.map(ports_of).unwrap_or_default();
            let (mut clients, mut root) = (None, None);
            for port in ports.iter().copied() {
                match get(connector, port, "/roots/0").await {
                    Some(pem) => root = Some(pem),
                    None if get(connector, port, "/dir").await.is_some() => clients = Some(port),
                    None => {}
                }
            }
            if let (Some(port), Some(root)) = (clients, root) {
                return Ok((([127, 0, 0, 1], port).into(), root));
            }
            if began.elapsed() > START {
                let last_seen = format!("a process that listens on {} ports, of which not both answer", ports.len());
                return Err(AcmeError::NotReady { waited: START, last_seen });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> AcmeError {
    let what = format!("{what} (Pebble, which stands in for ACME servers)");
    move |source| AcmeError::Io { what, source }
}

/// Writes what it starts from. Its ports are the kernel's choice.
fn lay_out(dir: &Path, made: &Certificates) -> Result<(), AcmeError> {
    let listen = format!("{LOOPBACK}:0");
    let config = json!({ "pebble": {
        "listenAddress": listen,
        "managementListenAddress": listen,
        "certificate": "server.pem",
        "privateKey": "server.key",
        // Where it would look for the answers to challenges.
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
        "certificateValidityPeriod": VALID,
    }});
    let cannot = || failed("cannot write its directory");
    std::fs::create_dir_all(dir).map_err(cannot())?;
    std::fs::write(dir.join(CONFIG), format!("{config:#}\n")).map_err(cannot())?;
    std::fs::write(dir.join("server.pem"), &made.certificate).map_err(cannot())?;
    write_private(&dir.join("server.key"), made.key.as_bytes()).map_err(AcmeError::Start)
}

/// Where what it prints goes.
#[derive(Clone)]
struct PebbleLog {
    log: Arc<Mutex<std::fs::File>>,
    /// The end of it.
    said: Arc<Mutex<VecDeque<String>>>,
    clean: Redact,
}

impl PebbleLog {
    fn take(&self, line: &[u8]) {
        let line = (self.clean)(&String::from_utf8_lossy(line));
        // What cannot be written down is remembered all the same.
        let _ = writeln!(self.log.lock().expect("no panic while it is held"), "{line}");
        let mut said = self.said.lock().expect("no panic while it is held");
        said.push_back(line);
        if said.len() > TAIL {
            said.pop_front();
        }
    }
}

fn listen(from: impl AsyncRead + Unpin + Send + 'static, sink: PebbleLog) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            sink.take(&line);
        }
    })
}

/// The body of a good answer.
async fn get(connector: &TlsConnector, port: u16, path: &str) -> Option<String> {
    let ask = async {
        let stream = TcpStream::connect((LOOPBACK, port)).await?;
        let name = ServerName::try_from(LOOPBACK).map_err(std::io::Error::other)?;
        let mut stream = connector.connect(name, stream).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {LOOPBACK}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER, ask).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1) == Some("200")).then(|| body.to_owned())
}

/// Ports on which a process listens, or one that came of it. The kernel picked them, and it tells: there is no moment in
/// which somebody else could take one.
fn ports_of(process: u32) -> BTreeSet<u16> {
    let mut processes = vec![process];
    let mut at = 0;
    while let Some(process) = processes.get(at) {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        let lists: String =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
        processes.extend(lists.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        at += 1;
    }
    let files = processes.iter().flat_map(|id| std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten());
    let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    let sockets: BTreeSet<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    listening(&std::fs::read_to_string("/proc/net/tcp").unwrap_or_default(), &sockets)
}

/// Of a list in the form of `/proc/net/tcp`, the ports of listening sockets with these inodes.
fn listening(table: &str, sockets: &BTreeSet<String>) -> BTreeSet<u16> {
    let port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let ours = *state == "0A" && sockets.contains(*inode);
        let port = u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
        port.filter(|_| ours)
    };
    table.lines().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn ports_are_those_of_the_process_alone() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:36B0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n\
             1: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 x\n\
             2: 0100007F:3A99 0100007F:36B0 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 x\n";
        let sockets = ["4711", "4713"].map(str::to_owned).into();
        assert_eq!(listening(table, &sockets), BTreeSet::from([14000]));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        assert!(ports_of(std::process::id()).contains(&port), "our own");
    }

    /// A guard that is none: it becomes what it is to guard.
    fn guard(dir: &Path) -> Guard {
        let program = script(dir, "guard", "while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"");
        Guard::new(program.into(), dir.to_owned())
    }

    fn script(dir: &Path, name: &str, text: &str) -> String {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        path.display().to_string()
    }

    async fn start(dir: &Path, text: &str) -> Result<Pebble, AcmeError> {
        let program = script(dir, "program", text);
        let clean: Redact = Arc::new(|text| text.replace("hunter2", "[redacted]"));
        let launch = Launch { program: &program, guard: &guard(dir), dir: &dir.join("acme") };
        launch.start(&["acme.test".to_owned()], clean).await
    }

    #[tokio::test]
    async fn one_that_does_not_start_says_why_and_no_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = start(dir.path(), "echo Starting; echo 'no room for hunter2' >&2; exit 3").await.err();
        let error = error.expect("it ended");
        let AcmeError::Ended { status, said } = &error else { panic!("{error:?}") };
        assert!(status.contains('3') && said.contains("no room for [redacted]"), "{error}");
        let log = std::fs::read_to_string(dir.path().join("acme/pebble.log")).expect("kept");
        assert!(log.contains("Starting") && !log.contains("hunter2"), "{log}");
        let config = std::fs::read_to_string(dir.path().join("acme/pebble.json")).expect("kept");
        assert!(config.contains("127.0.0.1:0"), "{config}");
    }
}
