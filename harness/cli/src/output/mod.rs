//! The only place that prints. Results go to standard output, the story to standard error.

mod codes;
mod failure;
mod listener;
#[cfg(test)]
mod reference;
mod report;
mod style;
mod tables;
mod view;

use std::io::Write;

use redrill_machines::Swept;
use redrill_model::{After, Moment, Pass, Report, Stage};

pub(crate) use failure::{Failure, failure};
pub(crate) use listener::{Listener, Mode};
pub(crate) use tables::{Finding, Health, canonicalisers, doctor, images, left, plan, pruned, scope};

/// A line of the story.
pub(crate) fn story(line: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line of the result.
pub(crate) fn result_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What a sweep of earlier runs found.
pub(crate) fn swept(found: &[Swept]) {
    for swept in found {
        story(&format!(
            "swept what a killed run left: {} processes, {} containers, {} files in {}",
            swept.processes,
            swept.containers,
            swept.files,
            swept.run.display()
        ));
    }
}

/// Text as it is, for programs: what does not arrive whole is an error.
pub(crate) fn raw(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    written.map_err(|error| Failure::unknown("cannot write the result", &error))
}

/// The report, on standard output.
pub(crate) fn result(report: &Report, json: bool) {
    if json {
        result_line(&serde_json::to_string_pretty(report).unwrap_or_default());
    } else {
        result_line(&report::text(report, style::for_stdout()));
    }
}

/// A JSON document, on standard output.
pub(crate) fn json(document: &serde_json::Value) {
    result_line(&serde_json::to_string_pretty(document).unwrap_or_default());
}

/// What a code means, on standard output.
pub(crate) fn code(code: redrill_model::Code) {
    result_line(&codes::one(code, style::for_stdout()));
}

/// Every code, a line each.
pub(crate) fn codes() {
    result_line(&codes::list(style::for_stdout()));
}

/// The report as a plain text file.
pub(crate) fn report_text(report: &Report) -> String {
    report::text(report, style::PLAIN)
}

/// What people call a stage.
pub(crate) fn stage_name(stage: Stage) -> String {
    match stage {
        Stage::Controller => "checkout and deploy tool",
        Stage::Images => "base images",
        Stage::Boot => "boot clean machines",
        Stage::Deploy(Pass::First) => "first deploy",
        Stage::Deploy(Pass::Second) => "second deploy",
        Stage::Deploy(Pass::Third) => "third deploy",
        Stage::Deploy(Pass::Rebuilt) => "deploy into the clean machines",
        Stage::Deploy(Pass::Restored) => "deploy after the restore",
        Stage::Deploy(Pass::Fourth) => "fourth deploy",
        Stage::Capture(Moment::Clean) => "capture the clean state",
        Stage::Capture(Moment::Deployed) => "capture after the first deploy",
        Stage::Capture(Moment::Redeployed) => "capture after the second deploy",
        Stage::Capture(Moment::Idled) => "capture after idling, compare",
        Stage::Capture(Moment::BackedUp) => "capture with the data that was backed up",
        Stage::Capture(Moment::Restored) => "capture after the restore",
        Stage::Capture(Moment::Settled) => "capture after that deploy, compare the data",
        Stage::Twin => "freeze, fork twins",
        Stage::Idle => "idle",
        Stage::Trend => "follow what differs",
        Stage::Capture(Moment::Third) => "capture after the third deploy",
        Stage::Capture(Moment::Fourth) => "capture after the fourth deploy",
        Stage::Check => "checks",
        Stage::BackUp => "fill the service, run its backup job",
        Stage::Renew => "clean machines in place of the old",
        Stage::Restore => "restore",
        Stage::Reboot => "reboot",
        Stage::Resume => "cut deploys off, deploy again",
        Stage::Deploy(Pass::Resumed) => "deploy after a cut",
        Stage::Mutate => "plant faults",
        Stage::CheckAgain(After::Redeploy) => "checks after that deploy",
        Stage::CheckAgain(After::Reboot) => "checks after the reboot",
        Stage::Teardown => "end machines",
    }
    .to_owned()
}

/// `95 s` or `3 min 5 s`.
fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}
