//! Differences that a stated reason explains: places where software writes by itself.
//!
//! A class leaves out that content changed, or that a file came or went; a changed owner or mode there still counts.
//! No class may cover accounts, keys or `/etc` (a test holds that).

use crate::catching_up;
use crate::diff::{Change, ChangeKind};
use crate::entries::{Socket, Unit};
use crate::network::{FOLLOWS, WITH_ITS_OWNER};
use crate::processes::{OF_JOB, OF_UNIT, RUNS_ON};
use crate::sections::Section;

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
    /// Of those, paths that end so, or any if there are none.
    pub endings: &'static [&'static str],
    /// What holds where the deploy itself wrote.
    pub of_deploy: OfDeploy,
}

/// Whether a class excuses what the deploy's own processes wrote. Where nobody could tell who wrote, it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfDeploy {
    /// It does: tools that deploys run fill such places with what is made or fetched again.
    Excused,
    /// It does if the file only grew.
    Grows,
    /// It does not.
    Counts,
    /// It does not, unless the deploy started the server whose files these are.
    CountsBut(&'static [&'static str]),
}

const ANY: Class =
    Class { name: "", reason: "", prefixes: &[], infixes: &[], endings: &[], of_deploy: OfDeploy::Excused };

/// Every class of files, in the order they are tried.
pub const CLASSES: &[Class] = &[
    Class {
        name: "logs",
        reason: "logs grow by themselves",
        prefixes: &["/var/log/"],
        of_deploy: OfDeploy::Grows,
        ..ANY
    },
    Class {
        name: "caches of tools",
        reason: "a tool that deploys run keeps here what it can make or fetch again",
        prefixes: &[
            "/var/cache/apt/",
            "/var/cache/apparmor/",
            "/var/cache/debconf/",
            "/var/cache/dnf/",
            "/var/cache/fontconfig/",
            "/var/cache/ldconfig/",
            "/var/cache/man/",
            "/root/.cache/composer/",
            "/root/.cache/fontconfig/",
            "/root/.cache/go-build/",
            "/root/.cache/node/",
            "/root/.cache/pip/",
            "/root/.cache/pnpm/",
            "/root/.cache/pypoetry/",
            "/root/.cache/uv/",
            "/root/.cache/yarn/",
        ],
        ..ANY
    },
    Class {
        name: "caches",
        reason: "a cache may be dropped or filled at any time",
        prefixes: &["/var/cache/", "/root/.cache/"],
        of_deploy: OfDeploy::Counts,
        ..ANY
    },
    Class {
        name: "package lists",
        reason: "downloaded from the mirror, which changes by itself",
        prefixes: &["/var/lib/apt/lists/"],
        ..ANY
    },
    Class {
        name: "temporary files",
        reason: "removed by the system at any time",
        prefixes: &["/tmp/", "/var/tmp/"],
        of_deploy: OfDeploy::Counts,
        ..ANY
    },
    Class {
        name: "Ansible's results",
        reason: "Ansible keeps what came of each asynchronous task until somebody asks",
        infixes: &["/.ansible_async/", "/.ansible/tmp/"],
        ..ANY
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
            "/var/lib/chrony/",
            "/var/lib/ntpsec/ntp.drift",
            "/var/lib/apt/periodic/",
            "/var/lib/apt/daily_lock",
        ],
        ..ANY
    },
    Class {
        name: "package database copies",
        reason: "a daily timer of dpkg keeps copies of its database",
        prefixes: &["/var/backups/dpkg.", "/var/backups/apt.", "/var/backups/alternatives."],
        ..ANY
    },
    Class {
        name: "PostgreSQL's own files",
        reason: "PostgreSQL vacuums, checkpoints and logs ahead when it pleases; settings, definitions and rows still count",
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
        of_deploy: OfDeploy::CountsBut(&["postgres"]),
        ..ANY
    },
    Class {
        name: "MariaDB's own files",
        reason: "MariaDB purges, checkpoints and logs ahead when it pleases; definitions and rows still count",
        prefixes: &["/var/lib/mysql/"],
        infixes: &[
            "/ibdata",
            "/ib_logfile",
            "/ib_buffer_pool",
            "/ibtmp",
            "/undo0",
            "/aria_log",
            "/ddl_recovery",
            "/tc.log",
            ".ibd",
            ".MAD",
            ".MAI",
            "-bin.",
        ],
        of_deploy: OfDeploy::CountsBut(&["mariadbd", "mysqld"]),
        ..ANY
    },
    Class {
        name: "Redis's own files",
        reason: "Redis saves its memory when it pleases",
        prefixes: &["/var/lib/redis/"],
        infixes: &["/dump.rdb", "/appendonly", "/temp-"],
        of_deploy: OfDeploy::CountsBut(&["redis-server", "redis-check-rdb"]),
        ..ANY
    },
    Class {
        name: "what containers write",
        reason: "what a container writes outside its volumes goes with it; containers are compared as such",
        prefixes: &[
            "/var/lib/docker/overlay2/",
            "/var/lib/docker/containers/",
            "/var/lib/docker/network/files/",
            "/var/lib/containerd/io.containerd.",
            "/var/lib/containers/storage/overlay/",
            "/var/lib/containers/storage/overlay-containers/",
        ],
        ..ANY
    },
    Class {
        name: "mail in transit",
        reason: "a mail server moves mail through its queues as time goes by",
        prefixes: &["/var/spool/postfix/", "/var/spool/exim4/"],
        infixes: &[
            "/active/",
            "/bounce/",
            "/corrupt/",
            "/defer/",
            "/deferred/",
            "/incoming/",
            "/maildrop/",
            "/input/",
            "/msglog/",
            "/exim4/db/",
        ],
        ..ANY
    },
    Class {
        name: "address leases",
        reason: "a lease is renewed as time goes by",
        prefixes: &["/var/lib/dhcp/", "/var/lib/dhcpcd/"],
        ..ANY
    },
    Class {
        name: "indexes of file names",
        reason: "a daily timer makes them anew",
        prefixes: &["/var/lib/plocate/plocate.db", "/var/lib/mlocate/mlocate.db"],
        ..ANY
    },
    Class {
        name: "Python bytecode",
        reason: "Python compiles a module when it is first used",
        infixes: &["/__pycache__/"],
        endings: &[".pyc"],
        ..ANY
    },
];

impl Class {
    fn holds(&self, path: &str) -> bool {
        let begins = self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| path.starts_with(prefix));
        begins
            && (self.infixes.is_empty() || self.infixes.iter().any(|infix| path.contains(infix)))
            && (self.endings.is_empty() || self.endings.iter().any(|ending| path.ends_with(ending)))
    }
}

/// The class that a path belongs to, if one holds it.
pub fn class_of(path: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.holds(path))
}

/// Why what lies at this path comes, goes and changes by itself, if it does.
pub fn moves_by_itself(path: &str) -> Option<&'static str> {
    class_of(path).map(|class| class.reason)
}

/// Attributes that say what is in a file, as opposed to who may do what with it.
const CONTENT: [&str; 3] = ["content", "size", "target"];

/// A canonicaliser as it is told: what it leaves out, why, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonicaliser {
    /// Short name.
    pub name: &'static str,
    /// Why; reports count by this.
    pub reason: &'static str,
    /// Where it applies.
    pub places: String,
}

const LOGIN: &str = "a login of the deploy tool or of the harness";
const RESOLVER: &str = "the container engine's own name server";
const JOB: &str = "a job that its timer starts and that ends by itself";
const HELPER: &str = "a helper that D-Bus starts on demand and that ends by itself";
const IDLE: &str = "a service that its socket starts when a client comes, and nothing else";
const DEVICE: &str = "the kernel's list of devices";
const CLIENT: &str = "a client's socket on a port that the kernel picked";

/// All of them: the classes of files, then the rules for units and sockets.
pub fn canonicalisers() -> Vec<Canonicaliser> {
    let class = |class: &Class| {
        let mut places = if class.prefixes.is_empty() { "anywhere".to_owned() } else { class.prefixes.join(" ") };
        if !class.infixes.is_empty() {
            places = format!("{places}, with {} in it", class.infixes.join(" "));
        }
        if !class.endings.is_empty() {
            places = format!("{places}, that ends with {}", class.endings.join(" "));
        }
        Canonicaliser { name: class.name, reason: class.reason, places }
    };
    let rules = [
        ("logins", LOGIN, "units session-*.scope, user-*.slice, user@*.service and their kin"),
        ("jobs of timers", JOB, "whether a oneshot unit is active that a timer starts"),
        ("helpers on demand", HELPER, "whether a static unit with a D-Bus name is active"),
        ("services of sockets", IDLE, "whether a unit is active that a socket starts and that is not enabled itself"),
        ("devices", DEVICE, "*.device units that come and go"),
        ("clients", CLIENT, "UDP sockets on ephemeral ports"),
        (
            "processes of units",
            OF_UNIT,
            "processes of a unit whose run is another, or that is not there in both captures",
        ),
        ("processes of jobs", OF_JOB, "processes of a oneshot unit that does not remain active"),
        ("processes that rename themselves", RUNS_ON, "a process of the same number and start with other arguments"),
        ("settings of what came or went", WITH_ITS_OWNER, "kernel settings that no file declares"),
        ("settings of interfaces", FOLLOWS, "net.*.conf.INTERFACE settings that change with the one for all"),
        (
            "fetches without news",
            catching_up::FETCH,
            "FETCH_HEAD, ORIG_HEAD, index and logs/ where all else of a .git is the same",
        ),
        ("backup copies", catching_up::COPY, "files X-, X~, X.bak and X-old with what X has or had"),
        ("the engine's resolver", RESOLVER, "sockets of 127.0.0.11 that no process of the machine holds"),
    ];
    let rule = |(name, reason, places): (_, _, &str)| Canonicaliser { name, reason, places: places.to_owned() };
    CLASSES.iter().map(class).chain(rules.map(rule)).collect()
}

/// The reason why `change` may be left out, if there is one. `unit` and `socket` are the entry that changed.
pub(crate) fn explained(change: &Change, unit: Option<&Unit>, socket: Option<&Socket>) -> Option<&'static str> {
    match change.section {
        Section::Files if change.kind != ChangeKind::Changed || change.only(&CONTENT) => {
            class_of(&change.subject).map(|class| class.reason)
        }
        // A temporary file came or went, whatever its mode.
        Section::Exposed if change.kind != ChangeKind::Changed => class_of(&change.subject).map(|class| class.reason),
        Section::Units => unit.and_then(|unit| explained_unit(change, unit)),
        Section::Sockets if socket.is_some_and(|socket| socket.ephemeral) => Some(CLIENT),
        Section::Sockets if socket.is_some_and(is_of_engine) => Some(RESOLVER),
        _ => None,
    }
}

/// Docker answers a container's questions for names there, on ports that it picks; the process lies outside.
fn is_of_engine(socket: &Socket) -> bool {
    socket.address.starts_with("127.0.0.11:") && socket.process.is_empty()
}

fn explained_unit(change: &Change, unit: &Unit) -> Option<&'static str> {
    if is_login(&unit.name) {
        return Some(LOGIN);
    }
    let transient = change.kind != ChangeKind::Changed || change.only(&["active"]);
    if transient && unit.service_type == "oneshot" && unit.triggered_by.contains(".timer") {
        return Some(JOB);
    }
    if transient && is_helper(unit) {
        return Some(HELPER);
    }
    if transient && unit.triggered_by.contains(".socket") && ["static", "disabled"].contains(&unit.enabled.as_str()) {
        return Some(IDLE);
    }
    if change.kind != ChangeKind::Changed && unit.name.ends_with(".device") {
        return Some(DEVICE);
    }
    None
}

/// Whether D-Bus starts it when somebody asks, and it ends when nobody does.
pub(crate) fn is_helper(unit: &Unit) -> bool {
    !unit.bus_name.is_empty() && unit.enabled == "static"
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
            "/var/lib/mysql/debian-10.flag",
            "/var/lib/mysql/shop/db.opt",
            "/var/lib/mysql/shop/orders.frm",
            "/var/lib/notes/notes.db-wal",
            "/var/lib/notes/notes.db-shm",
            "/var/lib/docker/volumes/data/_data/x",
            "/var/lib/docker/image/overlay2/repositories.json",
            "/var/lib/containers/storage/volumes/data/_data/x",
            "/var/spool/postfix/etc/hosts",
            "/var/spool/cron/crontabs/ada",
            "/var/lib/redis/users.acl",
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
    fn a_canonicaliser_is_told_by_a_reason_of_its_own_and_its_places() {
        let all = canonicalisers();
        let reasons: std::collections::BTreeSet<&str> = all.iter().map(|one| one.reason).collect();
        assert_eq!(reasons.len(), all.len(), "hits are counted by reason");
        assert!(all.len() > CLASSES.len() && all.iter().all(|one| !one.places.is_empty()));
        assert!(all.iter().any(|one| one.name == "PostgreSQL's own files" && one.places.contains("/pg_wal/")));
    }

    #[test]
    fn a_database_servers_own_files_are_left_out_and_an_exposed_temporary_file_too() {
        for path in ["/var/lib/mysql/ibdata1", "/var/lib/mysql/shop/orders.ibd", "/var/lib/redis/dump.rdb"] {
            assert!(explained(&change(path, ChangeKind::Changed, "content"), None, None).is_some(), "{path}");
        }
        let mut exposed = change("/var/tmp/x", ChangeKind::Added, "mode");
        exposed.section = Section::Exposed;
        assert!(explained(&exposed, None, None).is_some());
        exposed.kind = ChangeKind::Changed;
        assert_eq!(explained(&exposed, None, None), None);
        exposed.subject = "/usr/bin/x".to_owned();
        exposed.kind = ChangeKind::Added;
        assert_eq!(explained(&exposed, None, None), None);
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
        let of_socket = |enabled: &str| Unit { enabled: enabled.into(), ..unit("simple", "x.socket") };
        assert_eq!(explained(&change, Some(&of_socket("static")), None), Some(IDLE));
        assert_eq!(explained(&change, Some(&of_socket("enabled")), None), None, "it is to run all the time");
        change.differences[0].attribute = "enabled";
        assert_eq!(explained(&change, Some(&unit("oneshot", "x.timer")), None), None, "disabling a job is a change");
    }

    #[test]
    fn the_engines_resolver_is_told_from_a_server_of_the_machine() {
        let change = Change { section: Section::Sockets, ..change("tcp 127.0.0.11:5", ChangeKind::Added, "process") };
        let socket = |process: &str| Socket {
            protocol: "tcp".into(),
            address: "127.0.0.11:5".into(),
            process: process.into(),
            ephemeral: false,
        };
        assert_eq!(explained(&change, None, Some(&socket(""))), Some(RESOLVER));
        assert_eq!(explained(&change, None, Some(&socket("named"))), None);
    }
}
