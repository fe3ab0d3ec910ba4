//! What pyinfra writes to standard error while it works, with the time at which each line came.
//!
//! ```text
//! --> Starting operation: tasks/base.py | Install the packages
//!     [web.example.org] Success
//! ```
//!
//! Seen with 3.1 to 3.10: a host's line ends in `Success`, `No changes`, `Error: executed N commands` or
//! `Error (ignored): executed N commands`; other lines of a host are output of a failing command. An operation that an
//! operation calls is announced within it, and its hosts' lines begin with `nested`.

use redrill_state::Outcome;

/// A line and when it came: nanoseconds since 1970.
pub(super) type Line = (i64, String);

/// An operation as the transcript shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) start: i64,
    pub(super) hosts: Vec<HostEnd>,
    /// What the hosts printed.
    pub(super) output: Vec<String>,
    /// Another operation called it.
    pub(super) nested: bool,
}

/// How an operation ended on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostEnd {
    pub(super) host: String,
    pub(super) end: i64,
    pub(super) outcome: Outcome,
    /// The deploy's author allows it to fail.
    pub(super) ignored: bool,
}

/// Finds the operations.
pub(super) fn operations(lines: &[Line]) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    for (time, line) in lines {
        let nested = line.trim_start().strip_prefix("Starting nested operation: ");
        if let Some(name) = line.strip_prefix("--> Starting operation: ").or(nested) {
            let (name, nested) = (name.trim().to_owned(), nested.is_some());
            operations.push(Operation { name, start: *time, hosts: Vec::new(), output: Vec::new(), nested });
        } else if !line.starts_with("-->") && !line.trim().is_empty() {
            within(&mut operations, *time, line);
        }
    }
    operations
}

/// A line of the operation that runs.
fn within(operations: &mut [Operation], time: i64, line: &str) {
    let said = host_line(line).map(|(host, said)| (host, said, said.strip_prefix("nested ")));
    let ended = said.and_then(|(host, said, nested)| {
        let (outcome, ignored) = outcome(nested.unwrap_or(said))?;
        Some((HostEnd { host: host.to_owned(), end: time, outcome, ignored }, nested.is_some()))
    });
    match ended {
        Some((end, nested)) => {
            let of = operations.iter_mut().rev().find(|operation| operation.nested == nested);
            of.into_iter().for_each(|operation| operation.hosts.push(end.clone()));
        }
        None => {
            let text = said.map_or(line, |(_, said, _)| said).trim_end().to_owned();
            operations.last_mut().into_iter().for_each(|operation| operation.output.push(text.clone()));
        }
    }
}

/// Whether pyinfra came to its results.
pub(super) fn is_whole(lines: &[Line]) -> bool {
    lines.iter().any(|(_, line)| line.starts_with("--> Results:"))
}

/// Lines that belong to no operation and tell of trouble: tracebacks and pyinfra's own errors.
pub(super) fn trouble(lines: &[Line]) -> Vec<String> {
    let text: Vec<&str> = lines.iter().map(|(_, line)| line.trim_end()).collect();
    let start = text.iter().rposition(|line| line.starts_with("Traceback") || line.contains("error:"));
    let start = start.unwrap_or(text.len().saturating_sub(10));
    text[start..].iter().filter(|line| !line.is_empty()).map(|line| (*line).to_owned()).collect()
}

/// `    [HOST] REST`.
fn host_line(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("    [")?.split_once("] ")
}

fn outcome(said: &str) -> Option<(Outcome, bool)> {
    match said.trim() {
        "Success" => Some((Outcome::Changed, false)),
        "No changes" => Some((Outcome::Unchanged, false)),
        said if said.starts_with("Error (ignored): executed ") => Some((Outcome::Failed, true)),
        said if said.starts_with("Error: executed ") => Some((Outcome::Failed, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in super::super) fn lines(text: &str) -> Vec<Line> {
        text.lines().enumerate().map(|(number, line)| (i64::try_from(number).unwrap_or(0), line.to_owned())).collect()
    }

    #[test]
    fn a_real_run_is_read() {
        let operations = operations(&lines(include_str!("../../../fixtures/pyinfra-3.10-run1.stderr.txt")));
        let names: Vec<&str> = operations.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["Ensure dir", "Put config", "Append every run", "Restart only if config changed"]);
        assert!(operations.iter().all(|o| o.hosts.len() == 1 && o.hosts[0].outcome == Outcome::Changed));
        assert!(operations[0].hosts[0].end > operations[0].start);
    }

    #[test]
    fn operations_inside_operations_have_their_own_ends() {
        let text = "--> Starting operation: call \n    Starting nested operation: inner \n    [web] nested Success\n    \
                    [web] No changes\n";
        let operations = operations(&lines(text));
        let ends: Vec<_> = operations.iter().map(|o| (o.name.as_str(), o.hosts[0].outcome)).collect();
        assert_eq!(ends, [("call", Outcome::Unchanged), ("inner", Outcome::Changed)]);
    }

    #[test]
    fn a_failing_operation_keeps_what_it_printed() {
        let text = "--> Starting operation: Fails \n    [web] some out [x]\n    [web] some err\n    \
                    [web] Error: executed 1 commands\n\n--> Disconnecting from hosts...\n--> pyinfra error: No hosts remaining!\n";
        let operations = operations(&lines(text));
        assert_eq!(operations[0].output, ["some out [x]", "some err"]);
        assert_eq!((operations[0].hosts[0].outcome, operations[0].hosts[0].ignored), (Outcome::Failed, false));
        assert_eq!(trouble(&lines(text)), ["--> pyinfra error: No hosts remaining!"]);
        let ignored = "--> Starting operation: x\n    [web] Error (ignored): executed 1 commands\n";
        assert!(super::operations(&lines(ignored))[0].hosts[0].ignored);
    }
}
