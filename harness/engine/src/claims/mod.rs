//! What a drill gathered for its claims, and the verdicts made of it. Pure but for reading captures back.

mod executed;
mod fold;
pub(crate) mod idempotent;
mod rebuilds;
pub(crate) mod restores;
pub(crate) mod resumes;
pub(crate) mod serves;
mod survives_reboot;

use std::collections::BTreeMap;

use redrill_model::{Claim, ClaimReport, Code, Finding, HostFacts, Pass, Scenario, Severity, Stage, apply_waivers};
use redrill_state::Observed;

use crate::deploy::tools::{Deployed, Ended};
use crate::facts::{Checks, Deploys};
use crate::problem::Problem;
use idempotent::Comparison;
use restores::{Restores, restored_summary};
use resumes::Cuts;

/// Everything that verdicts are made of. A slot that is empty was not looked at.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) deploys: Deploys,
    pub(crate) checks: Checks,
    /// What the captures say of the second deploy.
    pub(crate) compared: Comparison,
    pub(crate) restores: Restores,
    /// Cuts; none where the stage never ran.
    pub(crate) cuts: Option<Cuts>,
    /// What the repo's programs wanted of the world, as findings.
    pub(crate) wanted: Vec<Finding>,
    /// What a reader must know of the sandbox beside that.
    pub(crate) sandbox: Vec<String>,
    /// Why the drill did not get to its end.
    pub(crate) stopped: Option<Problem>,
    /// How long each stage took, in seconds.
    pub(crate) took: Vec<(Stage, f64)>,
}

impl Facts {
    /// The first reason is the one that counts.
    pub(crate) fn stop(&mut self, problem: Problem) {
        self.stopped.get_or_insert(problem);
    }

    /// Seconds that a stage took; 0 if it did not run.
    pub(crate) fn seconds(&self, wanted: Stage) -> f64 {
        self.took.iter().find(|(stage, _)| *stage == wanted).map_or(0.0, |(_, seconds)| *seconds)
    }

    /// Something that a stage relied on was lost meanwhile: whatever came of the stage may have come of that.
    pub(crate) fn discard(&mut self, stage: Stage, why: &str) {
        self.stopped = None;
        match stage {
            Stage::Deploy(pass) => self.deploys.discard(pass, why),
            Stage::Check => self.checks.discard(None),
            Stage::CheckAgain(after) => self.checks.discard(Some(after)),
            Stage::Resume => self.cuts.iter_mut().for_each(|cuts| cuts.done.clear()),
            // Named one by one: whoever adds a stage says here what of it cannot be relied on.
            Stage::Controller | Stage::Images | Stage::Boot | Stage::Capture(_) | Stage::Twin | Stage::Idle => {}
            Stage::Trend | Stage::BackUp | Stage::Renew | Stage::Restore | Stage::Mutate | Stage::Reboot => {}
            Stage::Teardown => {}
        }
    }
}

/// Findings of one kind and operation beyond this are counted, and stand in the captures.
const SHOWN: usize = 25;

/// One verdict for each claim this version knows. `today` is an ISO date.
pub(crate) fn claims(scenario: &Scenario, facts: &Facts, host: &HostFacts, today: &str) -> Vec<ClaimReport> {
    let subject = scenario.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(" ");
    let mut reports = Vec::new();
    for claim in Claim::ALL {
        if !scenario.claims.contains(&claim) {
            reports.push(ClaimReport::undeclared(claim, subject.clone()));
            continue;
        }
        let (counts, mut findings) = match claim {
            Claim::Rebuilds => {
                with_idle_machines(scenario, &[facts.deploys.get(Pass::First)], rebuilds::verdict(facts))
            }
            Claim::Idempotent => {
                let both = [facts.deploys.get(Pass::First), facts.deploys.get(Pass::Second)];
                with_idle_machines(scenario, &both, idempotent::verdict(scenario, facts))
            }
            Claim::Serves => serves::verdict(scenario, facts, facts.checks.first()),
            Claim::SurvivesReboot => survives_reboot::verdict(scenario, facts),
            Claim::Restores => restores::verdict(scenario, facts, host),
            Claim::Resumes => resumes::verdict(facts),
        };
        if answers_for_the_sandbox(claim, scenario) {
            findings.extend(facts.wanted.iter().cloned());
        }
        let complete = counts.1 > 0 && counts.0 >= counts.1;
        let waivers = scenario.waivers.iter().filter(|waiver| waiver.claim == claim);
        apply_waivers(waivers, today, complete, &mut findings);
        let mut report = ClaimReport::judge(claim, subject.clone(), counts, findings);
        report.findings = shorten(fold::fold(report.findings));
        report.summary = summary(&report, facts);
        reports.push(report);
    }
    reports
}

/// What was wanted of the world stands under `rebuilds`; where that is not claimed, under the first claim that is.
fn answers_for_the_sandbox(claim: Claim, scenario: &Scenario) -> bool {
    let first = Claim::ALL.into_iter().find(|claim| scenario.claims.contains(claim));
    if scenario.claims.contains(&Claim::Rebuilds) { claim == Claim::Rebuilds } else { Some(claim) == first }
}

pub(crate) type Counted = ((usize, usize, &'static str), Vec<Finding>);

/// A machine to which nothing was deployed proves nothing, however well the others did.
fn with_idle_machines(scenario: &Scenario, deploys: &[Option<&Deployed>], (counts, mut findings): Counted) -> Counted {
    let deploys: Vec<&Deployed> = deploys.iter().copied().flatten().collect();
    findings.extend(executed::nothing_ran(scenario, &deploys));
    for passed_over in deploys.last().into_iter().flat_map(|deployed| &deployed.passed_over) {
        findings.push(Finding::new(Code::NotProven, "deploy", passed_over));
    }
    (counts, findings)
}

/// The finding under a deploy that did not end well.
pub(crate) fn ended(code: Code, what: &str, deployed: &Deployed, facts: &Facts) -> Option<Finding> {
    match &deployed.ended {
        Ended::Well => None,
        Ended::Unclear(_) if facts.stopped.as_ref().is_some_and(|trouble| trouble.code == Code::AcmeLost) => {
            Some(not_reached(code.claims(), facts))
        }
        Ended::Unclear(why) => Some(Finding::new(Code::NotProven, "deploy", why.clone())),
        // A machine that died under the tool, or a host without space, says nothing about the repo.
        Ended::Failed { .. }
            if facts.stopped.as_ref().is_some_and(|t| [Code::MachineLost, Code::HostFull].contains(&t.code)) =>
        {
            Some(not_reached(code.claims(), facts))
        }
        Ended::Failed { operation, host, evidence } => {
            let at = operation.as_ref().map(|o| format!(" at operation `{}`", o.name)).unwrap_or_default();
            let subject = operation.as_ref().map_or("deploy", |o| o.name.as_str());
            let exit = deployed.run.exit.map_or_else(|| "a signal".to_owned(), |exit| format!("exit status {exit}"));
            let mut finding = Finding::new(code, subject, format!("{what}{at} ({exit})"));
            finding.operation.clone_from(operation);
            finding.machine.clone_from(host);
            finding.evidence.clone_from(evidence);
            Some(finding)
        }
    }
}

/// Why what `claims` speak about was not looked at. A problem of their own may fail them; any other leaves them open.
pub(crate) fn not_reached(claims: &[Claim], facts: &Facts) -> Finding {
    let Some(problem) = &facts.stopped else {
        return Finding::new(Code::NotRun, "drill", "the drill did not get that far");
    };
    let subject = if problem.code == Code::Unsealed { "sandbox" } else { "drill" };
    let mut finding = Finding::new(problem.code, subject, &problem.text);
    finding.evidence.clone_from(&problem.evidence);
    let own = claims.iter().any(|claim| problem.code.claims().contains(claim));
    // Whatever stopped the drill, what was not looked at is open at the least.
    finding.severity = if own { finding.severity.max(Severity::Unknown) } else { Severity::Unknown };
    finding
}

/// The code of what a capture shows.
pub(crate) fn code_of(observed: Observed) -> Code {
    match observed {
        Observed::RealChange => Code::RealChange,
        Observed::SilentChange => Code::SilentChange,
        Observed::FlipFlop => Code::FlipFlop,
        Observed::Disruptive => Code::Disruptive,
        Observed::UnitRan => Code::UnitRan,
        Observed::Stale => Code::Stale,
        Observed::Rewrite => Code::Rewrite,
        Observed::LeftBehind => Code::LeftBehind,
        Observed::FalseChange => Code::FalseChange,
        Observed::Incomplete => Code::Incomplete,
        Observed::NotCompared => Code::NotCompared,
        Observed::NoControl => Code::NoControl,
        Observed::ResumeDiffers => Code::ResumeDiffers,
        Observed::LostRestart => Code::LostRestart,
    }
}

/// Hundreds of files changed by one operation are one story.
fn shorten(findings: Vec<Finding>) -> Vec<Finding> {
    let mut counts: BTreeMap<(Code, Option<String>, Option<usize>), usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for mut finding in findings {
        if let Some(more) = finding.also.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            finding.also.truncate(SHOWN);
            finding.evidence.push(format!("and {more} more of this kind: they stand in the captures"));
        }
        let number = finding.operation.as_ref().map(|o| o.number);
        let count = counts.entry((finding.code, finding.machine.clone(), number)).or_default();
        *count += 1;
        if *count <= SHOWN {
            kept.push(finding);
        }
    }
    for ((code, machine, number), count) in counts.into_iter().filter(|(_, count)| *count > SHOWN) {
        let last = kept
            .iter()
            .rposition(|f| f.code == code && f.machine == machine && f.operation.as_ref().map(|o| o.number) == number);
        if let Some(last) = last.and_then(|at| kept.get_mut(at)) {
            last.evidence.push(format!("and {} more of this kind: they stand in the captures", count - SHOWN));
        }
    }
    kept
}

fn summary(report: &ClaimReport, facts: &Facts) -> String {
    let fails = report.findings.iter().filter(|f| f.severity == Severity::Fails && f.waived.is_none()).count();
    let first_open = report.findings.iter().find(|f| f.severity == Severity::Unknown);
    use redrill_model::Verdict;
    match (report.claim, report.verdict) {
        (_, Verdict::Unproven) => match first_open {
            Some(finding) => finding.summary.clone(),
            None => format!("only {} of {} {} were looked at", report.checked, report.declared, report.unit),
        },
        (_, Verdict::Undeclared) => report.summary.clone(),
        (_, Verdict::Waived) if report.findings.iter().any(|f| f.code == Code::Unsealed) => {
            "nothing was run, since this host cannot seal it, and a waiver accepts that".to_owned()
        }
        (_, Verdict::Waived) => "it does not hold, and waivers cover all of it".to_owned(),
        (Claim::Rebuilds, Verdict::Proven) => {
            let seconds = facts.deploys.get(Pass::First).map_or(0.0, |first| first.run.seconds);
            format!("clean machines, this commit and the keys were enough; the deploy took {seconds:.0} s")
        }
        (Claim::Rebuilds, Verdict::Failed) => first_failure(report),
        (Claim::Idempotent, Verdict::Proven) => {
            let kinds = redrill_state::compared().len();
            format!(
                "the second deploy changed nothing of the {kinds} kinds of state that are compared, and restarted nothing; \
                 `redrill plan --scope` lists them, and what is not compared"
            )
        }
        (Claim::Idempotent, Verdict::Failed) => {
            let mut operations: Vec<&str> = report
                .findings
                .iter()
                .filter(|f| f.severity == Severity::Fails)
                .filter_map(|f| Some(f.operation.as_ref()?.name.as_str()))
                .collect();
            operations.sort_unstable();
            operations.dedup();
            match operations.len() {
                0 => format!("the second deploy was not without effect: {fails} findings"),
                _ => format!(
                    "the second deploy was not without effect: {fails} findings, by `{}`",
                    operations.join("`, `")
                ),
            }
        }
        (Claim::Serves, Verdict::Proven) => "every check holds".to_owned(),
        (Claim::SurvivesReboot, Verdict::Proven) => "every check holds after a reboot".to_owned(),
        (Claim::SurvivesReboot, Verdict::Failed) => {
            format!("{fails} of {} checks do not hold after a reboot", report.declared)
        }
        (Claim::Restores, Verdict::Proven) => restored_summary(facts),
        (Claim::Restores, Verdict::Failed) => first_failure(report),
        (Claim::Resumes, Verdict::Proven) => {
            format!(
                "cut off at {} of {} places, the next deploy reached the same state",
                report.checked,
                facts.cuts.as_ref().map_or(0, |cuts| cuts.places)
            )
        }
        (Claim::Resumes, Verdict::Failed) => first_failure(report),
        (Claim::Serves, Verdict::Failed) => format!("{fails} of {} checks do not hold", report.declared),
    }
}

fn first_failure(report: &ClaimReport) -> String {
    report.findings.iter().find(|f| f.severity == Severity::Fails).map(|f| f.summary.clone()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
