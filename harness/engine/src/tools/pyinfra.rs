//! pyinfra 3 with `--json`.
//!
//! Standard output is one JSON object with the outcome of every operation, or nothing at all when the last host
//! failed; the plan in it is empty under `-y` and means nothing. Standard error tells the same story line by line, and
//! is the only one to tell when.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::SystemTime;

use redrill_machines::{Deadline, MachineError};
use redrill_model::{Deploy, DeployRun, OperationRef, OperationRun, Pass};
use redrill_state::{Outcome, Window};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::transcript::{self, Line};
use super::{Deployed, Ended, HostWindow};
use crate::controller::{Controller, deploy_files};
use crate::events::{Event, Events};

/// Lines of a failing command that a finding quotes.
const QUOTED: usize = 40;

pub(super) async fn deploy(
    controller: &Controller,
    deploy: &Deploy,
    pass: Pass,
    log_dir: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Deployed, MachineError> {
    let key = controller.key();
    let mut command = controller.command("pyinfra");
    command.args(["-y", "--json"]);
    // These beat whatever the inventory says of its real hosts.
    command.arg("--data").arg(format!("ssh_known_hosts_file={}", controller.known_hosts().display()));
    command.args(["--data", "ssh_strict_host_key_checking=yes"]);
    command.arg("--data").arg(format!("ssh_config_file={}", controller.ssh_config().display()));
    if let Some(key) = key {
        command.arg("--data").arg(format!("ssh_key={}", key.display()));
    }
    command.args(deploy_files(deploy)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = now();
    let mut process = controller.spawn(&mut command, "pyinfra")?;
    let (stdout, stderr) = (process.child().stdout.take(), process.child().stderr.take());
    let log = log_dir.join(format!("{}.log", pass.file_stem()));
    let both = async { tokio::join!(collect(stdout), follow(stderr, &log, events)) };
    let Ok((stdout, lines)) = deadline.limit(both).await else {
        let _ = process.kill().await; // The deadline is the answer; what the kill says changes nothing.
        let text = format!("{}; it was killed", deadline.error());
        return Ok(told(pass, began, now(), None, Vec::new(), Ended::Unclear(text), Vec::new()));
    };
    let status = process.wait().await.map_err(|source| MachineError::Spawn { program: "pyinfra".into(), source })?;
    let json = log_dir.join(format!("{}.json", pass.file_stem()));
    let written = std::fs::write(json, events.redactor().clean(&stdout));
    written.map_err(|source| MachineError::Io { what: "cannot write the deploy's output".into(), source })?;
    Ok(understand(pass, (began, now()), Some(status), &stdout, &lines))
}

async fn collect(pipe: Option<impl AsyncReadExt + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A broken pipe ends the output: what is missing is noticed when it is parsed.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes every line on as it comes.
async fn follow(pipe: Option<impl AsyncReadExt + Unpin>, log: &Path, events: &Events) -> Vec<Line> {
    let mut lines = Vec::new();
    let Some(pipe) = pipe else { return lines };
    let mut log = tokio::fs::File::create(log).await.ok();
    let mut segments = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(segment)) = segments.next_segment().await {
        let raw = String::from_utf8_lossy(&segment).trim_end().to_owned();
        let line = events.redactor().clean(&raw);
        if let Some(log) = &mut log {
            let stamp = humantime::format_rfc3339_millis(SystemTime::now());
            let _ = log.write_all(format!("{stamp} {line}\n").as_bytes()).await; // The events tell it too.
        }
        events.send(Event::Output { text: line });
        // Parsed as printed: a name with a secret in it must match in both streams. The report is cleaned as a whole.
        lines.push((now(), raw));
    }
    if let Some(log) = &mut log {
        let _ = log.flush().await;
    }
    lines
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

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

impl PrintedOperation {
    fn outcomes(&self) -> Vec<(String, Outcome)> {
        let with = |hosts: &[String], outcome| hosts.iter().map(|host| (host.clone(), outcome)).collect::<Vec<_>>();
        let mut all = with(&self.success, Outcome::Changed);
        all.extend(with(&self.no_change, Outcome::Unchanged));
        all.extend(with(&self.error, Outcome::Failed));
        all
    }
}

/// Puts the two streams together.
fn understand(
    pass: Pass,
    (began, over): (i64, i64),
    status: Option<ExitStatus>,
    stdout: &str,
    lines: &[Line],
) -> Deployed {
    let exit = status.and_then(|status| status.code());
    let seen = transcript::operations(lines);
    let printed = serde_json::from_str::<Printed>(stdout).ok().and_then(|printed| printed.results);
    let mut remarks = Vec::new();
    let windows = match &printed {
        Some(results) => {
            let names: Vec<&str> = results.operations.iter().map(|o| o.name.trim()).collect();
            let timed = names == seen.iter().map(|o| o.name.as_str()).collect::<Vec<_>>();
            if !timed {
                remarks.push(
                    "pyinfra's two outputs disagree about the operations: no change is put down to one".to_owned(),
                );
            }
            with_times(&results.operations, if timed { &seen } else { &[] })
        }
        None => from_transcript(&seen),
    };
    let ended = ended(exit, printed.as_ref(), &seen, &windows, lines);
    told(pass, began, over, exit, windows, ended, remarks)
}

fn with_times(operations: &[PrintedOperation], seen: &[transcript::Operation]) -> Vec<HostWindow> {
    let mut windows = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        for (host, outcome) in operation.outcomes() {
            let seen = seen.get(index);
            let end = seen.and_then(|seen| seen.hosts.iter().find(|end| end.host == host)).map(|end| end.end);
            let start = seen.map_or(0, |seen| seen.start);
            let (number, name) = (index + 1, operation.name.trim().to_owned());
            let window = Window { number, name, start, end: end.unwrap_or(start), outcome };
            windows.push(HostWindow { host, window });
        }
    }
    windows
}

fn from_transcript(seen: &[transcript::Operation]) -> Vec<HostWindow> {
    let window = |index: usize, operation: &transcript::Operation, end: &transcript::HostEnd| HostWindow {
        host: end.host.clone(),
        window: Window {
            number: index + 1,
            name: operation.name.clone(),
            start: operation.start,
            end: end.end,
            outcome: end.outcome,
        },
    };
    let operations = seen.iter().enumerate();
    operations.flat_map(|(index, o)| o.hosts.iter().map(move |end| window(index, o, end)).collect::<Vec<_>>()).collect()
}

fn ended(
    exit: Option<i32>,
    printed: Option<&Results>,
    seen: &[transcript::Operation],
    windows: &[HostWindow],
    lines: &[Line],
) -> Ended {
    let failed = seen.iter().enumerate().rev().find_map(|(index, operation)| {
        let end = operation.hosts.iter().find(|end| end.outcome == Outcome::Failed && !end.ignored)?;
        Some((OperationRef { number: index + 1, name: operation.name.clone() }, end.host.clone(), operation))
    });
    match (exit, printed) {
        (Some(0), None) => Ended::Unclear("pyinfra ended well and printed no results".to_owned()),
        (Some(0), Some(_)) if windows.is_empty() => Ended::Unclear("pyinfra ran no operation on any host".to_owned()),
        (Some(0), Some(results)) if results.failed_hosts.is_empty() => Ended::Well,
        _ => match failed {
            Some((operation, host, seen)) => {
                let output = &seen.output;
                let mut evidence = output[output.len().saturating_sub(QUOTED)..].to_vec();
                if evidence.is_empty() {
                    evidence = transcript::trouble(lines);
                }
                Ended::Failed { operation: Some(operation), host: Some(host), evidence }
            }
            None => {
                // An exception in the deploy, a host out of reach, a syntax error: the last operation had begun, or none.
                let unfinished = seen.last().filter(|operation| operation.hosts.is_empty());
                let operation = unfinished.map(|o| OperationRef { number: seen.len(), name: o.name.clone() });
                Ended::Failed { operation, host: None, evidence: transcript::trouble(lines) }
            }
        },
    }
}

fn told(
    pass: Pass,
    began: i64,
    over: i64,
    exit: Option<i32>,
    windows: Vec<HostWindow>,
    ended: Ended,
    remarks: Vec<String>,
) -> Deployed {
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1e9;
    let count = |outcome| windows.iter().filter(|window| window.window.outcome == outcome).count();
    let word = |outcome| match outcome {
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
        Outcome::Failed => "failed",
    };
    let runs = windows.iter().map(|HostWindow { host, window }| OperationRun {
        number: window.number,
        name: window.name.clone(),
        host: host.clone(),
        outcome: word(window.outcome).to_owned(),
        started: seconds(began, window.start).max(0.0),
        ended: seconds(began, window.end).max(0.0),
    });
    let run = DeployRun {
        pass,
        seconds: seconds(began, over),
        exit,
        operations: windows.len(),
        changed: count(Outcome::Changed),
        unchanged: count(Outcome::Unchanged),
        failed: count(Outcome::Failed),
        runs: runs.collect(),
    };
    Deployed { run, windows, began, ended, remarks }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().enumerate().map(|(number, line)| (number as i64 * 1_000_000_000, line.to_owned())).collect()
    }

    fn read(stdout: &str, stderr: &str, exit: i32) -> Deployed {
        understand(Pass::First, (0, 9), Some(ExitStatus::from_raw(exit << 8)), stdout, &lines(stderr))
    }

    const STDERR: &str = include_str!("../../fixtures/pyinfra-3.10-run1.stderr.txt");

    #[test]
    fn a_first_run_is_read_from_both_streams() {
        let deployed = read(include_str!("../../fixtures/pyinfra-3.10-run1.json"), STDERR, 0);
        assert_eq!(deployed.ended, Ended::Well);
        assert_eq!((deployed.run.operations, deployed.run.changed, deployed.run.unchanged), (4, 4, 0));
        assert!(deployed.windows.iter().all(|w| w.window.end > w.window.start), "{:?}", deployed.windows);
        assert_eq!(deployed.remarks, [""; 0]);
    }

    #[test]
    fn a_second_run_tells_what_it_left_alone() {
        let stderr = STDERR.replace("Success", "No changes");
        let deployed = read(include_str!("../../fixtures/pyinfra-3.10-run2.json"), &stderr, 0);
        assert_eq!((deployed.run.changed, deployed.run.unchanged), (1, 3));
        let changed: Vec<_> = deployed.run.runs.iter().filter(|r| r.outcome == "changed").map(|r| r.number).collect();
        assert_eq!(changed, [3], "JSON beats the text");
    }

    #[test]
    fn empty_output_is_never_success() {
        let failed = read(
            include_str!("../../fixtures/pyinfra-3.10-fail.json"),
            include_str!("../../fixtures/pyinfra-3.10-fail.stderr.txt"),
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
        let deployed = read(include_str!("../../fixtures/pyinfra-3.10-ignored-error.json"), stderr, 0);
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
