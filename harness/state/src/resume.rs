//! What is left of a deploy that was cut off, after the next whole one.

use std::collections::{BTreeMap, BTreeSet};

use crate::canonical::{explained, is_login};
use crate::capture::Capture;
use crate::diff::diff;
use crate::judge::{Observation, evidence, is_noise, verb};
use crate::observed::Observed;
use crate::sections::Section;

/// Captures of machines that are each other's likes.
#[derive(Debug, Clone, Copy)]
pub struct Resumed<'a> {
    /// The clean machine.
    pub clean: &'a Capture,
    /// Deployed without a cut.
    pub whole: &'a Capture,
    /// Another machine, deployed without a cut: what differs from `whole` differs between any two machines.
    pub reference: &'a Capture,
    /// Deployed with a cut, and then as a whole.
    pub resumed: &'a Capture,
}

/// What no two machines of one drill have in common: where each lies in its network.
const OF_THE_PLACE: [Section; 4] = [Section::Links, Section::Addresses, Section::Routes, Section::Neighbours];

/// What the cut left behind: differences, and services that run with something older than what lies on the disk.
pub fn resume(captures: &Resumed<'_>) -> Vec<Observation> {
    let mut observations: Vec<Observation> = lost_restarts(captures);
    observations.extend(differences(captures));
    observations.extend([captures.resumed, captures.reference].iter().flat_map(|capture| &capture.gaps).map(|gap| {
        let text = format!("{} could not be read whole: {}", gap.section, gap.reason);
        observation(Observed::Incomplete, gap.section.name(), text)
    }));
    observations
}

fn observation(kind: Observed, subject: &str, summary: String) -> Observation {
    let (subject, evidence) = (subject.to_owned(), Vec::new());
    Observation { kind, section: None, subject, summary, window: None, evidence }
}

fn differences(captures: &Resumed<'_>) -> Vec<Observation> {
    let Resumed { whole, reference, resumed, .. } = captures;
    let mut noise: BTreeMap<(Section, String), BTreeSet<&'static str>> = BTreeMap::new();
    for change in diff(whole, reference) {
        noise
            .insert((change.section, change.subject.clone()), change.differences.iter().map(|d| d.attribute).collect());
    }
    let unit = |name: &str| resumed.units.get(name).or_else(|| whole.units.get(name));
    let socket = |name: &str| resumed.sockets.get(name).or_else(|| whole.sockets.get(name));
    diff(whole, resumed)
        .into_iter()
        .filter(|change| explained(change, unit(&change.subject), socket(&change.subject)).is_none())
        .filter(|change| !OF_THE_PLACE.contains(&change.section))
        .filter(|change| !is_noise(change, &noise))
        // A statement that finds its row in place uses up a number all the same: the next row has another one.
        .filter(|change| !change.only(&["values"]))
        .map(|change| {
            let (noun, subject, verb) = (change.section.noun(), &change.subject, verb(&change));
            let noun = if noun.is_empty() { String::new() } else { format!("{noun} ") };
            let text =
                format!("after the cut and another deploy, {noun}`{subject}` is {verb} against a deploy without a cut");
            let mut difference = observation(Observed::ResumeDiffers, &change.subject, text);
            difference.section = Some(change.section);
            difference.evidence =
                change.differences.iter().map(|d| evidence(d.attribute, &d.before, &d.after)).collect();
            difference
        })
        .collect()
}

fn lost_restarts(captures: &Resumed<'_>) -> Vec<Observation> {
    let Resumed { clean, whole, resumed, .. } = captures;
    let mut lost = Vec::new();
    let running = whole.units.values().filter(|unit| unit.name.ends_with(".service") && unit.active == "active");
    for unit in running.filter(|unit| !is_login(&unit.name)) {
        let Some(now) = resumed.units.get(&unit.name).filter(|now| now.active == "active") else { continue };
        let mut reasons: Vec<String> = if unit.stale.is_empty() { now.stale.clone() } else { Vec::new() };
        if reasons.is_empty() {
            reasons = newer(clean, whole, resumed, (unit.since, now.since));
        }
        if !reasons.is_empty() {
            let text = format!("`{}` was not restarted after the cut: it runs with what was there before", unit.name);
            let mut restart = observation(Observed::LostRestart, &unit.name, text);
            restart.evidence = reasons;
            lost.push(restart);
        }
    }
    lost
}

/// Settings that the deploy writes before it starts the unit, and that are now newer than its start.
fn newer(clean: &Capture, whole: &Capture, resumed: &Capture, (before, now): (i64, i64)) -> Vec<String> {
    let written = whole.files.values().filter(|file| {
        file.path.starts_with("/etc/")
            && file.ctime > clean.header.clock
            && file.ctime <= before
            && file.digest.is_some()
    });
    let late = written.filter(|file| resumed.files.get(&file.path).is_some_and(|there| there.ctime > now));
    late.map(|file| format!("`{}` was written after its start, and not before it", file.path)).take(5).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::Facts;
    use crate::sections::Record;
    use crate::settings::DatabaseObject;
    use crate::testing::{file, machine, service};

    const SECOND: i64 = 1_000_000_000;

    fn deployed(config: (&str, i64), started: i64) -> Capture {
        let mut file = file("/etc/app.conf", config.0);
        file.ctime = config.1 * SECOND;
        let mut unit = service("app.service", "1");
        unit.since = started * SECOND;
        machine(&[file], &[unit])
    }

    fn run(whole: &Capture, reference: &Capture, resumed: &Capture) -> Vec<(Observed, String)> {
        let clean = machine(&[], &[]);
        let captures = Resumed { clean: &clean, whole, reference, resumed };
        resume(&captures).into_iter().map(|o| (o.kind, o.subject)).collect()
    }

    #[test]
    fn a_resumed_deploy_that_reaches_the_same_state_leaves_nothing() {
        let whole = deployed(("1", 10), 20);
        assert_eq!(run(&whole, &whole, &deployed(("1", 5), 90)), []);
    }

    #[test]
    fn a_service_older_than_its_settings_lost_its_restart() {
        let whole = deployed(("1", 10), 20);
        let lost = run(&whole, &whole, &deployed(("1", 40), 30));
        assert_eq!(lost, [(Observed::LostRestart, "app.service".to_owned())]);
        let always = deployed(("1", 30), 20);
        assert_eq!(run(&always, &always, &deployed(("1", 40), 30)), [], "so it is without a cut, too");
    }

    #[test]
    fn a_unit_that_says_so_is_stale_only_if_it_was_not_before() {
        let whole = deployed(("1", 10), 20);
        let mut resumed = deployed(("1", 10), 20);
        resumed.units.values_mut().for_each(|unit| unit.stale = vec!["older".to_owned()]);
        assert_eq!(run(&whole, &whole, &resumed), [(Observed::LostRestart, "app.service".to_owned())]);
        assert_eq!(run(&resumed, &whole, &resumed), []);
    }

    #[test]
    fn what_differs_between_any_two_machines_is_no_trace_of_the_cut() {
        let whole = deployed(("1", 10), 20);
        let other = deployed(("2", 10), 20);
        assert_eq!(run(&whole, &whole, &other), [(Observed::ResumeDiffers, "/etc/app.conf".to_owned())]);
        assert_eq!(run(&whole, &other, &deployed(("3", 10), 20)), [], "a random key, say");
    }

    #[test]
    fn numbers_that_a_repeated_statement_used_up_are_no_trace_and_one_row_more_is() {
        let table = |rows: &str, values: &str| {
            let table = DatabaseObject { name: "t".into(), rows: rows.into(), values: values.into(), ..<_>::default() };
            let mut capture = deployed(("1", 10), 20);
            let entry = (table.subject(), Record::DatabaseObject(table));
            capture.settings.insert(Section::Databases, [entry].into());
            capture
        };
        let whole = table("2", "a1 b2");
        assert_eq!(run(&whole, &whole, &table("2", "a1 b3")), []);
        assert_eq!(run(&whole, &whole, &table("3", "a1 a2 b3")), [(Observed::ResumeDiffers, "t".to_owned())]);
    }
}
