//! The report of a drill: one versioned JSON document, `report.json` in the run directory. Every other form of the
//! result (terminal, text) is a rendering of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::acme_report::AcmeReport;
use crate::claim::{ClaimReport, Verdict};
use crate::mail_report::MailReport;
use crate::plan::{Pass, Stage};
use crate::restore_report::{LossReport, Mutant, RestoreReport};

/// The version of the report's form. A reader that knows schema 1 may rely on every field below; fields may be added.
pub const SCHEMA: u32 = 1;

/// Everything a drill found out. Times are RFC 3339 in UTC, durations are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `redrill` and its version.
    pub generator: String,
    /// The scenario's name.
    pub scenario: String,
    /// The scenario's own line about itself.
    pub summary: String,
    /// The commit of the servers repo that was deployed; empty if the drill ended before it was known.
    pub commit: String,
    /// Where that commit came from.
    pub source: Option<SourceReport>,
    /// When the drill began.
    pub started: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The verdicts, one per claim.
    pub claims: Vec<ClaimReport>,
    /// What each stage did.
    pub stages: Vec<StageReport>,
    /// What each deploy reported.
    pub deploys: Vec<DeployRun>,
    /// The machines.
    pub machines: Vec<MachineReport>,
    /// What was restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restores: Vec<RestoreReport>,
    /// What a round trip lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<LossReport>,
    /// Faults that were planted into the restored machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mutants: Vec<Mutant>,
    /// Mail that was caught, where the scenario names mail servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailReport>,
    /// Certificates that the drill's own authority issued, where the scenario names ACME servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeReport>,
    /// What the comparisons of machines cover, where machines were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeReport>,
    /// What the drill ran on.
    pub host: HostFacts,
    /// Versions of the tools that took part, by name.
    pub tools: BTreeMap<String, String>,
    /// What a reader must know to weigh the verdicts: what was not looked at, an open network, uncommitted changes.
    pub remarks: Vec<String>,
    /// The run directory, where the evidence lies.
    pub run_dir: String,
    /// The command that repeats the drill.
    pub repeat: String,
}

impl Report {
    /// The exit status of the command: 0 every declared claim is proven or waived, 1 a claim failed, 3 could not tell.
    /// (2, a wrong scenario or command line, never gets as far as a report.)
    pub fn exit_status(&self) -> u8 {
        let any = |verdict| self.claims.iter().any(|c| c.verdict == verdict);
        let answered = |c: &ClaimReport| matches!(c.verdict, Verdict::Proven | Verdict::Waived);
        if any(Verdict::Failed) {
            1
        } else if any(Verdict::Unproven) || !self.claims.iter().any(answered) {
            3
        } else {
            0
        }
    }
}

/// What PROVEN speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScopeReport {
    /// Kinds of state that are compared.
    pub compared: Vec<String>,
    /// What is not, by what it is: why.
    pub not_compared: BTreeMap<String, String>,
}

/// The servers repo as the drill saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceReport {
    /// The repository, or the directory inside a larger one.
    pub repo: String,
    /// Full commit id.
    pub commit: String,
    /// First line of the commit's message.
    pub title: String,
    /// Files with uncommitted changes: they were no part of the drill.
    pub uncommitted: Vec<String>,
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It did what it is for.
    Done,
    /// It gave an answer, and the answer is no.
    Failed,
    /// It could not give an answer.
    Unknown,
    /// It was not reached.
    NotRun,
}

/// One stage of the drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageReport {
    /// Which.
    #[serde(flatten)]
    pub stage: Stage,
    /// How it ended.
    pub status: Status,
    /// How long it took.
    pub seconds: f64,
    /// What happened, in a line.
    pub note: String,
}

/// What the deploy tool said about one run of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployRun {
    /// Which.
    pub pass: Pass,
    /// How long it took.
    pub seconds: f64,
    /// Exit status of the tool, absent when a signal ended it.
    pub exit: Option<i32>,
    /// Operations, counted once per host.
    pub operations: usize,
    /// Of these: sent at least one command.
    pub changed: usize,
    /// Of these: had nothing to do.
    pub unchanged: usize,
    /// Of these: ended in an error.
    pub failed: usize,
    /// Each operation on each host, in order.
    pub runs: Vec<OperationRun>,
}

/// One operation on one host in one deploy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperationRun {
    /// Place in the deploy, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// File and line in the servers repo.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub place: Option<String>,
    /// The item, where it is one of a loop.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub item: Option<String>,
    /// Inventory host.
    pub host: String,
    /// Where it ran, if elsewhere: another machine, or `localhost` for the controller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on: Option<String>,
    /// It only looks or speaks by nature, and changes no machine: facts, variables, messages.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub looks: bool,
    /// `changed`, `unchanged`, `failed`, `skipped`, or `ran` where the tool says nothing about changes.
    pub outcome: String,
    /// Seconds after the deploy began.
    pub started: f64,
    /// Seconds after the deploy began.
    pub ended: f64,
    /// It may rightly be absent from another run of the same deploy: a handler, or what runs when others fail.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub optional: bool,
    /// What could keep it from another run, in words: a condition around it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub condition: Option<String>,
    /// What it wrote to its error stream, where its command hides its own failure (`... || true`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hidden_error: Option<String>,
}

/// One machine of the drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineReport {
    /// Name, which is the inventory host's.
    pub name: String,
    /// The image it was booted from.
    pub image: ImageUsed,
    /// Seconds from start to a first command answered.
    pub boot_seconds: Option<f64>,
    /// What the captures counted, such as `files: 18233`, by moment and section.
    pub captures: BTreeMap<String, BTreeMap<String, usize>>,
    /// What the first deploy made of the clean machine, by section: counts of things added, changed, removed.
    pub became: BTreeMap<String, String>,
    /// Differences that the idle wait showed too, and so are nobody's doing.
    pub noise: Vec<String>,
    /// Differences left out for a stated reason, by reason: how many.
    pub left_out: BTreeMap<String, usize>,
}

/// The image a machine was booted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageUsed {
    /// Its directory's name.
    pub name: String,
    /// Digest of what went into it; empty if none was found or built.
    pub digest: String,
}

/// The host, as far as it bears on the result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostFacts {
    /// `kvm` or `tcg`.
    pub acceleration: String,
    /// Why that one.
    pub reason: String,
    /// Factor by which time limits were stretched.
    pub slowness: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Claim;

    fn report(verdicts: &[Verdict]) -> Report {
        let claims = verdicts.iter().map(|verdict| {
            let mut claim = ClaimReport::undeclared(Claim::Serves, "web");
            claim.verdict = *verdict;
            claim
        });
        Report {
            schema: SCHEMA,
            generator: String::new(),
            scenario: String::new(),
            summary: String::new(),
            commit: String::new(),
            source: None,
            started: String::new(),
            seconds: 0.0,
            claims: claims.collect(),
            stages: vec![StageReport {
                stage: Stage::Deploy(Pass::Second),
                status: Status::Done,
                seconds: 1.5,
                note: String::new(),
            }],
            deploys: Vec::new(),
            machines: Vec::new(),
            restores: Vec::new(),
            losses: Vec::new(),
            mutants: Vec::new(),
            mail: None,
            acme: None,
            scope: None,
            host: HostFacts::default(),
            tools: BTreeMap::new(),
            remarks: Vec::new(),
            run_dir: String::new(),
            repeat: String::new(),
        }
    }

    #[test]
    fn exit_status_is_the_worst_claim() {
        let status = |verdicts: &[Verdict]| report(verdicts).exit_status();
        assert_eq!(status(&[Verdict::Proven, Verdict::Waived, Verdict::Undeclared]), 0);
        assert_eq!(status(&[Verdict::Proven, Verdict::Unproven]), 3);
        assert_eq!(status(&[Verdict::Unproven, Verdict::Failed]), 1);
        assert_eq!(status(&[]), 3, "no claims answered is no success");
        assert_eq!(status(&[Verdict::Undeclared]), 3, "no claims answered is no success");
    }

    #[test]
    fn a_report_survives_the_round_trip() {
        let report = report(&[Verdict::Proven]);
        let text = serde_json::to_string(&report).expect("reports are plain data");
        assert!(text.contains(r#""schema":1"#) && text.contains(r#""stage":"deploy","of":"second""#), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("reads back"), report);
    }
}
