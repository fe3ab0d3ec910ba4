//! SSH by the host's own `ssh`: the way that deploy tools and people take into a machine. The harness itself talks to
//! the machine's agent.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::process::Guard;

const CONFIG: &str = "ssh_config";
/// Between two looks at sshd.
const PAUSE: Duration = Duration::from_millis(50);
/// How long sshd may be silent: an emulated one takes its time, and each try costs it another process.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// A key pair made for one machine: the client's, or the machine's own.
#[derive(Debug, Clone)]
pub struct ClientKey {
    /// The private key's file.
    pub path: PathBuf,
    /// The public key: one line.
    pub public: String,
}

impl ClientKey {
    /// Makes an ed25519 pair `path` and `path.pub`.
    pub async fn make(path: PathBuf) -> Result<Self, MachineError> {
        let output = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "redrill", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|source| MachineError::Spawn { program: "ssh-keygen".to_owned(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(MachineError::Program { program: "ssh-keygen".to_owned(), said });
        }
        let mut public = path.clone().into_os_string();
        public.push(".pub");
        let public = std::fs::read_to_string(&public).map_err(MachineError::io("cannot read a new key"))?;
        Ok(Self { path, public: public.trim().to_owned() })
    }

    /// The private key as it lies on disk.
    pub(crate) fn private(&self) -> Result<String, MachineError> {
        std::fs::read_to_string(&self.path).map_err(MachineError::io("cannot read a new key"))
    }

    /// Type and key, without the comment.
    pub(crate) fn host_key(&self) -> String {
        self.public.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }
}

/// Of every machine's sshd, as seen from inside.
pub(crate) const PORT: u16 = 22;

/// Writes `ssh_config` and `known_hosts` into the machine's directory: the host key is known beforehand, so nothing is
/// trusted on first use. `redrill shell` uses the same file.
pub(crate) fn configure(dir: &Path, name: &str, port: u16, key: &Path, host_key: &str) -> Result<(), MachineError> {
    let known = format!("[127.0.0.1]:{port} {host_key}\n");
    std::fs::write(dir.join("known_hosts"), known).map_err(MachineError::io("cannot write known_hosts"))?;
    let quoted = |path: PathBuf| format!("\"{}\"", path.display());
    let config = format!(
        "Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {key}\n  IdentitiesOnly yes\n  \
         UserKnownHostsFile {known}\n  StrictHostKeyChecking yes\n  UpdateHostKeys no\n  LogLevel ERROR\n  \
         BatchMode yes\n  ConnectTimeout 20\n  ServerAliveInterval 15\n  ServerAliveCountMax 8\n  \
         KexAlgorithms curve25519-sha256\n  Ciphers aes128-gcm@openssh.com,aes256-ctr\n",
        key = quoted(key.to_owned()),
        known = quoted(dir.join("known_hosts")),
    );
    std::fs::write(dir.join(CONFIG), config).map_err(MachineError::io("cannot write ssh_config"))
}

/// One login with one command: the way that deploy tools take. `Err` is what ssh said.
pub(crate) async fn login(guard: &Guard, dir: &Path, name: &str, deadline: &Deadline) -> Result<(), String> {
    let mut command = guard.command("ssh");
    command.args(["-F", CONFIG, name, "--", "true"]).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut ssh = guard.spawn(&mut command, "ssh").map_err(|error| error.to_string())?;
    let stderr = ssh.child().stderr.take();
    match deadline.limit(ssh.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("ssh: {} ({status})", last_words(stderr).await)),
        Ok(Err(error)) => Err(format!("ssh: {error}")),
        Err(limit) => Err(format!("ssh: {limit}")),
    }
}

/// Waits until somebody can sign in. `check` tells when waiting is in vain, and is told what was seen last.
pub(crate) async fn admit(
    guard: &Guard,
    dir: &Path,
    name: &str,
    port: u16,
    deadline: &Deadline,
    check: impl Fn(&str) -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    let mut last_seen = "nothing".to_owned();
    let mut patience = FIRST_PATIENCE;
    loop {
        check(&last_seen)?;
        match greeting(port, patience).await {
            Ok(()) => match login(guard, dir, name, deadline).await {
                Ok(()) => return Ok(()),
                Err(said) => last_seen = said,
            },
            Err(seen) => last_seen = seen,
        }
        patience = (patience * 3 / 2).min(LAST_PATIENCE);
        tokio::time::sleep(PAUSE).await;
    }
}

/// One try: a forwarded port accepts connections in any case, so that only what is read counts.
async fn greeting(port: u16, patience: Duration) -> Result<(), String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let mut start = [0; 4];
    match tokio::time::timeout(patience, stream.read_exact(&mut start)).await {
        Err(_) => Err("the SSH port is silent".to_owned()),
        Ok(Err(_)) => Err("the SSH port is closed".to_owned()),
        Ok(Ok(_)) if &start == b"SSH-" => Ok(()),
        Ok(Ok(_)) => Err(format!("the SSH port says {:?}", String::from_utf8_lossy(&start))),
    }
}

async fn last_words(stderr: Option<tokio::process::ChildStderr>) -> String {
    let mut text = String::new();
    if let Some(mut stderr) = stderr {
        let _ = stderr.read_to_string(&mut text).await;
    }
    text.trim().to_owned()
}

/// Makes a private file: credentials hold keys.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), MachineError> {
    let written = std::fs::write(path, content)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)));
    written.map_err(MachineError::io(format!("cannot write `{}`", path.display())))
}
