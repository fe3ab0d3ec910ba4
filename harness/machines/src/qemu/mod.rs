//! Machines made by QEMU: booted from an image, reached over SSH, watched by their console and monitor.

mod args;
mod boot;
mod console;
mod credentials;
mod qmp;
mod usernet;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redrill_model::{ImageUsed, MachineSpec};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::deadline::{Deadline, TimedOut};
use crate::host::Accel;
use crate::image::{Builder, Catalog, Image, Progress, Store};
use crate::machine::{Address, Backend, Exec, Machine, MachineError, Needs, Output, Reach};
use crate::process::{Guard, Guarded};
use crate::ssh::{ClientKey, Ssh};

/// Where the probe lies in a machine: on a file system that no capture holds.
pub const PROBE: &str = "/run/redrill/probe";
/// The probe's own cache of content digests.
const DIGESTS: &str = "/run/redrill/digests";
/// How long QEMU may take to end when asked.
const QUIT: Duration = Duration::from_secs(5);
/// How long a connection may stay unanswered before it counts as dropped, since a firewall says nothing. Even an emulated
/// kernel answers within milliseconds, and the second try of the handshake comes after one second.
const DROPPED: Duration = Duration::from_secs(3);

/// Makes machines with QEMU.
#[derive(Debug)]
pub struct Qemu {
    guard: Guard,
    accel: Accel,
    catalog: Catalog,
    store: Store,
    client: ClientKey,
    images: BTreeMap<String, Image>,
}

impl Qemu {
    /// Machines that `client` may enter as root, made of the images of `catalog`.
    pub fn new(guard: Guard, accel: Accel, catalog: Catalog, store: Store, client: ClientKey) -> Self {
        Self { guard, accel, catalog, store, client, images: BTreeMap::new() }
    }
}

/// A machine in a QEMU process.
#[derive(Debug)]
pub struct QemuMachine {
    name: String,
    dir: PathBuf,
    boot_seconds: f64,
    process: std::sync::Mutex<Guarded>,
    monitor: qmp::Monitor,
    ports: Vec<usernet::Flow>,
    ssh: Arc<Ssh>,
    image: Image,
    client: ClientKey,
    host: ClientKey,
    relay: Option<JoinHandle<()>>,
    tunnels: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

impl Backend for Qemu {
    type Machine = QemuMachine;

    async fn prepare(&mut self, images: &[String], progress: Progress) -> Result<Vec<ImageUsed>, MachineError> {
        let program = self.guard.program().to_owned();
        let builder = Builder { store: self.store.clone(), program, mirror: None, progress };
        let mut used = Vec::new();
        for name in images {
            let failed =
                |source: Box<dyn std::error::Error + Send + Sync>| MachineError::Image { image: name.clone(), source };
            let recipe = self.catalog.get(name).map_err(|error| failed(error.into()))?;
            let image = builder.image(&recipe, false).await.map_err(|error| failed(error.into()))?;
            used.push(ImageUsed { name: name.clone(), digest: image.digest.clone() });
            self.images.insert(name.clone(), image);
        }
        Ok(used)
    }

    async fn boot(
        &self,
        spec: &MachineSpec,
        needs: &Needs,
        dir: &Path,
        deadline: &Deadline,
    ) -> Result<QemuMachine, MachineError> {
        boot::boot(self, spec, needs, dir, deadline).await
    }
}

impl Machine for QemuMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn boot_seconds(&self) -> f64 {
        self.boot_seconds
    }

    async fn exec(&self, command: &Exec, input: &[u8], deadline: &Deadline) -> Result<Output, MachineError> {
        self.ssh.exec(command, input, deadline).await.map_err(|error| self.explain(error))
    }

    async fn exec_to_file(&self, command: &Exec, to: &Path, deadline: &Deadline) -> Result<Output, MachineError> {
        self.ssh.exec_to_file(command, to, deadline).await.map_err(|error| self.explain(error))
    }

    fn lost(&self) -> Option<MachineError> {
        let mut process = self.process.lock().expect("no panic while it is held");
        boot::trouble(&self.name, &self.dir, &mut process)
    }

    async fn learn(&self, deadline: &Deadline) {
        let (known, new) = (self.image.digests(), self.dir.join("digests.new"));
        if known.exists() {
            return;
        }
        let read = self.ssh.exec_to_file(&Exec::new(["cat", DIGESTS]), &new, deadline).await;
        if read.is_ok_and(|output| output.status == 0) {
            // Whole or not at all: two drills may end here at once.
            let whole = known.with_extension(std::process::id().to_string());
            let _ = std::fs::copy(&new, &whole).and_then(|_| std::fs::rename(&whole, known));
        }
        let _ = std::fs::remove_file(new);
    }

    async fn clock_offset(&self, deadline: &Deadline) -> Result<i64, MachineError> {
        self.ssh.clock_offset(PROBE, deadline).await.map_err(|error| self.explain(error))
    }

    fn outside(&self, port: u16) -> Option<SocketAddr> {
        usernet::forwarded(&self.ports, port).map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    async fn inside(&self, host: &str, port: u16) -> Result<SocketAddr, MachineError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(MachineError::io("cannot listen on loopback"))?;
        let address = listener.local_addr().map_err(MachineError::io("cannot listen on loopback"))?;
        let (ssh, command) = (Arc::clone(&self.ssh), Exec::new([PROBE, "connect", host, &port.to_string()]));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let client = ssh.client(&command);
                tokio::spawn(async move { boot::tunnel(stream, client).await });
            }
        });
        self.tunnels.lock().expect("no panic while it is held").push(task);
        Ok(address)
    }

    /// QEMU accepts a connection to a forwarded port before the machine has said anything: only its own list of
    /// connections tells what the machine answered.
    async fn reach(&self, port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
        let address =
            self.outside(port).ok_or_else(|| MachineError::Monitor(format!("port {port} is not forwarded")))?;
        // A connection is listed under the port that it came through, not under its own.
        let through = |flow: &usernet::Flow| flow.source_port == address.port() && flow.state != "HOST_FORWARD";
        let flows = async || Ok::<_, MachineError>(usernet::flows(&self.monitor.human("info usernet").await?));
        let before: Vec<u32> = flows().await?.iter().filter(|flow| through(flow)).map(|flow| flow.fd).collect();
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(MachineError::io("cannot reach QEMU's forwarded port"))?;
        let began = Instant::now();
        loop {
            let flows = deadline.limit(flows()).await.map_err(|limit| self.timed_out("info usernet", limit))??;
            let ours = flows.iter().find(|flow| through(flow) && !before.contains(&flow.fd));
            let patient = began.elapsed() < DROPPED;
            match ours.map(|flow| flow.state.as_str()) {
                Some("ESTABLISHED" | "CLOSE_WAIT") => return Ok(Reach::Open),
                Some("SYN_SENT") if patient => {}
                Some("SYN_SENT") => return Ok(Reach::Closed("nobody answered".to_owned())),
                Some(_) => return Ok(Reach::Closed("refused".to_owned())),
                // QEMU may not have taken the connection yet, or be rid of it already: then we see its end.
                None => match stream.try_read(&mut [0; 1]) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && patient => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        return Err(MachineError::Monitor("it does not list a connection that was made".to_owned()));
                    }
                    _ => return Ok(Reach::Closed("refused".to_owned())),
                },
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn address(&self) -> Address {
        Address {
            host: self.name.clone(),
            port: usernet::forwarded(&self.ports, args::SSH).unwrap_or_default(),
            key: self.client.path.clone(),
            host_key: self.host.host_key(),
        }
    }

    fn console(&self) -> PathBuf {
        self.dir.join(args::CONSOLE)
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.leave().await;
        // It may close before it answers, or be stuck: the guard ends it then.
        let _ = tokio::time::timeout(QUIT, self.monitor.execute("quit", Value::Null)).await;
        let mut process = self.process.into_inner().expect("no panic while it is held");
        if tokio::time::timeout(QUIT, process.wait()).await.is_err() {
            process.kill().await.map_err(MachineError::io("cannot end QEMU"))?;
        }
        for file in [args::OVERLAY, args::MONITOR, args::RELAY_SOCKET] {
            let _ = std::fs::remove_file(self.dir.join(file));
        }
        Ok(())
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.leave().await;
        let process = self.process.into_inner().expect("no panic while it is held");
        process.release().await.map_err(MachineError::io("cannot let QEMU go"))
    }
}

impl QemuMachine {
    fn timed_out(&self, command: &str, limit: TimedOut) -> MachineError {
        MachineError::TimedOut { machine: self.name.clone(), command: command.to_owned(), limit }
    }

    /// Why the way in broke, if console or process tell more than ssh does.
    fn explain(&self, error: MachineError) -> MachineError {
        self.lost().unwrap_or(error)
    }

    /// Takes down what belongs to the harness and not to the machine.
    async fn leave(&self) {
        let tunnels = std::mem::take(&mut *self.tunnels.lock().expect("no panic while it is held"));
        tunnels.iter().chain(&self.relay).for_each(JoinHandle::abort);
        self.ssh.close().await;
    }
}
