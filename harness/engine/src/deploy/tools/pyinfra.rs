//! pyinfra 3: the version that the repo pins.
//!
//! Three sources. The events of `helpers/pyinfra_events.py` tell time, file and line. From 3.10 on pyinfra prints one JSON
//! object with the outcome of every operation, or nothing at all when the last host failed; the plan in it is empty under
//! `-y` and means nothing. The deploy may print, too: the helper keeps the object in a file. Standard error tells the same story line by line, and before 3.10 a table.

use std::path::{Path, PathBuf};

use redrill_machines::{Deadline, MachineError};
use redrill_model::OperationRef;
use redrill_state::Outcome;
use serde::Deserialize;

use super::helper_events::{self, Execution, Said, Told};
use super::running::{self, Finished, Stdout};
use super::transcript::{self, Line};
use super::{Deployed, Ended, QUOTED, Run, failure, killed, pausing, record};
use crate::deploy::controller::{Controller, ControllerError, Sealed};
use crate::events::Events;

const HELPER: &str = include_str!("helpers/pyinfra_events.py");
/// The first version with `--json`.
const JSON_SINCE: (u64, u64) = (3, 10);

/// Lays the helper into the controller.
pub(crate) fn install(tools: &Path) -> Result<(), ControllerError> {
    std::fs::write(helper(tools), HELPER).map_err(ControllerError::io("cannot write the controller's tools"))
}

fn helper(tools: &Path) -> PathBuf {
    tools.join("pyinfra_events.py")
}

/// pyinfra with its helper, in the checkout.
pub(crate) fn command(controller: &Controller) -> Sealed {
    let mut command = controller.command("python");
    command.arg(helper(&controller.tools())).env("REDRILL_ROOT", controller.servers());
    command
}

pub(super) async fn deploy(
    controller: &Controller,
    run: &Run,
    log_dir: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Deployed, MachineError> {
    let mut command = command(controller);
    let results = format!("{}.results.json", run.label);
    let _ = std::fs::remove_file(controller.told().join(&results)); // None may be there yet.
    command.env("REDRILL_RESULTS", controller.told().join(&results));
    command.env("REDRILL_EVENTS", controller.events_file(&run.label)).arg("-y");
    command.envs(run.cut.map(|cut| ("REDRILL_CUT", cut.to_string()))).envs(pausing(controller, run));
    let json = has_json(&controller.tool_version);
    command.args(json.then_some("--json"));
    // These beat whatever the inventory says of its real hosts.
    command.arg("--data").arg(format!("ssh_known_hosts_file={}", controller.known_hosts().display()));
    command.args(["--data", "ssh_strict_host_key_checking=yes"]);
    command.arg("--data").arg(format!("ssh_config_file={}", controller.ssh_config().display()));
    if let Some(key) = controller.key() {
        command.arg("--data").arg(format!("ssh_key={}", key.display()));
    }
    command.args(controller.arguments(run.pass));
    command.args(&controller.found.inventory).label(&run.label).arg(&controller.found.script);
    let log = log_dir.join(format!("{}.log", run.label));
    let mut finished = running::run(controller, command, Stdout::Document, &log, events, deadline).await?;
    if let Some(document) = controller.read_told(&results).or_else(|| last_document(&finished.document)) {
        finished.document = document;
    }
    running::keep(&log_dir.join(format!("{}.json", run.label)), &finished.document, events)?;
    let told = helper_events::read(&running::events_of(controller, &run.label, log_dir, events)?);
    Ok(understand(run, json, &finished, told))
}

/// Whether this version prints JSON.
fn has_json(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= JSON_SINCE
}

/// More braces than any document of results has: each is tried as the beginning of one.
const MOST_OBJECTS: usize = 100_000;

#[derive(Debug, Deserialize)]
struct Printed {
    results: Option<Results>,
}

#[derive(Debug, Deserialize)]
struct Results {
    operations: Vec<PrintedOperation>,
    #[serde(default)]
    failed_hosts: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct PrintedOperation {
    name: String,
    #[serde(default)]
    success: Vec<String>,
    #[serde(default)]
    error: Vec<String>,
    #[serde(default)]
    no_change: Vec<String>,
}

/// The last whole document among what was printed.
fn last_document(printed: &str) -> Option<String> {
    let starts = printed.rmatch_indices('{').map(|(at, _)| &printed[at..]);
    starts.take(MOST_OBJECTS).find_map(|rest| {
        let mut documents = serde_json::Deserializer::from_str(rest).into_iter::<Printed>();
        documents.next()?.ok()?.results?;
        Some(rest[..documents.byte_offset()].to_owned())
    })
}

impl PrintedOperation {
    fn outcomes(&self) -> Vec<(String, Said)> {
        let with = |hosts: &[String], said| hosts.iter().map(|host| (host.clone(), said)).collect::<Vec<_>>();
        let mut all = with(&self.success, Said::Changed);
        all.extend(with(&self.no_change, Said::Unchanged));
        all.extend(with(&self.error, Said::Failed));
        all
    }
}

/// Puts the sources together. `json` tells whether this version prints a document.
fn understand(run: &Run, json: bool, finished: &Finished, told: Told) -> Deployed {
    if let Some(late) = &finished.late {
        return record(run, finished.span, None, told.executions, Ended::Unclear(late.clone()), Vec::new());
    }
    let seen = transcript::operations(&finished.stderr);
    let printed = serde_json::from_str::<Printed>(&finished.document).ok().and_then(|printed| printed.results);
    let (executions, remarks) = executions(printed.as_ref(), &seen, &told);
    let ended = match told.cut {
        Some(number) => Ended::Unclear(format!("it was cut before operation {number}, as asked")),
        None => ended(json, finished, printed.as_ref(), &seen, &told, &executions),
    };
    let mut deployed = record(run, finished.span, finished.exit(), executions, ended, remarks);
    deployed.cut = told.cut;
    deployed
}

/// What was executed. The events are the fullest source; where pyinfra's own word differs from them, its word counts and
/// nothing is put down to a time.
fn executions(printed: Option<&Results>, seen: &[transcript::Operation], told: &Told) -> (Vec<Execution>, Vec<String>) {
    let listed = printed.map(|results| with_times(results, seen));
    let by_text = from_transcript(seen);
    let second = listed.as_ref().unwrap_or(&by_text);
    if told.executions.is_empty() {
        let timed = listed.is_none() || same_names(printed, seen);
        let remark = "pyinfra's two outputs disagree about the operations: no change is put down to one";
        return (second.clone(), if timed { Vec::new() } else { vec![remark.to_owned()] });
    }
    // A transcript that was cut short, or shows nested operations its own way, is no second witness.
    let complete = listed.is_some() || told.over;
    if !complete || agree(&told.executions, second) {
        return (told.executions.clone(), Vec::new());
    }
    let remark = "pyinfra's results and its events disagree about the operations: its results count, and no change is put \
                  down to an operation";
    let untimed = second.iter().cloned().map(|execution| Execution { start: 0, end: 0, ..execution });
    (untimed.collect(), vec![remark.to_owned()])
}

fn same_names(printed: Option<&Results>, seen: &[transcript::Operation]) -> bool {
    let names = |results: &Results| results.operations.iter().map(|o| o.name.trim().to_owned()).collect::<Vec<_>>();
    printed.is_none_or(|results| names(results) == seen.iter().map(|o| o.name.clone()).collect::<Vec<_>>())
}

/// Whether both tell of the same operations, hosts and outcomes, in whatever order.
fn agree(one: &[Execution], other: &[Execution]) -> bool {
    // To pyinfra an operation that its `_if` left out is one without changes.
    let word = |said: Said| if said == Said::Skipped { Said::Unchanged.word() } else { said.word() };
    let story = |executions: &[Execution]| {
        let line = |e: &Execution| (e.name.clone(), e.host.clone(), word(e.said));
        let mut lines: Vec<_> = executions.iter().map(line).collect();
        lines.sort();
        lines
    };
    story(one) == story(other)
}

fn with_times(results: &Results, seen: &[transcript::Operation]) -> Vec<Execution> {
    let operations = &results.operations;
    let timed = operations.iter().map(|o| o.name.trim()).eq(seen.iter().map(|o| o.name.as_str()));
    let mut executions = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        for (host, said) in operation.outcomes() {
            let seen = seen.get(index).filter(|_| timed);
            let host_end = seen.and_then(|seen| seen.hosts.iter().find(|end| end.host == host));
            let start = seen.map_or(0, |seen| seen.start);
            // A host goes on only after an error that its author allows.
            let ignored = host_end.is_some_and(|end| end.ignored) || !results.failed_hosts.contains(&host);
            executions.push(Execution {
                number: index + 1,
                name: operation.name.trim().to_owned(),
                start,
                end: host_end.map_or(start, |end| end.end),
                said: if said == Said::Failed && ignored { Said::Ignored } else { said },
                output: seen.filter(|_| said == Said::Failed).map(|seen| seen.output.clone()).unwrap_or_default(),
                host,
                ..Execution::default()
            });
        }
    }
    executions
}

fn from_transcript(seen: &[transcript::Operation]) -> Vec<Execution> {
    let execution = |index: usize, operation: &transcript::Operation, end: &transcript::HostEnd| Execution {
        number: index + 1,
        name: operation.name.clone(),
        host: end.host.clone(),
        start: operation.start,
        end: end.end,
        said: match (end.outcome, end.ignored) {
            (Outcome::Changed | Outcome::Ran, _) => Said::Changed,
            (Outcome::Unchanged, _) => Said::Unchanged,
            (Outcome::Failed, true) => Said::Ignored,
            (Outcome::Failed, false) => Said::Failed,
        },
        output: operation.output.clone(),
        ..Execution::default()
    };
    let operations = seen.iter().enumerate();
    operations
        .flat_map(|(index, o)| o.hosts.iter().map(move |end| execution(index, o, end)).collect::<Vec<_>>())
        .collect()
}

fn ended(
    json: bool,
    finished: &Finished,
    printed: Option<&Results>,
    seen: &[transcript::Operation],
    told: &Told,
    executions: &[Execution],
) -> Ended {
    let unclear = |why: &str| Ended::Unclear(why.to_owned());
    let failed = executions.iter().any(|execution| execution.said == Said::Failed)
        || printed.is_some_and(|results| !results.failed_hosts.is_empty());
    if finished.exit() == Some(0) && !failed {
        let whole = transcript::is_whole(&finished.stderr);
        return match (json, printed) {
            (true, None) => unclear("pyinfra ended well and printed no results"),
            (false, None) if !whole => unclear("pyinfra ended well, and what it printed breaks off before its results"),
            _ if told.broken.is_some() => Ended::Unclear(told.broken.clone().unwrap_or_default()),
            _ if executions.is_empty() => unclear("pyinfra ran no operation on any host"),
            _ => Ended::Well,
        };
    }
    if let Some(killed) = killed("pyinfra", finished, executions) {
        return killed;
    }
    let trouble = || last_output(seen, &finished.stderr);
    // The events know which one failed; a transcript goes on with what was left out after it.
    failure(&told.executions, trouble).or_else(|| failure(executions, trouble)).unwrap_or_else(|| {
        // An exception in the deploy, a host out of reach, a syntax error: the last operation had begun, or none.
        let unfinished = seen.iter().enumerate().next_back().filter(|(_, operation)| operation.hosts.is_empty());
        let by_text = unfinished.map(|(index, operation)| OperationRef {
            number: index + 1,
            name: operation.name.clone(),
            place: None,
            item: None,
        });
        let by_events = told.unfinished.as_ref().map(|(operation, _)| operation.clone());
        let host = told.unfinished.as_ref().map(|(_, host)| host.clone());
        Ended::Failed { operation: by_events.or(by_text), host, evidence: transcript::trouble(&finished.stderr) }
    })
}

/// What the last operation printed, else pyinfra's own complaint.
fn last_output(seen: &[transcript::Operation], stderr: &[Line]) -> Vec<String> {
    let failed = seen.iter().rev().find(|o| o.hosts.iter().any(|end| end.outcome == Outcome::Failed && !end.ignored));
    let output = failed.map(|operation| operation.output.clone()).unwrap_or_default();
    if output.is_empty() { transcript::trouble(stderr) } else { output[output.len().saturating_sub(QUOTED)..].to_vec() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use redrill_model::Pass;

    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().enumerate().map(|(number, line)| (number as i64 * 1_000_000_000, line.to_owned())).collect()
    }

    fn read_with(json: bool, stdout: &str, stderr: &str, events: &str, exit: i32) -> Deployed {
        let finished = Finished {
            status: Some(ExitStatus::from_raw(exit << 8)),
            document: stdout.to_owned(),
            stderr: lines(stderr),
            span: (0, 9),
            ..Finished::default()
        };
        understand(&Run::whole(Pass::First), json, &finished, helper_events::read(events))
    }

    fn read(stdout: &str, stderr: &str, exit: i32) -> Deployed {
        read_with(true, stdout, stderr, "", exit)
    }

    const STDERR: &str = include_str!("../../../fixtures/pyinfra-3.10-run1.stderr.txt");
    const OLD: &str = include_str!("../../../fixtures/pyinfra-3.5.stderr.txt");
    const OLD_EVENTS: &str = include_str!("../../../fixtures/pyinfra-3.5-events.jsonl");
    const EVENTS: &str = include_str!("../../../fixtures/pyinfra-3.10-events.jsonl");
    const EVENTS_STDOUT: &str = include_str!("../../../fixtures/pyinfra-3.10-events.json");
    const EVENTS_STDERR: &str = include_str!("../../../fixtures/pyinfra-3.10-events.stderr.txt");

    #[test]
    fn a_first_run_is_read_from_both_streams() {
        let deployed = read(include_str!("../../../fixtures/pyinfra-3.10-run1.json"), STDERR, 0);
        assert_eq!(deployed.ended, Ended::Well);
        assert_eq!((deployed.run.operations, deployed.run.changed, deployed.run.unchanged), (4, 4, 0));
        assert!(deployed.windows.iter().all(|w| w.window.end > w.window.start), "{:?}", deployed.windows);
        assert_eq!(deployed.remarks, [""; 0]);
    }

    #[test]
    fn what_a_deploy_prints_does_not_spoil_the_document() {
        let document = include_str!("../../../fixtures/pyinfra-3.10-run1.json").trim();
        for (before, after) in [
            ("hello\n", ""),
            ("no newline", ""),
            ("", "bye"),
            ("{", "}"),
            ("{\"results\": ", ""),
            ("{\"results\": null}", "{\"results\": null}{\"a\": {}}"),
            ("{\"results\": {\"operations\": []}}", "{\"other\": [1]}"),
            ("[{}", "{\"results\": {\"operations\": ["),
        ] {
            let printed = format!("{before}{document}{after}");
            assert_eq!(last_document(&printed).as_deref(), Some(document), "{before:?} {after:?}");
        }
        assert_eq!(last_document(&document[..document.len() - 2]), None, "what is cut is no document");
        assert_eq!(last_document(""), None);
    }

    #[test]
    fn events_tell_file_and_line_and_agree_with_the_results() {
        let deployed = read_with(true, EVENTS_STDOUT, EVENTS_STDERR, EVENTS, 0);
        assert_eq!((deployed.ended.clone(), deployed.remarks.clone()), (Ended::Well, Vec::new()));
        let find = |name: &str| deployed.windows.iter().find(|w| w.window.name == name).expect(name);
        let dir = find("tasks/x.py | dir");
        assert_eq!(dir.window.place.as_deref(), Some("tasks/x.py:2"), "the innermost line of the checkout");
        assert!(dir.window.end > dir.window.start);
        assert_eq!(find("inner").window.place.as_deref(), Some("tasks/x.py:5"), "an operation inside an operation");
        let run = |name: &str| deployed.run.runs.iter().find(|run| run.name == name).expect(name);
        assert!(run("guarded").condition.is_some() && run("if op").condition.is_none());
        assert!(run("Fails a little").hidden_error.as_deref().is_some_and(|said| said.starts_with("mv: cannot stat")));
        let depends: Vec<_> = deployed.boundaries.iter().filter(|b| b.depends).map(|b| b.name.as_str()).collect();
        assert_eq!((depends, deployed.boundaries.len()), (vec!["if op"], 7));
        assert_eq!(deployed.boundaries[0].place.as_deref(), Some("tasks/x.py:2"));
    }

    #[test]
    fn results_beat_events_that_say_something_else_and_it_is_told() {
        let events = EVENTS.replacen("\"outcome\": \"unchanged\"", "\"outcome\": \"changed\"", 1);
        assert_ne!(events, EVENTS);
        let deployed = read_with(true, EVENTS_STDOUT, EVENTS_STDERR, &events, 0);
        assert!(deployed.remarks[0].contains("disagree"), "{:?}", deployed.remarks);
        assert!(deployed.windows.iter().all(|w| w.window.start == 0), "nothing is put down to a time");
    }

    #[test]
    fn versions_before_json_are_read_from_events_and_text() {
        assert!(has_json("3.10.0") && has_json("4.0") && !has_json("3.9.2") && !has_json("3.1"));
        let deployed = read_with(false, "", OLD, OLD_EVENTS, 0);
        assert_eq!((deployed.ended.clone(), deployed.remarks.clone()), (Ended::Well, Vec::new()));
        assert_eq!((deployed.run.changed, deployed.run.unchanged, deployed.run.failed), (4, 2, 1));
        let text_alone = read_with(false, "", OLD, "", 0);
        assert_eq!((text_alone.ended.clone(), text_alone.run.changed), (Ended::Well, 4));
    }

    #[test]
    fn a_cut_output_is_never_success() {
        let cut = OLD.split("--> Results:").next().expect("before the table");
        assert!(matches!(read_with(false, "", cut, "", 0).ended, Ended::Unclear(_)));
        let half = &EVENTS_STDOUT[..EVENTS_STDOUT.len() / 2];
        assert!(matches!(read_with(true, half, EVENTS_STDERR, EVENTS, 0).ended, Ended::Unclear(_)));
        let torn = &EVENTS[..EVENTS.len() / 2];
        assert!(matches!(read_with(true, EVENTS_STDOUT, EVENTS_STDERR, torn, 0).ended, Ended::Unclear(_)));
        let other_form = r#"{"plan": [], "results": {"steps": [], "failed_hosts": []}}"#;
        assert!(matches!(read_with(true, other_form, EVENTS_STDERR, EVENTS, 0).ended, Ended::Unclear(_)));
    }

    #[test]
    fn a_tool_that_was_killed_says_nothing_about_the_deploy() {
        let begun: String = EVENTS.lines().take(9).map(|line| format!("{line}\n")).collect();
        let Ended::Unclear(why) = read_with(true, "", "", &begun, 137).ended else { panic!("no verdict") };
        assert_eq!(why, "pyinfra was killed (signal 9)");
        assert!(matches!(
            read("", "--> Starting operation: x\n    [web] Error: executed 0 commands\n", 137).ended,
            Ended::Failed { .. }
        ));
    }

    #[test]
    fn a_cut_that_was_asked_for_is_told() {
        let begun: String = EVENTS.lines().take(9).map(|line| format!("{line}\n")).collect();
        let events = format!("{begun}{{\"e\": \"cut\", \"t\": 5, \"number\": 2}}\n");
        let finished = Finished { status: Some(ExitStatus::from_raw(137 << 8)), ..Finished::default() };
        let run = Run::cut_before(2, "cut-2".to_owned());
        assert_eq!(run.cut, Some(2));
        let deployed = understand(&run, true, &finished, helper_events::read(&events));
        assert_eq!((deployed.cut, deployed.run.operations), (Some(2), 1));
        assert!(matches!(deployed.ended, Ended::Unclear(_)), "what was cut proves nothing");
    }

    #[test]
    fn a_second_run_tells_what_it_left_alone() {
        let stderr = STDERR.replace("Success", "No changes");
        let deployed = read(include_str!("../../../fixtures/pyinfra-3.10-run2.json"), &stderr, 0);
        assert_eq!((deployed.run.changed, deployed.run.unchanged), (1, 3));
        let changed: Vec<_> = deployed.run.runs.iter().filter(|r| r.outcome == "changed").map(|r| r.number).collect();
        assert_eq!(changed, [3], "JSON beats the text");
    }

    #[test]
    fn empty_output_is_never_success() {
        let failed = read(
            include_str!("../../../fixtures/pyinfra-3.10-fail.json"),
            include_str!("../../../fixtures/pyinfra-3.10-fail.stderr.txt"),
            1,
        );
        let Ended::Failed { operation: Some(operation), host, .. } = &failed.ended else {
            panic!("{:?}", failed.ended)
        };
        assert_eq!((operation.name.as_str(), host.as_deref()), ("Fails", Some("@local")));
        assert!(matches!(read("", STDERR, 0).ended, Ended::Unclear(_)));
        let nothing = r#"{"plan": [], "results": {"operations": [], "failed_hosts": []}}"#;
        assert!(matches!(read(nothing, "", 0).ended, Ended::Unclear(_)));
        assert!(matches!(read(r#"{"plan": [], "results": null}"#, "", 0).ended, Ended::Unclear(_)));
    }

    #[test]
    fn an_ignored_error_does_not_fail_the_deploy_but_is_counted() {
        let stderr = "--> Starting operation: Fails ignored \n    [@local] Error (ignored): executed 1 commands\n\n\
                      --> Starting operation: After \n    [@local] Success\n";
        let deployed = read(include_str!("../../../fixtures/pyinfra-3.10-ignored-error.json"), stderr, 0);
        assert_eq!((deployed.ended.clone(), deployed.run.failed, deployed.run.changed), (Ended::Well, 1, 1));
        assert_eq!(deployed.failed().count(), 1);
    }

    #[test]
    fn an_exception_is_quoted() {
        let stderr = "--> Starting operation: Put file \nTraceback (most recent call last):\n  File x\nFileNotFoundError: keys\n";
        let Ended::Failed { operation, evidence, .. } = read("", stderr, 1).ended else { panic!("must fail") };
        assert_eq!(operation.map(|o| o.name), Some("Put file".to_owned()));
        assert_eq!(evidence.last().map(String::as_str), Some("FileNotFoundError: keys"));
    }
}
