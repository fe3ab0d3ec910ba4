//! A script: on the controller, from where it reaches the machines by `ssh HOST`, or on each machine.
//!
//! A script reports nothing. A line `redrill-op: NAME` on its standard output begins an operation, which ends where the
//! next begins; what comes before the first belongs to an operation named after the script. A script in whose text
//! `redrill-changed` stands says of its operations whether they changed something: those in which it prints such a line
//! did. Of any other script nobody claims that its operations changed nothing: they `ran`.

use std::path::Path;

use redrill_machines::{Deadline, MachineError, PROBE};
use redrill_model::RunsOn;

use super::helper_events::{Execution, Said};
use super::running::{self, Finished, Stdout};
use super::transcript::Line;
use super::{Deployed, Ended, QUOTED, Run, failure, record};
use crate::deploy::controller::{Controller, Sealed};
use crate::events::Events;

const OPERATION: &str = "redrill-op:";
const CHANGED: &str = "redrill-changed";
/// What `ssh` ends with when there is no connection.
const NO_CONNECTION: i32 = 255;

pub(super) async fn deploy(
    controller: &Controller,
    run: &Run,
    log_dir: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Deployed, MachineError> {
    let script = controller.found.script.display().to_string();
    // A deploy may have put anything in its place since.
    let text = redrill_sandbox::read_back(controller.servers(), &controller.found.script).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let log = log_dir.join(format!("{}.log", run.label));
    let began = running::now();
    if run.cut.is_some() {
        let why = "a script cannot be cut between its operations".to_owned();
        return Ok(record(run, (began, began), None, Vec::new(), Ended::Unclear(why), Vec::new()));
    }
    let told = Script { name: &script, text: &text };
    let (mut executions, mut ended, mut exit) = (Vec::new(), Ended::Well, Some(0));
    match controller.deploy.on.unwrap_or_default() {
        RunsOn::Controller => {
            controller.forget_contacts();
            let command = on_controller(controller, run, &text);
            let finished = running::run(controller, command, Stdout::Lines, &log, events, deadline).await?;
            let operations = told.operations(&finished);
            // What it reached is known; what it did there at which time is not.
            let hosts = controller.contacts();
            executions = hosts.iter().flat_map(|host| on_host(&operations, host)).collect();
            exit = finished.exit();
            ended = end(&finished, &executions, &operations);
            if ended == Ended::Well && hosts.is_empty() {
                ended = Ended::Unclear("the script ended well, and reached no machine".to_owned());
            }
        }
        RunsOn::Machine => {
            for host in controller.hosts.iter().map(|host| host.name.clone()) {
                let command = on_machine(controller, run, &host, &text);
                let finished = running::run(controller, command, Stdout::Stamped, &log, events, deadline).await?;
                let operations = told.operations(&finished);
                let here = on_host(&operations, &host);
                exit = finished.exit();
                ended = end(&finished, &here, &operations);
                executions.extend(here);
                if ended != Ended::Well {
                    break;
                }
            }
        }
    }
    Ok(record(run, (began, running::now()), exit, executions, ended, Vec::new()))
}

/// The script by its own `#!`, else by `sh`.
fn interpreter(text: &str) -> Vec<String> {
    let words = text.lines().next().and_then(|line| line.strip_prefix("#!")).unwrap_or("/bin/sh");
    words.split_whitespace().map(str::to_owned).collect()
}

fn on_controller(controller: &Controller, run: &Run, text: &str) -> Sealed {
    let words = interpreter(text);
    let mut command = controller.command(&words[0]);
    command.args(&words[1..]).arg(controller.servers().join(&controller.found.script));
    command.args(controller.arguments(run.pass)).label(&run.label);
    command
}

/// The checkout and the keys go into a directory that is gone when the script has ended.
fn on_machine(controller: &Controller, run: &Run, host: &str, text: &str) -> Sealed {
    let base = controller.servers().parent().unwrap_or(Path::new("/"));
    let checkout = controller.servers().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let keys = if base.join("keys").is_dir() { "keys" } else { "" };
    let words = interpreter(text).into_iter().chain([format!("./{}", controller.found.script.display())]);
    let words = words.chain(controller.arguments(run.pass));
    let variables = controller.deploy.env.iter().map(|(name, value)| format!("{name}={value}"));
    let call = ["env".to_owned()].into_iter().chain(variables).chain(words).map(|word| quoted(&word));
    let call = call.collect::<Vec<_>>().join(" ");
    let there = format!(
        "d=$(mktemp -d /var/tmp/deploy.XXXXXXXX) && trap 'rm -rf \"$d\"' EXIT && tar -xf - -C \"$d\" && \
         cd \"$d\"/{} && {{ {call} </dev/null; echo $? >\"$d\"/status; }} | {PROBE} stamp; read -r status <\"$d\"/status; exit \"$status\"",
        quoted(&checkout)
    );
    let mut command = controller.command("sh");
    command.args(["-c", "tar -C \"$1\" -cf - \"$2\" $3 | ssh \"$4\" \"$5\"", "sh"]);
    command.arg(base).args([checkout.as_str(), keys, host, &there]).label(&run.label);
    command
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

struct Script<'a> {
    name: &'a str,
    text: &'a str,
}

impl Script<'_> {
    /// The operations of a run, without their host.
    fn operations(&self, finished: &Finished) -> Vec<Execution> {
        let (began, over) = finished.span;
        let said = if self.text.contains(CHANGED) { Said::Unchanged } else { Said::Ran };
        let operation = |name: &str, start| Execution {
            name: name.to_owned(),
            place: self.place(name),
            start,
            said,
            ..Execution::default()
        };
        let mut operations = vec![operation(self.name, began)];
        for (time, line) in &finished.stdout {
            if let Some(name) = line.trim().strip_prefix(OPERATION) {
                operations.push(operation(name.trim(), *time));
            } else if let Some(last) = operations.last_mut().filter(|_| line.trim() == CHANGED) {
                last.said = Said::Changed;
            }
        }
        let ends: Vec<i64> = operations.iter().skip(1).map(|next| next.start).chain([over]).collect();
        for (number, (operation, end)) in operations.iter_mut().zip(ends).enumerate() {
            (operation.number, operation.end) = (number + 1, end);
        }
        if self.hides_failures() {
            for operation in &mut operations {
                let during = |(time, _): &&Line| (operation.start..operation.end).contains(time);
                operation.hidden_error = finished.stderr.iter().find(during).map(|(_, line)| line.clone());
            }
        }
        if let Some(last) = operations.last_mut().filter(|_| finished.exit() != Some(0)) {
            last.said = Said::Failed;
            last.output = last_lines(&finished.stdout, &finished.stderr, last.start);
        }
        operations
    }

    /// Whether something in it fails without ending it.
    fn hides_failures(&self) -> bool {
        let words = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        ["|| true", "|| :", "||true", "||:", "set +e"].iter().any(|hides| words.contains(hides))
    }

    /// Where the marker of this operation stands in the script.
    fn place(&self, name: &str) -> Option<String> {
        if name == self.name {
            return Some(self.name.to_owned());
        }
        let stands =
            |line: &&str| line.split_once(OPERATION).is_some_and(|(_, rest)| rest.trim_start().starts_with(name));
        let mut lines = self.text.lines().enumerate().filter(|(_, line)| stands(line));
        let only = lines.next().filter(|_| lines.next().is_none());
        Some(only.map_or(self.name.to_owned(), |(number, _)| format!("{}:{}", self.name, number + 1)))
    }
}

fn on_host(operations: &[Execution], host: &str) -> Vec<Execution> {
    operations.iter().cloned().map(|execution| Execution { host: host.to_owned(), ..execution }).collect()
}

/// What was printed since then, in the order in which it came.
fn last_lines(stdout: &[Line], stderr: &[Line], since: i64) -> Vec<String> {
    let mut lines: Vec<&Line> = stdout.iter().chain(stderr).filter(|(time, _)| *time >= since).collect();
    lines.sort_by_key(|(time, _)| *time);
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line.clone()).collect();
    lines[lines.len().saturating_sub(QUOTED)..].to_vec()
}

fn end(finished: &Finished, executions: &[Execution], operations: &[Execution]) -> Ended {
    if let Some(late) = &finished.late {
        return Ended::Unclear(late.clone());
    }
    let lost = |(_, line): &&Line| line.contains("Connection") || line.contains("kex_exchange");
    match finished.exit() {
        Some(0) => Ended::Well,
        Some(NO_CONNECTION) if finished.stderr.iter().rev().take(3).any(|line| lost(&line)) => {
            let said = finished.stderr.last().map(|(_, line)| line.clone()).unwrap_or_default();
            Ended::Unclear(format!("the connection to the machine was lost: {said}"))
        }
        _ => failure(executions, Vec::new).unwrap_or_else(|| Ended::Failed {
            operation: operations.last().map(Execution::reference),
            host: None,
            evidence: operations.last().map(|last| last.output.clone()).unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    const TEXT: &str =
        "#!/bin/bash -e\necho 'redrill-op: Packages'\napt-get install nginx\necho \"redrill-op: Site\"\n";

    fn finished(stdout: &[(i64, &str)], exit: i32, stderr: &str) -> Finished {
        Finished {
            status: Some(ExitStatus::from_raw(exit << 8)),
            stdout: stdout.iter().map(|(time, line)| (*time, (*line).to_owned())).collect(),
            stderr: stderr.lines().map(|line| (9, line.to_owned())).collect(),
            span: (1, 10),
            ..Finished::default()
        }
    }

    const OUT: [(i64, &str); 4] =
        [(2, "hello"), (3, "redrill-op: Packages"), (5, "installing"), (7, "redrill-op: Site")];

    fn operations(text: &str, finished: &Finished) -> Vec<(String, Option<String>, i64, i64, Said)> {
        let script = Script { name: "deploy.sh", text };
        script.operations(finished).into_iter().map(|e| (e.name, e.place, e.start, e.end, e.said)).collect()
    }

    #[test]
    fn markers_part_a_script_into_operations() {
        let seen = operations(TEXT, &finished(&OUT, 0, ""));
        let place = |line: &str| Some(format!("deploy.sh{line}"));
        assert_eq!(
            seen,
            [
                ("deploy.sh".to_owned(), place(""), 1, 3, Said::Ran),
                ("Packages".to_owned(), place(":2"), 3, 7, Said::Ran),
                ("Site".to_owned(), place(":4"), 7, 10, Said::Ran),
            ]
        );
        assert_eq!(operations("", &finished(&[], 0, "")).len(), 1, "a plain script is one operation");
    }

    #[test]
    fn a_script_that_speaks_of_changes_is_taken_at_its_word() {
        let text = format!("{TEXT}test \"$same\" || echo redrill-changed\n");
        let said = |out: &[(i64, &str)]| {
            let seen = operations(&text, &finished(out, 0, ""));
            seen.into_iter().map(|(.., said)| said).collect::<Vec<_>>()
        };
        assert_eq!(said(&OUT), [Said::Unchanged; 3]);
        let changed = [&OUT[..], &[(8, "redrill-changed")]].concat();
        assert_eq!(said(&changed), [Said::Unchanged, Said::Unchanged, Said::Changed]);
    }

    #[test]
    fn a_failure_is_put_down_to_the_operation_that_ran() {
        let finished = finished(&OUT, 1, "mv: cannot stat 'src'");
        let operations = Script { name: "deploy.sh", text: TEXT }.operations(&finished);
        let Ended::Failed { operation: Some(operation), host, evidence } =
            end(&finished, &on_host(&operations, "web"), &operations)
        else {
            panic!("must fail")
        };
        assert_eq!((operation.name.as_str(), host.as_deref()), ("Site", Some("web")));
        assert_eq!(evidence, ["redrill-op: Site", "mv: cannot stat 'src'"]);
        let lost = super::super::running::Finished { stdout: Vec::new(), ..finished };
        let lost = Finished { status: Some(ExitStatus::from_raw(255 << 8)), ..lost };
        assert!(matches!(end(&lost, &[], &operations), Ended::Failed { .. }), "255 alone is the script's own");
        let stderr = vec![(9, "Connection closed by remote host".to_owned())];
        assert!(matches!(end(&Finished { stderr, ..lost }, &[], &operations), Ended::Unclear(_)));
    }

    #[test]
    fn what_a_script_hides_is_kept_with_its_operation() {
        let run = finished(&OUT, 0, "mv: cannot stat 'src'");
        let hidden = |text: &str| {
            let operations = Script { name: "deploy.sh", text }.operations(&run);
            operations.into_iter().map(|e| e.hidden_error).collect::<Vec<_>>()
        };
        assert_eq!(hidden(TEXT), [None, None, None]);
        let loud = Some("mv: cannot stat 'src'".to_owned());
        assert_eq!(hidden(&format!("{TEXT}mv src dst  || true\n")), [None, None, loud]);
    }

    #[test]
    fn words_reach_the_machine_as_they_are() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(interpreter("#!/usr/bin/env bash\n"), ["/usr/bin/env", "bash"]);
        assert_eq!(interpreter("echo"), ["/bin/sh"]);
    }
}
