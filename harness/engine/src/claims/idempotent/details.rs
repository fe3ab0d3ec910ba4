//! What a difference looks like: files as they were before and after, and what the journal says of a restarted unit.
//!
//! Contents are read for files that everybody in the machine may read, since a report goes to many people; they are
//! kept in memory only, and pass the redactor with the findings.

use std::collections::BTreeMap;
use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, MachineError, PROBE};
use redrill_state::{Capture, ChangeKind, FileEntry, FileKind, Judgement, Observed, Section, diff};
use serde::Deserialize;
use similar::TextDiff;

/// Larger files are not text that a person wrote.
const LARGEST: u64 = 64 * 1024;
/// What is kept of one machine.
const KEPT: u64 = 8 * 1024 * 1024;
/// Where packages put what they bring, which nobody edits.
const OF_PACKAGES: [&str; 5] = ["/usr/", "/boot/", "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/"];
const NOT_OF_PACKAGES: &str = "/usr/local/";
/// Lines of a difference, and of a journal.
const SHOWN: usize = 40;
const JOURNAL: &str = "12";
const LIMIT: Duration = Duration::from_secs(60);

/// Texts of files, by path.
pub(crate) type Contents = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Content {
    path: String,
    text: String,
}

/// The files that the first deploy made or changed, as they are now: what a later deploy changes is among them.
pub(crate) fn worth_keeping(clean: &Capture, deployed: &Capture) -> Vec<String> {
    let changed = diff(clean, deployed).into_iter();
    let files = changed.filter(|change| change.section == Section::Files && change.kind != ChangeKind::Removed);
    let mut left = KEPT;
    files
        .filter_map(|change| deployed.files.get(&change.subject))
        .filter(|file| readable(file))
        .filter(|file| !is_of_packages(&file.path))
        .map(|file| (file.path.clone(), file.size))
        .take_while(|(_, size)| {
            let fits = *size <= left;
            left = left.saturating_sub(*size);
            fits
        })
        .map(|(path, _)| path)
        .collect()
}

/// Whether packages bring what lies there.
pub(crate) fn is_of_packages(path: &str) -> bool {
    !path.starts_with(NOT_OF_PACKAGES) && OF_PACKAGES.iter().any(|prefix| path.starts_with(prefix))
}

fn readable(file: &FileEntry) -> bool {
    // A name with a backslash is not the file's own: see `redrill_state::escape`.
    file.kind == FileKind::File && file.mode & 0o004 != 0 && file.size <= LARGEST && !file.path.contains('\\')
}

/// Reads files of a machine; what is no text, or gone, is left out.
pub(crate) async fn read<M: Machine>(
    machine: &M,
    paths: &[String],
    deadline: &Deadline,
) -> Result<Contents, MachineError> {
    if paths.is_empty() {
        return Ok(Contents::new());
    }
    let list = serde_json::to_vec(paths).expect("text");
    let limit = deadline.child("reading changed files", LIMIT);
    let output = machine.exec(&Exec::new([PROBE, "contents"]), &list, &limit).await?;
    let contents = output.text();
    Ok(contents
        .lines()
        .filter_map(|line| serde_json::from_str::<Content>(line).ok())
        .map(|content| (content.path, content.text))
        .collect())
}

/// By subject: lines for the findings of this machine.
pub(crate) async fn gather<M: Machine>(
    machine: &M,
    judgement: &Judgement,
    (before, after): (&Contents, &Capture),
    since: i64,
    deadline: &Deadline,
) -> BTreeMap<String, Vec<String>> {
    let mut details = BTreeMap::new();
    let changed: Vec<String> = judgement
        .observations
        .iter()
        .filter(|o| o.section == Some(Section::Files) && after.files.get(&o.subject).is_some_and(readable))
        .map(|observation| observation.subject.clone())
        .take(SHOWN)
        .collect();
    // Evidence is welcome, and no reason to fail.
    let now = read(machine, &changed, deadline).await.unwrap_or_default();
    for (path, text) in &now {
        if let Some(lines) = before.get(path).and_then(|old| unified(old, text)) {
            details.insert(path.clone(), lines);
        }
    }
    for observation in
        judgement.observations.iter().filter(|o| o.kind == Observed::Disruptive && o.subject.contains('.'))
    {
        let lines = journal(machine, &observation.subject, since, deadline).await;
        // Of a user's unit or a process it has nothing under this name.
        if lines.iter().any(|line| !line.contains("-- No entries --")) {
            details.insert(observation.subject.clone(), lines);
        }
    }
    details
}

/// A unified difference without file names; `None` if there is none.
fn unified(before: &str, after: &str) -> Option<Vec<String>> {
    let difference = TextDiff::from_lines(before, after);
    let mut lines: Vec<String> =
        difference.unified_diff().context_radius(2).to_string().lines().map(str::to_owned).collect();
    if lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("... {more} more lines"));
    }
    (!lines.is_empty()).then_some(lines)
}

async fn journal<M: Machine>(machine: &M, unit: &str, since: i64, deadline: &Deadline) -> Vec<String> {
    let since = format!("@{}", since / 1_000_000_000);
    let words =
        ["journalctl", "--unit", unit, "--since", &since, "--lines", JOURNAL, "--no-pager", "--output", "short-iso"];
    let limit = deadline.child("the journal", LIMIT);
    match machine.exec(&Exec::new(words), b"", &limit).await {
        Ok(output) if output.status == 0 => output.text().lines().map(|line| format!("journal: {line}")).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use redrill_state::{Digest, Header};

    use super::*;

    fn capture(files: &[(&str, u32, u64, u8)]) -> Capture {
        let entry = |(path, mode, size, digest): &(&str, u32, u64, u8)| FileEntry {
            path: (*path).to_owned(),
            kind: FileKind::File,
            mode: *mode,
            uid: 0,
            gid: 0,
            size: *size,
            digest: Some(Digest([*digest; 32])),
            target: None,
            xattrs: BTreeMap::new(),
            ctime: 0,
        };
        let files = files.iter().map(entry).collect();
        Capture { header: Header::new("boot".to_owned(), 0), files, ..Capture::default() }
    }

    #[test]
    fn what_a_deploy_wrote_is_kept_and_secrets_are_not() {
        let clean = capture(&[("/etc/hosts", 0o644, 9, 1), ("/etc/same", 0o644, 9, 1)]);
        let deployed = capture(&[
            ("/etc/hosts", 0o644, 9, 2),
            ("/etc/same", 0o644, 9, 1),
            ("/etc/app.key", 0o600, 9, 1),
            ("/etc/huge", 0o644, LARGEST + 1, 1),
            ("/etc/a\\x0ab", 0o644, 9, 1),
            ("/usr/share/doc/x", 0o644, 9, 1),
            ("/usr/local/bin/tool", 0o755, 9, 1),
        ]);
        assert_eq!(worth_keeping(&clean, &deployed), ["/etc/hosts", "/usr/local/bin/tool"]);
    }

    #[test]
    fn a_difference_is_told_line_by_line_and_not_without_end() {
        let lines = unified("a\nb\n", "a\nb\nb\n").expect("differs");
        assert_eq!(lines.iter().filter(|line| line.starts_with('+')).collect::<Vec<_>>(), ["+b"]);
        assert_eq!(unified("a\n", "a\n"), None);
        let long: String = (0..500).map(|number| format!("{number}\n")).collect();
        let lines = unified("", &long).expect("differs");
        assert_eq!(lines.len(), SHOWN + 1);
        assert!(lines[SHOWN].contains("more lines"), "{}", lines[SHOWN]);
    }
}
