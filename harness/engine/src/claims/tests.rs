//! What evidence makes of claims.

use redrill_machines::MachineError;
use redrill_model::{DeployRun, OperationRef, OperationRun, Pass, Verdict};
use redrill_state::{Judgement, Observation, Outcome, Section, Trend, Window};

use super::idempotent::Comparison;
use super::*;
use crate::claims::idempotent::outage::Outage;
use crate::claims::serves::checks::{Checked, Seen};
use crate::deploy::tools::HostWindow;
use crate::problem::Problem;

const SCENARIO: &str = "[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
    [[machine]]\nname = 'web'\nimage = 'debian-13'\n\
    [[check.tcp]]\nname = 'ssh'\nwhy = 'operators sign in'\nport = 22\n";

/// A scenario of the machine `web`, with this at its end.
pub(crate) fn scenario(more: &str) -> Scenario {
    Scenario::parse(&format!("{SCENARIO}{more}")).expect("valid")
}

/// A deploy with these operations on the machine `web`.
pub(crate) fn deployed(operations: &[(&str, Outcome)], ended: Ended) -> Deployed {
    let count = |outcome| operations.iter().filter(|(_, o)| *o == outcome).count();
    let windows = operations.iter().enumerate().map(|(index, (name, outcome))| HostWindow {
        host: "web".to_owned(),
        window: Window {
            number: index + 1,
            name: (*name).to_owned(),
            place: None,
            start: 0,
            end: 1,
            outcome: *outcome,
        },
        item: None,
    });
    let runs = operations.iter().enumerate().map(|(index, (name, _))| OperationRun {
        number: index + 1,
        name: (*name).to_owned(),
        host: "web".to_owned(),
        ended: 1.0,
        ..OperationRun::default()
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
    Deployed {
        run,
        windows: windows.collect(),
        began: 0,
        ended,
        remarks: Vec::new(),
        boundaries: Vec::new(),
        cut: None,
        passed_over: Vec::new(),
        offsets: BTreeMap::new(),
        is_script: false,
        leftovers: BTreeMap::new(),
        witnessed: BTreeMap::new(),
    }
}

fn green() -> Checked {
    Checked { seen: Ok(Seen::Holds), seconds: 0.1 }
}

fn judged(judged: BTreeMap<String, Judgement>) -> Comparison {
    Comparison { judged, ..Comparison::default() }
}

/// A drill in which all went well.
fn proven() -> Facts {
    let operations = [("a", Outcome::Changed), ("b", Outcome::Unchanged)];
    let again = operations.map(|(name, _)| (name, Outcome::Unchanged));
    let mut facts = Facts {
        deploys: [(Pass::First, deployed(&operations, Ended::Well)), (Pass::Second, deployed(&again, Ended::Well))]
            .into(),
        compared: judged(BTreeMap::from([("web".to_owned(), Judgement::default())])),
        ..Facts::default()
    };
    facts.checks.add(None, vec![green()]);
    facts
}

fn verdicts(facts: &Facts) -> [Verdict; 3] {
    let reports = claims(&scenario(""), facts, &HostFacts::default(), "2026-11-22");
    [reports[0].verdict, reports[1].verdict, reports[2].verdict]
}

fn codes(facts: &Facts, claim: usize) -> Vec<Code> {
    claims(&scenario(""), facts, &HostFacts::default(), "2026-11-22")[claim].findings.iter().map(|f| f.code).collect()
}

use Verdict::{Failed, Proven, Unproven};

#[test]
fn all_is_proven_only_when_all_was_looked_at() {
    assert_eq!(verdicts(&proven()), [Proven, Proven, Proven]);
    assert_eq!(verdicts(&Facts::default()), [Unproven, Unproven, Unproven]);
    let mut no_capture = proven();
    no_capture.compared.judged.clear();
    assert_eq!(verdicts(&no_capture), [Proven, Unproven, Proven]);
    let mut no_checks = proven();
    no_checks.checks.discard(None);
    assert_eq!(verdicts(&no_checks), [Proven, Proven, Unproven]);
    let mut nothing_ran = proven();
    nothing_ran.deploys.add(Pass::First, deployed(&[], Ended::Well));
    assert_eq!(verdicts(&nothing_ran)[0], Unproven);
}

#[test]
fn a_machine_that_nothing_was_deployed_to_proves_nothing() {
    let two = SCENARIO.replace("port = 22", "port = 22\nmachine = 'web'");
    let two = Scenario::parse(&format!("{two}[[machine]]\nname = 'db'\nimage = 'debian-13'\n")).expect("valid");
    let reports = claims(&two, &proven(), &HostFacts::default(), "2026-11-22");
    assert_eq!((reports[0].verdict, reports[1].verdict), (Unproven, Unproven));
    assert!(reports[0].summary.contains("executed nothing on `db`"), "{}", reports[0].summary);
}

#[test]
fn a_failed_deploy_names_its_operation_and_leaves_the_rest_open() {
    let operation = Some(OperationRef { number: 2, name: "b".to_owned(), ..OperationRef::default() });
    let ended = Ended::Failed { operation, host: Some("web".to_owned()), evidence: vec!["boom".to_owned()] };
    let operations = [("a", Outcome::Changed), ("b", Outcome::Failed)];
    let facts = Facts { deploys: [(Pass::First, deployed(&operations, ended))].into(), ..Facts::default() };
    let reports = claims(&scenario(""), &facts, &HostFacts::default(), "2026-11-22");
    assert_eq!(verdicts(&facts), [Failed, Unproven, Unproven]);
    assert!(reports[0].summary.contains("at operation `b`"), "{}", reports[0].summary);
    assert_eq!((reports[0].checked, reports[0].findings[0].evidence.as_slice()), (1, ["boom".to_owned()].as_slice()));
}

#[test]
fn a_machine_that_died_says_nothing_about_the_repo() {
    let ended = Ended::Failed { operation: None, host: None, evidence: Vec::new() };
    let trouble = Problem::new(Code::MachineLost, "QEMU ended".to_owned());
    let first = deployed(&[("a", Outcome::Changed)], ended);
    let facts = Facts { deploys: [(Pass::First, first)].into(), stopped: Some(trouble), ..Facts::default() };
    assert_eq!(verdicts(&facts), [Unproven, Unproven, Unproven]);
}

#[test]
fn unclear_output_is_never_proof() {
    let mut facts = proven();
    facts.deploys.add(Pass::First, deployed(&[("a", Outcome::Changed)], Ended::Unclear("no output".to_owned())));
    assert_eq!(verdicts(&facts)[0], Unproven);
    let mut facts = proven();
    facts.deploys.add(Pass::Second, deployed(&[("a", Outcome::Unchanged)], Ended::Unclear("no output".to_owned())));
    assert_eq!(verdicts(&facts)[1], Unproven);
}

#[test]
fn the_second_run_must_be_the_same_run() {
    let mut facts = proven();
    facts.deploys.add(Pass::Second, deployed(&[("a", Outcome::Unchanged)], Ended::Well));
    assert_eq!(verdicts(&facts)[1], Unproven);
    assert_eq!(codes(&facts, 1), [Code::NotProven]);
    facts.deploys.add(
        Pass::Second,
        deployed(&[("a", Outcome::Unchanged), ("b", Outcome::Unchanged), ("c", Outcome::Unchanged)], Ended::Well),
    );
    assert_eq!(verdicts(&facts)[1], Unproven, "an operation more is another run too");
}

#[test]
fn what_fails_in_the_second_run_only_fails_the_claim() {
    let mut facts = proven();
    let operations = [("a", Outcome::Failed), ("b", Outcome::Unchanged)];
    facts.deploys.add(Pass::Second, deployed(&operations, Ended::Well));
    assert_eq!((verdicts(&facts)[1], codes(&facts, 1)), (Failed, vec![Code::RerunFails]));
    facts.deploys.add(Pass::First, deployed(&operations, Ended::Well));
    assert_eq!(verdicts(&facts), [Proven, Proven, Proven], "it failed before, and its author allows that");
    assert_eq!(codes(&facts, 0), [Code::IgnoredError]);
}

fn changed(path: &str) -> Observation {
    Observation {
        kind: Observed::RealChange,
        section: Some(Section::Files),
        subject: path.to_owned(),
        summary: format!("the second deploy changed `{path}`"),
        window: Some(2),
        evidence: Vec::new(),
    }
}

#[test]
fn what_the_captures_show_is_put_down_to_operations() {
    let mut facts = proven();
    let observation = changed("/etc/motd");
    let judgement = Judgement { observations: vec![observation; 40], ..Judgement::default() };
    facts.compared.judged.insert("web".to_owned(), judgement);
    let reports = claims(&scenario(""), &facts, &HostFacts::default(), "2026-11-22");
    assert_eq!(reports[1].verdict, Failed);
    assert!(reports[1].summary.contains("by `b`"), "{}", reports[1].summary);
    let [finding] = &reports[1].findings[..] else { panic!("one fault: {:?}", reports[1].findings) };
    assert_eq!(finding.also.len(), SHOWN);
    assert!(finding.evidence[0].contains("and 14 more"), "{:?}", finding.evidence);
}

#[test]
fn waivers_soften_what_they_name() {
    let mut facts = proven();
    facts.checks.add(None, vec![Checked { seen: Ok(Seen::Not(vec!["port 22 is closed".to_owned()])), seconds: 1.0 }]);
    let waiver = "[[waiver]]\nclaim = 'serves'\npath = 'ssh'\nreason = 'r'\nby = 'ada'\nuntil = 2026-12-31\n";
    let verdict = |today| claims(&scenario(waiver), &facts, &HostFacts::default(), today)[2].verdict;
    assert_eq!((verdict("2026-11-22"), verdict("2027-01-01")), (Verdict::Waived, Failed));
    assert_eq!(
        claims(&scenario(waiver), &proven(), &HostFacts::default(), "2026-11-22")[2].verdict,
        Failed,
        "it covers nothing any more"
    );
}

#[test]
fn a_red_check_fails_and_one_that_could_not_be_made_leaves_open() {
    let mut facts = proven();
    facts.checks.add(None, vec![Checked { seen: Ok(Seen::Not(vec!["closed".to_owned()])), seconds: 1.0 }]);
    let report = &claims(&scenario(""), &facts, &HostFacts::default(), "2026-11-22")[2];
    assert_eq!(report.verdict, Failed);
    assert!(report.findings[0].evidence[0].contains("operators sign in"), "the reason is told");
    let lost = MachineError::Lost { machine: "web".to_owned(), said: "gone".to_owned() };
    facts.checks.add(None, vec![Checked { seen: Err(lost), seconds: 1.0 }]);
    assert_eq!(verdicts(&facts)[2], Unproven);
}

#[test]
fn a_difference_is_shown_with_its_trend_and_what_was_there() {
    let mut facts = Facts { compared: judged(evidence_of(&[changed("/etc/motd")])), ..proven() };
    facts.compared.details.insert(("web".to_owned(), "/etc/motd".to_owned()), vec!["+again".to_owned()]);
    let with = |trend| {
        let place = (Section::Files, "/etc/motd".to_owned());
        let trends = BTreeMap::from([("web".to_owned(), BTreeMap::from([(place, trend)]))]);
        let compared = Comparison { trends, ..judged(evidence_of(&[changed("/etc/motd")])) };
        let facts = Facts { compared, ..proven() };
        claims(&scenario(""), &facts, &HostFacts::default(), "2026-11-22").remove(1).findings.remove(0)
    };
    let grows = with(Trend::Diverges);
    assert_eq!((grows.code, grows.trend.as_deref()), (Code::RealChange, Some("DIVERGES")));
    assert!(grows.evidence[0].starts_with("trend: DIVERGES"), "{:?}", grows.evidence);
    assert!(!grows.evidence[0].contains("grows"), "nobody saw it grow: {:?}", grows.evidence);
    let depends = with(Trend::ControllerDependent);
    assert_eq!((depends.code, depends.severity), (Code::ControllerDependent, Severity::Fails));
    let shown = claims(&scenario(""), &facts, &HostFacts::default(), "2026-11-22").remove(1).findings.remove(0);
    assert_eq!(shown.evidence, ["+again"]);
}

fn evidence_of(observations: &[Observation]) -> BTreeMap<String, Judgement> {
    let judgement = Judgement { observations: observations.to_vec(), ..Judgement::default() };
    BTreeMap::from([("web".to_owned(), judgement)])
}

#[test]
fn an_outage_disrupts_even_where_no_unit_began_anew() {
    let outage = Outage { port: 443, checks: Vec::new(), at: 1.0, seconds: 0.4 };
    let mut facts = proven();
    facts.compared.outages.insert("web".to_owned(), vec![outage]);
    assert_eq!((codes(&facts, 1), verdicts(&facts)[1]), (vec![Code::Disruptive], Failed));
    let restart = Observation {
        kind: Observed::Disruptive,
        section: None,
        subject: "web.service".to_owned(),
        summary: "the second deploy restarted `web.service`".to_owned(),
        ..changed("")
    };
    facts.compared.judged = evidence_of(&[restart]);
    let findings = claims(&scenario(""), &facts, &HostFacts::default(), "2026-11-22").remove(1).findings;
    assert_eq!(findings.len(), 1, "the outage is part of the restart's story");
    assert!(findings[0].evidence[0].contains("nobody listened on port 443 for 0.4 s"), "{findings:?}");
}

#[test]
fn a_second_deploy_that_fails_from_elsewhere_only_depends_on_the_controller() {
    let operations = [("a", Outcome::Changed), ("b", Outcome::Failed)];
    let ended = Ended::Failed { operation: None, host: None, evidence: Vec::new() };
    let mut facts = proven();
    facts.deploys.add(Pass::Second, deployed(&operations, ended.clone()));
    assert_eq!(codes(&facts, 1), [Code::RerunFails]);
    facts.deploys.add(Pass::Third, deployed(&operations, ended));
    assert_eq!(codes(&facts, 1), [Code::RerunFails], "it fails from there too");
    facts.deploys.add(Pass::Third, deployed(&[("a", Outcome::Unchanged), ("b", Outcome::Unchanged)], Ended::Well));
    assert_eq!((codes(&facts, 1), verdicts(&facts)[1]), (vec![Code::ControllerDependent], Failed));
}

#[test]
fn a_report_without_effect_fails_where_the_scenario_is_strict() {
    let mut observation = changed("a");
    (observation.kind, observation.section) = (Observed::FalseChange, None);
    let facts = Facts { compared: judged(evidence_of(&[observation])), ..proven() };
    let strict = SCENARIO.replace("script = 'd'\n", "script = 'd'\nstrict = true\n");
    let verdict = |text: &str| {
        claims(&Scenario::parse(text).expect("valid"), &facts, &HostFacts::default(), "2026-11-22")[1].verdict
    };
    assert_eq!((verdict(SCENARIO), verdict(&strict)), (Proven, Failed));
}

#[test]
fn a_play_that_matches_no_host_proves_nothing() {
    let mut facts = proven();
    let operations = [("a", Outcome::Unchanged), ("b", Outcome::Unchanged)];
    let passed_over = vec!["the play `web` matched no host".to_owned()];
    facts.deploys.add(Pass::Second, Deployed { passed_over, ..deployed(&operations, Ended::Well) });
    assert_eq!(verdicts(&facts), [Proven, Unproven, Proven]);
    assert_eq!(codes(&facts, 1), [Code::NotProven]);
}

#[test]
fn what_a_capture_shows_weighs_what_its_code_says() {
    use redrill_state::Weight;
    for observed in Observed::ALL {
        let severity = match observed.weight() {
            Weight::Info => Severity::Info,
            Weight::Warning => Severity::Warning,
            Weight::Unknown => Severity::Unknown,
            Weight::Fails => Severity::Fails,
        };
        assert_eq!(code_of(observed).severity(), severity, "{observed:?}");
    }
}

#[test]
fn what_stopped_a_drill_leaves_its_own_claim_open_however_light_its_code_is() {
    let stopped = Some(Problem::new(Code::FalseChange, "it stopped here"));
    let finding = not_reached(&[Claim::Idempotent], &Facts { stopped, ..Facts::default() });
    assert_eq!((finding.code, finding.severity), (Code::FalseChange, Severity::Unknown));
}
