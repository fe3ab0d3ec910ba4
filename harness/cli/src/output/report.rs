//! The report as text: plain sentences first, detail below.

use std::collections::BTreeMap;
use std::fmt::Write;

use redrill_model::{ClaimReport, Finding, Report, Severity, Status, Verdict};

use super::style::Style;
use super::{seconds, stage_name};

/// The whole text.
pub(super) fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    head(&mut out, report, style);
    for claim in &report.claims {
        claim_line(&mut out, claim, style);
    }
    for claim in &report.claims {
        findings(&mut out, claim, style);
    }
    super::restores::text(&mut out, report, style);
    machines(&mut out, report, style);
    for remark in &report.remarks {
        let _ = writeln!(out, "\nNote: {remark}");
    }
    foot(&mut out, report, style);
    out
}

fn head(out: &mut String, report: &Report, style: Style) {
    let any = |verdict| report.claims.iter().any(|claim| claim.verdict == verdict);
    let answer = if any(Verdict::Failed) {
        style.bad("This commit is not proven to rebuild: a claim failed.")
    } else if report.exit_status() == 0 {
        style.good("Rebuilt from the repo and the keys alone: everything claimed is proven.")
    } else {
        style.open("The drill could not tell.")
    };
    let _ = writeln!(out, "\n{}: {}\n{answer}", style.bold(&report.scenario), report.summary);
    if let Some(source) = &report.source {
        let _ = writeln!(out, "Commit {} {}", &source.commit[..12.min(source.commit.len())], style.dim(&source.title));
    }
    let _ = writeln!(out);
}

fn claim_line(out: &mut String, claim: &ClaimReport, style: Style) {
    let verdict = style.verdict(claim.verdict, &format!("{:<10}", claim.verdict));
    let counted = match claim.verdict {
        Verdict::Undeclared => String::new(),
        _ => format!("checked {} of {} {}: ", claim.checked, claim.declared, claim.unit),
    };
    let _ = writeln!(out, "  {:<15}  {verdict}  {counted}{}", claim.claim, claim.summary);
}

fn findings(out: &mut String, claim: &ClaimReport, style: Style) {
    for finding in &claim.findings {
        let word = match (finding.severity, &finding.waived) {
            (Severity::Fails, Some(_)) => style.open("waived"),
            (Severity::Fails, None) => style.bad("fails"),
            (Severity::Unknown, _) => style.open("unknown"),
            (Severity::Warning, _) => style.open("warning"),
            (Severity::Info, _) => style.dim("info"),
        };
        let at = finding.machine.as_ref().map(|machine| format!(" on {machine}")).unwrap_or_default();
        let _ = writeln!(out, "\n  {word} {} {}{at}", claim.claim, style.dim(finding.code.word()));
        let _ = writeln!(out, "    {}", finding.summary);
        detail(out, finding, style);
    }
}

fn detail(out: &mut String, finding: &Finding, style: Style) {
    if let Some(operation) = &finding.operation {
        let item = operation.item.as_ref().map(|item| format!(" [{item}]")).unwrap_or_default();
        let place = operation.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        let _ = writeln!(out, "    operation {}: {}{item}{place}", operation.number, style.bold(&operation.name));
    }
    if let Some(waived) = &finding.waived {
        let _ = writeln!(out, "    waived: {waived}");
    }
    for line in &finding.evidence {
        let _ = writeln!(out, "      {}", style.dim(line));
    }
}

fn machines(out: &mut String, report: &Report, style: Style) {
    for machine in &report.machines {
        let Some(counted) = machine.captures.values().next_back() else { continue };
        let _ = writeln!(out, "\n{}: compared {}", style.bold(&machine.name), compared(counted));
        let became: Vec<String> = machine.became.iter().map(|(section, text)| format!("{section} {text}")).collect();
        if !became.is_empty() {
            let _ = writeln!(out, "  the first deploy made of it: {}", became.join("; "));
        }
        for noise in &machine.noise {
            let _ = writeln!(out, "  {}", style.dim(&format!("noise: {noise}")));
        }
        for (reason, count) in &machine.left_out {
            let _ = writeln!(out, "  {}", style.dim(&format!("left out: {count} differences ({reason})")));
        }
    }
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

fn foot(out: &mut String, report: &Report, style: Style) {
    let _ = writeln!(out);
    for stage in report.stages.iter().filter(|stage| stage.status != Status::NotRun) {
        let line = format!("{:>12}  {}", seconds(stage.seconds), stage_name(stage.stage));
        let _ = writeln!(out, "{}", style.dim(&line));
    }
    let _ = writeln!(out, "{}", style.dim(&format!("{:>12}  in all", seconds(report.seconds))));
    let host = &report.host;
    let _ = writeln!(out, "\nHost      {} ({})", host.acceleration, host.reason);
    let mut findings = report.claims.iter().flat_map(|claim| &claim.findings);
    if let Some(finding) = findings.find(|finding| finding.severity >= Severity::Warning) {
        let _ = writeln!(out, "Explain   redrill explain {}", finding.code);
    }
    let _ = writeln!(out, "Evidence  {}", report.run_dir);
    let _ = write!(out, "Repeat    {}", report.repeat);
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
