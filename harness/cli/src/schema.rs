//! `redrill schema`: the JSON Schema of a file that people write, or of the report.

use clap::ValueEnum;
use redrill_model::{image_schema, report_schema, scenario_schema};

use crate::{Ended, output};

/// Print the JSON Schema of scenario.toml, image.toml or report.json.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill schema scenario > scenario.schema.json    then, as the first line of scenario.toml:
  #:schema ./scenario.schema.json
  redrill schema report

Editors with a language server for TOML complete and check a file that names its schema like this.")]
pub(crate) struct Args {
    /// What it describes.
    #[arg(value_enum)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    Scenario,
    Image,
    Report,
}

pub(crate) fn exec(args: &Args) -> Ended {
    output::json(&match args.of {
        Of::Scenario => scenario_schema(),
        Of::Image => image_schema(),
        Of::Report => report_schema(),
    });
    Ok(0)
}
