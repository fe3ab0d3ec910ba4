//! `redrill clean`: ends kept machines, removes what runs left.

use std::path::PathBuf;

use redrill_machines::{Home, RunDir};

use crate::output::Failure;
use crate::{Ended, home, output};

/// End kept machines and remove what killed runs left; reports and logs stay unless --all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill clean                        every kept or killed run
  redrill clean web-20261122-221500
  redrill clean --check                what is there; removes nothing
  redrill clean --all                  also the run directories themselves, with their reports")]
pub(crate) struct Args {
    /// Runs, by the names of their directories; all that are not going on by default.
    runs: Vec<String>,
    /// Remove whole run directories, with reports and logs.
    #[arg(long)]
    all: bool,
    /// Remove nothing; list what is left of runs that are over, and exit with status 1 if there is anything.
    #[arg(long, conflicts_with_all = ["runs", "all"])]
    check: bool,
}

pub(crate) fn exec(args: &Args) -> Ended {
    let home = home();
    if args.check {
        return Ok(check(&home));
    }
    let name = |run: &PathBuf| run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let runs = home.run_dirs();
    if let Some(unknown) = args.runs.iter().find(|wanted| !runs.iter().any(|run| name(run) == **wanted)) {
        return Err(Failure::usage(&format!("there is no run `{unknown}` in {}", home.runs().display())));
    }
    let wanted = |run: &&PathBuf| args.runs.is_empty() || args.runs.contains(&name(run));
    let mut stays = 0;
    for run in runs.iter().filter(wanted) {
        if RunDir::is_live(run) {
            output::story(&format!("{} is going on, or its reaper is still ending it: left alone", run.display()));
            continue;
        }
        let swept = RunDir::clean(run);
        if let Some(why) = &swept.stays {
            // Its directory says where it stands: it stays too.
            output::story(&format!("{} is not clean: {why}", run.display()));
            stays += 1;
            continue;
        }
        if args.all {
            std::fs::remove_dir_all(run).map_err(|error| Failure::unknown("cannot remove a run directory", &error))?;
        }
        if args.all || swept.count() > 0 {
            let what = if args.all { "removed" } else { "cleaned" };
            output::story(&format!(
                "{what} {} ({} processes, {} containers, {} files)",
                run.display(),
                swept.processes,
                swept.containers,
                swept.files
            ));
        }
    }
    if args.runs.is_empty() {
        redrill_engine::sweep_home(&home);
    }
    match stays {
        0 => Ok(0),
        _ => Err(Failure::with_mend("the container engine keeps something of these runs", "redrill clean, again")),
    }
}

fn check(home: &Home) -> u8 {
    let left = home.left();
    output::left(&left);
    u8::from(!left.is_empty())
}
