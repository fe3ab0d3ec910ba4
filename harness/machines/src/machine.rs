//! What every machine can do, and what makes one. Backends are in the folders beside this file.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use redrill_model::{ImageUsed, MachineSpec, Network};
use thiserror::Error;

use crate::acme::Acme;
use crate::deadline::{Deadline, TimedOut};
use crate::evidence::Witnesses;
use crate::image::Progress;
use crate::mail::Post;

/// Why the harness could not learn the answer. None of these says anything about the deploy.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A program of the host could not be run.
    #[error("failed to start `{program}`")]
    Spawn {
        /// Which.
        program: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A program of the host ended badly.
    #[error("`{program}` failed: {said}")]
    Program {
        /// Which.
        program: String,
        /// The end of what it printed.
        said: String,
    },
    /// A base image could not be had.
    #[error("image `{image}`")]
    Image {
        /// Which.
        image: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine's process ended while it was needed.
    #[error("`{machine}`: QEMU ended ({status}): {said}")]
    Died {
        /// Machine.
        machine: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        said: String,
    },
    /// The guest's kernel gave up.
    #[error("`{machine}`: kernel panic: {line}")]
    Panic {
        /// Machine.
        machine: String,
        /// What the kernel said.
        line: String,
        /// The end of the console.
        tail: Vec<String>,
    },
    /// The guest's boot stopped and waits for a person.
    #[error("`{machine}` stopped at boot and waits for a person: {line}")]
    Emergency {
        /// Machine.
        machine: String,
        /// The telling line of the console.
        line: String,
        /// The end of the console.
        tail: Vec<String>,
    },
    /// cloud-init, which makes a machine of a published image, failed.
    #[error("`{machine}`: cloud-init failed: {said}")]
    FirstBoot {
        /// Machine.
        machine: String,
        /// Its errors.
        said: String,
    },
    /// It never answered.
    #[error("`{machine}` not ready, last seen: {last_seen}")]
    NotReady {
        /// Machine.
        machine: String,
        /// The limit.
        #[source]
        limit: TimedOut,
        /// The last attempt's outcome.
        last_seen: String,
        /// The end of the console.
        tail: Vec<String>,
    },
    /// A command took too long.
    #[error("`{machine}`: `{command}`")]
    TimedOut {
        /// Machine.
        machine: String,
        /// Command.
        command: String,
        /// The limit.
        #[source]
        limit: TimedOut,
    },
    /// A document that was needed whole is larger than any that was thought of.
    #[error("`{machine}`: `{command}` printed more than {mib} MiB, and what is cut is no answer")]
    TooMuch {
        /// Machine.
        machine: String,
        /// Command.
        command: String,
        /// The most that is taken.
        mib: u64,
    },
    /// The way into the machine broke.
    #[error("lost the connection to `{machine}`: {said}")]
    Lost {
        /// Machine.
        machine: String,
        /// The end of what ssh printed.
        said: String,
    },
    /// The container engine said no, or is not there.
    #[error("the container engine: {0}")]
    Engine(String),
    /// The container engine admits no machine that has the rights which systemd needs.
    #[error("the container engine refuses `{machine}` what systemd needs ({needs}): {said}")]
    Refused {
        /// Machine.
        machine: String,
        /// What was asked for.
        needs: String,
        /// What the engine said.
        said: String,
    },
    /// The machine is not cut off from its host: nothing of a repo may run in it.
    #[error("`{machine}` is not cut off from this host, and nothing was run in it: {what}")]
    NotSealed {
        /// Machine.
        machine: String,
        /// What was seen.
        what: String,
    },
    /// A file system of the host is full.
    #[error("no space left on `{place}` for {what}")]
    DiskFull {
        /// Where, or whose.
        place: String,
        /// What did not fit.
        what: String,
    },
    /// The backend's machines cannot do this.
    #[error("`{machine}`: {what}")]
    Unable {
        /// Machine.
        machine: String,
        /// What was asked for, and why not.
        what: String,
    },
    /// QEMU refused a monitor command, or answered nonsense.
    #[error("QEMU's monitor: {0}")]
    Monitor(String),
    /// Something about a file of the run.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl MachineError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A failure whose text may say that the disk is full: the system's own words, whoever passed them on.
    pub(crate) fn or_full(self, what: &str, place: &Path) -> Self {
        let said = match &self {
            Self::Program { said, .. } | Self::Monitor(said) => said.contains(NO_SPACE),
            Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::StorageFull || source.to_string().contains(NO_SPACE)
            }
            _ => false,
        };
        if !said {
            return self;
        }
        Self::DiskFull { place: place.display().to_string(), what: what.to_owned() }
    }

    /// The end of the machine's console, where the error is about a boot.
    pub fn console_tail(&self) -> &[String] {
        match self {
            Self::Panic { tail, .. } | Self::Emergency { tail, .. } | Self::NotReady { tail, .. } => tail,
            _ => &[],
        }
    }
}

/// How every program words ENOSPC.
pub(crate) const NO_SPACE: &str = "No space left on device";

/// Where the probe lies in a machine: on a file system that no capture holds.
pub const PROBE: &str = "/run/redrill/probe";
/// The probe's own cache of content digests.
pub(crate) const DIGESTS: &str = "/run/redrill/digests";
/// The probe itself.
pub const PROBE_BINARY: &[u8] = include_bytes!(env!("REDRILL_PROBE"));

/// A command for a machine: program and arguments, run as root without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec(pub Vec<String>);

impl Exec {
    /// From words.
    pub fn new<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(str::to_owned).to_vec())
    }
}

/// What a command left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

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

/// What a machine must be able to do beyond its [`MachineSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Ports that are reached from outside.
    pub ports: Vec<u16>,
    /// What it may reach.
    pub network: Network,
    /// Its place in the private network of the drill, if there is one.
    pub lan: Option<Seat>,
    /// Its number in the drill: no two machines have the same address on the network that leads to the harness.
    pub lease: u8,
    /// It will be frozen: its memory is laid out so that this costs no time.
    pub freezable: bool,
    /// So may forks of it: each costs a copy of the memory where it would share it.
    pub forks_freezable: bool,
    /// Where its mail goes, if it is caught.
    pub mail: Option<Post>,
    /// Who gives it certificates, if ACME servers are stood in for.
    pub acme: Option<Acme>,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            network: Network::Mirror,
            lan: None,
            lease: 0,
            freezable: false,
            forks_freezable: false,
            mail: None,
            acme: None,
        }
    }
}

/// A machine's place in a private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Machines hear each other only within a group: twins have a network of their own.
    pub group: String,
    /// This machine's address.
    pub address: Ipv4Addr,
    /// All machines of the group.
    pub hosts: Vec<(Ipv4Addr, String)>,
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
