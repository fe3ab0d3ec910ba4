//! Processes: which there are, and which began anew.
//!
//! A service's restart is told by its unit. What no unit tells is told here: a worker that somebody left running, a
//! program that a supervisor starts again. Two processes are one and the same if they have the same number and began in
//! the same tick of the kernel's clock, whatever they call themselves.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::capture::Capture;
use crate::diff::Change;
use crate::entries::{Facts, Unit};
use crate::sections::{Record, Section};

/// Why a process is left to its unit.
pub(crate) const OF_UNIT: &str = "a process of a unit that began anew, came or went, which is told of the unit";
/// Why a job's processes are left out.
pub(crate) const OF_JOB: &str = "a process of a job that ends by itself";
/// Why a process with another name is none.
pub(crate) const RUNS_ON: &str = "a process that runs on under another name";

/// Processes of one user that run the same program with the same arguments in the same place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Whose it is.
    pub user: String,
    /// Its program; of a script the script.
    pub program: String,
    /// Digest of its arguments that only this run's key can make.
    pub arguments: String,
    /// The unit that it belongs to; empty for what a login left behind.
    pub unit: String,
    /// Whether one of them waits for connections.
    pub listens: bool,
    /// Each of them.
    pub runs: Vec<Run>,
}

/// One process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub pid: u32,
    /// When it began: ticks of the kernel's clock since the boot.
    pub ticks: u64,
    /// The same: nanoseconds since 1970 on the machine's clock. Never compared: that clock may be set.
    pub since: i64,
}

impl Run {
    fn id(&self) -> (u32, u64) {
        (self.pid, self.ticks)
    }
}

impl Facts for Process {
    fn subject(&self) -> String {
        let place = if self.unit.is_empty() { "left by a login".to_owned() } else { format!("in {}", self.unit) };
        let arguments = self.arguments.get(..8).unwrap_or(&self.arguments);
        format!("{} (arguments {arguments}) of {}, {place}", self.program, self.user)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let listens = if self.listens { "yes" } else { "no" };
        vec![("processes", self.runs.len().to_string()), ("listens", listens.to_owned())]
    }
}

/// Processes of one kind of which some ended and as many began.
#[derive(Debug)]
pub(crate) struct Anew {
    pub(crate) subject: String,
    pub(crate) program: String,
    /// When the last of them began.
    pub(crate) since: i64,
    /// Numbers before and after.
    pub(crate) pids: (String, String),
}

/// Those that began anew between two captures of one boot, and that no unit tells of.
pub(crate) fn began_anew(before: &Capture, after: &Capture) -> Vec<Anew> {
    let (old, new) = (alive(before), alive(after));
    let anew = |(subject, then, now): (&String, &Process, &Process)| {
        let gone: Vec<&Run> = then.runs.iter().filter(|run| !new.contains(&run.id())).collect();
        let fresh: Vec<&Run> = now.runs.iter().filter(|run| !old.contains(&run.id())).collect();
        let since = fresh.iter().map(|run| run.since).max()?;
        let is_told = told_by_unit(now, before, after).is_some();
        (!gone.is_empty() && then.runs.len() == now.runs.len() && !is_told).then(|| Anew {
            subject: subject.clone(),
            program: now.program.clone(),
            since,
            pids: (numbers(&gone), numbers(&fresh)),
        })
    };
    both(before, after).filter_map(anew).collect()
}

/// Why a difference of processes may be left out, if it may.
pub(crate) fn explained(change: &Change, before: &Capture, after: &Capture) -> Option<&'static str> {
    let (then, now) = (process(before, &change.subject), process(after, &change.subject));
    if let Some(reason) = then.or(now).and_then(|process| told_by_unit(process, before, after)) {
        return Some(reason);
    }
    let (old, new) = (alive(before), alive(after));
    let same = |process: Option<&Process>, there: &BTreeSet<(u32, u64)>| {
        process.is_none_or(|process| process.runs.iter().all(|run| there.contains(&run.id())))
    };
    (!change.differences.iter().any(|d| d.attribute == "listens" && then.is_some() && now.is_some())
        && same(then, &new)
        && same(now, &old))
    .then_some(RUNS_ON)
}

/// When the youngest process began that is there after and was not before.
pub(crate) fn began(before: &Capture, after: &Capture, subject: &str) -> Option<i64> {
    let old = alive(before);
    let fresh = process(after, subject)?.runs.iter().filter(|run| !old.contains(&run.id()));
    fresh.map(|run| run.since).max()
}

/// Only a unit that runs on has processes of which nobody else tells.
fn told_by_unit(process: &Process, before: &Capture, after: &Capture) -> Option<&'static str> {
    if process.unit.is_empty() {
        return None;
    }
    let (Some(old), Some(new)) = (before.units.get(&process.unit), after.units.get(&process.unit)) else {
        return Some(OF_UNIT);
    };
    if old.invocation != new.invocation || old.active != new.active {
        return Some(OF_UNIT);
    }
    is_job(new).then_some(OF_JOB)
}

/// A oneshot that remains keeps what it started, and that counts.
fn is_job(unit: &Unit) -> bool {
    unit.service_type == "oneshot" && unit.active != "active"
}

fn of(capture: &Capture) -> impl Iterator<Item = (&String, &Process)> {
    let entries = capture.settings.get(&Section::Processes).into_iter().flatten();
    entries.filter_map(|(subject, record)| match record {
        Record::Process(process) => Some((subject, process)),
        _ => None,
    })
}

fn process<'a>(capture: &'a Capture, subject: &str) -> Option<&'a Process> {
    match capture.settings.get(&Section::Processes)?.get(subject)? {
        Record::Process(process) => Some(process),
        _ => None,
    }
}

fn both<'a>(before: &'a Capture, after: &'a Capture) -> impl Iterator<Item = (&'a String, &'a Process, &'a Process)> {
    of(before).filter_map(|(subject, then)| Some((subject, then, process(after, subject)?)))
}

fn alive(capture: &Capture) -> BTreeSet<(u32, u64)> {
    of(capture).flat_map(|(_, process)| process.runs.iter().map(Run::id)).collect()
}

fn numbers(runs: &[&Run]) -> String {
    runs.iter().map(|run| run.pid.to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::testing::{machine, service};

    /// Unit, arguments, numbers and ticks.
    type Line<'a> = (&'a str, &'a str, &'a [(u32, u64)]);

    /// A machine with a supervisor and these processes.
    fn with(invocation: &str, processes: &[Line<'_>]) -> Capture {
        let mut capture = machine(&[], &[service("supervisor.service", invocation)]);
        for (unit, arguments, runs) in processes {
            let runs = runs.iter().map(|(pid, ticks)| Run { pid: *pid, ticks: *ticks, since: 0 }).collect();
            let (program, user) = ("/bin/worker".to_owned(), "root".to_owned());
            let (unit, arguments) = ((*unit).to_owned(), (*arguments).to_owned());
            let process = Process { user, program, arguments, unit, listens: false, runs };
            let processes = capture.settings.entry(Section::Processes).or_default();
            processes.insert(process.subject(), Record::Process(process));
        }
        capture
    }

    /// What counts: how many began anew, and how many kinds differ.
    fn counted(before: &Capture, after: &Capture) -> (usize, usize) {
        let changes = diff(before, after);
        let count = changes.iter().filter(|change| explained(change, before, after).is_none()).count();
        (began_anew(before, after).len(), count)
    }

    #[test]
    fn a_process_of_another_number_or_tick_began_anew() {
        let one = |pid, ticks| with("1", &[("", "a", &[(pid, ticks)])]);
        assert_eq!(counted(&one(7, 1), &one(7, 1)), (0, 0));
        assert_eq!(counted(&one(7, 1), &one(8, 2)), (1, 0));
        assert_eq!(counted(&one(7, 1), &one(7, 2)), (1, 0), "numbers come round again");
    }

    #[test]
    fn processes_that_pile_up_are_a_change_and_no_restart() {
        let (one, two) = (with("1", &[("", "a", &[(7, 1)])]), with("1", &[("", "a", &[(7, 1), (8, 2)])]));
        assert_eq!(counted(&one, &two), (0, 1));
        assert_eq!(counted(&two, &one), (0, 1));
        assert_eq!(counted(&with("1", &[]), &one), (0, 1));
    }

    #[test]
    fn a_supervisors_child_counts_unless_the_supervisor_itself_began_anew() {
        let child = |invocation, pid| with(invocation, &[("supervisor.service", "a", &[(pid, u64::from(pid))])]);
        assert_eq!(counted(&child("1", 7), &child("1", 8)), (1, 0));
        assert_eq!(counted(&child("1", 7), &child("2", 8)), (0, 0), "the unit tells of it");
        assert_eq!(counted(&child("1", 7), &with("2", &[])), (0, 0));
        let gone = with("1", &[("gone.service", "a", &[(7, 1)])]);
        assert_eq!(counted(&gone, &with("1", &[])), (0, 0), "a unit that is gone is told as one");
    }

    #[test]
    fn a_process_that_calls_itself_otherwise_is_the_same() {
        let (one, other) = (with("1", &[("", "a", &[(7, 1)])]), with("1", &[("", "b", &[(7, 1)])]));
        assert_eq!(counted(&one, &other), (0, 0));
        assert_eq!(counted(&one, &with("1", &[("", "b", &[(8, 2)])])), (0, 2), "another one with other arguments");
    }

    #[test]
    fn a_jobs_processes_come_and_go() {
        let job = |pid| {
            let mut capture = with("1", &[("supervisor.service", "a", &[(pid, 1)])]);
            for unit in capture.units.values_mut() {
                (unit.service_type, unit.active) = ("oneshot".to_owned(), "activating".to_owned());
            }
            capture
        };
        assert_eq!(counted(&job(7), &job(8)), (0, 0));
    }
}
