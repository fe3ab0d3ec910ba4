//! From an image to a machine that answers.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use redrill_model::{MachineSpec, Network};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::args::{self, CONSOLE, MONITOR, OVERLAY, RELAY_SOCKET};
use super::{DIGESTS, PROBE, Qemu, QemuMachine, console, credentials, qmp, usernet};
use crate::deadline::Deadline;
use crate::image::Image;
use crate::machine::{Exec, MachineError, Needs};
use crate::process::Guarded;
use crate::relay::{self, Rules};
use crate::ssh::{ClientKey, Ssh};

/// Lines of console shown with an error.
const TAIL: usize = 20;
const PROBE_BINARY: &[u8] = include_bytes!(env!("REDRILL_PROBE"));

pub(super) async fn boot(
    qemu: &Qemu,
    spec: &MachineSpec,
    needs: &Needs,
    dir: &Path,
    deadline: &Deadline,
) -> Result<QemuMachine, MachineError> {
    let began = Instant::now();
    let image = qemu.images.get(spec.image.get_ref()).ok_or_else(|| MachineError::Program {
        program: "image".to_owned(),
        said: format!("`{}` has not been built", spec.image.get_ref()),
    })?;
    let host = ClientKey::make(dir.join("host.key")).await?;
    let credentials = credentials::write(dir, &spec.name, &qemu.client, &host, needs.network)?;
    make_overlay(image, dir).await?;
    let relay = match needs.network {
        Network::Open => None,
        Network::Mirror => Some(serve_mirror(image, dir)?),
    };
    let arguments = args::arguments(spec, needs, image, qemu.accel, &credentials, qemu.guard.program());
    let mut waiting = Waiting { machine: &spec.name, dir, process: start(qemu, dir, &arguments)?, deadline };
    let monitor = waiting.monitor().await?;
    let ports = usernet::flows(&monitor.human("info usernet").await?);
    let port = usernet::forwarded(&ports, args::SSH)
        .ok_or_else(|| MachineError::Monitor("QEMU forwards no port to SSH".to_owned()))?;
    Ssh::configure(dir, &spec.name, port, &qemu.client.path, &host.host_key())?;
    waiting.banner(port).await?;
    let ssh = Ssh::open(&qemu.guard, dir, &spec.name, deadline).await?;
    let boot_seconds = began.elapsed().as_secs_f64();
    settle(&ssh, image, deadline).await?;
    Ok(QemuMachine {
        name: spec.name.clone(),
        dir: dir.to_owned(),
        boot_seconds,
        process: std::sync::Mutex::new(waiting.process),
        monitor,
        ports,
        ssh: ssh.into(),
        image: image.clone(),
        client: qemu.client.clone(),
        host,
        relay,
        tunnels: std::sync::Mutex::default(),
    })
}

async fn make_overlay(image: &Image, dir: &Path) -> Result<(), MachineError> {
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(image.disk())
        .arg(dir.join(OVERLAY))
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|source| MachineError::Spawn { program: "qemu-img".to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MachineError::Program { program: "qemu-img".to_owned(), said })
}

fn serve_mirror(image: &Image, dir: &Path) -> Result<tokio::task::JoinHandle<()>, MachineError> {
    let allowed: BTreeSet<String> = image.mirror_hosts();
    let rules = Rules { allowed, upstream: image.upstream_proxy(), log: dir.join("network.log") };
    relay::serve(&dir.join(RELAY_SOCKET), rules).map_err(MachineError::io("cannot serve the package mirror"))
}

fn start(qemu: &Qemu, dir: &Path, arguments: &[String]) -> Result<Guarded, MachineError> {
    let log = std::fs::File::create(dir.join("qemu.log")).map_err(MachineError::io("cannot write qemu.log"))?;
    let errors = log.try_clone().map_err(MachineError::io("cannot write qemu.log"))?;
    // From the first byte on there is a console to read.
    std::fs::write(dir.join(CONSOLE), "").map_err(MachineError::io("cannot write the console"))?;
    let mut command = qemu.guard.command("qemu-system-x86_64");
    command.args(arguments).current_dir(dir).stdout(log).stderr(errors);
    qemu.guard.spawn(&mut command, "qemu-system-x86_64")
}

/// A machine on its way up.
struct Waiting<'a> {
    machine: &'a str,
    dir: &'a Path,
    process: Guarded,
    deadline: &'a Deadline,
}

impl Waiting<'_> {
    async fn monitor(&mut self) -> Result<qmp::Monitor, MachineError> {
        loop {
            self.alive("QEMU has not opened its monitor")?;
            match self.deadline.limit(qmp::Monitor::open(self.dir, MONITOR)).await {
                Ok(Ok(monitor)) => return Ok(monitor),
                _ => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    }

    /// Waits for sshd's greeting.
    async fn banner(&mut self, port: u16) -> Result<(), MachineError> {
        let mut last_seen = "nothing".to_owned();
        loop {
            self.alive(&last_seen)?;
            match greeting(port).await {
                Ok(()) => return Ok(()),
                Err(seen) => last_seen = seen,
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// An error as soon as waiting is in vain.
    fn alive(&mut self, last_seen: &str) -> Result<(), MachineError> {
        if let Some(error) = trouble(self.machine, self.dir, &mut self.process) {
            return Err(error);
        }
        if !self.deadline.passed() {
            return Ok(());
        }
        let (machine, last_seen) = (self.machine.to_owned(), last_seen.to_owned());
        let tail = console::tail(&console::read(&self.dir.join(CONSOLE)), TAIL);
        Err(MachineError::NotReady { machine, limit: self.deadline.error(), last_seen, tail })
    }
}

/// What console and process tell of a machine that is lost.
pub(super) fn trouble(machine: &str, dir: &Path, process: &mut Guarded) -> Option<MachineError> {
    let ended = process.ended();
    let text = console::read(&dir.join(CONSOLE));
    let (machine, tail) = (machine.to_owned(), console::tail(&text, TAIL));
    match (console::sign(&text), ended) {
        (Some(console::Sign::Panic(line)), _) => Some(MachineError::Panic { machine, line, tail }),
        (Some(console::Sign::Emergency(line)), _) => Some(MachineError::Emergency { machine, line, tail }),
        (None, Some(status)) => {
            let said = console::tail(&console::read(&dir.join("qemu.log")), 5).join("; ");
            Some(MachineError::Died { machine, status: status.to_string(), said })
        }
        (None, None) => None,
    }
}

/// One try: QEMU accepts the connection in any case, so that only what is read counts.
async fn greeting(port: u16) -> Result<(), String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let mut start = [0; 4];
    match tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut start)).await {
        Err(_) => Err("the SSH port is silent".to_owned()),
        Ok(Err(_)) => Err("the SSH port is closed".to_owned()),
        Ok(Ok(_)) if &start == b"SSH-" => Ok(()),
        Ok(Ok(_)) => Err(format!("the SSH port says {:?}", String::from_utf8_lossy(&start))),
    }
}

/// `/run` of a current Debian admits no programs: the probe gets a small file system of its own, in memory too.
const INSTALL: &str = "mkdir -p /run/redrill && mount -t tmpfs -o mode=0755,nosuid,nodev,size=64m redrill /run/redrill";

/// Brings the probe in, and waits until systemd has no more jobs: a deploy into a machine that is still booting races
/// with it. A failed unit of the image is no reason to stop; the captures show it.
async fn settle(ssh: &Ssh, image: &Image, deadline: &Deadline) -> Result<(), MachineError> {
    let install = format!("{INSTALL} && cat > {PROBE} && chmod 755 {PROBE}");
    let installed = ssh.exec(&Exec::new(["sh", "-c", &install]), PROBE_BINARY, deadline).await?;
    if installed.status != 0 {
        return Err(MachineError::Program { program: "upload of the probe".to_owned(), said: installed.stderr });
    }
    if let Ok(digests) = std::fs::read(image.digests()) {
        // Without them the first capture is slower, and as good.
        let _ = ssh.exec(&Exec::new(["sh", "-c", &format!("cat > {DIGESTS}")]), &digests, deadline).await;
    }
    ssh.exec(&Exec::new(["systemctl", "is-system-running", "--wait"]), b"", deadline).await.map(drop)
}

/// Carries one connection into the machine.
pub(super) async fn tunnel(mut stream: TcpStream, mut client: Command) -> std::io::Result<()> {
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = client.spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return Ok(()) };
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).await?;
    if line != "connected\n" {
        return Ok(()); // Dropping the stream tells the peer.
    }
    let (mut reading, mut writing) = stream.split();
    let up = async {
        let copied = tokio::io::copy(&mut reading, &mut input).await;
        drop(input);
        copied
    };
    let down = async {
        let copied = tokio::io::copy(&mut output, &mut writing).await;
        let _ = writing.shutdown().await;
        copied
    };
    // The answer decides when it is over: a client may keep its side open.
    tokio::select! {
        result = down => result.map(drop),
        result = async { let _ = up.await; std::future::pending::<std::io::Result<u64>>().await } => result.map(drop),
    }
}
