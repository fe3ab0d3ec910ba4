//! What redrill starts itself as: guards, carriers of connections. Not for people.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use redrill_machines::{process, relay_pump};

use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Runs a program that ends when the leash (standard input) is let go.
    #[command(hide = true)]
    Guard {
        /// The file of the drill's place in the budget.
        #[arg(long)]
        place: Option<PathBuf>,
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Becomes a program that dies with its parent.
    #[command(hide = true)]
    Leashed {
        parent: u32,
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Removes a run's containers when the leash (standard input) is let go.
    #[command(hide = true)]
    Reap {
        /// The same, held while kept containers run.
        #[arg(long)]
        place: Option<PathBuf>,
        run: PathBuf,
    },
    /// Stands between a sealed program and the world.
    #[command(hide = true)]
    Warden {
        /// Where the cell lies.
        place: PathBuf,
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Runs a program in a container of the engine, which is its sandbox.
    #[command(hide = true)]
    Enclose {
        /// The owner of our files, as the container sees them.
        #[arg(long)]
        user: u32,
        /// And their group.
        #[arg(long)]
        group: u32,
        /// Where the cell lies.
        place: PathBuf,
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Stands between a sealed program and the world, as the first process of a container.
    #[command(hide = true)]
    Enclosed,
    /// Becomes a sealed program, under the filter of system calls.
    #[command(hide = true)]
    Sealed {
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Carries standard input and output to a socket.
    #[command(hide = true)]
    Relay { target: PathBuf },
}

pub(crate) fn exec(args: Args) -> ExitCode {
    if let Err(error) = process::inherit_nothing() {
        output::story(&format!("redrill: cannot close what was inherited: {error}"));
        return ExitCode::from(126);
    }
    let failed = match args {
        Args::Guard { place, words } => match process::guard(&words, place.as_deref()) {
            Ok(code) => return code,
            Err(error) => error,
        },
        Args::Leashed { parent, words } => process::leashed(parent, &words),
        Args::Reap { place, run } => {
            redrill_machines::reap(&run, place.as_deref());
            return ExitCode::SUCCESS;
        }
        Args::Warden { place, words } => return redrill_sandbox::warden(&place, &words),
        Args::Enclose { user, group, place, words } => return enclose((user, group), &place, &words),
        Args::Enclosed => match redrill_sandbox::enclosed() {
            Ok(code) => return code,
            Err(error) => error,
        },
        Args::Sealed { words } => redrill_sandbox::sealed(&words),
        Args::Relay { target } => match relay_pump(&target) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => error,
        },
    };
    output::story(&format!("redrill: {failed}"));
    ExitCode::from(126)
}

fn enclose(user: (u32, u32), place: &Path, words: &[OsString]) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::story(&format!("redrill: {error}"));
            return ExitCode::from(126);
        }
    };
    let code = runtime.block_on(redrill_machines::container::enclose(user, place, words));
    // A thread that waits for a container that never came is not worth waiting for.
    runtime.shutdown_background();
    code
}
