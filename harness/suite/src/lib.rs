//! Drills as tests: one trial per scenario, backend and claim, `web::qemu::idempotent`. All that a test program needs:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     redrill_suite::Suite::new("scenarios").main()
//! }
//! ```
//!
//! Listing boots nothing and prints nothing else. The trials of one scenario share one drill, in whichever processes
//! they run: the first to come runs it, the others wait and read its report (see [`shared`]).

mod needs;
mod shared;
mod trials;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::Arguments;

pub use needs::{Lacking, NotRun};

/// The drills of every scenario below a directory.
#[derive(Debug, Clone)]
pub struct Suite {
    root: PathBuf,
    program: PathBuf,
    except: Vec<String>,
}

impl Suite {
    /// Directories with a `scenario.toml` directly below `root`, or `root` itself if it is one.
    ///
    /// The drills are run by the `redrill` that `REDRILL_PROGRAM` names, else by the one in `PATH`.
    pub fn new(root: impl AsRef<Path>) -> Self {
        let program = std::env::var_os("REDRILL_PROGRAM").map_or_else(|| PathBuf::from("redrill"), PathBuf::from);
        Self { root: root.as_ref().to_owned(), program, except: Vec::new() }
    }

    /// With this program instead.
    #[must_use]
    pub fn program(self, program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..self }
    }

    /// Without this scenario: one that is there to fail, say.
    #[must_use]
    pub fn except(mut self, scenario: &str) -> Self {
        self.except.push(scenario.to_owned());
        self
    }

    /// Lists or runs the trials, as the arguments of this process say: libtest's, which cargo-nextest uses.
    pub fn main(&self) -> ExitCode {
        let arguments = Arguments::from_args();
        libtest_mimic::run(&arguments, trials::trials(self)).exit_code()
    }

    /// The drills, and how many of nextest's threads each takes.
    pub fn drills(&self) -> Vec<(String, usize)> {
        trials::drills(self)
    }

    /// Whether a drill needs hardware virtualization: whoever has the time tries beforehand whether there is any.
    pub fn needs_kvm(&self) -> bool {
        trials::needs_kvm(self)
    }

    /// Trials that this host cannot run, and why.
    pub fn not_run(&self) -> Vec<NotRun> {
        trials::not_run(self)
    }
}
