//! Claims, findings and verdicts.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes::Code;

/// What a drill sets out to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// A clean machine, a checkout and the keys: the deploy ends well.
    Rebuilds,
    /// The second deploy changes nothing.
    Idempotent,
    /// Every check holds.
    Serves,
    /// After a reboot every check holds again.
    SurvivesReboot,
    /// Each backup comes back into an empty machine, and its data is shown to be right.
    Restores,
    /// Cut off between two operations, the next deploy reaches the same state, with nothing stale.
    Resumes,
}

impl Claim {
    /// All claims that this version can prove.
    pub const ALL: [Self; 6] =
        [Self::Rebuilds, Self::Idempotent, Self::Serves, Self::SurvivesReboot, Self::Restores, Self::Resumes];
    /// What a scenario claims that names no claims.
    pub const DEFAULT: [Self; 3] = [Self::Rebuilds, Self::Idempotent, Self::Serves];

    /// The name used in `scenario.toml` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rebuilds => "rebuilds",
            Self::Idempotent => "idempotent",
            Self::Serves => "serves",
            Self::SurvivesReboot => "survives-reboot",
            Self::Restores => "restores",
            Self::Resumes => "resumes",
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Looked at, and it holds.
    Proven,
    /// Looked at, and it does not hold.
    Failed,
    /// Could not tell.
    Unproven,
    /// It does not hold, and a waiver with reason, owner and expiry covers all of it.
    Waived,
    /// The scenario does not claim it.
    Undeclared,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Proven => "PROVEN",
            Self::Failed => "FAILED",
            Self::Unproven => "UNPROVEN",
            Self::Waived => "WAIVED",
            Self::Undeclared => "UNDECLARED",
        })
    }
}

/// What a finding does to the verdict it stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth mending; changes no verdict.
    Warning,
    /// The question stays open: the claim is UNPROVEN.
    Unknown,
    /// The claim does not hold.
    Fails,
}

/// The operation of the deploy that a finding is put down to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationRef {
    /// Place in the deploy, from 1.
    pub number: usize,
    /// The name that its author gave it.
    pub name: String,
    /// File and line in the servers repo, such as `tasks/notes.py:12`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub place: Option<String>,
    /// The item, where it is one of a loop.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub item: Option<String>,
}

/// What belongs to the same operation and cause as a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Also {
    /// What it is about.
    pub subject: String,
    /// One sentence for a person.
    pub summary: String,
    /// Lines of evidence.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evidence: Vec<String>,
}

/// One piece of evidence under a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Its kind, such as `REAL_CHANGE`: `redrill explain` tells what each means.
    pub code: Code,
    /// What it does to the verdict.
    pub severity: Severity,
    /// The machine it was seen on; absent for what concerns the whole drill.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<String>,
    /// What it is about: a path, a unit, a check's name.
    pub subject: String,
    /// One sentence for a person.
    pub summary: String,
    /// Who did it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operation: Option<OperationRef>,
    /// Lines of evidence: before and after, output.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evidence: Vec<String>,
    /// What else the same operation did in the same way: one fault is one finding.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub also: Vec<Also>,
    /// What further deploys made of a difference: `SETTLES_LATE`, `OSCILLATES` or `DIVERGES`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trend: Option<String>,
    /// The reason of the waiver that covers it, if one does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waived: Option<String>,
}

impl Finding {
    /// A finding about no machine in particular, without culprit or evidence. Its code says how severe it is.
    pub fn new(code: Code, subject: impl Into<String>, summary: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            machine: None,
            subject: subject.into(),
            summary: summary.into(),
            operation: None,
            evidence: Vec::new(),
            also: Vec::new(),
            trend: None,
            waived: None,
        }
    }
}

/// The verdict on one claim about one subject (a machine, or the scenario).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimReport {
    /// The claim.
    pub claim: Claim,
    /// What it was claimed of: the scenario's machines, in one word each.
    pub subject: String,
    /// The answer.
    pub verdict: Verdict,
    /// How many things were looked at.
    pub checked: usize,
    /// How many should have been.
    pub declared: usize,
    /// What `checked` and `declared` count: `operations`, `checks`.
    pub unit: String,
    /// One sentence for a person.
    pub summary: String,
    /// The evidence.
    pub findings: Vec<Finding>,
}

impl ClaimReport {
    /// Reaches a verdict from what was looked at.
    ///
    /// Nothing is PROVEN that was not looked at: with nothing declared, or less checked than declared, the best answer
    /// is UNPROVEN. A failure outweighs what stayed open, since one counterexample is enough.
    pub fn judge(
        claim: Claim,
        subject: impl Into<String>,
        (checked, declared, unit): (usize, usize, &str),
        findings: Vec<Finding>,
    ) -> Self {
        let open = |severity| findings.iter().any(|f| f.severity == severity && f.waived.is_none());
        let waived = findings.iter().any(|f| f.severity >= Severity::Unknown && f.waived.is_some());
        let verdict = if open(Severity::Fails) {
            Verdict::Failed
        } else if open(Severity::Unknown) {
            Verdict::Unproven
        } else if findings.iter().any(|f| f.code == Code::Unsealed) {
            // Somebody signs for that nothing was looked at on a host that cannot seal it.
            Verdict::Waived
        } else if declared == 0 || checked < declared {
            Verdict::Unproven
        } else if waived {
            Verdict::Waived
        } else {
            Verdict::Proven
        };
        Self {
            claim,
            subject: subject.into(),
            verdict,
            checked,
            declared,
            unit: unit.to_owned(),
            summary: String::new(),
            findings,
        }
    }

    /// The entry for a claim that the scenario does not make.
    pub fn undeclared(claim: Claim, subject: impl Into<String>) -> Self {
        Self {
            claim,
            subject: subject.into(),
            verdict: Verdict::Undeclared,
            checked: 0,
            declared: 0,
            unit: "claims".to_owned(),
            summary: "the scenario does not claim it, so nothing was looked at".to_owned(),
            findings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(counts: (usize, usize), findings: &[(Severity, bool)]) -> Verdict {
        let findings = findings.iter().map(|(severity, waived)| {
            let mut finding = Finding::new(Code::CheckFailed, "s", "t");
            finding.severity = *severity;
            finding.waived = waived.then(|| "because".to_owned());
            finding
        });
        ClaimReport::judge(Claim::Serves, "web", (counts.0, counts.1, "checks"), findings.collect()).verdict
    }

    #[test]
    fn nothing_is_proven_that_was_not_looked_at() {
        assert_eq!(verdict((0, 0), &[]), Verdict::Unproven);
        assert_eq!(verdict((2, 3), &[]), Verdict::Unproven);
        assert_eq!(verdict((3, 3), &[]), Verdict::Proven);
    }

    #[test]
    fn the_worst_finding_wins() {
        assert_eq!(verdict((3, 3), &[(Severity::Warning, false), (Severity::Info, false)]), Verdict::Proven);
        assert_eq!(verdict((3, 3), &[(Severity::Unknown, false)]), Verdict::Unproven);
        assert_eq!(verdict((1, 3), &[(Severity::Unknown, false), (Severity::Fails, false)]), Verdict::Failed);
        assert_eq!(verdict((3, 3), &[(Severity::Fails, true)]), Verdict::Waived);
        assert_eq!(verdict((3, 3), &[(Severity::Fails, true), (Severity::Fails, false)]), Verdict::Failed);
        assert_eq!(verdict((2, 3), &[(Severity::Fails, true)]), Verdict::Unproven);
    }
}
