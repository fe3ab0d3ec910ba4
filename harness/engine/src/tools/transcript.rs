//! What pyinfra writes to standard error while it works, with the time at which each line came.
//!
//! ```text
//! --> Starting operation: tasks/base.py | Install the packages
//!     [web.example.org] Success
//! ```
//!
//! Seen with 3.10: a host's line ends in `Success`, `No changes`, `Error: executed N commands` or
//! `Error (ignored): executed N commands`; other lines of a host are output of a failing command.

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
        if let Some(name) = line.strip_prefix("--> Starting operation: ") {
            let name = name.trim().to_owned();
            operations.push(Operation { name, start: *time, hosts: Vec::new(), output: Vec::new() });
        } else if let Some(operation) = operations.last_mut().filter(|_| !line.starts_with("-->")) {
            match host_line(line) {
                Some((host, said)) => match outcome(said) {
                    Some((outcome, ignored)) => {
                        operation.hosts.push(HostEnd { host: host.to_owned(), end: *time, outcome, ignored });
                    }
                    None => operation.output.push(said.to_owned()),
                },
                None if line.trim().is_empty() => {}
                None => operation.output.push(line.trim_end().to_owned()),
            }
        }
    }
    operations
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
        let operations = operations(&lines(include_str!("../../fixtures/pyinfra-3.10-run1.stderr.txt")));
        let names: Vec<&str> = operations.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["Ensure dir", "Put config", "Append every run", "Restart only if config changed"]);
        assert!(operations.iter().all(|o| o.hosts.len() == 1 && o.hosts[0].outcome == Outcome::Changed));
        assert!(operations[0].hosts[0].end > operations[0].start);
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
