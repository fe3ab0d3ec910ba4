//! Why the harness could not find out.

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::deadline::TimedOut;

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
