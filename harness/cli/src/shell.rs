//! `redrill shell`: into a machine that was kept.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use redrill_machines::RunDir;

use crate::output::Failure;
use crate::{Ended, home};

/// Open a shell in a machine kept by `run --keep` or `--keep-on-failure`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill shell                            the only machine of the newest kept run
  redrill shell web.example.org
  redrill shell web.example.org --run web-20261122-221500 -- journalctl -u nginx")]
pub(crate) struct Args {
    /// Its name; may be left out if there is only one.
    machine: Option<String>,
    /// The run, by the name of its directory; the newest kept one by default.
    #[arg(long)]
    run: Option<String>,
    /// A command instead of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn exec(args: &Args) -> Ended {
    let home = home();
    let mut kept: Vec<PathBuf> = home.run_dirs().into_iter().filter(|run| RunDir::is_kept(run)).collect();
    if let Some(name) = &args.run {
        kept.retain(|run| run.file_name().is_some_and(|file| file.to_string_lossy() == *name));
    }
    let Some(run) = kept.pop() else {
        return Err(Failure::usage("no machines are kept: redrill run SCENARIO --keep"));
    };
    let entries = std::fs::read_dir(run.join("machines")).into_iter().flatten().flatten();
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let machine = match (&args.machine, names.as_slice()) {
        (Some(name), _) if names.contains(name) => name.clone(),
        (None, [only]) => only.clone(),
        _ => return Err(Failure::usage(&format!("name a machine of {}: {}", run.display(), names.join(", ")))),
    };
    let directory = run.join("machines").join(&machine);
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(directory.join("ssh_config")).arg(&machine).args(&args.command);
    Err(Failure::unknown("cannot start ssh", &ssh.exec()))
}
