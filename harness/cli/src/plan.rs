//! `redrill plan`: what a drill would do.

use std::path::PathBuf;

use redrill_engine::load;

use crate::run::Format;
use crate::{Ended, output};

/// Print the stages of a drill; boots nothing and builds nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill plan scenarios/web
  redrill plan scenarios/web --format json | jq .stages")]
pub(crate) struct Args {
    /// Directory with a scenario.toml, or the file itself.
    scenario: PathBuf,
    /// Form of the plan.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(crate) fn exec(args: &Args) -> Ended {
    let loaded = load(&args.scenario)?;
    output::plan(&loaded, args.format == Format::Json);
    Ok(0)
}
