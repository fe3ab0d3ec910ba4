//! What was drilled, what is proven, and what speaks against it.

use redrill_model::{ClaimReport, Finding, Report, Severity, Verdict};

use super::{Line, ReportSection, SectionKind, Span, Tone, line, span};

/// The answer in a sentence.
pub(super) fn answer(report: &Report) -> ReportSection {
    let any = |verdict| report.claims.iter().any(|claim| claim.verdict == verdict);
    let answer = if any(Verdict::Failed) {
        span(Tone::Bad, "This commit is not proven to rebuild: a claim failed.")
    } else if report.exit_status() == 0 {
        span(Tone::Good, "Rebuilt from the repo and the keys alone: everything claimed is proven.")
    } else {
        span(Tone::Open, "The drill could not tell.")
    };
    let mut lines =
        vec![line!(0, span(Tone::Bold, &report.scenario), format!(": {}", report.summary)), line!(0, answer)];
    if let Some(source) = &report.source {
        let commit = &source.commit[..12.min(source.commit.len())];
        lines.push(line!(0, format!("Commit {commit} "), span(Tone::Dim, &source.title)));
    }
    ReportSection { kind: SectionKind::Answer, lines }
}

/// One line a claim, with how much was looked at.
pub(super) fn claims(report: &Report) -> ReportSection {
    ReportSection { kind: SectionKind::Claims, lines: report.claims.iter().map(claim).collect() }
}

fn claim(claim: &ClaimReport) -> Line {
    let counted = match claim.verdict {
        Verdict::Undeclared => String::new(),
        _ => format!("checked {} of {} {}: ", claim.checked, claim.declared, claim.unit),
    };
    let verdict = span(tone(claim.verdict), format!("{:<10}", claim.verdict));
    line!(2, format!("{:<15}  ", claim.claim), verdict, format!("  {counted}{}", claim.summary))
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Proven => Tone::Good,
        Verdict::Failed => Tone::Bad,
        Verdict::Unproven | Verdict::Waived => Tone::Open,
        Verdict::Undeclared => Tone::Dim,
    }
}

/// Every finding of a claim, a section each.
pub(super) fn findings(claim: &ClaimReport) -> impl Iterator<Item = ReportSection> {
    claim.findings.iter().map(|finding| {
        let at = finding.machine.as_ref().map(|machine| format!(" on {machine}")).unwrap_or_default();
        let claim = format!(" {} ", claim.claim);
        let mut lines = vec![line!(2, weight(finding), claim, span(Tone::Dim, finding.code.word()), at)];
        lines.push(line!(4, finding.summary.as_str()));
        lines.extend(detail(finding));
        ReportSection { kind: SectionKind::Finding, lines }
    })
}

fn weight(finding: &Finding) -> Span {
    match (finding.severity, &finding.waived) {
        (Severity::Fails, Some(_)) => span(Tone::Open, "waived"),
        (Severity::Fails, None) => span(Tone::Bad, "fails"),
        (Severity::Unknown, _) => span(Tone::Open, "unknown"),
        (Severity::Warning, _) => span(Tone::Open, "warning"),
        (Severity::Info, _) => span(Tone::Dim, "info"),
    }
}

fn detail(finding: &Finding) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(operation) = &finding.operation {
        let item = operation.item.as_ref().map(|item| format!(" [{item}]")).unwrap_or_default();
        let place = operation.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        let number = format!("operation {}: ", operation.number);
        lines.push(line!(4, number, span(Tone::Bold, &operation.name), format!("{item}{place}")));
    }
    lines.extend(finding.waived.as_ref().map(|waived| line!(4, format!("waived: {waived}"))));
    lines.extend(finding.evidence.iter().map(|evidence| line!(6, span(Tone::Dim, evidence))));
    for also in &finding.also {
        lines.push(line!(4, format!("also: {}", also.summary)));
        lines.extend(also.evidence.iter().map(|evidence| line!(6, span(Tone::Dim, evidence))));
    }
    lines
}
