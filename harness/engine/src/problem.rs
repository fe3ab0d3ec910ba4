//! What is not as it should be: why a stage did not get to its end, or what is wrong with a restore. None ends PROVEN.

use redrill_model::{Code, Finding, Severity};

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
