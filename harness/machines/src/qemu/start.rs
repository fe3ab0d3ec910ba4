//! Starts a QEMU process for one machine, and everything of the harness's that it needs beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use redrill_model::Network;
use serde_json::Value;
use tokio::process::Command;

use super::args::{self, AGENT, CONSOLE, MONITOR, OVERLAY, RELAY_SOCKET};
use super::means::QemuMeans;
use super::{console, qmp, usernet};
use crate::agent::Agent;
use crate::blueprint::Blueprint;
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::{self, Screen};
use crate::host;
use crate::image::{Format, Image};
use crate::machine_core;
use crate::process::Guarded;
use crate::relay::{self, Rules};
use crate::stand_in;
use crate::switch::Plug;

/// Lines of console shown with an error.
const TAIL: usize = 20;
/// SIGBUS, as the guard tells it.
const BUS_ERROR: i32 = 128 + 7;
/// A file system with less than this is full: QEMU grows its files by larger pieces.
const FULL_MIB: u64 = 4;
/// How long QEMU may take to end when asked.
const QUIT: Duration = Duration::from_secs(5);

/// A QEMU that runs, and what belongs to it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: std::sync::Mutex<Guarded>,
    pub(super) monitor: Arc<qmp::Monitor>,
    pub(super) agent: Arc<Agent>,
    /// Loopback addresses that lead to ports of the machine.
    pub(super) ports: BTreeMap<u16, SocketAddr>,
    relays: Vec<tokio::task::JoinHandle<()>>,
    _plug: Option<Plug>,
}

/// What is to be started.
pub(super) struct QemuStart<'a> {
    pub(super) blueprint: &'a Blueprint,
    /// Also QEMU's working directory.
    pub(super) dir: &'a Path,
    pub(super) boot: args::Boot,
    pub(super) memory: args::Memory,
    pub(super) credentials: &'a [PathBuf],
    /// Waits for the state of a frozen machine.
    pub(super) incoming: bool,
}

impl QemuStart<'_> {
    /// Up to a monitor that answers; the machine's overlay is there already.
    pub(super) async fn run(&self, means: &QemuMeans, deadline: &Deadline) -> Result<Running, MachineError> {
        for socket in [MONITOR, AGENT, RELAY_SOCKET, args::LAN].into_iter().chain(stand_in::SOCKETS) {
            let _ = std::fs::remove_file(self.dir.join(socket));
        }
        let mut relays = Vec::new();
        if self.blueprint.needs.network == Network::Mirror {
            relays.push(serve_mirror(&self.blueprint.image, self.dir)?);
        }
        relays.extend(stand_in::serve(self.dir, self.dir, &self.blueprint.needs)?);
        let plug = match &self.blueprint.needs.lan {
            Some(seat) => Some(means.switch(&seat.group).plug(self.dir, args::SWITCH, args::LAN)?),
            None => None,
        };
        let shape = args::CommandLine {
            spec: &self.blueprint.spec,
            needs: &self.blueprint.needs,
            accel: means.accel,
            boot: self.boot.clone(),
            memory: self.memory.clone(),
            credentials: self.credentials,
            incoming: self.incoming,
            redrill: means.guard.program(),
        };
        let mut process = start(means, self.dir, &args::arguments(&shape))?;
        let name = &self.blueprint.spec.name;
        let monitor = loop {
            if let Some(error) = trouble(name, self.dir, &mut process) {
                return Err(error);
            }
            in_time(name, self.dir, deadline, "QEMU has not opened its monitor")?;
            match deadline.limit(qmp::Monitor::open(self.dir, MONITOR)).await {
                Ok(Ok(monitor)) => break Arc::new(monitor),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let agent = Arc::new(Agent::connect(name, self.dir, AGENT).await?);
        let screen = match self.boot {
            args::Boot::Disk { .. } => Screen::Of(Arc::<qmp::Monitor>::downgrade(&monitor)),
            args::Boot::Kernel { .. } => Screen::None("its console is the serial one"),
        };
        means.witnesses.add(self.dir, CONSOLE, &agent, screen);
        let ports = usernet::forwards(&usernet::flows(&monitor.human("info usernet").await?));
        Ok(Running { process: std::sync::Mutex::new(process), monitor, agent, ports, relays, _plug: plug })
    }
}

impl Running {
    /// What console, monitor and process tell of a machine that is lost.
    pub(super) fn trouble(&self, name: &str, dir: &Path) -> Option<MachineError> {
        if self.monitor.out_of_space() {
            return Some(full(dir, &format!("the disk of `{name}`")));
        }
        trouble(name, dir, &mut self.process.lock().expect("no panic while it is held"))
    }

    /// Why the way in, or that to the monitor, broke: console and process tell more. Their end may be seen a moment later.
    pub(super) async fn explain(&self, name: &str, dir: &Path, error: MachineError) -> MachineError {
        machine_core::explain(error, || self.trouble(name, dir)).await
    }

    /// Waits for the agent; an error as soon as that is in vain. Returns the id of the kernel's boot.
    pub(super) async fn answers(&self, name: &str, dir: &Path, deadline: &Deadline) -> Result<String, MachineError> {
        let mut check = |last_seen: &str| self.check(name, dir, deadline, last_seen);
        self.agent.ready(&mut check).await
    }

    /// An error as soon as waiting is in vain.
    pub(super) fn check(
        &self,
        name: &str,
        dir: &Path,
        deadline: &Deadline,
        last_seen: &str,
    ) -> Result<(), MachineError> {
        match self.trouble(name, dir) {
            Some(error) => Err(error),
            None => in_time(name, dir, deadline, last_seen),
        }
    }

    /// Ends the process. It may close before it answers, or be stuck: the guard ends it then.
    pub(super) async fn quit(mut self) -> Result<(), MachineError> {
        self.leave();
        let _ = tokio::time::timeout(QUIT, self.monitor.execute("quit", Value::Null)).await;
        let mut process = self.process.into_inner().expect("no panic while it is held");
        if tokio::time::timeout(QUIT, process.wait()).await.is_err() {
            process.kill().await.map_err(MachineError::io("cannot end QEMU"))?;
        }
        Ok(())
    }

    /// Lets it live on when the harness ends.
    pub(super) async fn release(mut self) -> Result<(), MachineError> {
        self.leave();
        let process = self.process.into_inner().expect("no panic while it is held");
        process.release().await.map_err(MachineError::io("cannot let QEMU go"))
    }

    /// Takes down what belongs to the harness and not to the machine.
    fn leave(&mut self) {
        std::mem::take(&mut self.relays).iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Removes what a machine that has ended needs no more; its console and logs stay.
pub(super) fn remove_files(dir: &Path) {
    let _ = evidence::cap(&dir.join(CONSOLE));
    let own = [OVERLAY, MONITOR, AGENT, RELAY_SOCKET, args::LAN, args::SWITCH, args::MEMORY];
    for file in own.into_iter().chain(stand_in::SOCKETS) {
        let _ = std::fs::remove_file(dir.join(file));
    }
}

/// A disk over an image's, which is only read, and may be smaller.
pub(super) async fn make_disk(image: &Image, overlay: &Path) -> Result<(), MachineError> {
    let size = image.manifest.origin.as_ref().and_then(|origin| origin.disk_mib);
    make_overlay((&image.disk(), image.format()), overlay, size).await
}

/// A disk over a read-only one; as large as that, unless a size in MiB is told.
pub(super) async fn make_overlay(
    (backing, format): (&Path, Format),
    overlay: &Path,
    size: Option<u64>,
) -> Result<(), MachineError> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", format.name(), "-b"]).arg(backing).arg(overlay);
    command.args(size.map(|size| format!("{size}M")));
    run(command, "qemu-img").await
}

/// Runs a program of the host that has nothing to say but errors.
pub(super) async fn run(mut command: Command, program: &str) -> Result<(), MachineError> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| MachineError::Spawn { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(MachineError::Program { program: program.to_owned(), said })
}

fn serve_mirror(image: &Image, dir: &Path) -> Result<tokio::task::JoinHandle<()>, MachineError> {
    let allowed: BTreeSet<String> = image.mirror_hosts();
    let rules =
        Rules { allowed, upstream: image.upstream_proxy(), log: dir.join("network.log"), what: relay::MIRROR_ONLY };
    relay::serve(dir, RELAY_SOCKET, rules).map_err(MachineError::io("cannot serve the package mirror"))
}

fn start(means: &QemuMeans, dir: &Path, arguments: &[String]) -> Result<Guarded, MachineError> {
    let log = std::fs::File::create(dir.join("qemu.log")).map_err(MachineError::io("cannot write qemu.log"))?;
    let errors = log.try_clone().map_err(MachineError::io("cannot write qemu.log"))?;
    // From the first byte on there is a console to read; a fork goes on with its parent's.
    let console = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(CONSOLE));
    console.map_err(MachineError::io("cannot write the console"))?;
    let mut command = means.guard.command("qemu-system-x86_64");
    command.args(arguments).current_dir(dir).stdout(log).stderr(errors);
    means.guard.spawn(&mut command, "qemu-system-x86_64")
}

fn in_time(name: &str, dir: &Path, deadline: &Deadline, last_seen: &str) -> Result<(), MachineError> {
    if !deadline.passed() {
        return Ok(());
    }
    let tail = console::tail(&console::read(&dir.join(CONSOLE)), TAIL);
    Err(MachineError::NotReady {
        machine: name.to_owned(),
        limit: deadline.error(),
        last_seen: last_seen.to_owned(),
        tail,
    })
}

fn trouble(machine: &str, dir: &Path, process: &mut Guarded) -> Option<MachineError> {
    let ended = process.ended();
    let text = console::read(&dir.join(CONSOLE));
    let (machine, tail) = (machine.to_owned(), console::tail(&text, TAIL));
    match (console::sign(&text), ended) {
        (Some(console::Sign::Panic(line)), _) => Some(MachineError::Panic { machine, line, tail }),
        (Some(console::Sign::Emergency(line)), _) => Some(MachineError::Emergency { machine, line, tail }),
        (Some(console::Sign::NoAgent(said)), _) => Some(MachineError::FirstBoot { machine, said }),
        // A page of the memory's file for which there is no room.
        (None, Some(status)) if status.code() == Some(BUS_ERROR) && is_full(dir) => {
            Some(full(dir, &format!("the memory of `{machine}`")))
        }
        (None, Some(status)) => {
            let said = console::tail(&console::read(&dir.join("qemu.log")), 5).join("; ");
            Some(MachineError::Died { machine, status: status.to_string(), said })
        }
        (None, None) => None,
    }
}

pub(super) fn is_full(dir: &Path) -> bool {
    host::free_disk_mib(dir) < FULL_MIB
}

pub(super) fn full(dir: &Path, what: &str) -> MachineError {
    MachineError::DiskFull { place: dir.display().to_string(), what: what.to_owned() }
}
