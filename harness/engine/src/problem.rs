//! What is not as it should be: why a stage did not get to its end, or what is wrong with a restore. None ends PROVEN.

use std::error::Error;

use redrill_machines::MachineError;
use redrill_model::{Code, Finding, Severity};

use crate::error_chain::chain;

/// Lines of output that a problem quotes.
const QUOTED: usize = 20;

/// One thing that is wrong, or could not be told. How severe it is follows from its code alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Its kind.
    pub(crate) code: Code,
    /// One sentence.
    pub(crate) text: String,
    /// Lines of output or of a console.
    pub(crate) evidence: Vec<String>,
}

impl Problem {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), evidence: Vec::new() }
    }

    /// An error with all its causes, as a problem of this kind; of `HOST_FULL`, where that is behind it.
    pub(crate) fn of(code: Code, error: &(dyn Error + 'static)) -> Self {
        let causes = || std::iter::successors(Some(error), |&error| error.source());
        let full = causes().any(is_full);
        let tail =
            causes().find_map(|error| error.downcast_ref()).map(|error: &MachineError| error.console_tail().to_vec());
        let mend = full.then(|| "free some: redrill image prune; redrill clean --all".to_owned());
        let evidence = tail.into_iter().flatten().chain(mend).collect();
        Self { code: if full { Code::HostFull } else { code }, text: chain(error), evidence }
    }

    /// Quotes the end of what a command said.
    pub(crate) fn with(mut self, output: &str) -> Self {
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(QUOTED);
        self.evidence.extend(lines[from..].iter().map(|line| (*line).to_owned()));
        self
    }

    pub(crate) fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// As a finding about this backup.
    pub(crate) fn finding(&self, backup: &str, machine: &str) -> Finding {
        let mut finding = Finding::new(self.code, backup, format!("backup `{backup}`: {}", self.text));
        finding.machine = Some(machine.to_owned());
        finding.evidence.clone_from(&self.evidence);
        finding
    }
}

fn is_full(error: &(dyn Error + 'static)) -> bool {
    let of_machine =
        error.downcast_ref().is_some_and(|error: &MachineError| matches!(error, MachineError::DiskFull { .. }));
    let of_system = error.downcast_ref::<std::io::Error>();
    of_machine || of_system.is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_quotes_the_end_of_what_was_said() {
        let said: String = (0..30).map(|line| format!("line {line}\n\n")).collect();
        let problem = Problem::new(Code::JobFailed, "it ended with 1").with(&said);
        assert_eq!((problem.evidence.len(), problem.evidence[0].as_str()), (QUOTED, "line 10"));
        let finding = problem.finding("notes", "web");
        assert_eq!((finding.severity, finding.machine.as_deref()), (Severity::Fails, Some("web")));
        assert_eq!(finding.summary, "backup `notes`: it ended with 1");
    }
}
