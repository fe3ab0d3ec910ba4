//! What a deploy left behind that still will do something: processes, timers made for once, jobs of `at`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use redrill_state::Pending;

use crate::witness::{By, Processes};

/// Programs that somebody's command starts on demand, that serve the next command and do nothing by themselves.
const HELPERS: [&str; 12] = [
    "conmon",
    "dbus-broker",
    "dbus-daemon",
    "dirmngr",
    "git-credential-cache--daemon",
    "gpg-agent",
    "keyboxd",
    "scdaemon",
    "ssh-agent",
    "systemd",
    "systemd-executor",
    "(sd-pam)",
];
const TRANSIENT: &str = "/run/systemd/transient";
const AT_JOBS: &str = "/var/spool/cron/atjobs";
/// Of a command, in a finding.
const LONGEST: usize = 200;

/// Prints a [`Pending`] a line.
pub(crate) fn write(mut out: impl Write) -> io::Result<()> {
    let now = crate::now();
    for pending in
        processes(now).into_iter().chain(timers(Path::new(TRANSIENT), now)).chain(jobs(Path::new(AT_JOBS), now))
    {
        serde_json::to_writer(&mut out, &pending)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Processes of the deploy whose parent is none; how long they sleep tells a child of theirs.
fn processes(now: i64) -> Vec<Pending> {
    let mut known = Processes::default();
    let pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let boot = crate::witness::boot();
    let mut found: Vec<(i32, i32, Pending)> = Vec::new();
    for pid in pids {
        let who = known.who(pid);
        let Some(status) = crate::witness::status(pid) else { continue };
        let words = words(pid);
        let name = who.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if who.by != By::Deploy || words.is_empty() || HELPERS.contains(&name.as_str()) {
            continue;
        }
        let started = boot + status.since_boot();
        let sleeps = seconds_of_sleep(&words).map(|seconds| started - now + seconds.saturating_mul(1_000_000_000));
        let what: String = words.join(" ").chars().take(LONGEST).collect();
        found.push((pid, status.parent, Pending { what, since: started, left: sleeps }));
    }
    roots(&found)
}

/// Those whose parent is none of them; the shortest sleep below one is its own.
fn roots(found: &[(i32, i32, Pending)]) -> Vec<Pending> {
    let is_left = |pid: i32| found.iter().any(|(other, ..)| *other == pid);
    let mut roots: Vec<(i32, Pending)> =
        found.iter().filter(|(_, parent, _)| !is_left(*parent)).map(|(pid, _, left)| (*pid, left.clone())).collect();
    for (_, parent, left) in found {
        let Some(sleeps) = left.left else { continue };
        let mut at = *parent;
        while let Some((_, above, _)) = found.iter().find(|(pid, ..)| *pid == at) {
            if let Some((_, root)) = roots.iter_mut().find(|(pid, _)| *pid == at) {
                root.left = Some(root.left.map_or(sleeps, |known| known.min(sleeps)));
            }
            at = *above;
        }
    }
    roots.into_iter().map(|(_, left)| left).collect()
}

fn words(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// In how many whole seconds this command is at its end: `sleep`, and what runs an asynchronous task of Ansible's, whose
/// second word is its limit.
fn seconds_of_sleep(words: &[String]) -> Option<i64> {
    if let Some(at) = words.iter().take(2).position(|word| word.ends_with("/async_wrapper.py")) {
        return words.get(at + 2)?.parse().ok();
    }
    let [program, times @ ..] = words else { return None };
    if program.rsplit('/').next() != Some("sleep") || times.is_empty() {
        return None;
    }
    let one = |word: &String| -> Option<f64> {
        let (number, unit) = match word.chars().last()? {
            's' => (word.strip_suffix('s')?, 1.0),
            'm' => (word.strip_suffix('m')?, 60.0),
            'h' => (word.strip_suffix('h')?, 3600.0),
            'd' => (word.strip_suffix('d')?, 86400.0),
            _ => (word.as_str(), 1.0),
        };
        number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * unit)
    };
    let seconds = times.iter().map(one).sum::<Option<f64>>()?;
    Some(seconds.ceil() as i64)
}

/// Timers that `systemd-run --on-active` and its kin made: their unit files are gone when they have ended.
fn timers(directory: &Path, now: i64) -> Vec<Pending> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let timers = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = name.ends_with(".timer").then(|| fs::read_to_string(entry.path()).ok()).flatten()?;
        let made = entry.metadata().ok().map(|of| of.ctime() * 1_000_000_000 + of.ctime_nsec()).unwrap_or(now);
        let span = text.lines().find_map(|line| line.strip_prefix("OnActiveSec=")).and_then(span);
        Some(Pending { what: format!("timer {name}"), since: made, left: span.map(|span| made + span - now) })
    });
    timers.collect()
}

/// A span of time as systemd writes it (systemd.time(7)), in nanoseconds.
fn span(text: &str) -> Option<i64> {
    let one = |word: &str| -> Option<f64> {
        let at = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let unit = match &word[at..] {
            "us" => 1e3,
            "ms" => 1e6,
            "" | "s" => 1e9,
            "min" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            _ => return None,
        };
        word[..at].parse::<f64>().ok().map(|number| number * unit)
    };
    text.split_whitespace().map(one).sum::<Option<f64>>().map(|sum| sum as i64)
}

/// Jobs of `at`: a file's name is its queue, five hexadecimal digits of its number, and eight of the minute.
fn jobs(directory: &Path, now: i64) -> Vec<Pending> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let jobs = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let minute = name.get(6..14).filter(|_| name.len() == 14)?;
        let until = i64::from_str_radix(minute, 16).ok()?.saturating_mul(60_000_000_000);
        let made = entry.metadata().ok().map(|of| of.ctime() * 1_000_000_000 + of.ctime_nsec()).unwrap_or(now);
        Some(Pending { what: format!("job {name} of at"), since: made, left: Some(until - now) })
    });
    jobs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    fn sleep(words: &str) -> Option<i64> {
        seconds_of_sleep(&words.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn how_long_a_sleep_lasts_is_read_from_its_words() {
        assert_eq!(
            (sleep("sleep 20"), sleep("/usr/bin/sleep 1.5m 10"), sleep("sleep 2h")),
            (Some(20), Some(100), Some(7200))
        );
        assert_eq!(sleep("/usr/bin/python3 /root/.ansible/tmp/x/async_wrapper.py j7 60 /root/module.py"), Some(60));
        assert_eq!((sleep("sleep infinity"), sleep("sleep"), sleep("sh -c sleep")), (None, None, None));
    }

    #[test]
    fn timers_made_for_once_and_jobs_of_at_say_when_they_are_due() {
        let tree = Tree::new("pending");
        tree.file("/run-r1.timer", "[Unit]\nDescription=x\n\n[Timer]\nOnActiveSec=1min 20s\nRemainAfterElapse=no\n");
        tree.file("/run-r1.service", "[Service]\n");
        tree.file("/a0000101c8ab17", "#!/bin/sh\n");
        tree.file("/.SEQ", "1");
        let timer = &timers(&tree.0, 0)[0];
        assert_eq!(
            (timer.what.as_str(), timer.left.map(|left| left - timer.since)),
            ("timer run-r1.timer", Some(80_000_000_000))
        );
        let jobs = jobs(&tree.0, 0);
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].left, Some(0x01c8_ab17 * 60_000_000_000));
        assert_eq!((span("500ms"), span("1h 1min"), span("soon")), (Some(500_000_000), Some(3_660_000_000_000), None));
    }

    #[test]
    fn what_a_login_left_is_found_with_the_time_at_which_it_will_act() {
        let mut left = std::process::Command::new("sh")
            .args(["-c", "sleep 600; true"])
            .env("SSH_CONNECTION", "10.0.2.2 1 10.0.2.15 22")
            .spawn()
            .expect("started");
        let find = || processes(crate::now()).into_iter().find(|found| found.what == "sh -c sleep 600; true");
        let found = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            find()
        })
        .take(500)
        .flatten()
        .find(|found| found.left.is_some());
        let found = found.expect("with its child's sleep");
        let sleeps = found.left.expect("checked");
        assert!((590_000_000_000..=601_000_000_000).contains(&sleeps), "{sleeps}");
        left.kill().expect("killed");
        left.wait().expect("ended");
    }
}
