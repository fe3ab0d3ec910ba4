//! The only place that prints. Results go to standard output, the story to standard error.

mod codes;
mod failure;
mod listener;
#[cfg(test)]
mod reference;
mod style;
mod tables;
mod view;

use std::io::Write;

use redrill_machines::Swept;
use redrill_model::Report;

pub(crate) use failure::{Failure, failure};
pub(crate) use listener::{Listener, Mode};
pub(crate) use tables::{Diagnosis, Health, canonicalisers, doctor, images, left, plan, pruned, scope};

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
        result_line(&view::text::text(report, style::for_stdout()));
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
    view::text::text(report, style::PLAIN)
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
