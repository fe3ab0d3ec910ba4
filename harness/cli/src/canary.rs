//! `redrill canary`: plants a line in a live service, and finds it in what came back.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use redrill_model::{canary_age, canary_text};

use crate::Ended;
use crate::output::{self, Failure};

/// Plant a canary in a live service, or find it again.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  redrill canary plant notes --file /var/lib/notes/canary
  redrill canary plant notes -- curl -sf --data-binary @- http://127.0.0.1:8000/canary
  redrill canary find notes --file restored/canary --newest 26h

A canary is one line, `redrill-canary NAME 2026-11-24T03:00:00Z`: plant it before the backup is made. NAME is that of the
`[[backup]]`, whose `canary` under `[backup.oracle]` looks for it in a drill.")]
pub(crate) enum Args {
    /// Write it to a file, or hand it to a command; print it if neither is named.
    Plant(Planting),
    /// Say how old the newest one is; standard input by default. Exit status 1: none, or too old.
    Find(Find),
}

/// How to plant it.
#[derive(Debug, clap::Args)]
pub(crate) struct Planting {
    /// The backup's name in the scenario.
    name: String,
    /// A file that will hold nothing else.
    #[arg(long)]
    file: Option<PathBuf>,
    /// A command that gets it on standard input.
    #[arg(last = true, conflicts_with = "file")]
    command: Vec<String>,
}

/// Where to look for it.
#[derive(Debug, clap::Args)]
pub(crate) struct Find {
    /// The backup's name in the scenario.
    name: String,
    /// The file that holds it, among other text if need be.
    #[arg(long)]
    file: Option<PathBuf>,
    /// The oldest that it may be.
    #[arg(long, value_parser = humantime::parse_duration)]
    newest: Option<Duration>,
}

pub(crate) fn exec(args: &Args) -> Ended {
    match args {
        Args::Plant(plant) => self::plant(plant),
        Args::Find(find) => self::find(find),
    }
}

fn plant(args: &Planting) -> Ended {
    if args.name.contains(char::is_whitespace) || args.name.is_empty() {
        return Err(Failure::usage("the name of a canary is one word"));
    }
    let text = canary_text(&args.name, SystemTime::now());
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::unknown("cannot plant the canary", error);
    match (&args.file, args.command.split_first()) {
        (Some(path), _) => std::fs::write(path, format!("{text}\n")).map_err(|error| failed(&error))?,
        (None, Some((program, arguments))) => {
            let mut child =
                Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(format!("{text}\n").as_bytes()).map_err(|error| failed(&error))?;
            }
            let status = child.wait().map_err(|error| failed(&error))?;
            if !status.success() {
                return Err(Failure::usage(&format!("`{program}` did not take the canary: {status}")));
            }
        }
        (None, None) => output::raw(format!("{text}\n").as_bytes())?,
    }
    Ok(0)
}

fn find(args: &Find) -> Ended {
    let mut text = Vec::new();
    let read = match &args.file {
        Some(path) => std::fs::read(path).map(|read| text = read),
        None => std::io::stdin().read_to_end(&mut text).map(drop),
    };
    read.map_err(|error| Failure::unknown("cannot look for the canary", &error))?;
    match canary_age(&args.name, &String::from_utf8_lossy(&text), SystemTime::now()) {
        None => {
            output::raw(format!("no canary `{}`\n", args.name).as_bytes())?;
            Ok(1)
        }
        Some(age) => {
            let whole = Duration::from_secs(age.as_secs());
            output::raw(format!("canary `{}` is {} old\n", args.name, humantime::format_duration(whole)).as_bytes())?;
            Ok(u8::from(args.newest.is_some_and(|newest| age > newest)))
        }
    }
}
