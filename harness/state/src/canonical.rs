//! Differences that a stated reason explains: places where software writes by itself.
//!
//! A class leaves out that content changed, or that a file came or went; a changed owner or mode there still counts.
//! No class may cover accounts, keys or `/etc` (a test holds that).

use crate::capture::Section;
use crate::diff::{Change, ChangeKind};
use crate::entries::{Socket, Unit};

/// A kind of difference that is left out, and why.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Short name.
    pub name: &'static str,
    /// Why it may be left out.
    pub reason: &'static str,
    /// Paths that begin with one of these, or any if there are none.
    pub prefixes: &'static [&'static str],
    /// Of those, paths that contain one of these, or any if there are none.
    pub infixes: &'static [&'static str],
}

/// Every class of files, in the order they are tried.
pub const CLASSES: &[Class] = &[
    Class { name: "logs", reason: "logs grow by themselves", prefixes: &["/var/log/"], infixes: &[] },
    Class {
        name: "caches",
        reason: "a cache may be dropped or filled at any time",
        prefixes: &["/var/cache/", "/root/.cache/"],
        infixes: &[],
    },
    Class {
        name: "package lists",
        reason: "downloaded from the mirror, which changes by itself",
        prefixes: &["/var/lib/apt/lists/"],
        infixes: &[],
    },
    Class {
        name: "temporary files",
        reason: "removed by the system at any time",
        prefixes: &["/tmp/", "/var/tmp/"],
        infixes: &[],
    },
    Class {
        name: "clocks and seeds",
        reason: "timers, the clock and the random seed are saved as time goes by",
        prefixes: &[
            "/var/lib/systemd/timers/",
            "/var/lib/systemd/timesync/",
            "/var/lib/private/systemd/timesync/",
            "/var/lib/systemd/random-seed",
            "/var/lib/logrotate/status",
        ],
        infixes: &[],
    },
    Class {
        name: "package database copies",
        reason: "a daily timer of dpkg keeps copies of its database",
        prefixes: &["/var/backups/dpkg.", "/var/backups/apt.", "/var/backups/alternatives."],
        infixes: &[],
    },
    Class {
        name: "PostgreSQL's own files",
        reason: "PostgreSQL vacuums, checkpoints and logs ahead when it pleases; settings in its directory still count",
        prefixes: &["/var/lib/postgresql/"],
        infixes: &[
            "/base/",
            "/global/",
            "/pg_commit_ts/",
            "/pg_logical/",
            "/pg_multixact/",
            "/pg_notify/",
            "/pg_stat/",
            "/pg_subtrans/",
            "/pg_wal/",
            "/pg_xact/",
            "/postmaster.",
        ],
    },
    Class {
        name: "Python bytecode",
        reason: "Python compiles a module when it is first used",
        prefixes: &[],
        infixes: &["/__pycache__/"],
    },
];

impl Class {
    fn holds(&self, path: &str) -> bool {
        let begins = self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| path.starts_with(prefix));
        begins && (self.infixes.is_empty() || self.infixes.iter().any(|infix| path.contains(infix)))
    }
}

/// Why what lies at this path comes, goes and changes by itself, if it does.
pub fn moves_by_itself(path: &str) -> Option<&'static str> {
    CLASSES.iter().find(|class| class.holds(path)).map(|class| class.reason)
}

/// Attributes that say what is in a file, as opposed to who may do what with it.
const CONTENT: [&str; 3] = ["content", "size", "target"];

/// The reason why `change` may be left out, if there is one. `unit` and `socket` are the entry that changed.
pub(crate) fn explained(change: &Change, unit: Option<&Unit>, socket: Option<&Socket>) -> Option<&'static str> {
    match change.section {
        Section::Files if change.kind != ChangeKind::Changed || change.only(&CONTENT) => {
            CLASSES.iter().find(|class| class.holds(&change.subject)).map(|class| class.reason)
        }
        Section::Units => unit.and_then(|unit| explained_unit(change, unit)),
        Section::Sockets if socket.is_some_and(|socket| socket.ephemeral) => {
            Some("a client's socket on a port that the kernel picked")
        }
        _ => None,
    }
}

fn explained_unit(change: &Change, unit: &Unit) -> Option<&'static str> {
    if is_login(&unit.name) {
        return Some("a login of the deploy tool or of the harness");
    }
    let transient = change.kind != ChangeKind::Changed || change.only(&["active"]);
    if transient && unit.service_type == "oneshot" && unit.triggered_by.contains(".timer") {
        return Some("a job that its timer starts and that ends by itself");
    }
    if transient && !unit.bus_name.is_empty() && unit.enabled == "static" {
        return Some("a helper that D-Bus starts on demand and that ends by itself");
    }
    if change.kind != ChangeKind::Changed && unit.name.ends_with(".device") {
        return Some("the kernel's list of devices");
    }
    None
}

/// Units that exist because somebody is logged in.
pub(crate) fn is_login(unit: &str) -> bool {
    let ends = |ending: &str| unit.ends_with(ending);
    (unit.starts_with("session-") && ends(".scope"))
        || (unit.starts_with("user-") && ends(".slice"))
        || (unit.starts_with("user@") && ends(".service"))
        || (unit.starts_with("user-runtime-dir@") && ends(".service"))
        || (unit.starts_with("run-user-") && ends(".mount"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Difference;

    fn change(path: &str, kind: ChangeKind, attribute: &'static str) -> Change {
        let differences = vec![Difference { attribute, before: "1".into(), after: "2".into() }];
        Change { section: Section::Files, subject: path.to_owned(), kind, differences }
    }

    #[test]
    fn no_class_covers_accounts_keys_or_etc() {
        for path in [
            "/etc/passwd",
            "/etc/shadow",
            "/etc/sudoers.d/ada",
            "/etc/ssh/sshd_config",
            "/etc/ssl/private/web.key",
            "/etc/hosts",
            "/root/.ssh/authorized_keys",
            "/home/ada/.ssh/authorized_keys",
            "/var/spool/cron/crontabs/root",
            "/var/lib/dpkg/status",
            "/usr/bin/sudo",
            "/var/lib/notes/notes.db",
            "/opt/app/.cache/x",
            "/var/lib/postgresql/17/main/postgresql.auto.conf",
            "/var/lib/postgresql/.ssh/authorized_keys",
            "/srv/base/x",
        ] {
            for kind in [ChangeKind::Added, ChangeKind::Removed, ChangeKind::Changed] {
                assert_eq!(explained(&change(path, kind, "content"), None, None), None, "{path} {kind}");
            }
        }
    }

    #[test]
    fn a_class_leaves_out_content_but_not_rights() {
        assert!(explained(&change("/var/log/syslog", ChangeKind::Changed, "content"), None, None).is_some());
        let table = "/var/lib/postgresql/17/main/base/1/2619";
        assert!(explained(&change(table, ChangeKind::Changed, "content"), None, None).is_some());
        assert!(explained(&change("/var/log/syslog", ChangeKind::Added, "content"), None, None).is_some());
        assert_eq!(explained(&change("/var/log/syslog", ChangeKind::Changed, "mode"), None, None), None);
        assert_eq!(explained(&change("/var/log", ChangeKind::Changed, "mode"), None, None), None);
    }

    #[test]
    fn every_class_has_a_reason() {
        for class in CLASSES {
            assert!(class.reason.split(' ').count() > 2, "{}", class.name);
            assert!(!class.prefixes.is_empty() || !class.infixes.is_empty(), "{}", class.name);
        }
    }

    #[test]
    fn a_timers_job_is_explained_and_a_stopped_service_is_not() {
        let mut change = change("x", ChangeKind::Changed, "active");
        change.section = Section::Units;
        let unit = |kind: &str, by: &str| Unit {
            name: "x.service".into(),
            service_type: kind.into(),
            triggered_by: by.into(),
            ..Unit::default()
        };
        assert!(explained(&change, Some(&unit("oneshot", "x.timer")), None).is_some());
        assert_eq!(explained(&change, Some(&unit("simple", "x.timer")), None), None);
        assert_eq!(explained(&change, Some(&unit("oneshot", "")), None), None);
        change.differences[0].attribute = "enabled";
        assert_eq!(explained(&change, Some(&unit("oneshot", "x.timer")), None), None, "disabling a job is a change");
    }
}
