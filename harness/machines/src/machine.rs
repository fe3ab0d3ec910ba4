//! What every machine can do, and what makes one. Backends are in the folders beside this file.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use redrill_model::{ImageUsed, MachineSpec};

use crate::command::{Exec, Output};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::needs::Needs;
use crate::progress::Progress;

/// What became of a connection to a port of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It was accepted.
    Open,
    /// It was refused, or dropped.
    Closed(String),
}

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

/// A running machine.
///
/// Ending is explicit and awaited; dropping one kills its processes all the same, since their guard's leash is dropped.
pub trait Machine: Send + Sync + Sized {
    /// Inventory host.
    fn name(&self) -> &str;
    /// What the boot reported, in seconds from start to the first answer.
    fn boot_seconds(&self) -> f64;
    /// Runs a command to its end. A status other than 0 is an answer and no error. One that prints more than
    /// [`Bounded::LIMIT`](crate::bounded::Bounded::LIMIT) is killed (status 137): then of its output there are the two
    /// ends. The probe's output is whole, or an error.
    fn exec(
        &self,
        command: &Exec,
        input: &[u8],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Output, MachineError>> + Send;
    /// Like `exec`, with standard output in a file of the host: whole, or an error.
    fn exec_to_file(
        &self,
        command: &Exec,
        input: &[u8],
        to: &Path,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Output, MachineError>> + Send;
    /// Why the machine will never answer again, if its console or its process tell. Cheap: asked every second.
    fn lost(&self) -> Option<MachineError>;
    /// Called once, after the capture of the clean machine: what was learnt about its image (content digests) may be
    /// kept for later machines of the same image. A failure costs time later, and is no error.
    fn learn(&self, deadline: &Deadline) -> impl Future<Output = ()> + Send;
    /// Nanoseconds that the machine's clock is ahead of the host's.
    fn clock_offset(&self, deadline: &Deadline) -> impl Future<Output = Result<i64, MachineError>> + Send;
    /// The loopback address that leads to this port as a user from outside would reach it; `None` if the port was not
    /// among the machine's [`Needs`].
    fn outside(&self, port: u16) -> Option<SocketAddr>;
    /// A loopback address, good for as long as the machine lives, that leads to `host:port` as seen from inside.
    fn inside(&self, host: &str, port: u16) -> impl Future<Output = Result<SocketAddr, MachineError>> + Send;
    /// Its address in the drill's private network, if there is one.
    fn lan_address(&self) -> Option<Ipv4Addr>;
    /// Tries a connection from outside, and says what the machine made of it.
    fn reach(&self, port: u16, deadline: &Deadline) -> impl Future<Output = Result<Reach, MachineError>> + Send;
    /// For deploy tools.
    fn address(&self) -> Address;
    /// The serial console's log.
    fn console(&self) -> PathBuf;
    /// An orderly reboot, over when the machine has come to rest after it; an error if its kernel did not begin anew.
    fn reboot(&self, deadline: &Deadline) -> impl Future<Output = Result<(), MachineError>> + Send;
    /// Looks after the machine while somebody else works in it: one that reboots by itself gets its addresses back. Goes
    /// on until it is dropped; what it cannot mend, those who need the machine will tell.
    fn attend(&self, deadline: &Deadline) -> impl Future<Output = ()> + Send;
    /// Cuts the power, and boots again: what was not synced is lost.
    fn power_cut(self, deadline: &Deadline) -> impl Future<Output = Result<Self, MachineError>> + Send;
    /// Ends it and removes its disk.
    fn destroy(self) -> impl Future<Output = Result<(), MachineError>> + Send;
    /// Leaves it running after the harness ends; `redrill clean` ends it.
    fn keep(self) -> impl Future<Output = Result<(), MachineError>> + Send;
}

/// What the machines of a backend can do; a claim that needs more is UNPROVEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A frozen machine goes on in its forks: with its processes, and what they hold in memory.
    pub memory_fork: bool,
    /// A kernel of its own: it can be rebooted, loads modules, has its own firewall.
    pub own_kernel: bool,
}

/// Makes clean machines of one kind, freezes them, and makes more of what was frozen.
pub trait Backend: Send + Sync {
    /// What it makes.
    type Machine: Machine;
    /// A machine that stands still on the disk: any number of forks start from it.
    type Frozen: Send + Sync;
    /// What its machines can do.
    fn capabilities(&self) -> Capabilities;
    /// Of whom evidence can be taken, also while the backend is busy.
    fn witnesses(&self) -> Witnesses;
    /// Waits for what is still being made though nobody waits for it any more; told once, at the end.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
    /// Sees to it that these base images are there, building what is missing; told once, before the first boot.
    fn prepare(
        &mut self,
        images: &[String],
        progress: Progress,
    ) -> impl Future<Output = Result<Vec<ImageUsed>, MachineError>> + Send;
    /// Makes a clean machine that is at rest and answers, over SSH too. Its files lie in `dir`.
    fn boot(
        &self,
        spec: &MachineSpec,
        needs: &Needs,
        dir: &Path,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Machine, MachineError>> + Send;
    /// Freezes a machine whose [`Needs`] said so. It is gone afterwards; its forks go on.
    fn freeze(
        &self,
        machine: Self::Machine,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Frozen, MachineError>> + Send;
    /// Makes a machine that goes on where the frozen one stopped, with the same identity and the time of now. Forks of
    /// one machine in different groups do not hear each other. Its files lie in `dir`.
    fn fork(
        &self,
        frozen: &Self::Frozen,
        group: &str,
        dir: &Path,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Machine, MachineError>> + Send;
}
