//! `redrill`: the command line. One file per command; only `output` prints.

mod accel;
mod canary;
mod clean;
mod completions;
mod doctor;
mod environment;
mod explain;
mod idempotence;
mod image;
mod internal;
mod man;
mod manifest;
mod output;
mod plan;
mod repeat;
mod run;
mod schema;
mod shell;
mod status;
mod test;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use output::Failure;

/// Proves that infrastructure can be rebuilt from its repo: boots clean machines, deploys twice, checks every service.
#[derive(Debug, Parser)]
#[command(name = "redrill", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  redrill doctor                     what this host can do, and what mends what it can't
  redrill plan scenarios/web         what a drill would do; boots nothing
  redrill run scenarios/web          the drill
  redrill idempotence ~/servers      deploys a servers repo twice, without a scenario
  redrill test                       all drills below ./scenarios, as tests of cargo-nextest
  redrill run scenarios/web --keep-on-failure && redrill shell
  redrill explain REAL_CHANGE        what a word in a report means, and what mends it

Exit status: 0 every declared claim is proven or waived, 1 a claim failed,
2 the scenario or the command line is wrong, 3 could not tell.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Idempotence(idempotence::Args),
    Plan(plan::Args),
    Test(test::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    #[command(subcommand)]
    Image(image::Args),
    Shell(shell::Args),
    Clean(clean::Args),
    Manifest(manifest::Args),
    #[command(subcommand)]
    Canary(canary::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(flatten)]
    Internal(internal::Args),
}

/// What a command ends with; `main` maps it to the process's exit status.
type Ended = Result<u8, Failure>;

fn main() -> ExitCode {
    redrill_machines::process::pass_nothing_on();
    // cargo-nextest calls this program by another name.
    if let Some(code) = test::as_test_binary() {
        return code;
    }
    let ended = match Cli::parse().command {
        // These run once for each process or connection: without a runtime.
        Command::Internal(args) => return internal::exec(args),
        Command::Explain(args) => explain::exec(&args),
        Command::Plan(args) => plan::exec(&args),
        Command::Test(args) => test::exec(&args),
        Command::Shell(args) => shell::exec(&args),
        Command::Clean(args) => clean::exec(&args),
        Command::Manifest(args) => manifest::exec(&args),
        Command::Canary(args) => canary::exec(&args),
        Command::Schema(args) => schema::exec(&args),
        Command::Completions(args) => completions::exec(&args),
        Command::Man(args) => man::exec(&args),
        Command::Run(args) => runtime(run::exec(args)),
        Command::Idempotence(args) => runtime(idempotence::exec(args)),
        Command::Doctor(args) => runtime(doctor::exec(args)),
        Command::Image(args) => runtime(image::exec(args)),
    };
    match ended {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

fn runtime(command: impl Future<Output = Ended>) -> Ended {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::unknown("cannot start the runtime", &error))?;
    let ended = runtime.block_on(command);
    // A thread that reads a capture, say, is not worth waiting for.
    runtime.shutdown_background();
    ended
}

/// The command line as people see it: without what redrill only calls itself.
fn visible() -> clap::Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = clap::Command::new("redrill").version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    command = command.subcommand_required(true).after_help(EXAMPLES).subcommands(shown.collect::<Vec<_>>());
    match whole.get_about() {
        Some(about) => command.about(about.clone()),
        None => command,
    }
}

/// The harness's places, from the environment.
fn home() -> redrill_machines::Home {
    redrill_machines::Home::from_environment(|name| std::env::var_os(name).map(Into::into))
}

/// This program, for guards.
fn program() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::unknown("cannot find the redrill program", &error))
}
