//! Deploy tools: each runs the whole deploy once and says, operation by operation, what it believes it did.
//!
//! pyinfra and Ansible are made to write events of their own (`helpers/`), one JSON object a line, without a change to
//! the user's files: what was written survives a kill, and tells time, file and line. What the tool prints is the second
//! source; where the two disagree, a remark says so.

mod ansible;
mod detect;
mod helper_events;
#[cfg(test)]
mod helpers;
mod pyinfra;
mod running;
mod shell;
mod transcript;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_machines::{Deadline, MachineError};
use redrill_model::{DeployRun, OperationRef, OperationRun, Pass, Tool};
use redrill_state::{Outcome, Window, Witnessed};

use crate::deploy::controller::Controller;
use crate::deploy::leftovers::Leftovers;
use crate::events::Events;
pub(crate) use ansible::{command as ansible_command, install as install_ansible_events};
pub(crate) use detect::resolve;
pub use detect::{Found, Undecided, detect};
use helper_events::{Execution, Said};
pub(crate) use pyinfra::{command as pyinfra_command, install as install_pyinfra_events};

/// Which run of the deploy this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// First or second.
    pub(crate) pass: Pass,
    /// Names the log files in the run directory, such as `deploy-1`.
    pub(crate) label: String,
    /// Kills the tool right before the operation with this number (from 1) would start, on whichever host is first. The
    /// numbers are those of [`Boundary`]. A script has none: a run of it that shall be cut is `Unclear` and did nothing.
    pub(crate) cut: Option<usize>,
    /// Waits after the first operation of each of these names until [`let_go`] is called. A script cannot wait.
    pub(crate) pauses: Vec<String>,
}

impl Run {
    /// The whole deploy.
    pub(crate) fn whole(pass: Pass) -> Self {
        Self { pass, label: pass.file_stem().to_owned(), cut: None, pauses: Vec::new() }
    }

    /// The deploy up to this boundary.
    pub(crate) fn cut_before(boundary: usize, label: String) -> Self {
        Self { pass: Pass::Resumed, label, cut: Some(boundary), pauses: Vec::new() }
    }
}

/// One run of a deploy, as the tool told it.
#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    /// For the report: every operation, those that were skipped included.
    pub(crate) run: DeployRun,
    /// When each operation ran on which host, on the controller's clock: nanoseconds since 1970. What was skipped has
    /// none.
    pub(crate) windows: Vec<HostWindow>,
    /// When the tool was started, on the same clock.
    pub(crate) began: i64,
    /// How it ended.
    pub(crate) ended: Ended,
    /// What a reader must know, in words for the report.
    pub(crate) remarks: Vec<String>,
    /// Where this deploy could be cut, in order.
    pub(crate) boundaries: Vec<Boundary>,
    /// It was cut before this operation, as asked; then it ended `Unclear`.
    pub(crate) cut: Option<usize>,
    /// What the tool passed over: plays for which it found no host.
    pub(crate) passed_over: Vec<String>,
    /// Nanoseconds that each machine's clock was ahead of the controller's, measured right before.
    pub(crate) offsets: BTreeMap<String, i64>,
    /// It was a script, which tells no operations that could be held against each other.
    pub(crate) is_script: bool,
    /// By machine: what it left that will still act.
    pub(crate) leftovers: BTreeMap<String, Leftovers>,
    /// By machine: who wrote meanwhile. Empty where that was not watched.
    pub(crate) witnessed: BTreeMap<String, Witnessed>,
}

impl Deployed {
    /// How far a machine's clock was ahead, in nanoseconds.
    pub(crate) fn offset(&self, machine: &str) -> i64 {
        self.offsets.get(machine).copied().unwrap_or_default()
    }

    /// How long the machines were at work: for as long as the tool ran, and as what it left was waited for.
    pub(crate) fn lasted(&self) -> Duration {
        let waited = self.leftovers.values().map(|left| left.waited).max().unwrap_or_default();
        Duration::from_secs_f64(self.run.seconds) + waited
    }
}

/// The place between two operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boundary {
    /// Of the operation behind it, in the order in which they start, from 1.
    pub(crate) number: usize,
    /// Its name.
    pub(crate) name: String,
    /// Its file and line.
    pub(crate) place: Option<String>,
    /// It depends on what earlier ones did: a handler, `_if`, `when`. A cut right before it is the most telling.
    pub(crate) depends: bool,
}

/// An operation on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostWindow {
    /// Where it ran: the machine that it was delegated to, if it was.
    pub(crate) host: String,
    pub(crate) window: Window,
    /// The item, where it is one of a loop.
    pub(crate) item: Option<String>,
}

impl HostWindow {
    /// For a finding.
    pub(crate) fn operation(&self) -> OperationRef {
        let Window { number, name, place, .. } = &self.window;
        OperationRef { number: *number, name: name.clone(), place: place.clone(), item: self.item.clone() }
    }
}

/// How a deploy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every operation ended well, or failed where its author allows it.
    Well,
    /// The tool says that it failed.
    Failed { operation: Option<OperationRef>, host: Option<String>, evidence: Vec<String> },
    /// Nobody can tell.
    Unclear(String),
}

/// What makes an operation the same one in two runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) place: Option<String>,
    pub(crate) item: Option<String>,
    /// Among those of which all this is the same, from 1.
    pub(crate) occurrence: usize,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.host, self.name)?;
        self.item.iter().try_for_each(|item| write!(f, " [{item}]"))?;
        self.place.iter().try_for_each(|place| write!(f, " ({place})"))
    }
}

/// The operations of two runs, held against each other.
///
/// The second run must be the same run: every operation of the first must occur again, and no other. An operation that
/// the tool skipped by itself (`when`, `_if`) has occurred. What an `if` in a deploy, a conditional include, a tag or an
/// early end keeps from the second run is missing. Only handlers, and what runs when others fail, may be absent from
/// either run; they count where they occur in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Operations of the first run that had to occur again.
    pub(crate) expected: usize,
    /// Of these, those that did.
    pub(crate) again: usize,
    /// Those that did not, and why that may be, where it is known.
    pub(crate) missing: Vec<(Key, Option<String>)>,
    /// Operations of the second run only.
    pub(crate) added: Vec<(Key, Option<String>)>,
    /// Operations whose command hides its own failure (`... || true`), and that complained in the second run only.
    pub(crate) hidden: Vec<Hidden>,
}

/// What a deploy did on one machine, as its tool told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Executed {
    /// Operations that ran there and could change something.
    pub(crate) ran: usize,
    /// That the tool left out there.
    pub(crate) skipped: usize,
    /// For this machine, and ran on the controller or another machine.
    pub(crate) elsewhere: usize,
    /// That ran there, and only look or speak by nature.
    pub(crate) looked: usize,
    /// Facts or a question that failed softly, while everything that came after it was left out.
    pub(crate) in_vain: Option<InVain>,
}

/// An operation that failed and may, and how many were left out since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InVain {
    pub(crate) operation: OperationRef,
    pub(crate) skipped: usize,
}

impl Executed {
    /// What has failed in vain when this operation is over, too.
    fn in_vain(&self, run: &OperationRun, here: bool) -> Option<InVain> {
        if here && run.looks && run.outcome == Said::Failed.word() {
            let OperationRun { number, name, place, item, .. } = run.clone();
            return Some(InVain { operation: OperationRef { number, name, place, item }, skipped: 0 });
        }
        let before = self.in_vain.clone()?;
        match run.outcome == SKIPPED {
            true => Some(InVain { skipped: before.skipped + 1, ..before }),
            false if run.looks => Some(before),
            false => None,
        }
    }
}

/// A failure that a command hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hidden {
    pub(crate) operation: OperationRef,
    pub(crate) host: String,
    /// What it wrote to its error stream.
    pub(crate) error: String,
}

impl Compared {
    pub(crate) fn new(first: &Deployed, second: &Deployed) -> Self {
        let (before, after) = (first.operations(), second.operations());
        let quiet = |key: &Key| before.get(key).is_some_and(|run| run.hidden_error.is_none());
        let hidden = after.iter().filter(|(key, _)| quiet(key)).filter_map(|(_, run)| {
            let OperationRun { number, name, place, item, host, .. } = (*run).clone();
            Some(Hidden {
                operation: OperationRef { number, name, place, item },
                host,
                error: run.hidden_error.clone()?,
            })
        });
        let hidden = hidden.collect();
        let only = |of: &Operations<'_>, other: &Operations<'_>| {
            let only = of.iter().filter(|(key, run)| !other.contains_key(*key) && !run.optional);
            only.map(|(key, run)| (key.clone(), run.condition.clone())).collect::<Vec<_>>()
        };
        // What the tool left out in both runs was looked at in neither.
        let ran = |key: &Key| [&before, &after].iter().filter_map(|of| of.get(key)).any(|run| run.outcome != SKIPPED);
        let again = before.keys().filter(|key| after.contains_key(*key) && ran(key)).count();
        let missing = only(&before, &after);
        Self { expected: again + missing.len(), again, added: only(&after, &before), missing, hidden }
    }
}

/// The word for what a tool left out.
const SKIPPED: &str = Said::Skipped.word();

type Operations<'a> = BTreeMap<Key, &'a OperationRun>;

impl Deployed {
    /// Every operation on every host, skipped ones included.
    fn operations(&self) -> Operations<'_> {
        let mut keys = BTreeMap::new();
        for run in &self.run.runs {
            let OperationRun { host, name, place, item, .. } = run.clone();
            let mut key = Key { host, name, place, item, occurrence: 1 };
            while keys.contains_key(&key) {
                key.occurrence += 1;
            }
            keys.insert(key, run);
        }
        keys
    }

    /// What it did of its own on a machine.
    pub(crate) fn executed(&self, machine: &str) -> Executed {
        let mut executed = Executed::default();
        for run in &self.run.runs {
            let here = run.on.as_deref().unwrap_or(&run.host) == machine;
            match run.outcome == SKIPPED {
                true if run.host == machine => executed.skipped += 1,
                false if here && run.looks => executed.looked += 1,
                false if here => executed.ran += 1,
                false if run.host == machine => executed.elsewhere += 1,
                _ => continue,
            }
            executed.in_vain = executed.in_vain(run, here);
        }
        executed
    }

    /// Operations that failed on some host.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &HostWindow> {
        self.windows.iter().filter(|window| window.window.outcome == Outcome::Failed)
    }
}

/// The operation that a deploy which still runs is at, as its events tell it.
pub(crate) fn at_work(controller: &Controller, label: &str) -> Option<OperationRef> {
    helper_events::read(&controller.events_told(label)?).unfinished.map(|(operation, _)| operation)
}

/// Numbers of the pauses that a deploy has come to, in this order, and the names of the operations that it has told of.
pub(crate) fn paused(controller: &Controller, label: &str) -> (Vec<usize>, Vec<String>) {
    let told = helper_events::read(&controller.events_told(label).unwrap_or_default());
    (told.paused, told.names)
}

/// Whether an operation has this name, without the file or role that the tool puts before it.
pub(crate) fn is_named(name: &str, wanted: &str) -> bool {
    name == wanted || [" | ", " : "].iter().any(|between| name.ends_with(&format!("{between}{wanted}")))
}

/// Lets a deploy go on that waits at the pause of this number, from 1.
pub(crate) fn let_go(controller: &Controller, label: &str, number: usize) -> std::io::Result<()> {
    std::fs::write(gate(controller, label).join(number.to_string()), "")
}

/// Where a helper looks whether it may go on.
fn gate(controller: &Controller, label: &str) -> PathBuf {
    controller.tools().join(format!("{label}.gate"))
}

/// What a helper is told of pauses.
fn pausing(controller: &Controller, run: &Run) -> Vec<(&'static str, String)> {
    if run.pauses.is_empty() {
        return Vec::new();
    }
    let names = serde_json::to_string(&run.pauses).expect("text");
    vec![("REDRILL_PAUSE", names), ("REDRILL_GATE", gate(controller, &run.label).display().to_string())]
}

/// Runs the deploy. Its output goes to the events as it comes, and whole to `log_dir`.
pub(crate) async fn deploy(
    controller: &Controller,
    run: &Run,
    log_dir: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Deployed, MachineError> {
    let _ = std::fs::remove_file(controller.events_file(&run.label)); // Events are appended: none may be left of before.
    let gate = gate(controller, &run.label);
    let _ = std::fs::remove_dir_all(&gate); // None may be there yet.
    std::fs::create_dir_all(&gate)
        .map_err(|source| MachineError::Io { what: "cannot write the controller's tools".into(), source })?;
    match controller.found.tool {
        Tool::Pyinfra => pyinfra::deploy(controller, run, log_dir, events, deadline).await,
        Tool::Ansible => ansible::deploy(controller, run, log_dir, events, deadline).await,
        Tool::Shell => shell::deploy(controller, run, log_dir, events, deadline).await,
    }
}

/// The time of a run, from start to end: nanoseconds since 1970.
type Span = (i64, i64);

/// Makes the record of a run out of what was executed.
fn record(
    run: &Run,
    (began, over): Span,
    exit: Option<i32>,
    executions: Vec<Execution>,
    ended: Ended,
    remarks: Vec<String>,
) -> Deployed {
    let windows: Vec<HostWindow> = executions.iter().filter_map(Execution::window).collect();
    let seconds = |from: i64, to: i64| ((to - from) as f64 / 1e9).max(0.0);
    let count = |outcome| windows.iter().filter(|window| window.window.outcome == outcome).count();
    let runs = executions.iter().map(|execution| OperationRun {
        number: execution.number,
        name: execution.name.clone(),
        place: execution.place.clone(),
        item: execution.item.clone(),
        host: execution.host.clone(),
        on: execution.place_of_work().map(str::to_owned),
        looks: execution.looks,
        outcome: execution.said.word().to_owned(),
        started: seconds(began, execution.start),
        ended: seconds(began, execution.end),
        optional: execution.optional,
        condition: execution.condition.clone(),
        hidden_error: execution.hidden_error.clone(),
    });
    let run = DeployRun {
        pass: run.pass,
        seconds: seconds(began, over),
        exit,
        operations: windows.len(),
        changed: count(Outcome::Changed),
        unchanged: count(Outcome::Unchanged),
        failed: count(Outcome::Failed),
        runs: runs.collect(),
    };
    let boundaries = helper_events::boundaries(&executions);
    Deployed {
        run,
        windows,
        began,
        ended,
        remarks,
        boundaries,
        cut: None,
        passed_over: Vec::new(),
        offsets: BTreeMap::new(),
        is_script: false,
        leftovers: BTreeMap::new(),
        witnessed: BTreeMap::new(),
    }
}

/// A tool that somebody killed says nothing about the deploy, unless an operation had failed before.
fn killed(name: &str, finished: &running::Finished, executions: &[Execution]) -> Option<Ended> {
    let signal = finished.signal().filter(|_| executions.iter().all(|execution| execution.said != Said::Failed))?;
    Some(Ended::Unclear(format!("{name} was killed (signal {signal})")))
}

/// The last operation that failed against its author's will, as the end of a deploy.
fn failure(executions: &[Execution], otherwise: impl FnOnce() -> Vec<String>) -> Option<Ended> {
    let failed = executions.iter().rev().find(|execution| execution.said == Said::Failed)?;
    let evidence = if failed.output.is_empty() { otherwise() } else { failed.output.clone() };
    let evidence = evidence[evidence.len().saturating_sub(QUOTED)..].to_vec();
    let operation = Some(failed.reference());
    Some(Ended::Failed { operation, host: Some(failed.host.clone()), evidence })
}

/// Lines of a failing command that a finding quotes.
const QUOTED: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(name: &str, said: Said) -> Execution {
        Execution { name: name.to_owned(), host: "web".to_owned(), said, ..Execution::default() }
    }

    fn deployed(executions: Vec<Execution>) -> Deployed {
        record(&Run::whole(Pass::First), (0, 9), Some(0), executions, Ended::Well, Vec::new())
    }

    fn compared(first: Vec<Execution>, second: Vec<Execution>) -> (usize, usize, usize, usize) {
        let compared = Compared::new(&deployed(first), &deployed(second));
        (compared.again, compared.expected, compared.missing.len(), compared.added.len())
    }

    #[test]
    fn a_second_run_must_be_the_same_run() {
        let two = || vec![execution("a", Said::Changed), execution("a", Said::Unchanged)];
        assert_eq!(compared(two(), two()), (2, 2, 0, 0));
        assert_eq!(compared(two(), vec![execution("a", Said::Changed)]), (1, 2, 1, 0), "the second of one name");
        assert_eq!(compared(vec![], two()), (0, 0, 0, 2));
        let skipped = vec![execution("a", Said::Skipped), execution("a", Said::Skipped)];
        assert_eq!(compared(two(), skipped.clone()), (2, 2, 0, 0), "what the tool itself skips has occurred");
        assert!(deployed(skipped).windows.is_empty(), "and did nothing");
    }

    #[test]
    fn a_hidden_failure_of_the_second_run_is_found() {
        let quiet = || vec![execution("move", Said::Changed)];
        let loud = || vec![Execution { hidden_error: Some("mv: no".to_owned()), ..execution("move", Said::Changed) }];
        let hidden = |first, second| Compared::new(&deployed(first), &deployed(second)).hidden;
        assert_eq!(hidden(quiet(), loud())[0].error, "mv: no");
        assert!(hidden(loud(), loud()).is_empty() && hidden(loud(), quiet()).is_empty());
    }

    #[test]
    fn handlers_may_be_absent_and_what_is_conditional_may_not() {
        let handler = Execution { optional: true, ..execution("restart", Said::Changed) };
        let first = vec![execution("a", Said::Changed), handler];
        let second = vec![execution("a", Said::Unchanged)];
        assert_eq!(compared(first.clone(), second.clone()), (1, 1, 0, 0));
        assert_eq!(compared(second.clone(), first.clone()), (1, 1, 0, 0));
        assert_eq!(compared(first.clone(), first.clone()), (2, 2, 0, 0), "they count where they occur");
        let condition = Some("it stands under a condition".to_owned());
        let guarded = Execution { condition: condition.clone(), ..execution("make it once", Said::Changed) };
        let compared = Compared::new(&deployed([first, vec![guarded]].concat()), &deployed(second));
        let [(key, why)] = compared.missing.as_slice() else { panic!("{:?}", compared.missing) };
        assert_eq!((key.to_string().as_str(), why), ("[web] make it once", &condition));
    }
}
