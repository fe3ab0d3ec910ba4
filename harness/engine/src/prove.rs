//! From what a drill gathered to verdicts. Pure but for reading captures back.

use std::collections::BTreeMap;

use redrill_model::{After, Claim, ClaimReport, Finding, HostFacts, OperationRef, Scenario, Severity, apply_waivers};
use redrill_state::{Capture, Control, Judgement, Weight, Window, judge};

use crate::checks::{Checked, Seen};
pub(crate) use crate::prove_restores::restore_reports;
use crate::prove_restores::{restored_summary, restores, survives_reboot};
use crate::restore::Restores;
use crate::tools::{Deployed, Ended};

/// Findings of one kind and operation beyond this are counted, and stand in the captures.
const SHOWN: usize = 25;

/// Why a drill did not get to its end.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// Fixed word.
    pub(crate) code: &'static str,
    /// One sentence.
    pub(crate) text: String,
    /// Console, output.
    pub(crate) evidence: Vec<String>,
}

/// What was gathered for the verdicts.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) first: Option<Deployed>,
    pub(crate) second: Option<Deployed>,
    /// Into the clean machines that a backup made here is restored into.
    pub(crate) rebuilt: Option<Deployed>,
    /// After the restore.
    pub(crate) third: Option<Deployed>,
    /// By machine: what the captures say of the second deploy.
    pub(crate) judged: BTreeMap<String, Judgement>,
    /// In the order of the scenario; shorter if the drill ended early.
    pub(crate) checked: Vec<Checked>,
    /// The same, made again later.
    pub(crate) checked_again: BTreeMap<After, Vec<Checked>>,
    pub(crate) restores: Restores,
    pub(crate) trouble: Option<Trouble>,
}

/// One verdict for each claim this version knows. `today` is an ISO date.
pub(crate) fn claims(scenario: &Scenario, evidence: &Evidence, host: &HostFacts, today: &str) -> Vec<ClaimReport> {
    let subject = scenario.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(" ");
    let mut reports = Vec::new();
    for claim in Claim::ALL {
        if !scenario.claims.contains(&claim) {
            reports.push(ClaimReport::undeclared(claim, subject.clone()));
            continue;
        }
        let (counts, mut findings) = match claim {
            Claim::Rebuilds => with_idle_machines(scenario, evidence.first.as_ref(), rebuilds(evidence)),
            Claim::Idempotent => with_idle_machines(scenario, evidence.second.as_ref(), idempotent(scenario, evidence)),
            Claim::Serves => serves(scenario, evidence, &evidence.checked),
            Claim::SurvivesReboot => survives_reboot(scenario, evidence),
            Claim::Restores => restores(scenario, evidence, host),
        };
        let complete = counts.1 > 0 && counts.0 >= counts.1;
        apply_waivers(claim, &scenario.waivers, today, complete, &mut findings);
        let mut report = ClaimReport::judge(claim, subject.clone(), counts, findings);
        report.summary = summary(&report, evidence);
        report.findings = shorten(report.findings);
        reports.push(report);
    }
    reports
}

pub(crate) type Counted = ((usize, usize, &'static str), Vec<Finding>);

/// A machine to which nothing was deployed proves nothing, however well the others did.
fn with_idle_machines(scenario: &Scenario, deployed: Option<&Deployed>, (counts, mut findings): Counted) -> Counted {
    for machine in &scenario.machines {
        let ran = |deployed: &Deployed| deployed.windows.iter().any(|window| window.host == machine.name);
        if deployed.is_some_and(|deployed| deployed.ended == Ended::Well && !ran(deployed)) {
            let text = format!("the deploy ran no operation on `{}`", machine.name);
            let mut finding = Finding::new("NOT_PROVEN", Severity::Unknown, &machine.name, text);
            finding.machine = Some(machine.name.clone());
            findings.push(finding);
        }
    }
    (counts, findings)
}

fn rebuilds(evidence: &Evidence) -> Counted {
    let Some(first) = &evidence.first else { return ((0, 0, "operations"), vec![not_reached(evidence)]) };
    let total = first.run.operations;
    let mut findings: Vec<Finding> = first
        .failed()
        .filter(|_| first.ended == Ended::Well)
        .map(|failed| {
            let text = format!("operation `{}` failed, and its author allows that", failed.window.name);
            let mut finding = Finding::new("IGNORED_ERROR", Severity::Warning, &failed.window.name, text);
            finding.operation = Some(OperationRef { number: failed.window.number, name: failed.window.name.clone() });
            finding.machine = Some(failed.host.clone());
            finding
        })
        .collect();
    findings.extend(ended("DEPLOY_FAILED", "the deploy into clean machines failed", first, evidence));
    // An unfinished deploy was not looked at to its end: nobody knows how many operations it has.
    let done = if first.ended == Ended::Well { total } else { total - first.run.failed.min(total) };
    let declared = if first.ended == Ended::Well { total } else { total.max(done + 1) };
    ((done, declared, "operations"), findings)
}

/// The finding under a deploy that did not end well.
pub(crate) fn ended(code: &str, what: &str, deployed: &Deployed, evidence: &Evidence) -> Option<Finding> {
    match &deployed.ended {
        Ended::Well => None,
        Ended::Unclear(why) => Some(Finding::new("NOT_PROVEN", Severity::Unknown, "deploy", why.clone())),
        // A machine that died under the tool says nothing about the repo.
        Ended::Failed { .. } if evidence.trouble.as_ref().is_some_and(|t| t.code == "MACHINE_LOST") => {
            Some(not_reached(evidence))
        }
        Ended::Failed { operation, host, evidence } => {
            let at = operation.as_ref().map(|o| format!(" at operation `{}`", o.name)).unwrap_or_default();
            let subject = operation.as_ref().map_or("deploy", |o| o.name.as_str());
            let exit = deployed.run.exit.map_or_else(|| "a signal".to_owned(), |exit| format!("exit status {exit}"));
            let mut finding = Finding::new(code, Severity::Fails, subject, format!("{what}{at} ({exit})"));
            finding.operation.clone_from(operation);
            finding.machine.clone_from(host);
            finding.evidence.clone_from(evidence);
            Some(finding)
        }
    }
}

fn idempotent(scenario: &Scenario, evidence: &Evidence) -> Counted {
    let (Some(first), Some(second)) = (&evidence.first, &evidence.second) else {
        return ((0, 0, "operations"), vec![not_reached(evidence)]);
    };
    let (before, after) = (first.operations(), second.operations());
    let again = before.iter().filter(|operation| after.contains(operation)).count();
    let mut findings: Vec<Finding> =
        ended("RERUN_FAILS", "the first deploy ended well and the second failed", second, evidence)
            .into_iter()
            .collect();
    if second.ended == Ended::Well {
        findings.extend(fails_again(first, second));
        findings.extend(other_operations(&before, &after));
    }
    for machine in &scenario.machines {
        match evidence.judged.get(&machine.name) {
            Some(judgement) => findings.extend(observed(&machine.name, judgement, second)),
            None if second.ended == Ended::Well => {
                let mut finding = not_reached(evidence);
                finding.machine = Some(machine.name.clone());
                findings.push(finding);
            }
            None => {}
        }
    }
    ((again, before.len(), "operations run again"), findings)
}

/// Operations that failed in the second run only, allowed or not.
fn fails_again(first: &Deployed, second: &Deployed) -> Vec<Finding> {
    let failed_before = |name: &str, host: &str| first.failed().any(|f| f.window.name == name && f.host == host);
    let new = second.failed().filter(|failed| !failed_before(&failed.window.name, &failed.host));
    new.map(|failed| {
        let text = format!("operation `{}` failed in the second run only", failed.window.name);
        let mut finding = Finding::new("RERUN_FAILS", Severity::Fails, &failed.window.name, text);
        finding.operation = Some(OperationRef { number: failed.window.number, name: failed.window.name.clone() });
        finding.machine = Some(failed.host.clone());
        finding
    })
    .collect()
}

/// The second run must be the same run.
fn other_operations(before: &[(String, usize, String)], after: &[(String, usize, String)]) -> Option<Finding> {
    let missing: Vec<_> = before.iter().filter(|operation| !after.contains(operation)).collect();
    let added: Vec<_> = after.iter().filter(|operation| !before.contains(operation)).collect();
    if missing.is_empty() && added.is_empty() {
        return None;
    }
    let text = format!(
        "the second run was another one: {} operations of the first are missing, {} are new",
        missing.len(),
        added.len()
    );
    let mut finding = Finding::new("NOT_PROVEN", Severity::Unknown, "second deploy", text);
    let line = |sign: char, (name, _, host): &(String, usize, String)| format!("{sign} [{host}] {name}");
    finding.evidence =
        missing.iter().map(|o| line('-', o)).chain(added.iter().map(|o| line('+', o))).take(SHOWN).collect();
    Some(finding)
}

fn observed(machine: &str, judgement: &Judgement, second: &Deployed) -> Vec<Finding> {
    let name_of = |number: usize| {
        let window = second.windows.iter().find(|w| w.host == machine && w.window.number == number);
        window.map(|w| OperationRef { number, name: w.window.name.clone() })
    };
    let finding = |observation: &redrill_state::Observation| {
        let severity = match observation.weight {
            Weight::Info => Severity::Info,
            Weight::Warning => Severity::Warning,
            Weight::Unknown => Severity::Unknown,
            Weight::Fails => Severity::Fails,
        };
        let mut finding = Finding::new(observation.code, severity, &observation.subject, &observation.summary);
        finding.machine = Some(machine.to_owned());
        finding.operation = observation.window.and_then(name_of);
        finding.evidence.clone_from(&observation.evidence);
        finding
    };
    judgement.observations.iter().map(finding).collect()
}

/// What came of these checks.
pub(crate) fn serves(scenario: &Scenario, evidence: &Evidence, checked: &[Checked]) -> Counted {
    let mut findings = Vec::new();
    let mut answered = 0;
    for (check, checked) in scenario.checks.iter().zip(checked) {
        let (code, severity, text, complaints) = match &checked.seen {
            Ok(Seen::Holds) => {
                answered += 1;
                continue;
            }
            Ok(Seen::Not(complaints)) => {
                answered += 1;
                let text = format!("check `{}` does not hold: {}", check.name, complaints.join("; "));
                ("CHECK_FAILED", Severity::Fails, text, complaints.clone())
            }
            Err(error) => {
                let text = format!("check `{}` could not be made: {error}", check.name);
                ("CHECK_UNKNOWN", Severity::Unknown, text, Vec::new())
            }
        };
        let mut finding = Finding::new(code, severity, &check.name, text);
        finding.machine = Some(check.machine.clone());
        finding.evidence = [vec![format!("why it matters: {}", check.why)], complaints].concat();
        findings.push(finding);
    }
    if checked.len() < scenario.checks.len() {
        findings.push(not_reached(evidence));
    }
    ((answered, scenario.checks.len(), "checks"), findings)
}

pub(crate) fn not_reached(evidence: &Evidence) -> Finding {
    let (code, text, lines) = match &evidence.trouble {
        Some(trouble) => (trouble.code, trouble.text.clone(), trouble.evidence.clone()),
        None => ("NOT_RUN", "the drill did not get that far".to_owned(), Vec::new()),
    };
    let mut finding = Finding::new(code, Severity::Unknown, "drill", text);
    finding.evidence = lines;
    finding
}

/// Hundreds of files changed by one operation are one story.
fn shorten(findings: Vec<Finding>) -> Vec<Finding> {
    let mut counts: BTreeMap<(String, Option<String>, Option<usize>), usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for finding in findings {
        let number = finding.operation.as_ref().map(|o| o.number);
        let count = counts.entry((finding.code.clone(), finding.machine.clone(), number)).or_default();
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

fn summary(report: &ClaimReport, evidence: &Evidence) -> String {
    let fails = report.findings.iter().filter(|f| f.severity == Severity::Fails && f.waived.is_none()).count();
    let first_open = report.findings.iter().find(|f| f.severity == Severity::Unknown);
    use redrill_model::Verdict;
    match (report.claim, report.verdict) {
        (_, Verdict::Unproven) => match first_open {
            Some(finding) => finding.summary.clone(),
            None => format!("only {} of {} {} were looked at", report.checked, report.declared, report.unit),
        },
        (_, Verdict::Undeclared) => report.summary.clone(),
        (_, Verdict::Waived) => "it does not hold, and waivers cover all of it".to_owned(),
        (Claim::Rebuilds, Verdict::Proven) => {
            let seconds = evidence.first.as_ref().map_or(0.0, |first| first.run.seconds);
            format!("clean machines, this commit and the keys were enough; the deploy took {seconds:.0} s")
        }
        (Claim::Rebuilds, Verdict::Failed) => first_failure(report),
        (Claim::Idempotent, Verdict::Proven) => "the second deploy changed nothing and restarted nothing".to_owned(),
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
        (Claim::Restores, Verdict::Proven) => restored_summary(evidence),
        (Claim::Restores, Verdict::Failed) => first_failure(report),
        (Claim::Serves, Verdict::Failed) => format!("{fails} of {} checks do not hold", report.declared),
    }
}

fn first_failure(report: &ClaimReport) -> String {
    report.findings.iter().find(|f| f.severity == Severity::Fails).map(|f| f.summary.clone()).unwrap_or_default()
}

/// What the captures say of the second deploy on `machine`, whose clock was `offset` nanoseconds ahead of ours.
pub(crate) fn judge_machine(
    machine: &str,
    offset: i64,
    second: &Deployed,
    captures: (&Capture, &Capture, Option<Control<'_>>),
) -> Judgement {
    let there = |window: &Window| Window { start: window.start + offset, end: window.end + offset, ..window.clone() };
    let on_machine = second.windows.iter().filter(|w| w.host == machine);
    // Without times nothing can be put down to an operation; the reports still count.
    let windows: Vec<Window> = on_machine.map(|w| there(&w.window)).collect();
    judge(captures.0, captures.1, captures.2, &windows, second.began + offset)
}

#[cfg(test)]
mod tests {
    use redrill_machines::MachineError;
    use redrill_model::{DeployRun, OperationRun, Pass, Verdict};
    use redrill_state::{Observation, Outcome};

    use super::*;
    use crate::tools::HostWindow;

    const SCENARIO: &str = "[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
        [[machine]]\nname = 'web'\nimage = 'debian-13'\n\
        [[check.tcp]]\nname = 'ssh'\nwhy = 'operators sign in'\nport = 22\n";

    fn scenario(more: &str) -> Scenario {
        Scenario::parse(&format!("{SCENARIO}{more}")).expect("valid")
    }

    /// A deploy with these operations on the machine `web`.
    fn deployed(operations: &[(&str, Outcome)], ended: Ended) -> Deployed {
        let count = |outcome| operations.iter().filter(|(_, o)| *o == outcome).count();
        let windows = operations.iter().enumerate().map(|(index, (name, outcome))| HostWindow {
            host: "web".to_owned(),
            window: Window { number: index + 1, name: (*name).to_owned(), start: 0, end: 1, outcome: *outcome },
        });
        let runs = operations.iter().enumerate().map(|(index, (name, _))| OperationRun {
            number: index + 1,
            name: (*name).to_owned(),
            host: "web".to_owned(),
            outcome: String::new(),
            started: 0.0,
            ended: 1.0,
        });
        let run = DeployRun {
            pass: Pass::First,
            seconds: 1.0,
            exit: Some(i32::from(ended != Ended::Well)),
            operations: operations.len(),
            changed: count(Outcome::Changed),
            unchanged: count(Outcome::Unchanged),
            failed: count(Outcome::Failed),
            runs: runs.collect(),
        };
        Deployed { run, windows: windows.collect(), began: 0, ended, remarks: Vec::new() }
    }

    fn green() -> Checked {
        Checked { seen: Ok(Seen::Holds), seconds: 0.1 }
    }

    /// A drill in which all went well.
    fn proven() -> Evidence {
        let operations = [("a", Outcome::Changed), ("b", Outcome::Unchanged)];
        Evidence {
            first: Some(deployed(&operations, Ended::Well)),
            second: Some(deployed(&operations.map(|(name, _)| (name, Outcome::Unchanged)), Ended::Well)),
            judged: BTreeMap::from([("web".to_owned(), Judgement::default())]),
            checked: vec![green()],
            ..Evidence::default()
        }
    }

    fn verdicts(evidence: &Evidence) -> [Verdict; 3] {
        let reports = claims(&scenario(""), evidence, &HostFacts::default(), "2026-11-22");
        [reports[0].verdict, reports[1].verdict, reports[2].verdict]
    }

    fn codes(evidence: &Evidence, claim: usize) -> Vec<String> {
        claims(&scenario(""), evidence, &HostFacts::default(), "2026-11-22")[claim]
            .findings
            .iter()
            .map(|f| f.code.clone())
            .collect()
    }

    use Verdict::{Failed, Proven, Unproven};

    #[test]
    fn all_is_proven_only_when_all_was_looked_at() {
        assert_eq!(verdicts(&proven()), [Proven, Proven, Proven]);
        assert_eq!(verdicts(&Evidence::default()), [Unproven, Unproven, Unproven]);
        let mut no_capture = proven();
        no_capture.judged.clear();
        assert_eq!(verdicts(&no_capture), [Proven, Unproven, Proven]);
        let mut no_checks = proven();
        no_checks.checked.clear();
        assert_eq!(verdicts(&no_checks), [Proven, Proven, Unproven]);
        let mut nothing_ran = proven();
        nothing_ran.first = Some(deployed(&[], Ended::Well));
        assert_eq!(verdicts(&nothing_ran)[0], Unproven);
    }

    #[test]
    fn a_machine_that_nothing_was_deployed_to_proves_nothing() {
        let two = SCENARIO.replace("port = 22", "port = 22\nmachine = 'web'");
        let two = Scenario::parse(&format!("{two}[[machine]]\nname = 'db'\nimage = 'debian-13'\n")).expect("valid");
        let reports = claims(&two, &proven(), &HostFacts::default(), "2026-11-22");
        assert_eq!((reports[0].verdict, reports[1].verdict), (Unproven, Unproven));
        assert!(reports[0].summary.contains("no operation on `db`"), "{}", reports[0].summary);
    }

    #[test]
    fn a_failed_deploy_names_its_operation_and_leaves_the_rest_open() {
        let operation = Some(OperationRef { number: 2, name: "b".to_owned() });
        let ended = Ended::Failed { operation, host: Some("web".to_owned()), evidence: vec!["boom".to_owned()] };
        let operations = [("a", Outcome::Changed), ("b", Outcome::Failed)];
        let evidence = Evidence { first: Some(deployed(&operations, ended)), ..Evidence::default() };
        let reports = claims(&scenario(""), &evidence, &HostFacts::default(), "2026-11-22");
        assert_eq!(verdicts(&evidence), [Failed, Unproven, Unproven]);
        assert!(reports[0].summary.contains("at operation `b`"), "{}", reports[0].summary);
        assert_eq!(
            (reports[0].checked, reports[0].findings[0].evidence.as_slice()),
            (1, ["boom".to_owned()].as_slice())
        );
    }

    #[test]
    fn a_machine_that_died_says_nothing_about_the_repo() {
        let ended = Ended::Failed { operation: None, host: None, evidence: Vec::new() };
        let trouble = Trouble { code: "MACHINE_LOST", text: "QEMU ended".to_owned(), evidence: Vec::new() };
        let evidence = Evidence {
            first: Some(deployed(&[("a", Outcome::Changed)], ended)),
            trouble: Some(trouble),
            ..Evidence::default()
        };
        assert_eq!(verdicts(&evidence), [Unproven, Unproven, Unproven]);
    }

    #[test]
    fn unclear_output_is_never_proof() {
        let mut evidence = proven();
        evidence.first = Some(deployed(&[("a", Outcome::Changed)], Ended::Unclear("no output".to_owned())));
        assert_eq!(verdicts(&evidence)[0], Unproven);
        let mut evidence = proven();
        evidence.second = Some(deployed(&[("a", Outcome::Unchanged)], Ended::Unclear("no output".to_owned())));
        assert_eq!(verdicts(&evidence)[1], Unproven);
    }

    #[test]
    fn the_second_run_must_be_the_same_run() {
        let mut evidence = proven();
        evidence.second = Some(deployed(&[("a", Outcome::Unchanged)], Ended::Well));
        assert_eq!(verdicts(&evidence)[1], Unproven);
        assert_eq!(codes(&evidence, 1), ["NOT_PROVEN"]);
        evidence.second = Some(deployed(
            &[("a", Outcome::Unchanged), ("b", Outcome::Unchanged), ("c", Outcome::Unchanged)],
            Ended::Well,
        ));
        assert_eq!(verdicts(&evidence)[1], Unproven, "an operation more is another run too");
    }

    #[test]
    fn what_fails_in_the_second_run_only_fails_the_claim() {
        let mut evidence = proven();
        let operations = [("a", Outcome::Failed), ("b", Outcome::Unchanged)];
        evidence.second = Some(deployed(&operations, Ended::Well));
        assert_eq!((verdicts(&evidence)[1], codes(&evidence, 1)), (Failed, vec!["RERUN_FAILS".to_owned()]));
        evidence.first = Some(deployed(&operations, Ended::Well));
        assert_eq!(verdicts(&evidence), [Proven, Proven, Proven], "it failed before, and its author allows that");
        assert_eq!(codes(&evidence, 0), ["IGNORED_ERROR"]);
    }

    #[test]
    fn what_the_captures_show_is_put_down_to_operations() {
        let mut evidence = proven();
        let observation = Observation {
            code: "REAL_CHANGE",
            weight: Weight::Fails,
            subject: "/etc/motd".to_owned(),
            summary: "the second deploy changed `/etc/motd`".to_owned(),
            window: Some(2),
            evidence: Vec::new(),
        };
        let judgement = Judgement { observations: vec![observation; 40], ..Judgement::default() };
        evidence.judged.insert("web".to_owned(), judgement);
        let reports = claims(&scenario(""), &evidence, &HostFacts::default(), "2026-11-22");
        assert_eq!(reports[1].verdict, Failed);
        assert!(reports[1].summary.contains("by `b`"), "{}", reports[1].summary);
        assert_eq!(reports[1].findings.len(), SHOWN);
        assert!(reports[1].findings[SHOWN - 1].evidence[0].contains("and 15 more"));
    }

    #[test]
    fn waivers_soften_what_they_name() {
        let mut evidence = proven();
        evidence.checked = vec![Checked { seen: Ok(Seen::Not(vec!["port 22 is closed".to_owned()])), seconds: 1.0 }];
        let waiver = "[[waiver]]\nclaim = 'serves'\npath = 'ssh'\nreason = 'r'\nby = 'ada'\nuntil = 2026-12-31\n";
        let verdict = |today| claims(&scenario(waiver), &evidence, &HostFacts::default(), today)[2].verdict;
        assert_eq!((verdict("2026-11-22"), verdict("2027-01-01")), (Verdict::Waived, Failed));
        assert_eq!(
            claims(&scenario(waiver), &proven(), &HostFacts::default(), "2026-11-22")[2].verdict,
            Failed,
            "it covers nothing any more"
        );
    }

    #[test]
    fn a_red_check_fails_and_one_that_could_not_be_made_leaves_open() {
        let mut evidence = proven();
        evidence.checked = vec![Checked { seen: Ok(Seen::Not(vec!["closed".to_owned()])), seconds: 1.0 }];
        let report = &claims(&scenario(""), &evidence, &HostFacts::default(), "2026-11-22")[2];
        assert_eq!(report.verdict, Failed);
        assert!(report.findings[0].evidence[0].contains("operators sign in"), "the reason is told");
        let lost = MachineError::Lost { machine: "web".to_owned(), said: "gone".to_owned() };
        evidence.checked = vec![Checked { seen: Err(lost), seconds: 1.0 }];
        assert_eq!(verdicts(&evidence)[2], Unproven);
    }
}
