//! The loss report of a round trip: what lived on the machine whose backup was made, and is not on the one that was
//! rebuilt from the repo and the backup.

use std::collections::{BTreeMap, BTreeSet};

use redrill_model::{Code, Ephemeral, Finding, LossGroup, LossOwner, LossReport, is_below};
use redrill_state::{Capture, Change, ChangeKind, FileKind, Manifest, Section, diff, moves_by_itself};

use super::repository::COPIES;

/// Entries of one owner that the report lists.
const SHOWN: usize = 200;
/// Lines that the finding quotes.
const QUOTED: usize = 25;
/// What servers write as they please; their tables are compared instead.
const SERVERS: [(&str, &str); 1] =
    [("/var/lib/mysql", "MariaDB's own files: its tables are compared by rows, highest key and schema")];
/// Files whose every line is an account or a group.
const ACCOUNTS: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/gshadow"];

/// What is known of one machine.
pub(crate) struct Lives<'a> {
    pub(crate) machine: &'a str,
    /// Before its deploy, if that was captured.
    pub(crate) clean: Option<&'a Capture>,
    /// After it.
    pub(crate) deployed: &'a Capture,
    /// When its backup was made.
    pub(crate) backed_up: &'a Capture,
    /// The other one, after the restore.
    pub(crate) restored: &'a Capture,
    /// Every path that a package brought.
    pub(crate) packaged: &'a BTreeSet<String>,
    /// Paths that a backup fills.
    pub(crate) targets: &'a [String],
    /// Where copies of repositories are, and what the harness itself wrote.
    pub(crate) apart: &'a [String],
    /// What may be lost, as declared.
    pub(crate) ephemeral: &'a [Ephemeral],
    /// All tables of all databases, when the backup was made and after the restore.
    pub(crate) tables: (&'a Manifest, &'a Manifest),
    /// Accounts of database servers, at the same moments.
    pub(crate) accounts: (&'a BTreeSet<String>, &'a BTreeSet<String>),
    /// Databases that a backup fills.
    pub(crate) databases: &'a [String],
}

/// Compares the two lives of a machine.
pub(crate) fn report(lives: &Lives<'_>) -> LossReport {
    let mut groups: BTreeMap<LossOwner, Vec<(Extent, String)>> = BTreeMap::new();
    let lost = diff(lives.backed_up, lives.restored).into_iter().filter(|change| change.kind != ChangeKind::Added);
    for change in lost {
        if let Some(owner) = owner(lives, &change) {
            groups.entry(owner).or_default().push((extent(&change), told(&change)));
        }
    }
    let nothing_ephemeral = |_: &str| false;
    for table in lives.tables.0.compare(lives.tables.1, nothing_ephemeral).into_iter().filter(|table| !table.extra) {
        let database = table.subject.split('.').next().unwrap_or_default();
        let owner =
            if lives.databases.iter().any(|name| name == database) { LossOwner::Backup } else { LossOwner::Nobody };
        let extent = if lives.tables.1.tables.contains_key(&table.subject) { Extent::Content } else { Extent::Gone };
        groups.entry(owner).or_default().push((extent, format!("table {} {}", table.subject, table.what)));
    }
    for account in lives.accounts.0.difference(lives.accounts.1) {
        groups.entry(LossOwner::Nobody).or_default().push((Extent::Gone, format!("{account} is gone")));
    }
    let counted = [Section::Files, Section::Users, Section::Groups, Section::Packages];
    let compared = counted.iter().map(|section| lives.backed_up.count(*section)).sum::<usize>();
    let groups: Vec<LossGroup> = groups.into_iter().map(|(owner, entries)| group(owner, entries)).collect();
    LossReport {
        machine: lives.machine.to_owned(),
        compared: compared + lives.tables.0.tables.len() + lives.accounts.0.len(),
        groups,
    }
}

/// How much of it is lost. A restore that gives every file another mode must not hide the one that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    Gone,
    Content,
    Attributes,
}

fn extent(change: &Change) -> Extent {
    let content = ["content", "size", "target", "type"];
    match change.kind {
        ChangeKind::Removed => Extent::Gone,
        _ if change.differences.iter().any(|d| content.contains(&d.attribute)) => Extent::Content,
        _ => Extent::Attributes,
    }
}

fn group(owner: LossOwner, mut entries: Vec<(Extent, String)>) -> LossGroup {
    let count = entries.len();
    entries.sort_by_key(|(extent, _)| *extent);
    let gone = entries.iter().filter(|(extent, _)| *extent == Extent::Gone).count();
    let entries = entries.into_iter().take(SHOWN).map(|(_, text)| text).collect();
    LossGroup { owner, count, gone, entries }
}

fn told(change: &Change) -> String {
    let what = match change.kind {
        ChangeKind::Removed => "is gone".to_owned(),
        _ => {
            let differs =
                |d: &redrill_state::Difference| format!("{} {} -> {}", d.attribute, short(&d.before), short(&d.after));
            change.differences.iter().map(differs).collect::<Vec<_>>().join(", ")
        }
    };
    match change.section {
        Section::Files => format!("{} {what}", change.subject),
        Section::Users => format!("user {} {what}", change.subject),
        Section::Groups => format!("group {} {what}", change.subject),
        _ => format!("package {} {what}", change.subject),
    }
}

fn short(text: &str) -> &str {
    match text.len() {
        64 => &text[..12],
        _ => text,
    }
}

/// Whose it is; `None` for what is no part of the question.
fn owner(lives: &Lives<'_>, change: &Change) -> Option<LossOwner> {
    let subject = change.subject.as_str();
    let by_whom = |since_clean: bool, since_deploy: bool, packaged: bool| {
        // What nobody touched since the deploy is made anew by each deploy: keys, seeds, numbers.
        match (since_clean, packaged, since_deploy) {
            (true, ..) => LossOwner::Image,
            (_, true, true) => LossOwner::Package,
            (_, _, true) => LossOwner::Deploy,
            _ => LossOwner::Nobody,
        }
    };
    match change.section {
        Section::Files => {
            if apart(lives, subject) {
                return None;
            }
            if let Some(declared) = lives.ephemeral.iter().find(|declared| goes_with(lives, declared, subject)) {
                return Some(LossOwner::Ephemeral(declared.reason.clone()));
            }
            if lives.targets.iter().any(|path| is_below(subject, path)) {
                return Some(LossOwner::Backup);
            }
            let own = SERVERS.iter().find(|(path, _)| is_below(subject, path)).map(|(_, reason)| *reason);
            // A directory of such things comes and goes with them.
            if let Some(reason) =
                own.or_else(|| moves_by_itself(subject)).or_else(|| moves_by_itself(&format!("{subject}/")))
            {
                return Some(LossOwner::Ephemeral(reason.to_owned()));
            }
            let lived = lives.backed_up.files.get(subject);
            let same = |capture: &Capture| match (capture.files.get(subject), lived) {
                (Some(then), Some(now)) => same_content(then, now),
                _ => false,
            };
            Some(by_whom(lives.clean.is_some_and(same), same(lives.deployed), lives.packaged.contains(subject)))
        }
        Section::Users => {
            let lived = lives.backed_up.users.get(subject);
            let same = |capture: &Capture| capture.users.get(subject) == lived;
            Some(by_whom(lives.clean.is_some_and(same), same(lives.deployed), false))
        }
        Section::Groups => {
            let lived = lives.backed_up.groups.get(subject);
            let same = |capture: &Capture| capture.groups.get(subject) == lived;
            Some(by_whom(lives.clean.is_some_and(same), same(lives.deployed), false))
        }
        Section::Packages => {
            let lived = lives.backed_up.packages.get(subject);
            let same = |capture: &Capture| capture.packages.get(subject) == lived;
            Some(by_whom(lives.clean.is_some_and(same), same(lives.deployed), false))
        }
        // A unit's file is a file; whether it runs is for the checks.
        _ => None,
    }
}

/// Whether a path is no part of the question: the harness's own, a repository or what it lies in, or gone at each boot.
fn apart(lives: &Lives<'_>, subject: &str) -> bool {
    let directory = lives.backed_up.files.get(subject).is_some_and(|entry| entry.kind == FileKind::Directory);
    let repository = |path: &String| is_below(subject, path) || (directory && is_below(path, subject));
    // Each account is told by itself; a password that somebody set is not, unless accounts came and went.
    let accounts = ACCOUNTS.contains(&subject.trim_end_matches('-')) || subject == "/etc/shadow-";
    let told = subject == "/etc/shadow" && lives.backed_up.users != lives.restored.users;
    accounts || told || is_below(subject, COPIES) || is_below(subject, "/run") || lives.apart.iter().any(repository)
}

/// Whether a declared loss covers this path, or is why the directory is there.
fn goes_with(lives: &Lives<'_>, declared: &Ephemeral, subject: &str) -> bool {
    let directory = lives.backed_up.files.get(subject).is_some_and(|entry| entry.kind == FileKind::Directory);
    declared.covers(subject) || (directory && is_below(&declared.path, subject))
}

/// As a file is compared: without its times.
fn same_content(a: &redrill_state::FileEntry, b: &redrill_state::FileEntry) -> bool {
    redrill_state::FileEntry { ctime: b.ctime, ..a.clone() } == *b
}

/// What is lost fails the claim.
pub(crate) fn finding(report: &LossReport) -> Option<Finding> {
    let lost = report.groups.iter().find(|group| group.owner == LossOwner::Nobody)?;
    let text = format!(
        "{} things that lived on `{}` are neither from the repo nor in a backup: they would be lost",
        lost.count, report.machine
    );
    let mut finding = Finding::new(Code::Lost, &report.machine, text);
    finding.machine = Some(report.machine.clone());
    finding.evidence = lost.entries.iter().take(QUOTED).cloned().collect();
    finding.evidence.extend((lost.count > QUOTED).then(|| format!("and {} more: see the report", lost.count - QUOTED)));
    Some(finding)
}

#[cfg(test)]
mod tests {
    use redrill_model::Severity;
    use redrill_state::{Digest, FileEntry, Table, User};

    use super::*;

    fn capture(files: &[(&str, &str)], users: &[&str]) -> Capture {
        let entry = |(path, digest): &(&str, &str)| FileEntry {
            path: (*path).to_owned(),
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 1,
            digest: Some(Digest([digest.as_bytes()[0]; 32])),
            target: None,
            xattrs: BTreeMap::new(),
            ctime: 0,
        };
        let mut capture = Capture { files: files.iter().map(entry).collect(), ..Capture::default() };
        for name in users {
            let (name, home, shell) = ((*name).to_owned(), String::new(), String::new());
            let user = User { name: name.clone(), uid: 1, gid: 1, comment: String::new(), home, shell };
            capture.users.insert(name, user);
        }
        capture
    }

    /// Owner and entries of everything lost between the two captures.
    fn groups(backed_up: &Capture, restored: &Capture, tables: (&Manifest, &Manifest)) -> Vec<(String, Vec<String>)> {
        let clean = capture(&[("/etc/passwd", "0"), ("/etc/machine-id", "1")], &["root"]);
        let files = [
            ("/etc/passwd", "0"),
            ("/etc/machine-id", "1"),
            ("/etc/key.pem", "k"),
            ("/usr/bin/x", "p"),
            ("/srv/notes.db", "empty"),
        ];
        let deployed = capture(&files, &["root", "notes"]);
        let ephemeral = [Ephemeral { path: "/var/spool".into(), reason: "sent again".into() }];
        let lives = Lives {
            machine: "app",
            clean: Some(&clean),
            deployed: &deployed,
            backed_up,
            restored,
            packaged: &BTreeSet::from(["/usr/bin/x".to_owned()]),
            targets: &["/srv/docs".to_owned()],
            apart: &["/srv/backup".to_owned()],
            ephemeral: &ephemeral,
            tables,
            accounts: (
                &BTreeSet::from(["role a".to_owned(), "role b".to_owned()]),
                &BTreeSet::from(["role a".to_owned()]),
            ),
            databases: &["notes".to_owned()],
        };
        report(&lives).groups.into_iter().map(|group| (group.owner.to_string(), group.entries)).collect()
    }

    #[test]
    fn every_loss_has_an_owner() {
        let lived = [
            ("/etc/machine-id", "1"),
            ("/etc/key.pem", "k"),
            ("/usr/bin/x", "p"),
            ("/srv/notes.db", "filled"),
            ("/srv/docs/a", "1"),
            ("/home/ada/todo", "1"),
            ("/var/spool/mail", "1"),
            ("/srv/backup/pack", "1"),
            ("/var/log/syslog", "1"),
            ("/etc/same", "s"),
            ("/run/redrill/digests", "d"),
            ("/var/lib/mysql/ib_logfile0", "1"),
            ("/etc/group-", "1"),
            ("/etc/shadow", "1"),
        ];
        let rebuilt = [
            ("/etc/machine-id", "2"),
            ("/etc/key.pem", "other"),
            ("/srv/notes.db", "empty"),
            ("/etc/same", "s"),
            ("/new", "n"),
        ];
        let (backed_up, restored) = (capture(&lived, &["root", "notes", "ada"]), capture(&rebuilt, &["root", "notes"]));
        let found = groups(&backed_up, &restored, (&Manifest::default(), &Manifest::default()));
        let of = |owner: &str| {
            found.iter().find(|(name, _)| name == owner).map(|(_, entries)| entries.clone()).unwrap_or_default()
        };
        assert_eq!(
            of("nobody"),
            [
                "/home/ada/todo is gone",
                "user ada is gone",
                "role b is gone",
                "/srv/notes.db content 666666666666 -> 656565656565"
            ]
        );
        assert_eq!(of("backup"), ["/srv/docs/a is gone"]);
        assert_eq!(of("deploy"), ["/etc/key.pem content 6b6b6b6b6b6b -> 6f6f6f6f6f6f"]);
        assert_eq!(of("package"), ["/usr/bin/x is gone"]);
        assert_eq!(of("image"), ["/etc/machine-id content 313131313131 -> 323232323232"]);
        assert_eq!(of("ephemeral: sent again"), ["/var/spool/mail is gone"]);
        assert_eq!(of("ephemeral: logs grow by themselves"), ["/var/log/syslog is gone"]);
        assert_eq!(found[0].0, "nobody", "the worst first");
        assert_eq!(found.iter().map(|(_, entries)| entries.len()).sum::<usize>(), 11, "the repository is no loss");
    }

    #[test]
    fn a_directory_that_only_leads_to_a_declared_loss_goes_with_it() {
        let nothing = (&Manifest::default(), &Manifest::default());
        let lived = capture(&[("/var/spool/mail", "1"), ("/var", "1")], &[]);
        let files = lived.files.iter().map(|(_, entry)| {
            let kind = if entry.path == "/var" { FileKind::Directory } else { FileKind::File };
            FileEntry { kind, ..entry.clone() }
        });
        let lived = Capture { files: files.collect(), ..Capture::default() };
        let found = groups(&lived, &capture(&[], &[]), nothing);
        let sent = found.iter().find(|(owner, _)| owner == "ephemeral: sent again").expect("declared");
        assert_eq!(sent.1, ["/var is gone", "/var/spool/mail is gone"]);
    }

    #[test]
    fn a_password_set_by_hand_is_lost_and_one_of_a_lost_account_is_told_with_it() {
        let nothing = (&Manifest::default(), &Manifest::default());
        let lived = |users: &[&str]| capture(&[("/etc/shadow", "by hand")], users);
        let rebuilt = capture(&[("/etc/shadow", "deployed")], &["root"]);
        let nobody = |found: Vec<(String, Vec<String>)>| found[0].1.clone();
        let same = nobody(groups(&lived(&["root"]), &rebuilt, nothing));
        assert_eq!(same, ["role b is gone", "/etc/shadow content 626262626262 -> 646464646464"]);
        let other = nobody(groups(&lived(&["root", "ada"]), &rebuilt, nothing));
        assert_eq!(other[0], "user ada is gone");
    }

    #[test]
    fn rows_of_a_database_without_a_backup_belong_to_nobody() {
        let table = |rows| Table { rows, ..Table::default() };
        let with = |rows| Manifest {
            tables: BTreeMap::from([
                ("notes.documents".to_owned(), table(rows)),
                ("wiki.pages".to_owned(), table(rows)),
            ]),
            ..Manifest::default()
        };
        let empty = capture(&[], &[]);
        let found = groups(&empty, &empty, (&with(5), &with(0)));
        assert_eq!(
            found,
            [
                (
                    "nobody".to_owned(),
                    vec!["role b is gone".to_owned(), "table wiki.pages 0 rows, and had 5".to_owned()]
                ),
                ("backup".to_owned(), vec!["table notes.documents 0 rows, and had 5".to_owned()]),
            ]
        );
    }

    #[test]
    fn what_is_lost_fails_and_what_is_made_again_does_not() {
        let report = |owner: &str| LossReport {
            machine: "app".into(),
            compared: 9,
            groups: vec![group(owner.to_owned().into(), vec![(Extent::Gone, "/x is gone".into()); 30])],
        };
        let lost = finding(&report("nobody")).expect("a finding");
        assert_eq!((lost.severity, lost.evidence.len()), (Severity::Fails, QUOTED + 1));
        assert_eq!(finding(&report("deploy")), None);
    }
}
