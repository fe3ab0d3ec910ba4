//! Processes that no unit's own life tells of: what a login left behind, what a unit's main process starts as a program
//! of its own, and main processes themselves, should another take their place.
//!
//! Looked at twice, when a capture begins and when it ends: what is gone by then was a passing job. The kernel tells of a
//! process whether it began a program after it was forked; one that did not is a worker of its parent's pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use redrill_state::{Process, Run, Section};

use crate::cgroups::{Home, home};
use crate::found::{Found, Root};
use crate::managers;
use crate::shadow::{Key, keyed};

/// `PF_FORKNOEXEC` and `PF_KTHREAD` of the kernel's `sched.h`.
const FORKED: u64 = 0x40;
const KERNEL: u64 = 0x0020_0000;
/// Ticks of a second; Linux has no other value for programs.
const TICKS: i64 = 100;
/// Where the harness's own programs lie.
const OWN: &str = "/run/redrill/";
/// What belongs to a login that is there, with all below it.
const LOGINS: [&str; 5] = ["dropbear", "login", "sshd", "sshd-auth", "sshd-session"];
/// Helpers that are started when somebody needs them, and end when nobody does.
const ON_DEMAND: [&str; 7] =
    ["dbus-daemon", "dirmngr", "gpg-agent", "keyboxd", "scdaemon", "ssh-agent", "systemd-userwork"];
/// What engines start for each container, which is told as a container.
const OF_CONTAINERS: [&str; 6] = ["conmon", "containerd-shim", "crun", "docker-proxy", "runc", "slirp4netns"];
/// What these start ends by itself: jobs of a schedule, commands of a script, helpers of a bus.
const OF_JOBS: [&str; 12] = [
    "anacron",
    "atd",
    "bash",
    "busybox",
    "cron",
    "crond",
    "dash",
    "dbus-broker-launch",
    "dbus-daemon",
    "ksh",
    "sh",
    "zsh",
];
/// Programs that run a script whose name says more than theirs.
const INTERPRETERS: [&str; 9] = ["bash", "busybox", "dash", "ksh", "node", "perl", "php", "python", "ruby"];
/// Directories of programs that have nothing to do with each other.
const COMMON: [&str; 6] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// A process as the kernel tells of it.
#[derive(Debug, Clone, Default)]
struct Seen {
    pid: u32,
    parent: u32,
    flags: u64,
    ticks: u64,
    uid: u32,
    program: String,
    words: Vec<u8>,
    group: String,
}

/// The first look.
pub(crate) struct Look {
    seen: BTreeMap<u32, Seen>,
    gaps: Vec<String>,
}

/// Looks at all that run now.
pub(crate) fn look(root: &Root) -> Look {
    let mut look = Look { seen: BTreeMap::new(), gaps: Vec::new() };
    match root.list("/proc") {
        Ok(list) => {
            let numbered = list.iter().filter_map(|path| Some((path, path.file_name()?.to_str()?.parse().ok()?)));
            look.seen.extend(numbered.filter_map(|(path, pid)| Some((pid, seen(path, pid)?))));
        }
        Err(error) => look.gaps.push(format!("/proc: {error}")),
    }
    look
}

/// Nothing for what has ended meanwhile, waits to be buried, or is the kernel's own.
fn seen(path: &Path, pid: u32) -> Option<Seen> {
    let (state, parent, flags, ticks) = stat(&fs::read_to_string(path.join("stat")).ok()?)?;
    if flags & KERNEL != 0 || ["Z", "X"].contains(&state.as_str()) {
        return None;
    }
    let program = fs::read_link(path.join("exe")).ok()?.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let groups = fs::read_to_string(path.join("cgroup")).ok()?;
    let group = groups
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("0::").or_else(|| line.split_once("name=systemd:").map(|(_, path)| path)));
    Some(Seen {
        pid,
        parent,
        flags,
        ticks,
        uid: fs::metadata(path).ok()?.uid(),
        program,
        words: fs::read(path.join("cmdline")).ok()?,
        group: group.unwrap_or_default().to_owned(),
    })
}

/// State, parent, flags and start of a line of `/proc/PID/stat`: proc_pid_stat(5). The name before may hold anything.
fn stat(line: &str) -> Option<(String, u32, u64, u64)> {
    let words: Vec<&str> = line.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    Some((words.first()?.to_string(), words.get(1)?.parse().ok()?, number(6)?, number(19)?))
}

impl Look {
    /// The section: what is still there, and counts.
    pub(crate) fn read(self, root: &Root, key: &Key) -> Found {
        let mut found = Found::new(Section::Processes);
        self.gaps.iter().for_each(|gap| found.gap(gap));
        let names = Names::of(root);
        let sockets = listening(root);
        let boot = crate::witness::boot();
        let mut kinds: BTreeMap<String, Process> = BTreeMap::new();
        for (seen, unit) in self.counted(&names) {
            if !seen_again(root, seen) {
                continue;
            }
            let since = boot + i64::try_from(seen.ticks).unwrap_or_default() * (1_000_000_000 / TICKS) + TICK_MIDDLE;
            let process = Process {
                user: names.user(seen.uid),
                program: seen.script(root).unwrap_or_else(|| seen.program.clone()),
                arguments: keyed(key, [seen.program.as_bytes(), b"\0", &seen.words].concat()),
                unit,
                ..Process::default()
            };
            let kind = kinds.entry(redrill_state::Facts::subject(&process)).or_insert(process);
            kind.listens |= listens(root, seen.pid, &sockets);
            kind.runs.push(Run { pid: seen.pid, ticks: seen.ticks, since });
        }
        kinds.into_values().for_each(|process| found.add(process));
        found
    }

    /// Those that count, each with its unit.
    fn counted(&self, names: &Names) -> Vec<(&Seen, String)> {
        let counts = |seen: &&Seen| self.is_on_its_own(seen) || self.is_kept(seen);
        let there = self.seen.values().filter(|seen| !self.is_passing(seen)).filter(counts);
        there.filter_map(|seen| Some((seen, self.unit(seen, names)?))).collect()
    }

    /// Its ancestors, itself first.
    fn line<'a>(&'a self, seen: &'a Seen) -> impl Iterator<Item = &'a Seen> {
        // A number is used again: a circle would be one of processes that were seen at two times.
        std::iter::successors(Some(seen), |seen| self.seen.get(&seen.parent)).take(self.seen.len())
    }

    /// The first process, the harness's own, what belongs to a login that is there, and helpers on demand. What entered a
    /// container has no parent in it.
    fn is_passing(&self, seen: &Seen) -> bool {
        let is_own = |seen: &Seen| seen.program.starts_with(OWN) || (seen.parent == 0 && seen.pid != 1);
        seen.pid == 1
            || ON_DEMAND.contains(&seen.name())
            || OF_CONTAINERS.iter().any(|of| seen.name().starts_with(of))
            || self.line(seen).any(|one| is_own(one) || LOGINS.contains(&one.name()))
    }

    /// Its parent is a manager: it is a main process, or whoever started it has ended.
    fn is_on_its_own(&self, seen: &Seen) -> bool {
        seen.parent == 1
            || self.seen.get(&seen.parent).is_some_and(|parent| {
                parent.name() == "systemd"
                    && parent.group.ends_with("/init.scope")
                    && home(&seen.group) != Home::Elsewhere
            })
    }

    /// A program that a main process keeps running. A worker of a pool, a command of a script, a job of a schedule and a
    /// part of the same program is none: these come and go by themselves.
    fn is_kept(&self, seen: &Seen) -> bool {
        let Some(parent) = self.seen.get(&seen.parent) else { return false };
        let twins = parent.program == seen.program && parent.words == seen.words;
        self.is_on_its_own(parent)
            && parent.group == seen.group
            && seen.flags & FORKED == 0
            && !twins
            && !OF_JOBS.contains(&parent.name())
            && !is_part(&parent.program, &seen.program)
    }

    fn unit(&self, seen: &Seen, names: &Names) -> Option<String> {
        match home(&seen.group) {
            Home::Login => Some(String::new()),
            // Without a session's group, what a login left stays in that of the daemon; its own process is passing.
            Home::Unit(unit) if ["ssh.service", "sshd.service"].contains(&unit.as_str()) => Some(String::new()),
            Home::Unit(unit) if unit.starts_with("ssh@") || unit.starts_with("sshd@") => Some(String::new()),
            Home::Unit(unit) => (unit != "redrill-agent.service").then_some(unit),
            Home::UserUnit(unit, uid) => names.managers.get(&uid).map(|manager| manager.name(&unit)),
            Home::Elsewhere => None,
        }
    }
}

/// A tick is as long; in its middle the error is least.
const TICK_MIDDLE: i64 = 1_000_000_000 / TICKS / 2;

impl Seen {
    /// The program's own name.
    fn name(&self) -> &str {
        self.program.rsplit('/').next().unwrap_or_default()
    }

    /// The script that an interpreter runs.
    fn script(&self, root: &Root) -> Option<String> {
        let interpreter = self.name().trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !INTERPRETERS.contains(&interpreter) && interpreter != "sh" {
            return None;
        }
        let words = self.words.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy);
        let first = words.into_iter().find(|word| !word.starts_with('-'))?.into_owned();
        (first.starts_with('/') && root.at(&first).is_file()).then_some(first)
    }
}

/// Whether a program is part of another: postfix's `master` starts what lies beside it, dovecot what lies in
/// `/usr/lib/dovecot`, containerd its `containerd-shim`.
fn is_part(whole: &str, part: &str) -> bool {
    let (directory, name) = whole.rsplit_once('/').unwrap_or(("", whole));
    let stem = name.trim_end_matches('d');
    let beside = !COMMON.contains(&directory) && part.starts_with(&format!("{directory}/"));
    beside || (stem.len() > 2 && part != whole && part.split('/').any(|word| word.starts_with(stem)))
}

/// Whether it is still the same process.
fn seen_again(root: &Root, seen: &Seen) -> bool {
    let text = fs::read_to_string(root.at(format!("/proc/{}/stat", seen.pid))).unwrap_or_default();
    stat(&text).is_some_and(|(state, _, _, ticks)| ticks == seen.ticks && state != "Z")
}

/// Inodes of sockets that wait for connections.
fn listening(root: &Root) -> BTreeSet<u64> {
    let table = |name: &str| root.text(format!("/proc/net/{name}")).ok().flatten().unwrap_or_default();
    let mut inodes = BTreeSet::new();
    for name in ["tcp", "tcp6"] {
        inodes.extend(crate::sockets::listening(&table(name), "0A").into_iter().map(|(_, inode)| inode));
    }
    // Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON.
    let waits = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.get(3) != Some(&"00010000") {
            return None;
        }
        words.get(6)?.parse::<u64>().ok()
    };
    inodes.extend(table("unix").lines().filter_map(waits));
    inodes
}

fn listens(root: &Root, pid: u32, sockets: &BTreeSet<u64>) -> bool {
    let descriptors = fs::read_dir(root.at(format!("/proc/{pid}/fd"))).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    let inode = |target: &str| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    targets.into_iter().filter_map(|target| inode(&target.to_string_lossy())).any(|inode| sockets.contains(&inode))
}

/// Names of users, and the managers of those that have one.
struct Names {
    users: BTreeMap<u32, String>,
    managers: BTreeMap<u32, managers::Manager>,
}

impl Names {
    fn of(root: &Root) -> Self {
        let accounts = root.text("/etc/passwd").ok().flatten().unwrap_or_default();
        let user = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields.get(2)?.parse().ok()?, (*fields.first()?).to_owned()))
        };
        let managers = managers::of_users(root).into_iter().map(|manager| (manager.uid, manager));
        Self { users: accounts.lines().filter_map(user).collect(), managers: managers.collect() }
    }

    fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPERVISOR: &str = "/system.slice/supervisor.service";

    /// Number, parent, flags, program, arguments, control group.
    type Line = (u32, u32, u64, &'static str, &'static str, &'static str);

    fn counted(lines: &[Line]) -> Vec<u32> {
        let seen = |&(pid, parent, flags, program, words, group): &Line| {
            let (program, words, group) = (program.to_owned(), words.as_bytes().to_vec(), group.to_owned());
            (pid, Seen { pid, parent, flags, program, words, group, ..Seen::default() })
        };
        let look = Look { seen: lines.iter().map(seen).collect(), gaps: Vec::new() };
        let names = Names { users: BTreeMap::new(), managers: BTreeMap::new() };
        look.counted(&names).iter().map(|(seen, _)| seen.pid).collect()
    }

    #[test]
    fn what_a_supervisor_keeps_counts_and_what_that_starts_does_not() {
        let lines = [
            (1, 0, 0, "/usr/lib/systemd/systemd", "", "/init.scope"),
            (9, 1, 0, "/usr/bin/python3.13", "supervisord", SUPERVISOR),
            (10, 9, 0, "/usr/bin/python3.13", "worker", SUPERVISOR),
            (11, 10, 0, "/usr/bin/git", "gc", SUPERVISOR),
        ];
        assert_eq!(counted(&lines), [9, 10]);
    }

    #[test]
    fn a_pool_a_script_and_a_schedule_come_and_go_by_themselves() {
        let lines = [
            (9, 1, 0, "/usr/sbin/nginx", "master", "/system.slice/nginx.service"),
            (10, 9, FORKED, "/usr/sbin/nginx", "worker", "/system.slice/nginx.service"),
            (19, 1, 0, "/usr/bin/node", "app.js", "/system.slice/app.service"),
            (20, 19, 0, "/usr/bin/node", "app.js", "/system.slice/app.service"),
            (29, 1, 0, "/usr/bin/dash", "loop", "/system.slice/loop.service"),
            (30, 29, 0, "/usr/bin/sleep", "20", "/system.slice/loop.service"),
            (39, 1, 0, "/usr/sbin/cron", "", "/system.slice/cron.service"),
            (40, 39, 0, "/usr/bin/dash", "job", "/system.slice/cron.service"),
            (49, 1, 0, "/usr/lib/postfix/sbin/master", "", "/system.slice/postfix.service"),
            (50, 49, 0, "/usr/lib/postfix/sbin/pickup", "", "/system.slice/postfix.service"),
        ];
        assert_eq!(counted(&lines), [9, 19, 29, 39, 49]);
    }

    #[test]
    fn what_a_login_left_counts_and_the_login_itself_does_not() {
        let session = "/user.slice/user-0.slice/session-7.scope";
        let lines = [
            (5, 1, 0, "/usr/sbin/sshd", "listener", "/system.slice/ssh.service"),
            (6, 5, 0, "/usr/lib/openssh/sshd-session", "", session),
            (7, 6, 0, "/usr/bin/bash", "", session),
            (8, 7, 0, "/usr/bin/rsync", "", session),
            (9, 1, 0, "/usr/bin/dash", "worker", session),
            (10, 9, 0, "/usr/bin/sleep", "3600", session),
            (11, 1, 0, "/usr/bin/sleep", "3600", "/system.slice/ssh.service"),
            (12, 1, 0, "/usr/bin/gpg-agent", "--daemon", session),
            (13, 1, 0, "/usr/bin/containerd-shim-runc-v2", "-id 1", "/system.slice/docker.service"),
        ];
        assert_eq!(counted(&lines), [9, 11]);
    }

    #[test]
    fn the_harness_and_containers_are_no_processes_of_the_machine() {
        let lines = [
            (3, 1, 0, "/run/redrill/probe", "forward", "/init.scope"),
            (4, 0, 0, "/run/redrill/probe", "agent", "/"),
            (5, 4, 0, "/usr/bin/systemctl", "", "/"),
            (6, 1, 0, "/usr/bin/app", "", "/system.slice/docker-1.scope"),
            (7, 1, 0, "/probe", "", "/system.slice/redrill-agent.service"),
            (8, 2, 0, "/usr/lib/systemd/systemd", "--user", "/user.slice/user-0.slice/user@0.service/init.scope"),
        ];
        assert_eq!(counted(&lines), [0; 0]);
    }

    #[test]
    fn the_kernels_line_is_read_behind_any_name() {
        let line = "25257 (a) R 1) S 25245 25245 2220 0 -1 4194368 97 0 0 0 0 0 0 0 20 0 1 0 2660576 3133440 360";
        assert_eq!(stat(line), Some(("S".to_owned(), 25245, 0x40_0040, 2_660_576)));
        assert_eq!(stat("broken"), None);
    }

    #[test]
    fn a_part_of_a_program_lies_beside_it_or_bears_its_name() {
        assert!(is_part("/usr/lib/postfix/sbin/master", "/usr/lib/postfix/sbin/qmgr"));
        assert!(is_part("/usr/sbin/dovecot", "/usr/lib/dovecot/auth"));
        assert!(is_part("/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2"));
        assert!(!is_part("/usr/bin/python3.13", "/usr/bin/worker"));
        assert!(!is_part("/usr/bin/runsvdir", "/usr/bin/worker"));
    }
}
