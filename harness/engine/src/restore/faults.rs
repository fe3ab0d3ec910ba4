//! What can be wrong with a backup, each with its own word and sentence. None of these ends PROVEN.

use crate::causes::chain;
use redrill_machines::{MachineError, Output};
use redrill_model::{BackupKind, Finding, Severity};

/// Lines of output that a finding quotes.
const QUOTED: usize = 20;

/// Why a restore is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Fixed word.
    pub(crate) code: &'static str,
    /// What it does to the verdict.
    pub(crate) severity: Severity,
    /// One sentence.
    pub(crate) text: String,
    /// Lines of output.
    pub(crate) evidence: Vec<String>,
}

impl Fault {
    /// The backup itself is no good.
    pub(crate) fn fails(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, severity: Severity::Fails, text: text.into(), evidence: Vec::new() }
    }

    /// Nobody can tell.
    pub(crate) fn unknown(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, severity: Severity::Unknown, text: text.into(), evidence: Vec::new() }
    }

    pub(crate) fn with(mut self, output: &str) -> Self {
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(QUOTED);
        self.evidence.extend(lines[from..].iter().map(|line| (*line).to_owned()));
        self
    }

    /// As a finding about this backup.
    pub(crate) fn finding(&self, backup: &str, machine: &str) -> Finding {
        let mut finding = Finding::new(self.code, self.severity, backup, format!("backup `{backup}`: {}", self.text));
        finding.machine = Some(machine.to_owned());
        finding.evidence.clone_from(&self.evidence);
        finding
    }
}

impl From<MachineError> for Fault {
    fn from(error: MachineError) -> Self {
        let text = chain(&error);
        if full(&text) {
            return disk_full().with(&text);
        }
        match error {
            MachineError::TimedOut { .. } => Self::unknown("TIMED_OUT", format!("the restore did not end: {text}")),
            _ => Self::unknown("RESTORE_UNKNOWN", text),
        }
    }
}

fn disk_full() -> Fault {
    Fault::unknown(
        "DISK_FULL",
        "the machine's disk was full before all was restored: this says nothing about the backup",
    )
}

fn full(text: &str) -> bool {
    text.contains("No space left on device") || text.contains("Disk quota exceeded")
}

/// Texts of the tools, with the fault that each means; the first that fits. Seen with restic 0.14 to 0.18, Borg 1.2 and
/// 1.4, PostgreSQL 15 to 17, and SQLite 3.40 to 3.46.
const SAID: &[(&str, &str, Severity, &str)] = &[
    ("wrong password or no key found", "WRONG_PASSPHRASE", Severity::Fails, WRONG),
    ("passphrase supplied in", "WRONG_PASSPHRASE", Severity::Fails, WRONG),
    ("unable to open repository at", "UNREACHABLE", Severity::Unknown, AWAY),
    ("Connection refused", "UNREACHABLE", Severity::Unknown, AWAY),
    ("Could not resolve", "UNREACHABLE", Severity::Unknown, AWAY),
    ("No route to host", "UNREACHABLE", Severity::Unknown, AWAY),
    ("Connection timed out", "UNREACHABLE", Severity::Unknown, AWAY),
    ("unable to open config file", "NO_REPOSITORY", Severity::Fails, "there is no repository in it"),
    (
        "Is there a repository at the following location",
        "NO_REPOSITORY",
        Severity::Fails,
        "there is no repository in it",
    ),
    ("is not a valid repository", "NO_REPOSITORY", Severity::Fails, "there is no repository in it"),
    ("repository is already locked", "LOCKED", Severity::Unknown, LOCKED_TEXT),
    ("Failed to create/acquire the lock", "LOCKED", Severity::Unknown, LOCKED_TEXT),
    ("no snapshot found", "NO_POINTS", Severity::Fails, NO_POINTS_TEXT),
    ("no matching ID found", "NO_POINT", Severity::Fails, "the point that the scenario names is not in the repository"),
    ("FATAL:  database", "NO_TARGET", Severity::Fails, NO_DATABASE),
    (MISSING, "NO_POINT", Severity::Fails, "the archive that the scenario names is not in the repository"),
    ("ciphertext verification failed", "DAMAGED", Severity::Fails, DAMAGE),
    ("hash does not match", "DAMAGED", Severity::Fails, DAMAGE),
    ("does not match id", "DAMAGED", Severity::Fails, DAMAGE),
    ("Data integrity error", "DAMAGED", Severity::Fails, DAMAGE),
    ("IntegrityError", "DAMAGED", Severity::Fails, DAMAGE),
    ("Segment entry checksum mismatch", "DAMAGED", Severity::Fails, DAMAGE),
    ("invalid data returned", "DAMAGED", Severity::Fails, DAMAGE),
    ("database disk image is malformed", "DAMAGED", Severity::Fails, DAMAGE),
    ("file is not a database", "DAMAGED", Severity::Fails, DAMAGE),
    ("checksum mismatch", "DAMAGED", Severity::Fails, DAMAGE),
    ("unexpected end of file", "CUT", Severity::Fails, CUT_TEXT),
    ("Unexpected EOF in archive", "CUT", Severity::Fails, CUT_TEXT),
    ("could not read from input file: end of file", "CUT", Severity::Fails, CUT_TEXT),
    ("unsupported version", "NEWER_SERVER", Severity::Fails, NEWER),
    ("unrecognized configuration parameter", "NEWER_SERVER", Severity::Fails, NEWER),
    ("crc error", "DAMAGED", Severity::Fails, DAMAGE),
];

/// Borg of an archive; anything else may say it of anything.
const MISSING: &str = "does not exist";
const NO_DATABASE: &str = "the database that it is restored into is not there: the deploy did not make it";
const WRONG: &str = "the passphrase among the keys does not open it";
const AWAY: &str = "its host does not answer";
const LOCKED_TEXT: &str = "the repository is locked: somebody works on it, or died at it";
const NO_POINTS_TEXT: &str = "the repository holds no point to restore: the job never ran, or all was pruned";
const DAMAGE: &str = "the backup is damaged";
const CUT_TEXT: &str = "the backup was cut: it has no end";
const NEWER: &str = "the dump is of a newer server than the machine has";

/// The repository is locked.
pub(crate) fn locked() -> Fault {
    Fault::unknown("LOCKED", LOCKED_TEXT)
}

/// Not even a repository of nothing.
pub(crate) fn empty_repository() -> Fault {
    Fault::fails("EMPTY_REPOSITORY", "the repository is empty: there is not one file in it")
}

/// There is nothing to choose from.
pub(crate) fn no_points() -> Fault {
    Fault::fails("NO_POINTS", NO_POINTS_TEXT)
}

/// The dump has no end.
pub(crate) fn cut() -> Fault {
    Fault::fails("CUT", CUT_TEXT)
}

/// The dump is of this version, and the server of that.
pub(crate) fn newer(dump: &str, server: &str) -> Fault {
    Fault::fails("NEWER_SERVER", format!("{NEWER}: {dump} against {server}"))
}

/// What a failed command of a restore means.
pub(crate) fn of_output(kind: &BackupKind, what: &str, output: &Output) -> Fault {
    let said = format!("{}\n{}", output.text(), output.stderr);
    if full(&said) {
        return disk_full().with(&output.stderr);
    }
    if output.status == 127 {
        let text = format!("the machine lacks what restores it: {}", output.stderr.trim());
        return Fault::unknown("TOOL_MISSING", text).with(&output.stderr);
    }
    let known = SAID.iter().find(|(text, ..)| said.contains(text));
    match known {
        Some((text, code, severity, sentence)) if *text != MISSING || *kind == BackupKind::Borg => {
            Fault { code, severity: *severity, text: (*sentence).to_owned(), evidence: Vec::new() }.with(&output.stderr)
        }
        _ => Fault::fails("RESTORE_FAILED", format!("{what} ended with exit status {}", output.status)).with(&said),
    }
}

/// Words by which tools announce trouble, in lower case.
const TROUBLE: &[&str] = &[
    "error",
    "fatal",
    "failed",
    "failure",
    "cannot",
    "can't",
    "could not",
    "couldn't",
    "unable",
    "denied",
    "no such",
    "not found",
    "missing",
    "corrupt",
    "invalid",
    "refused",
    "traceback",
    "exception",
    "panic",
    "warning",
    "skipped",
    "does not exist",
    "no space",
];

/// Lines of standard error that speak of trouble and are not declared harmless.
pub(crate) fn trouble(stderr: &str, harmless: &[String]) -> Vec<String> {
    let troubled = |line: &&str| {
        let lower = line.to_lowercase();
        TROUBLE.iter().any(|word| lower.contains(word)) && !harmless.iter().any(|text| line.contains(text.as_str()))
    };
    stderr.lines().filter(troubled).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn means(kind: BackupKind, stderr: &str, code: &str, severity: Severity) {
        let output = Output { status: 1, stdout: Vec::new(), stderr: stderr.to_owned() };
        let fault = of_output(&kind, "the restore", &output);
        assert_eq!((fault.code, fault.severity), (code, severity), "{stderr}");
        assert!(!fault.text.is_empty() && fault.severity >= Severity::Unknown, "none is proven");
        assert!(fault.evidence.iter().any(|line| stderr.contains(line.as_str())), "its words are kept");
    }

    #[test]
    fn what_tools_say_has_a_word_of_its_own() {
        use BackupKind::{Borg, Postgres, Restic, Sqlite};
        use Severity::{Fails, Unknown};
        means(Restic, "Fatal: wrong password or no key found", "WRONG_PASSPHRASE", Fails);
        means(
            Borg,
            "passphrase supplied in BORG_PASSPHRASE, by BORG_PASSCOMMAND or via BORG_PASSPHRASE_FD is incorrect.",
            "WRONG_PASSPHRASE",
            Fails,
        );
        means(
            Restic,
            "Fatal: repository does not exist: unable to open config file: stat /r/config: no such file",
            "NO_REPOSITORY",
            Fails,
        );
        means(
            Restic,
            "unable to create lock in backend: repository is already locked exclusively by PID 1",
            "LOCKED",
            Unknown,
        );
        means(Borg, "Failed to create/acquire the lock /r/lock.exclusive (timeout).", "LOCKED", Unknown);
        means(Restic, "Fatal: failed to find snapshot: no snapshot found", "NO_POINTS", Fails);
        means(Restic, "decrypting blob 0a failed: ciphertext verification failed", "DAMAGED", Fails);
        means(Borg, "Data integrity error: Segment entry checksum mismatch [segment 3, offset 8]", "DAMAGED", Fails);
        means(Borg, "Archive day-3 does not exist", "NO_POINT", Fails);
        means(Postgres, "pg_restore: error: could not read from input file: end of file", "CUT", Fails);
        means(Postgres, "pg_restore: error: unsupported version (1.17) in file header", "NEWER_SERVER", Fails);
        means(Sqlite, "Error: database disk image is malformed", "DAMAGED", Fails);
        means(Restic, "write /var/lib/x: No space left on device", "DISK_FULL", Unknown);
        means(Restic, "Fatal: dial tcp 10.0.0.9:8000: connect: Connection refused", "UNREACHABLE", Unknown);
        means(Restic, "something new", "RESTORE_FAILED", Fails);
    }

    #[test]
    fn a_missing_program_is_no_word_about_the_backup() {
        let output = Output { status: 127, stderr: "restic: No such file or directory".into(), ..Output::default() };
        assert_eq!(of_output(&BackupKind::Restic, "restic", &output).severity, Severity::Unknown);
    }

    #[test]
    fn trouble_on_standard_error_counts_unless_declared_harmless() {
        let said = "restoring 12 files\ntar: Removing leading `/'\nWARNING: no ACLs\npsql: error: x\n";
        assert_eq!(trouble(said, &[]), ["WARNING: no ACLs", "psql: error: x"]);
        assert_eq!(trouble(said, &["no ACLs".into(), "psql".into()]), [""; 0]);
    }

    #[test]
    fn a_full_disk_under_the_harness_is_told_as_such() {
        let error = MachineError::Program { program: "tar".into(), said: "tar: a: No space left on device".into() };
        assert_eq!(Fault::from(error).code, "DISK_FULL");
    }
}
