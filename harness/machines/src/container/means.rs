//! What every machine of a drill is made with, and what removes them should we be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::RwLock;

use super::engine::Engine;
use super::lan::Lans;
use super::outside;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::personal;
use crate::process::{Guard, RUN_VARIABLE};
use crate::ssh::ClientKey;

/// What these machines are told differs little: their only network card is the engine's business.
pub(super) const WIRING: personal::Wiring = personal::Wiring { relay: "127.0.0.1:3128", hardware: false };
/// Told to the reaper: stay when the harness goes.
pub(super) const KEEP: &[u8] = b"k\n";

/// Outlives us if we are killed, and then removes what we made. Ports of the host lead through it to machines, since it
/// also stays with those that are kept.
pub(super) struct Reaper {
    process: Child,
    /// What it waits at.
    leash: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reaper {
    /// The engine's containers are no children of ours: a process that waits for our end removes them.
    pub(super) fn start(guard: &Guard, run: &Path) -> Result<Self, MachineError> {
        let mut command = Command::new(guard.program());
        command.arg("reap");
        if let Some(place) = guard.place() {
            command.arg("--place").arg(place);
        }
        command.arg(run).env(RUN_VARIABLE, run).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |source| MachineError::Spawn { program: "redrill reap".to_owned(), source };
        let mut process = command.spawn().map_err(failed)?;
        let (Some(leash), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        Ok(Self { process, leash, answers: BufReader::new(answers) })
    }

    /// Lets it stay with the machines when the harness goes.
    pub(super) async fn keep(mut self) -> Result<(), MachineError> {
        self.leash.write_all(KEEP).await.map_err(MachineError::io("cannot let the containers go"))?;
        // It would be killed when it is dropped.
        std::mem::forget(self.process);
        Ok(())
    }

    /// A port of loopback that leads to `port` of the machine whose neighbour listens at `socket`.
    async fn forward(&mut self, socket: &Path, port: u16) -> std::io::Result<u16> {
        self.leash.write_all(&outside::order(socket, port)).await?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).await?;
        answer.trim().parse().map_err(|_| std::io::Error::other(format!("no port to listen on: {}", answer.trim())))
    }
}

/// Clones share what they hold.
#[derive(Clone)]
pub(super) struct ContainerMeans {
    pub(super) guard: Guard,
    pub(super) engine: Engine,
    pub(super) client: ClientKey,
    pub(super) run: PathBuf,
    pub(super) frozen: Arc<AtomicU32>,
    /// Those that there are: an engine makes a second one of the same name.
    pub(super) networks: Arc<tokio::sync::Mutex<BTreeSet<String>>>,
    pub(super) lans: Lans,
    pub(super) reaper: Arc<tokio::sync::Mutex<Option<Reaper>>>,
    /// Held by whatever the engine is making.
    pub(super) making: Arc<RwLock<()>>,
    pub(super) witnesses: Witnesses,
}

impl ContainerMeans {
    /// The open network of a group, made when its first machine comes.
    pub(super) async fn network(&self, group: &str) -> Result<String, MachineError> {
        let (mut networks, name) = (self.networks.lock().await, self.name(group));
        if !networks.contains(&name) {
            let (engine, own, run) = (self.engine.clone(), name.clone(), self.run.clone());
            self.to_the_end(async move { engine.network(&own, &run).await }).await?;
            networks.insert(name.clone());
        }
        Ok(name)
    }

    /// What the engine is asked to make goes on though nobody waits for it any more, and must be there to be removed.
    pub(super) async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let making = Arc::clone(&self.making).read_owned().await;
        let done = tokio::spawn(async move { (work.await, drop(making)).0 }).await;
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Ports of the host's loopback that lead to these of the machine whose neighbour listens at `socket`.
    pub(super) async fn forward(
        &self,
        socket: &Path,
        ports: &[u16],
    ) -> Result<BTreeMap<u16, SocketAddr>, MachineError> {
        let mut reaper = self.reaper.lock().await;
        let gone = || MachineError::Monitor("the reaper is gone".to_owned());
        let reaper = reaper.as_mut().ok_or_else(gone)?;
        let mut all = BTreeMap::new();
        for port in ports {
            let here = reaper.forward(socket, *port).await;
            let here = here.map_err(MachineError::io(format!("cannot lead to port {port} of a machine")))?;
            all.insert(*port, SocketAddr::from(([127, 0, 0, 1], here)));
        }
        Ok(all)
    }

    /// A name that no other run has.
    pub(super) fn name(&self, what: &str) -> String {
        let run = self.run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("redrill-{}-{run}-{what}", &blake3::hash(self.run.as_os_str().as_encoded_bytes()).to_hex()[..8])
    }
}
