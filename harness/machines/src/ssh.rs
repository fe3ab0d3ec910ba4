//! SSH by the host's own `ssh`: one master connection per machine, opened while nothing can be in its way, over which
//! every later command goes. It survives a firewall or an sshd that the deploy breaks.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::deadline::Deadline;
use crate::machine::{Exec, MachineError, Output};
use crate::process::{Guard, Guarded};

/// ssh's own exit status when the connection, not the command, failed.
const SSH_FAILED: i32 = 255;
const MASTER: &str = "ssh.ctl";
const CONFIG: &str = "ssh_config";

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
    pub(crate) fn private(&self) -> Result<Vec<u8>, MachineError> {
        std::fs::read(&self.path).map_err(MachineError::io("cannot read a new key"))
    }

    /// Type and key, without the comment.
    pub(crate) fn host_key(&self) -> String {
        self.public.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }
}

/// The way into one machine.
#[derive(Debug)]
pub(crate) struct Ssh {
    machine: String,
    dir: PathBuf,
    master: tokio::sync::Mutex<Guarded>,
}

impl Ssh {
    /// Writes `ssh_config` and `known_hosts` into the machine's directory: the host key is known beforehand, so
    /// nothing is trusted on first use. `redrill shell` uses the same file.
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

    /// Opens the master connection; returns it once a first command has answered.
    pub(crate) async fn open(
        guard: &Guard,
        dir: &Path,
        machine: &str,
        deadline: &Deadline,
    ) -> Result<Self, MachineError> {
        let _ = std::fs::remove_file(dir.join(MASTER));
        // The path of a socket is short or nothing: ssh works in the machine's directory.
        let mut command = guard.command("ssh");
        command.args(["-F", CONFIG, "-M", "-N", "-S", MASTER, "-o", "ControlPersist=no", machine]);
        command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut master = guard.spawn(&mut command, "ssh")?;
        let stderr = master.child().stderr.take();
        while !dir.join(MASTER).exists() {
            if let Some(status) = master.ended() {
                let said = last_words(stderr).await;
                return Err(MachineError::Lost { machine: machine.to_owned(), said: format!("{said} ({status})") });
            }
            if deadline.passed() {
                let limit = deadline.error();
                return Err(MachineError::TimedOut { machine: machine.to_owned(), command: "ssh".to_owned(), limit });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let ssh = Self { machine: machine.to_owned(), dir: dir.to_owned(), master: tokio::sync::Mutex::new(master) };
        ssh.exec(&Exec::new(["true"]), b"", deadline).await?;
        Ok(ssh)
    }

    /// A client of the master connection that will run `command`.
    pub(crate) fn client(&self, command: &Exec) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", CONFIG, "-S", MASTER, "-o", "ControlMaster=no", &self.machine, "--"]);
        ssh.arg(quote(&command.0)).current_dir(&self.dir).kill_on_drop(true);
        ssh
    }

    pub(crate) async fn exec(&self, command: &Exec, input: &[u8], deadline: &Deadline) -> Result<Output, MachineError> {
        let mut client = self.client(command);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.run(client, command, input, deadline).await
    }

    pub(crate) async fn exec_to_file(
        &self,
        command: &Exec,
        to: &Path,
        deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        let file = std::fs::File::create(to).map_err(MachineError::io(format!("cannot write `{}`", to.display())))?;
        let mut client = self.client(command);
        client.stdin(Stdio::null()).stdout(file).stderr(Stdio::piped());
        self.run(client, command, b"", deadline).await
    }

    async fn run(
        &self,
        mut client: Command,
        command: &Exec,
        input: &[u8],
        deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        let mut child = client.spawn().map_err(|source| MachineError::Spawn { program: "ssh".to_owned(), source })?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command may end without reading its input: its status says what came of it.
                let _ = stdin.write_all(input).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = deadline.limit(both).await.map_err(|limit| MachineError::TimedOut {
            machine: self.machine.clone(),
            command: command.0.join(" "),
            limit,
        })?;
        let output = output.map_err(MachineError::io("cannot read from ssh"))?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(SSH_FAILED) if !self.alive().await => {
                Err(MachineError::Lost { machine: self.machine.clone(), said: stderr.trim().to_owned() })
            }
            Some(status) => Ok(Output { status, stdout: output.stdout, stderr }),
            None => Err(MachineError::Lost { machine: self.machine.clone(), said: "ssh was killed".to_owned() }),
        }
    }

    async fn alive(&self) -> bool {
        self.master.lock().await.ended().is_none()
    }

    /// Nanoseconds that the machine's clock is ahead: the best of a few questions, taken at half of the round trip.
    pub(crate) async fn clock_offset(&self, probe: &str, deadline: &Deadline) -> Result<i64, MachineError> {
        let command = Exec::new([probe, "clock"]);
        let mut client = self.client(&command);
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = client.spawn().map_err(|source| MachineError::Spawn { program: "ssh".to_owned(), source })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(MachineError::Monitor("ssh has no pipes".to_owned()));
        };
        let asked = deadline.limit(async {
            let mut answers = BufReader::new(stdout).lines();
            let mut best: Option<(Duration, i64)> = None;
            for _ in 0..5 {
                let (before, began) = (nanoseconds_now(), Instant::now());
                stdin.write_all(b"?\n").await.ok()?;
                let there: i64 = answers.next_line().await.ok()??.trim().parse().ok()?;
                let took = began.elapsed();
                let half = i64::try_from(took.as_nanos() / 2).unwrap_or(i64::MAX);
                if best.is_none_or(|(shortest, _)| took < shortest) {
                    best = Some((took, there - (before + half)));
                }
            }
            best.map(|(_, offset)| offset)
        });
        match asked.await {
            Ok(Some(offset)) => Ok(offset),
            Ok(None) => Err(MachineError::Lost { machine: self.machine.clone(), said: "the probe's clock".to_owned() }),
            Err(limit) => {
                Err(MachineError::TimedOut { machine: self.machine.clone(), command: "clock".to_owned(), limit })
            }
        }
    }

    /// Ends the master connection.
    pub(crate) async fn close(&self) {
        let _ = self.master.lock().await.kill().await;
    }
}

/// Nanoseconds since 1970 on the host's clock.
pub(crate) fn nanoseconds_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

async fn last_words(stderr: Option<tokio::process::ChildStderr>) -> String {
    let mut text = String::new();
    if let Some(mut stderr) = stderr {
        let _ = stderr.read_to_string(&mut text).await;
    }
    text.trim().to_owned()
}

/// One word of a POSIX shell for each word: sshd hands the command to the login shell.
fn quote(words: &[String]) -> String {
    let quoted = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Makes a private file: credentials hold keys.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), MachineError> {
    let written = std::fs::write(path, content)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)));
    written.map_err(MachineError::io(format!("cannot write `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_reach_the_machine_as_they_are() {
        let words = ["sh", "-c", "echo \"it's $HOME\"", ""].map(str::to_owned);
        let script = quote(&words);
        let output = std::process::Command::new("sh").arg("-c").arg(format!("printf '<%s>' {script}")).output();
        let output = output.expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "<sh><-c><echo \"it's $HOME\"><>");
    }
}
