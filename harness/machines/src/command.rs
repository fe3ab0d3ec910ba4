//! What is run in a machine, and what comes back.

use std::net::SocketAddr;
use std::path::Path;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::deadline::Deadline;
use crate::error::MachineError;

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

/// Runs commands in one machine: its agent does, or a table of prepared answers. What each promises is told at the
/// method of the same name of [`Machine`](crate::Machine).
pub(crate) trait Commands: Send + Sync {
    /// Runs a command to its end.
    fn exec<'a>(
        &'a self,
        command: &'a Exec,
        input: &'a [u8],
        deadline: &'a Deadline,
    ) -> BoxFuture<'a, Result<Output, MachineError>>;
    /// The same, with standard output in a file of the host.
    fn exec_to_file<'a>(
        &'a self,
        command: &'a Exec,
        input: &'a [u8],
        to: &'a Path,
        deadline: &'a Deadline,
    ) -> BoxFuture<'a, Result<Output, MachineError>>;
    /// Nanoseconds that the machine's clock is ahead of the host's.
    fn clock_offset<'a>(&'a self, deadline: &'a Deadline) -> BoxFuture<'a, Result<i64, MachineError>>;
    /// A loopback address that leads to `host:port` as seen from inside, for as long as the task lives.
    fn tunnel<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<(SocketAddr, JoinHandle<()>), MachineError>>;
}
