//! What was compared on the machines, how long it took, and where the evidence lies.

use std::collections::BTreeMap;

use redrill_model::{MachineReport, Report, ScopeReport, Severity, Status};

use super::{ReportSection, SectionKind, Tone, line, span};
use crate::output::seconds;

/// What was compared on a machine, and what was left out; none for one that was never captured.
pub(super) fn machine(machine: &MachineReport) -> Option<ReportSection> {
    let counted = machine.captures.values().next_back()?;
    let mut lines = vec![line!(0, span(Tone::Bold, &machine.name), format!(": compared {}", compared(counted)))];
    let became: Vec<String> = machine.became.iter().map(|(section, text)| format!("{section} {text}")).collect();
    if !became.is_empty() {
        lines.push(line!(2, format!("the first deploy made of it: {}", became.join("; "))));
    }
    lines.extend(machine.noise.iter().map(|noise| line!(2, span(Tone::Dim, format!("noise: {noise}")))));
    lines.extend(machine.left_out.iter().map(|(reason, count)| {
        let text = format!("left out: {count} differences ({reason})");
        line!(2, span(Tone::Dim, text))
    }));
    Some(ReportSection { kind: SectionKind::Machine, lines })
}

/// The sections that everybody knows, and the others in sum: all of them stand in report.json.
const NAMED: [&str; 6] = ["files", "packages", "users", "groups", "units", "sockets"];

fn compared(counted: &BTreeMap<String, usize>) -> String {
    let named = NAMED.iter().filter_map(|name| counted.get(*name).map(|count| format!("{count} {name}")));
    let others = counted.iter().filter(|(name, count)| !NAMED.contains(&name.as_str()) && **count > 0);
    let (kinds, entries) = others.fold((0, 0), |(kinds, entries), (_, count)| (kinds + 1, entries + count));
    let rest = (kinds > 0).then(|| format!("and {entries} entries of {kinds} other kinds"));
    named.chain(rest).collect::<Vec<_>>().join(", ")
}

/// What PROVEN speaks of.
pub(super) fn scope(scope: &ScopeReport) -> ReportSection {
    let compared = format!("Compared on every machine: {}", scope.compared.join(", "));
    let mut lines = vec![line!(0, span(Tone::Dim, compared)), line!(0, "Not compared:")];
    lines.extend(
        scope.not_compared.iter().map(|(what, why)| line!(2, what.as_str(), span(Tone::Dim, format!(": {why}")))),
    );
    ReportSection { kind: SectionKind::Scope, lines }
}

/// Something that a reader must know.
pub(super) fn note(remark: &str) -> ReportSection {
    ReportSection { kind: SectionKind::Note, lines: vec![line!(0, format!("Note: {remark}"))] }
}

/// How long each stage took.
pub(super) fn stages(report: &Report) -> ReportSection {
    let ran = report.stages.iter().filter(|stage| stage.status != Status::NotRun);
    let timed = ran.map(|stage| (seconds(stage.seconds), stage.stage.name()));
    let all = timed.chain([(seconds(report.seconds), "in all")]);
    let lines = all.map(|(took, what)| line!(0, span(Tone::Dim, format!("{took:>12}  {what}")))).collect();
    ReportSection { kind: SectionKind::Stages, lines }
}

/// Where it ran, what explains the first thing that weighs, where the evidence lies, and how to repeat it.
pub(super) fn place(report: &Report) -> ReportSection {
    let host = &report.host;
    let mut lines = vec![line!(0, format!("Host      {} ({})", host.acceleration, host.reason))];
    let mut findings = report.claims.iter().flat_map(|claim| &claim.findings);
    if let Some(finding) = findings.find(|finding| finding.severity >= Severity::Warning) {
        lines.push(line!(0, format!("Explain   redrill explain {}", finding.code)));
    }
    lines.push(line!(0, format!("Evidence  {}", report.run_dir)));
    lines.push(line!(0, format!("Repeat    {}", report.repeat)));
    ReportSection { kind: SectionKind::Place, lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sections_that_everybody_knows_are_named_and_the_rest_is_counted() {
        let counted = [("files", 5), ("cron jobs", 2), ("mounts", 3), ("swaps", 0), ("units", 1)];
        let mut counted: BTreeMap<String, usize> = counted.map(|(name, count)| (name.to_owned(), count)).into();
        assert_eq!(compared(&counted), "5 files, 1 units, and 5 entries of 2 other kinds");
        counted.retain(|name, _| name == "files");
        assert_eq!(compared(&counted), "5 files");
    }
}
