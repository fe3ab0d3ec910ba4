//! What the machines of every backend are made of, so that a backend writes only how its own differ.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::command::Commands;
use crate::error::MachineError;

/// How long the end of a machine may take to be seen after the way into it broke: it is reported on another connection.
const TOLD: Duration = Duration::from_secs(2);

/// How a deploy tool reaches the machine over SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Inventory host.
    pub host: String,
    /// Port on the host's loopback that leads to the machine's sshd.
    pub port: u16,
    /// Private key that root accepts.
    pub key: PathBuf,
    /// The machine's public host key, as in a `known_hosts` line without the name.
    pub host_key: String,
}

/// The common part of every [`Machine`](crate::Machine).
pub struct MachineCore {
    /// Where its files lie.
    pub(crate) dir: PathBuf,
    /// From the start to the first answer.
    pub(crate) boot_seconds: f64,
    /// For deploy tools; its host is the machine's name.
    pub(crate) address: Address,
    /// Loopback addresses that lead to ports of the machine, as a user from outside would reach them.
    pub(crate) ports: BTreeMap<u16, SocketAddr>,
    /// In the drill's private network, if there is one.
    pub(crate) lan_address: Option<Ipv4Addr>,
    /// The serial console's log.
    pub(crate) console: PathBuf,
    /// Its agent.
    pub(crate) commands: Box<dyn Commands>,
    /// The way in stays open when the machine stands still: whoever waits for an answer has to look whether it lives.
    pub(crate) dies_silently: bool,
    /// What the harness does for the machine, until it ends or is kept.
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl MachineCore {
    /// Leads a loopback address to `host:port` as seen from inside, for as long as the machine lives.
    pub(crate) async fn tunnel(&self, host: &str, port: u16) -> Result<SocketAddr, MachineError> {
        let (address, task) = self.commands.tunnel(host, port).await?;
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        Ok(address)
    }

    /// Ends what the harness does for the machine.
    pub(crate) fn leave(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for MachineCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineCore").field("name", &self.address.host).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Replaces an error that only says that a way into the machine broke by the reason why it is lost, if `lost` finds one
/// in time.
pub(crate) async fn explain(error: MachineError, lost: impl Fn() -> Option<MachineError> + Send) -> MachineError {
    let began = Instant::now();
    loop {
        match lost() {
            Some(reason) => return reason,
            None if !matches!(error, MachineError::Lost { .. } | MachineError::Monitor(_)) => return error,
            None if began.elapsed() > TOLD => return error,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
