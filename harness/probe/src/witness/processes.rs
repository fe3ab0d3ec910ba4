//! Whose process it is: it came in over SSH, was started by the harness, or belongs to a unit.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::By;

const TRANSIENT: &str = "/run/systemd/transient";
/// What stands at the end of every way in that a deploy has.
const MARK: &[u8] = b"SSH_CONNECTION=";
/// Where the harness's own program lies in every machine.
const OWN: &str = "/run/redrill/";
/// Deeper than any tree of processes.
const DEEPEST: usize = 64;
/// Units in whose control group a login is, where nothing makes sessions.
const DOORS: [&str; 2] = ["ssh.service", "sshd.service"];

/// A process as it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) by: By,
    /// What it runs; empty if it had ended.
    pub(crate) program: PathBuf,
    /// When the first of its ancestors began that is whose it is: nanoseconds since the boot.
    pub(crate) began: i64,
}

#[derive(Debug)]
struct Known {
    who: Who,
    /// In the kernel's ticks since the boot: another process may get its number.
    started: u64,
    /// Its program is a script; the next to be run is the interpreter.
    script: bool,
    /// It has run another program since: with that came another environment.
    anew: bool,
}

/// Every process that was met.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    known: HashMap<i32, Known>,
}

/// What the kernel says of a process, without its programs and its environment.
pub(crate) struct Status {
    pub(crate) parent: i32,
    started: u64,
}

/// Linux has no other value for programs.
const TICKS: i64 = 100;

impl Status {
    /// When it began: nanoseconds since the boot.
    pub(crate) fn since_boot(&self) -> i64 {
        i64::try_from(self.started).unwrap_or_default().saturating_mul(1_000_000_000 / TICKS)
    }
}

impl Processes {
    /// Whose it is. One that has ended is known if it was asked about before.
    pub(crate) fn who(&mut self, pid: i32) -> Who {
        let Some(status) = status(pid) else {
            let gone = || Who { by: By::Unknown, program: PathBuf::new(), began: 0 };
            return self.known.get(&pid).map_or_else(gone, |known| known.who.clone());
        };
        let same = self.known.get(&pid).filter(|known| known.started == status.started);
        if let Some(known) = same.filter(|known| !known.anew) {
            return known.who.clone();
        }
        let (program, script) = match same {
            Some(known) => (known.who.program.clone(), known.script),
            None => (program_of(pid), false),
        };
        let (by, began) = self.find(pid, &status);
        let who = Who { by, program, began };
        self.known.insert(pid, Known { who: who.clone(), started: status.started, script, anew: false });
        who
    }

    /// It is about to run `program`. Returns whose it is.
    pub(crate) fn runs(&mut self, pid: i32, program: &Path, script: bool) -> Who {
        let mut who = self.who(pid);
        if let Some(known) = self.known.get_mut(&pid) {
            if known.script {
                known.script = false;
            } else {
                program.clone_into(&mut who.program);
                known.script = script;
            }
            // What is the deploy's stays the deploy's, whatever it does to its environment.
            known.anew = !matches!(who.by, By::Harness | By::Deploy);
            known.who = who.clone();
        }
        who
    }

    /// Looks at it and then at its ancestors: what they are, it is. Also returns when that began.
    fn find(&self, pid: i32, status: &Status) -> (By, i64) {
        let mut found = own(pid).map(|by| (by, status.since_boot()));
        let mut parent = status.parent;
        for _ in 0..DEEPEST {
            let Some(above) = (parent > 1).then(|| self::status(parent)).flatten() else { break };
            if is_door(&program_of(parent)) {
                // What PAM runs for a login, and not what the login runs: that would show where it came from.
                let by = || (unit_of(pid).map_or(By::Unknown, By::Unit), status.since_boot());
                return found.unwrap_or_else(by);
            }
            match self.known.get(&parent).filter(|known| known.started == above.started).map(|known| &known.who) {
                Some(Who { by: by @ (By::Harness | By::Deploy), began, .. }) => return (by.clone(), *began),
                _ => found = own(parent).map(|by| (by, above.since_boot())).or(found),
            }
            parent = above.parent;
        }
        let by_unit = || unit_of(pid).map_or(By::Unknown, |unit| by_unit(unit, &program_of(pid)));
        found.unwrap_or_else(|| (by_unit(), status.since_boot()))
    }
}

/// What a process shows by itself.
fn own(pid: i32) -> Option<By> {
    if program_of(pid).starts_with(OWN) {
        return Some(By::Harness);
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(MARK)).then_some(By::Deploy)
}

/// `sudo` cleans the environment, and a daemon's parent is gone: the control group stays.
fn by_unit(unit: String, program: &Path) -> By {
    let is_session = unit.starts_with("session-") && unit.ends_with(".scope");
    let is_way_in = (is_session || DOORS.contains(&unit.as_str())) && !is_door(program);
    // `systemd-run` makes one for the command that it is given.
    let is_made_for_once = || unit.ends_with(".service") && Path::new(TRANSIENT).join(&unit).exists();
    if is_way_in || is_made_for_once() { By::Deploy } else { By::Unit(unit) }
}

/// `sshd`, and of newer releases `sshd-session` and its kin.
fn is_door(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sshd"))
}

fn program_of(pid: i32) -> PathBuf {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    // A program that was replaced meanwhile.
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => PathBuf::from(text),
        None => path,
    }
}

/// The innermost unit of its control group.
fn unit_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    innermost(&text)
}

/// Format: cgroups(7), `/proc/pid/cgroup`; of several hierarchies systemd's own or the unified one.
fn innermost(text: &str) -> Option<String> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let units = paths.flat_map(|path| path.rsplit('/').map(str::to_owned));
    let is_unit = |name: &String| name.ends_with(".service") || name.ends_with(".scope");
    units.into_iter().find(is_unit)
}

/// Format: proc_pid_stat(5).
pub(crate) fn status(pid: i32) -> Option<Status> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program stands in brackets, and may have some itself.
fn parse(text: &str) -> Option<Status> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(Status { parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn parent_and_start_are_read_whatever_the_program_is_called() {
        let text = "77 (a) b (c) S 12 77 77 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 5555 1000 10";
        let status = parse(text).expect("read");
        assert_eq!((status.parent, status.started), (12, 5555));
        assert!(parse("nonsense").is_none());
    }

    #[test]
    fn the_innermost_unit_counts() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/bot.service\n";
        assert_eq!(innermost(user).as_deref(), Some("bot.service"));
        assert_eq!(innermost("0::/system.slice/app.service/worker\n").as_deref(), Some("app.service"));
        assert_eq!(innermost("0::/\n"), None);
    }

    #[test]
    fn logins_are_the_deploys_and_the_server_that_lets_them_in_is_not() {
        let by = |unit: &str, program: &str| by_unit(unit.to_owned(), Path::new(program));
        assert_eq!(by("session-4.scope", "/usr/bin/tee"), By::Deploy);
        assert_eq!(by("ssh.service", "/usr/bin/tee"), By::Deploy);
        assert_eq!(by("ssh.service", "/usr/lib/openssh/sshd-session"), By::Unit("ssh.service".to_owned()));
        assert_eq!(by("cron.service", "/usr/bin/tee"), By::Unit("cron.service".to_owned()));
    }

    #[test]
    fn what_a_login_runs_is_the_deploys_also_when_it_hides_where_it_came_from() {
        let mut login = Command::new("sh")
            .args(["-c", "env -i sh -c 'echo; exec sleep 60' & read x"])
            .env("SSH_CONNECTION", "10.0.2.2 1 10.0.2.15 22")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        // Its child has cleaned its environment once it prints.
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(login.stdout.take().expect("piped")), &mut line)
            .expect("read");
        let pid = i32::try_from(login.id()).expect("small");
        let child = children(pid);
        let mut processes = Processes::default();
        assert_eq!(processes.who(child).by, By::Deploy, "by its parent");
        login.kill().expect("killed");
        login.wait().expect("ended");
        assert_eq!(processes.who(child).by, By::Deploy, "it is known");
        assert_eq!(processes.who(pid).by, By::Unknown, "it has ended before it was asked about");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(child).expect("one"),
            rustix::process::Signal::KILL,
        )
        .expect("killed");
    }

    #[test]
    fn the_environment_that_comes_with_a_program_counts_from_then_on() {
        let mut shell =
            Command::new("sh").args(["-c", "read x; SSH_CONNECTION=x exec sleep 60"]).stdin(Stdio::piped()).spawn();
        let shell = shell.as_mut().expect("started");
        let pid = i32::try_from(shell.id()).expect("small");
        let mut processes = Processes::default();
        assert_ne!(processes.runs(pid, Path::new("/usr/bin/sleep"), false).by, By::Deploy);
        std::io::Write::write_all(&mut shell.stdin.take().expect("piped"), b"\n").expect("told");
        while !program_of(pid).ends_with("sleep") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(processes.who(pid).by, By::Deploy);
        shell.kill().expect("killed");
        shell.wait().expect("ended");
    }

    fn children(pid: i32) -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("read");
        text.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a child")
    }
}
