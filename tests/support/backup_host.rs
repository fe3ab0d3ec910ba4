//! Backup hosts on loopback: a real `sshd` that gives SFTP, and a server that speaks the protocol of restic's
//! rest-server. Both give what lies in a directory, and count whoever wants to write.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where Debian has it; it must be started by its whole path.
const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// Whether an `sshd` is installed. It need not run.
pub fn has_sshd() -> bool {
    Path::new(SSHD).is_file() && Path::new(SFTP_SERVER).is_file()
}

/// What may still be sent. A budget that runs out cuts every connection it belongs to.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

impl Budget {
    /// Of so many bytes.
    pub fn of(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Sets it anew.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::SeqCst);
    }

    /// Takes up to so many; fewer are left than wanted when it runs out.
    fn take(&self, wanted: usize) -> usize {
        let wanted = u64::try_from(wanted).expect("small");
        let before = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(wanted)));
        usize::try_from(before.unwrap_or_default().min(wanted)).expect("small")
    }
}

/// An `sshd` for one account and one key, started for each connection as inetd would.
pub struct SftpHost {
    directory: tempfile::TempDir,
    address: SocketAddr,
    narrow: SocketAddr,
    budget: Budget,
}

impl Default for SftpHost {
    fn default() -> Self {
        Self::start()
    }
}

impl SftpHost {
    /// Makes keys, and listens.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for name in ["host", "right", "wrong"] {
            let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name)).status();
            assert!(made.expect("ssh-keygen is there").success());
        }
        std::fs::copy(at("right.pub"), at("authorized")).expect("copied");
        let path = directory.path().display();
        // Read-only and talkative: a request to write is refused, and stands in the log.
        let subsystem = format!("#!/bin/sh\nexec {SFTP_SERVER} -R -e -l VERBOSE 2>>'{path}/requests'\n");
        std::fs::write(at("subsystem"), subsystem).expect("written");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(at("subsystem"), executable).expect("made executable");
        let settings = format!(
            "HostKey {path}/host\nAuthorizedKeysFile {path}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp {path}/subsystem\n"
        );
        std::fs::write(at("config"), settings).expect("written");
        let (config, log) = (at("config"), at("log"));
        let address = serve(move |stream| {
            let log = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
            let mut command = sshd();
            command.args(["-i", "-e", "-f"]).arg(&config);
            let (input, output) = (stream.try_clone().expect("another"), stream);
            command.stdin(Stdio::from(OwnedFd::from(input))).stdout(Stdio::from(OwnedFd::from(output))).stderr(log);
            let _ = command.status(); // How a connection ends is the client's to judge.
        });
        let budget = Budget::of(u64::MAX);
        let through = budget.clone();
        let narrow = serve(move |stream| relay(&stream, address, &through));
        Self { directory, address, narrow, budget }
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same host by a way that is cut when the budget of [`SftpHost::budget`] is spent.
    pub fn narrow(&self) -> SocketAddr {
        self.narrow
    }

    /// What the narrow way lets through.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A private key: `right` is admitted, `wrong` is not.
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A line of `known_hosts` for each way.
    pub fn known_hosts(&self) -> String {
        let key = std::fs::read_to_string(self.directory.path().join("host.pub")).expect("made");
        [self.address, self.narrow].map(|way| format!("[{}]:{} {key}", way.ip(), way.port())).concat()
    }

    /// Everything that was asked of SFTP, as its server tells it.
    pub fn requests(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("requests")).unwrap_or_default()
    }
}

/// Root's sshd wants a directory in /run: it gets one that nobody else sees.
fn sshd() -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root {
        return Command::new(SSHD);
    }
    let line = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", line, "sh", SSHD]);
    command
}

/// Passes everything on, and the host's answers as far as the budget goes.
fn relay(client: &TcpStream, to: SocketAddr, budget: &Budget) {
    let Ok(host) = TcpStream::connect(to) else { return };
    let (mut up_from, mut up_to) = (client.try_clone().expect("another"), host.try_clone().expect("another"));
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to, mut bytes) = (&host, client, [0; 8192]);
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let allowed = budget.take(length);
        if to.write_all(&bytes[..allowed]).is_err() || allowed < length {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = host.shutdown(Shutdown::Both);
    let _ = up.join();
}

/// Accepts until the test ends, each connection in a thread of its own.
fn serve(each: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of loopback");
    let address = listener.local_addr().expect("it listens");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    address
}

/// A rest-server: `http://ADDRESS/NAME/` is the repository NAME below its directory, `http://ADDRESS/narrow/NAME/` the
/// same by a way with a budget.
pub struct RestHost {
    address: SocketAddr,
    budget: Budget,
    told: Arc<Mutex<Vec<String>>>,
}

impl RestHost {
    /// Serves `root` to whoever comes with `login`, which is `USER:PASSWORD`.
    pub fn start(root: &Path, login: &str) -> Self {
        let (budget, told) = (Budget::of(u64::MAX), Arc::<Mutex<Vec<String>>>::default());
        let (through, tell) = (budget.clone(), Arc::clone(&told));
        let login = format!("Basic {}", base64(login.as_bytes()));
        let rest = Rest { root: root.to_owned(), login, budget: through, told: tell };
        let address = serve(move |stream| {
            // Whoever does not read to the end does so on purpose.
            let _ = rest.answer(stream);
        });
        Self { address, budget, told }
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the narrow way lets through of files.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Method and path of each request, in order.
    pub fn requests(&self) -> Vec<String> {
        self.told.lock().expect("no panic").clone()
    }
}

const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

/// What a rest-server serves, and to whom.
#[derive(Clone)]
struct Rest {
    root: PathBuf,
    /// As the header of a request says it.
    login: String,
    budget: Budget,
    told: Arc<Mutex<Vec<String>>>,
}

impl Rest {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let Self { root, login, budget, told } = self;
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        let headers: Vec<(String, String)> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
            .collect();
        let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let (method, path) = first.split_once(' ').unwrap_or_default();
        let path = path.split(' ').next().unwrap_or_default();
        told.lock().expect("no panic").push(format!("{method} {path}"));
        let mut status =
            |line: &str| write!(stream, "HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        if method != "GET" && method != "HEAD" {
            return status("405 Method Not Allowed");
        }
        if header("authorization") != Some(login.as_str()) {
            return status("401 Unauthorized");
        }
        let narrow = path.strip_prefix("/narrow");
        let Some((body, kind)) = found(root, narrow.unwrap_or(path)) else { return status("404 Not Found") };
        let range =
            header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let (line, from) = match range {
            Some(from) if from < body.len() => {
                (format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", body.len() - 1, body.len()), from)
            }
            _ => ("200 OK".to_owned(), 0),
        };
        let body = &body[from..];
        write!(
            stream,
            "HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        if method == "HEAD" {
            return stream.flush();
        }
        let limited = narrow.is_some() && kind != VERSION_2;
        let length = if limited { budget.take(body.len()) } else { body.len() };
        stream.write_all(&body[..length])?;
        stream.flush()
    }
}

/// What lies at a path, and its type.
fn found(root: &Path, path: &str) -> Option<(Vec<u8>, &'static str)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let file = match parts.as_slice() {
        [name, kind] if path.ends_with('/') => {
            return listed(&root.join(name).join(kind)).map(|list| (list.into_bytes(), VERSION_2));
        }
        [name, "data", file] => root.join(name).join("data").join(&file[..2]).join(file),
        parts => root.join(parts.join("/")),
    };
    std::fs::read(file).ok().map(|bytes| (bytes, "application/octet-stream"))
}

/// The files below a directory, as version 2 of the protocol lists them.
fn listed(directory: &Path) -> Option<String> {
    let mut list = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).ok()?.flatten() {
            let metadata = entry.metadata().ok()?;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                let name = entry.file_name().to_string_lossy().into_owned();
                list.push(serde_json::json!({ "name": name, "size": metadata.len() }));
            }
        }
    }
    Some(serde_json::Value::from(list).to_string())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = [chunk[0], *chunk.get(1).unwrap_or(&0), *chunk.get(2).unwrap_or(&0)];
        let number = three.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        for place in 0..4 {
            let letter = LETTERS[number >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
