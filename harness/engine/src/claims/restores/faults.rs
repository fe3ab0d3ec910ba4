//! What can be wrong with a backup, each with its own word and sentence. None of these ends PROVEN.

use crate::error_chain::chain;
use redrill_machines::{MachineError, Output};
use redrill_model::{BackupKind, Code};

use crate::problem::Problem;

impl From<MachineError> for Problem {
    fn from(error: MachineError) -> Self {
        let text = chain(&error);
        if full(&text) {
            return disk_full().with(&text);
        }
        match error {
            MachineError::TimedOut { .. } => Problem::new(Code::TimedOut, format!("the restore did not end: {text}")),
            _ => Problem::new(Code::RestoreUnknown, text),
        }
    }
}

fn disk_full() -> Problem {
    Problem::new(
        Code::DiskFull,
        "the machine's disk was full before all was restored: this says nothing about the backup",
    )
}

fn full(text: &str) -> bool {
    text.contains("No space left on device") || text.contains("Disk quota exceeded")
}

/// Texts of the tools, with the fault that each means; the first that fits. Seen with restic 0.14 to 0.18, Borg 1.2 and
/// 1.4, PostgreSQL 15 to 17, and SQLite 3.40 to 3.46.
const SAID: &[(&str, Code, &str)] = &[
    ("wrong password or no key found", Code::WrongPassphrase, WRONG),
    ("passphrase supplied in", Code::WrongPassphrase, WRONG),
    ("unable to open repository at", Code::Unreachable, AWAY),
    ("Connection refused", Code::Unreachable, AWAY),
    ("Could not resolve", Code::Unreachable, AWAY),
    ("No route to host", Code::Unreachable, AWAY),
    ("Connection timed out", Code::Unreachable, AWAY),
    ("unable to open config file", Code::NoRepository, "there is no repository in it"),
    ("Is there a repository at the following location", Code::NoRepository, "there is no repository in it"),
    ("is not a valid repository", Code::NoRepository, "there is no repository in it"),
    ("repository is already locked", Code::Locked, LOCKED_TEXT),
    ("Failed to create/acquire the lock", Code::Locked, LOCKED_TEXT),
    ("no snapshot found", Code::NoPoints, NO_POINTS_TEXT),
    ("no matching ID found", Code::NoPoint, "the point that the scenario names is not in the repository"),
    ("FATAL:  database", Code::NoTarget, NO_DATABASE),
    (MISSING, Code::NoPoint, "the archive that the scenario names is not in the repository"),
    ("ciphertext verification failed", Code::Damaged, DAMAGE),
    ("hash does not match", Code::Damaged, DAMAGE),
    ("does not match id", Code::Damaged, DAMAGE),
    ("Data integrity error", Code::Damaged, DAMAGE),
    ("IntegrityError", Code::Damaged, DAMAGE),
    ("Segment entry checksum mismatch", Code::Damaged, DAMAGE),
    ("invalid data returned", Code::Damaged, DAMAGE),
    ("database disk image is malformed", Code::Damaged, DAMAGE),
    ("file is not a database", Code::Damaged, DAMAGE),
    ("checksum mismatch", Code::Damaged, DAMAGE),
    ("unexpected end of file", Code::Cut, CUT_TEXT),
    ("Unexpected EOF in archive", Code::Cut, CUT_TEXT),
    ("could not read from input file: end of file", Code::Cut, CUT_TEXT),
    ("unsupported version", Code::NewerServer, NEWER),
    ("unrecognized configuration parameter", Code::NewerServer, NEWER),
    ("crc error", Code::Damaged, DAMAGE),
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
pub(crate) fn locked() -> Problem {
    Problem::new(Code::Locked, LOCKED_TEXT)
}

/// Not even a repository of nothing.
pub(crate) fn empty_repository() -> Problem {
    Problem::new(Code::EmptyRepository, "the repository is empty: there is not one file in it")
}

/// There is nothing to choose from.
pub(crate) fn no_points() -> Problem {
    Problem::new(Code::NoPoints, NO_POINTS_TEXT)
}

/// The dump has no end.
pub(crate) fn cut() -> Problem {
    Problem::new(Code::Cut, CUT_TEXT)
}

/// The dump is of this version, and the server of that.
pub(crate) fn newer(dump: &str, server: &str) -> Problem {
    Problem::new(Code::NewerServer, format!("{NEWER}: {dump} against {server}"))
}

/// What a failed command of a restore means.
pub(crate) fn of_output(kind: &BackupKind, what: &str, output: &Output) -> Problem {
    let said = format!("{}\n{}", output.text(), output.stderr);
    if full(&said) {
        return disk_full().with(&output.stderr);
    }
    if output.status == 127 {
        let text = format!("the machine lacks what restores it: {}", output.stderr.trim());
        return Problem::new(Code::ToolMissing, text).with(&output.stderr);
    }
    let known = SAID.iter().find(|(text, ..)| said.contains(text));
    match known {
        Some((text, code, sentence)) if *text != MISSING || *kind == BackupKind::Borg => {
            Problem::new(*code, *sentence).with(&output.stderr)
        }
        _ => Problem::new(Code::RestoreFailed, format!("{what} ended with exit status {}", output.status)).with(&said),
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
    use redrill_model::Severity;

    use super::*;

    #[track_caller]
    fn means(kind: BackupKind, stderr: &str, code: Code, severity: Severity) {
        let output = Output { status: 1, stdout: Vec::new(), stderr: stderr.to_owned() };
        let fault = of_output(&kind, "the restore", &output);
        assert_eq!((fault.code, fault.severity()), (code, severity), "{stderr}");
        assert!(!fault.text.is_empty() && fault.severity() >= Severity::Unknown, "none is proven");
        assert!(fault.evidence.iter().any(|line| stderr.contains(line.as_str())), "its words are kept");
    }

    #[test]
    fn what_tools_say_has_a_word_of_its_own() {
        use BackupKind::{Borg, Postgres, Restic, Sqlite};
        use Severity::{Fails, Unknown};
        means(Restic, "Fatal: wrong password or no key found", Code::WrongPassphrase, Fails);
        means(
            Borg,
            "passphrase supplied in BORG_PASSPHRASE, by BORG_PASSCOMMAND or via BORG_PASSPHRASE_FD is incorrect.",
            Code::WrongPassphrase,
            Fails,
        );
        means(
            Restic,
            "Fatal: repository does not exist: unable to open config file: stat /r/config: no such file",
            Code::NoRepository,
            Fails,
        );
        means(
            Restic,
            "unable to create lock in backend: repository is already locked exclusively by PID 1",
            Code::Locked,
            Unknown,
        );
        means(Borg, "Failed to create/acquire the lock /r/lock.exclusive (timeout).", Code::Locked, Unknown);
        means(Restic, "Fatal: failed to find snapshot: no snapshot found", Code::NoPoints, Fails);
        means(Restic, "decrypting blob 0a failed: ciphertext verification failed", Code::Damaged, Fails);
        means(
            Borg,
            "Data integrity error: Segment entry checksum mismatch [segment 3, offset 8]",
            Code::Damaged,
            Fails,
        );
        means(Borg, "Archive day-3 does not exist", Code::NoPoint, Fails);
        means(Postgres, "pg_restore: error: could not read from input file: end of file", Code::Cut, Fails);
        means(Postgres, "pg_restore: error: unsupported version (1.17) in file header", Code::NewerServer, Fails);
        means(Sqlite, "Error: database disk image is malformed", Code::Damaged, Fails);
        means(Restic, "write /var/lib/x: No space left on device", Code::DiskFull, Unknown);
        means(Restic, "Fatal: dial tcp 10.0.0.9:8000: connect: Connection refused", Code::Unreachable, Unknown);
        means(Restic, "something new", Code::RestoreFailed, Fails);
    }

    #[test]
    fn a_missing_program_is_no_word_about_the_backup() {
        let output = Output { status: 127, stderr: "restic: No such file or directory".into(), ..Output::default() };
        assert_eq!(of_output(&BackupKind::Restic, "restic", &output).severity(), Severity::Unknown);
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
        assert_eq!(Problem::from(error).code, Code::DiskFull);
    }
}
