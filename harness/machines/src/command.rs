//! What is run in a machine, and what comes back.

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
