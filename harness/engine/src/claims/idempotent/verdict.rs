//! The claim `idempotent`: the second deploy changes nothing.

use redrill_model::{Claim, Code, Finding, Pass, Scenario, Severity};
use redrill_state::{
    Between, Capture, Control, Judgement, Observation, Observed, Section, Seen, Trend, Weight, Window, flip_flops,
    is_another_run, judge,
};

use super::salt;
use crate::claims::{Counted, SHOWN, code_of, ended, not_reached};
use crate::deploy::leftovers;
use crate::deploy::tools::{Compared, Deployed, Ended, Hidden, HostWindow, Key};
use crate::facts::Facts;

pub(in crate::claims) fn verdict(scenario: &Scenario, facts: &Facts) -> Counted {
    let (Some(first), Some(second)) = (facts.deploys.get(Pass::First), facts.deploys.get(Pass::Second)) else {
        return ((0, 0, "operations"), vec![not_reached(&[Claim::Idempotent], facts)]);
    };
    let compared = Compared::new(first, second);
    let mut findings: Vec<Finding> =
        ended(Code::RerunFails, "the first deploy ended well and the second failed", second, facts)
            .map(|finding| only_elsewhere(finding, second, facts))
            .into_iter()
            .collect();
    if second.ended == Ended::Well {
        findings.extend(fails_again(first, second));
        findings.extend(compared.hidden.iter().map(hides_failure));
        findings.extend(other_operations(&compared));
        if second.is_script {
            findings.extend(other_programs(first, second));
        }
        findings.extend(left_running(second));
    }
    for machine in &scenario.machines {
        match facts.compared.judged.get(&machine.name) {
            Some(judgement) => {
                let mut observed = observed(&machine.name, judgement, second, facts);
                observed.iter_mut().filter(|f| scenario.deploy.strict && f.code == Code::FalseChange).for_each(|f| {
                    f.severity = Severity::Fails;
                });
                findings.extend(observed);
            }
            None if second.ended == Ended::Well => {
                let mut finding = not_reached(&[Claim::Idempotent], facts);
                finding.machine = Some(machine.name.clone());
                findings.push(finding);
            }
            None => {}
        }
    }
    ((compared.again, compared.expected, "operations run again"), findings)
}

/// A second deploy that fails from elsewhere and ends well from where the first one ran.
fn only_elsewhere(mut finding: Finding, second: &Deployed, facts: &Facts) -> Finding {
    let failed = matches!(second.ended, Ended::Failed { .. }) && finding.severity == Severity::Fails;
    if failed && facts.deploys.get(Pass::Third).is_some_and(|third| third.ended == Ended::Well) {
        finding.code = Code::ControllerDependent;
        finding.summary.push_str("; run once more from where the first one ran, it ended well");
    }
    finding
}

/// Operations that failed in the second run only, allowed or not.
fn fails_again(first: &Deployed, second: &Deployed) -> Vec<Finding> {
    let failed_before = |name: &str, host: &str| first.failed().any(|f| f.window.name == name && f.host == host);
    let new = second.failed().filter(|failed| !failed_before(&failed.window.name, &failed.host));
    new.map(|failed| {
        let text = format!("operation `{}` failed in the second run only", failed.window.name);
        let mut finding = Finding::new(Code::RerunFails, &failed.window.name, text);
        finding.operation = Some(failed.operation());
        finding.machine = Some(failed.host.clone());
        finding
    })
    .collect()
}

/// An operation that failed in the second run only and hides it by itself.
fn hides_failure(hidden: &Hidden) -> Finding {
    let name = &hidden.operation.name;
    let text = format!("operation `{name}` failed in the second run only, and its command hides that");
    let mut finding = Finding::new(Code::RerunFails, name, text);
    finding.operation = Some(hidden.operation.clone());
    finding.machine = Some(hidden.host.clone());
    finding.evidence = vec![hidden.error.clone()];
    finding
}

/// The second run must be the same run.
fn other_operations(compared: &Compared) -> Option<Finding> {
    let Compared { missing, added, .. } = compared;
    if missing.is_empty() && added.is_empty() {
        return None;
    }
    let text = format!(
        "the second run was another one: {} operations of the first are missing, {} are new",
        missing.len(),
        added.len()
    );
    let mut finding = Finding::new(Code::NotProven, "second deploy", text);
    let line = |sign: char, (key, why): &(Key, Option<String>)| match why {
        Some(why) => format!("{sign} {key}: {why}"),
        None => format!("{sign} {key}"),
    };
    finding.evidence =
        missing.iter().map(|o| line('-', o)).chain(added.iter().map(|o| line('+', o))).take(SHOWN).collect();
    Some(finding)
}

/// What the second deploy left that will still act: nobody will see it.
fn left_running(second: &Deployed) -> Vec<Finding> {
    let left = second.leftovers.iter().filter(|(_, left)| !left.pending.is_empty());
    left.map(|(machine, left)| {
        let text = "the second deploy left something that will still act; what it does was not seen".to_owned();
        let mut finding = Finding::new(Code::LeftRunning, &left.pending[0].what, text);
        finding.machine = Some(machine.clone());
        finding.evidence = left.pending.iter().take(SHOWN).map(leftovers::told).collect();
        finding
    })
    .collect()
}

/// The second run of a script must run what the first ran: one that ends at once leaves everything as it is.
fn other_programs(first: &Deployed, second: &Deployed) -> Vec<Finding> {
    let both = first.witnessed.iter().filter_map(|(name, seen)| Some((name, seen, second.witnessed.get(name)?)));
    let other = both.filter(|(_, before, after)| is_another_run(before, after));
    other
        .map(|(machine, before, _)| {
            let text = "the second run ran none of the programs that the first one ran: it was another run".to_owned();
            let mut finding = Finding::new(Code::NotProven, "second deploy", text);
            finding.machine = Some(machine.clone());
            finding.evidence = before.programs().iter().take(SHOWN).map(|program| format!("- {program}")).collect();
            finding
        })
        .collect()
}

/// What the captures of one machine show, with all that was found out about it.
fn observed(machine: &str, judgement: &Judgement, second: &Deployed, facts: &Facts) -> Vec<Finding> {
    let name_of = |number: usize| {
        let window = second.windows.iter().find(|w| w.host == machine && w.window.number == number);
        window.map(HostWindow::operation)
    };
    let finding = |observation: &Observation| {
        let mut finding = Finding::new(code_of(observation.kind), &observation.subject, &observation.summary);
        finding.machine = Some(machine.to_owned());
        finding.operation = observation.window.and_then(name_of);
        finding.evidence.clone_from(&observation.evidence);
        follow(&mut finding, machine, observation, facts);
        if let Some(lines) = facts.compared.details.get(&(machine.to_owned(), observation.subject.clone())) {
            finding.evidence.extend(lines.iter().cloned());
        }
        finding.evidence.extend(salt::note(&finding.evidence).map(str::to_owned));
        finding
    };
    let mut findings: Vec<Finding> = judgement.observations.iter().map(finding).collect();
    let disruptive = findings.iter_mut().find(|finding| finding.code == Code::Disruptive);
    match (facts.compared.outages.get(machine).filter(|outages| !outages.is_empty()), disruptive) {
        (None, _) => {}
        (Some(outages), Some(finding)) => finding.evidence.extend(outages.iter().map(ToString::to_string)),
        (Some(outages), None) => {
            let text = "a port gave no answer during the second deploy".to_owned();
            let mut finding = Finding::new(Code::Disruptive, outages[0].port.to_string(), text);
            finding.machine = Some(machine.to_owned());
            finding.evidence = outages.iter().map(ToString::to_string).collect();
            findings.push(finding);
        }
    }
    findings
}

/// What further deploys made of the difference.
fn follow(finding: &mut Finding, machine: &str, observation: &Observation, facts: &Facts) {
    let Some(section) = observation.section else { return };
    let trends = facts.compared.trends.get(machine);
    let Some(trend) = trends.and_then(|trends| trends.get(&(section, observation.subject.clone()))) else { return };
    let text = match trend {
        Trend::SettlesLate => "a third deploy changed nothing more about it",
        Trend::Oscillates => "a third deploy took it back: the deploy never comes to rest",
        Trend::Diverges if grows(&observation.evidence) => "a third deploy changed more: it grows with each deploy",
        Trend::Diverges => "a third deploy changed something again: each deploy does",
        Trend::ControllerDependent => {
            finding.code = Code::ControllerDependent;
            finding.summary.push_str("; it depends on where the deploy runs from");
            finding.evidence.push(
                "with the first controller's path, user, host name, TZ, LANG, HOME and hash seed it is as after the first \
                 deploy, each time: one of these decides, or chance does"
                    .to_owned(),
            );
            return;
        }
    };
    finding.trend = Some(trend.to_string());
    finding.evidence.push(format!("trend: {trend} ({text})"));
}

/// Whether a difference made something larger.
fn grows(evidence: &[String]) -> bool {
    let sizes = evidence.iter().find_map(|line| line.strip_prefix("size: ")?.split_once(" -> "));
    let sizes = sizes.and_then(|(before, after)| Some((before.parse::<u64>().ok()?, after.parse::<u64>().ok()?)));
    sizes.is_some_and(|(before, after)| after > before)
}

/// What changed something in a later deploy.
#[derive(Debug, Default)]
pub(crate) struct Again {
    /// Names of operations.
    pub(crate) operations: Vec<String>,
    /// Sections in which something changed that is nobody's.
    pub(crate) sections: Vec<Section>,
}

/// Looks for it in what the captures around that deploy show.
pub(crate) fn changed_again(judgement: &Judgement, deployed: &Deployed, machine: &str) -> Again {
    let changes = || judgement.observations.iter().filter(|o| o.section.is_some() && o.kind.weight() == Weight::Fails);
    let numbers: Vec<usize> = changes().filter_map(|observation| observation.window).collect();
    let windows = deployed.windows.iter().filter(|w| w.host == machine && numbers.contains(&w.window.number));
    let sections = changes().filter(|observation| observation.window.is_none()).filter_map(|o| o.section).collect();
    Again { operations: windows.map(|w| w.window.name.clone()).collect(), sections }
}

/// When operations ran, on the machine's clock. Without times nothing can be put down to an operation; the reports still
/// count.
fn windows_of(machine: &str, deployed: &Deployed) -> Vec<Window> {
    let offset = deployed.offset(machine);
    let there = |window: &Window| Window { start: window.start + offset, end: window.end + offset, ..window.clone() };
    deployed.windows.iter().filter(|w| w.host == machine).map(|w| there(&w.window)).collect()
}

/// Adds what operations did and undid, where nothing else is told of the file.
pub(crate) fn add_flip_flops(judgement: &mut Judgement, machine: &str, second: &Deployed, record: &[Seen]) {
    let found = flip_flops(record, &windows_of(machine, second));
    let told = |subject: &str| judgement.observations.iter().any(|o| o.section.is_some() && o.subject == subject);
    let found: Vec<_> = found.into_iter().filter(|(flip, _)| !told(&flip.subject)).collect();
    // An operation that is told to have changed something has not reported it falsely.
    let acted: Vec<Option<usize>> = found.iter().flat_map(|(flip, back)| [flip.window, Some(*back)]).collect();
    judgement.observations.retain(|o| o.kind != Observed::FalseChange || !acted.contains(&o.window));
    judgement.observations.splice(0..0, found.into_iter().map(|(flip, _)| flip));
}

/// Whether no difference between S1 and S2 counts, even if none were noise.
pub(crate) fn is_without_effect(machine: &str, second: &Deployed, captures: (&Capture, &Capture)) -> bool {
    let windows = windows_of(machine, second);
    redrill_state::is_without_effect(captures.0, captures.1, between(machine, second, &windows))
}

/// What the captures before and after a deploy say of it.
pub(crate) fn judge_machine(
    machine: &str,
    second: &Deployed,
    captures: (&Capture, &Capture, Option<Control<'_>>),
) -> Judgement {
    let windows = windows_of(machine, second);
    judge(captures.0, captures.1, captures.2, between(machine, second, &windows))
}

/// `windows` are those of this machine, on its clock.
fn between<'a>(machine: &str, deployed: &'a Deployed, windows: &'a [Window]) -> Between<'a> {
    Between { windows, began: deployed.began + deployed.offset(machine), witness: deployed.witnessed.get(machine) }
}
