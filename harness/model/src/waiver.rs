//! Waivers: failures accepted for a while, which rot loudly.

use std::fmt;

use crate::claim::{Claim, Finding, Severity};
use crate::codes::Code;

/// What a waiver covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waived {
    /// Whatever this operation did.
    Operation(String),
    /// Whatever happened to this path, unit, or check.
    Path(String),
}

/// A failure accepted for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// The claim it softens.
    pub claim: Claim,
    /// What it covers.
    pub covers: Waived,
    /// Why.
    pub reason: String,
    /// Who answers for it.
    pub by: String,
    /// Last day on which it counts, as an ISO date.
    pub until: String,
}

impl Waiver {
    /// Whether `finding` is what this waiver is about.
    pub fn covers(&self, finding: &Finding) -> bool {
        match &self.covers {
            Waived::Operation(name) => finding.operation.as_ref().is_some_and(|o| o.name == *name),
            Waived::Path(path) => finding.subject == *path,
        }
    }
}

impl Waiver {
    /// Whether it accepts what a host cannot do: on another host there is nothing to accept, and it is no less needed.
    fn is_of_the_host(&self) -> bool {
        self.covers == Waived::Path("sandbox".to_owned())
    }
}

impl fmt::Display for Waiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.covers {
            Waived::Operation(name) => write!(f, "operation `{name}`"),
            Waived::Path(path) => write!(f, "`{path}`"),
        }
    }
}

/// Marks the findings of a claim that one of its waivers covers, and adds a failing one for each waiver that rotted: past its
/// date on `today` (an ISO date), or covering nothing in a drill that got far enough to tell (`complete`).
pub fn apply_waivers<'a>(
    waivers: impl Iterator<Item = &'a Waiver>,
    today: &str,
    complete: bool,
    findings: &mut Vec<Finding>,
) {
    for waiver in waivers {
        let expired = waiver.until.as_str() < today;
        let mut covered = 0;
        for finding in findings.iter_mut().filter(|f| can_be_waived(f) && waiver.covers(f)) {
            covered += 1;
            if !expired {
                finding.waived = Some(format!("{} (by {}, until {})", waiver.reason, waiver.by, waiver.until));
            }
        }
        if expired {
            let text = format!("the waiver of {} for {waiver} ended on {}", waiver.by, waiver.until);
            findings.push(Finding::new(Code::WaiverExpired, waiver.to_string(), text));
        } else if covered == 0 && complete && !waiver.is_of_the_host() {
            let text = format!("the waiver of {} for {waiver} covers nothing any more: remove it", waiver.by);
            findings.push(Finding::new(Code::WaiverUnused, waiver.to_string(), text));
        }
    }
}

/// What stayed open is open, whoever signs for it; but for what the sandbox held back, or could not.
fn can_be_waived(finding: &Finding) -> bool {
    finding.severity == Severity::Fails || SANDBOX.contains(&finding.code)
}

/// Findings of the sandbox that leave a claim open.
const SANDBOX: [Code; 2] = [Code::Outside, Code::Unsealed];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{ClaimReport, Verdict};

    #[test]
    fn waivers_cover_and_rot() {
        let waiver = Waiver {
            claim: Claim::Idempotent,
            covers: Waived::Path("/etc/motd".to_owned()),
            reason: "upstream bug".to_owned(),
            by: "ada".to_owned(),
            until: "2026-12-31".to_owned(),
        };
        let run = |subject: &str, today: &str, complete| {
            let mut findings = vec![Finding::new(Code::RealChange, subject, "changed")];
            apply_waivers(std::iter::once(&waiver), today, complete, &mut findings);
            let report = ClaimReport::judge(Claim::Idempotent, "web", (1, 1, "operations"), findings);
            (report.verdict, report.findings.last().map(|f| f.code))
        };
        assert_eq!(run("/etc/motd", "2026-12-31", true), (Verdict::Waived, Some(Code::RealChange)));
        assert_eq!(run("/etc/motd", "2027-01-01", true), (Verdict::Failed, Some(Code::WaiverExpired)));
        assert_eq!(run("/etc/hosts", "2026-12-31", true), (Verdict::Failed, Some(Code::WaiverUnused)));
        assert_eq!(run("/etc/hosts", "2026-12-31", false), (Verdict::Failed, Some(Code::RealChange)));
    }

    #[test]
    fn a_waiver_of_the_sandbox_covers_what_was_not_run_and_is_of_no_harm_where_it_was() {
        let waiver = Waiver {
            claim: Claim::Rebuilds,
            covers: Waived::Path("sandbox".to_owned()),
            reason: "CI has neither".to_owned(),
            by: "ada".to_owned(),
            until: "2026-12-31".to_owned(),
        };
        let run = |code, today: &str, complete| {
            let mut findings = vec![Finding::new(code, "sandbox", "not run")];
            apply_waivers(std::iter::once(&waiver), today, complete, &mut findings);
            ClaimReport::judge(Claim::Rebuilds, "web", (0, 0, "operations"), findings).verdict
        };
        assert_eq!(run(Code::Unsealed, "2026-12-31", false), Verdict::Waived);
        assert_eq!(run(Code::NotRun, "2026-12-31", false), Verdict::Unproven);
        assert_eq!(run(Code::Unsealed, "2027-01-01", false), Verdict::Failed);
        let mut none = Vec::new();
        apply_waivers(std::iter::once(&waiver), "2026-12-31", true, &mut none);
        assert_eq!(none, []);
    }
}
