//! `redrill plan`: what a drill would do, and what it would leave out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use redrill_engine::{canonicalisers, load};
use redrill_machines::Amount;

use crate::run::ReportFormat;
use crate::{Ended, Failure, home, output};

/// Print the stages of a drill; boots nothing and builds nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill plan scenarios/web
  redrill plan scenarios/web --format json | jq .stages
  redrill plan --canonicalisers        which differences are left out, why, and how often that happened
  redrill plan --scope                 what is compared when a second deploy is judged, and what is not")]
pub(crate) struct Args {
    /// Directory with a scenario.toml, or the file itself.
    #[arg(required_unless_present_any = ["canonicalisers", "scope"])]
    scenario: Option<PathBuf>,
    /// List the differences that are left out when a second deploy is judged: name, reason, places, and how many the
    /// reports of earlier drills counted.
    #[arg(long, conflicts_with = "scenario")]
    canonicalisers: bool,
    /// List what is compared when a second deploy is judged, and what is not: PROVEN speaks of nothing else.
    #[arg(long, conflicts_with_all = ["scenario", "canonicalisers"])]
    scope: bool,
    /// Form of the plan.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

pub(crate) fn exec(args: &Args) -> Ended {
    let json = args.format == ReportFormat::Json;
    match &args.scenario {
        Some(scenario) => {
            let loaded = load(scenario)?;
            loaded.fits(loaded.scenario.backend, Amount::of_host(None).memory_mib)?;
            output::plan(&loaded, json);
        }
        None if args.scope => output::scope(json),
        None => {
            let (reports, hits) = hits().map_err(|error| Failure::unknown("cannot read an earlier report", &error))?;
            output::canonicalisers(&canonicalisers(), reports, &hits, json);
        }
    }
    Ok(0)
}

/// How many reports earlier drills left, and how many differences they left out, by reason.
fn hits() -> std::io::Result<(usize, BTreeMap<String, u64>)> {
    let (mut reports, mut hits) = (0, BTreeMap::new());
    for run in home().run_dirs() {
        let text = match std::fs::read_to_string(run.join("report.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue, // It ended before its report.
            Err(error) => return Err(error),
        };
        let report: serde_json::Value = serde_json::from_str(&text)?;
        reports += 1;
        for machine in report["machines"].as_array().into_iter().flatten() {
            for (reason, count) in machine["left_out"].as_object().into_iter().flatten() {
                *hits.entry(reason.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
        }
    }
    Ok((reports, hits))
}
