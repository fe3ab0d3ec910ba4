//! Jobs of cron: the system's crontabs, those of accounts, and the scripts of `/etc/cron.daily` and its kin. Commands
//! are told by their first word and a digest: arguments may be secrets.

use std::path::Path;

use redrill_state::{CronJob, Section};

use crate::found::{Found, Root, digest, squeeze};

const PERIODS: [&str; 5] = ["hourly", "daily", "weekly", "monthly", "yearly"];
const SPOOL: &str = "/var/spool/cron/crontabs";

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Crontabs);
    let mut systems = vec![root.at("/etc/crontab")];
    systems.extend(found.list(root, "/etc/cron.d").into_iter().filter(|path| is_run(path)));
    for path in systems {
        crontab(&mut found, root, &path, None);
    }
    for path in found.list(root, SPOOL) {
        let owner = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        crontab(&mut found, root, &path, Some(&owner));
    }
    if let Some(text) = found.text(root, "/etc/anacrontab") {
        text.lines().filter_map(anacron).for_each(|job| found.add(job));
    }
    for period in PERIODS {
        for path in found.list(root, format!("/etc/cron.{period}")).into_iter().filter(|path| is_run(path)) {
            let Some(text) = found.text_at(root, &path) else { continue };
            let (file, program) = (root.inside(&path), path.file_name().unwrap_or_default().to_string_lossy().into());
            let schedule = period.to_owned();
            found.add(CronJob { file, schedule, user: "root".to_owned(), program, command: digest(text) });
        }
    }
    found
}

/// cron and run-parts heed no other names.
fn is_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn crontab(found: &mut Found, root: &Root, path: &Path, owner: Option<&str>) {
    let Some(text) = found.text_at(root, path) else { return };
    let file = root.inside(path);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match job(line, owner) {
            Some(job) => found.add(CronJob { file: file.clone(), ..job }),
            // cron refuses such a crontab and says so in its log.
            None => found.add(CronJob {
                file: file.clone(),
                schedule: "unreadable".to_owned(),
                command: digest(line),
                ..CronJob::default()
            }),
        }
    }
}

/// A line of a crontab; the system's have the user in it.
fn job(line: &str, owner: Option<&str>) -> Option<CronJob> {
    if let Some(variable) = variable(line, owner) {
        return Some(variable);
    }
    let fields = if line.starts_with('@') { 1 } else { 5 };
    let (schedule, rest) = words(line, fields)?;
    let (user, command) = match owner {
        Some(owner) => (owner.to_owned(), rest),
        None => words(rest, 1)?,
    };
    let program = command.split_whitespace().next()?.to_owned();
    let file = String::new();
    Some(CronJob { file, schedule, user, program, command: digest(command) })
}

/// `NAME=VALUE`, crontab(5).
fn variable(line: &str, owner: Option<&str>) -> Option<CronJob> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim().trim_matches(['"', '\'']);
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| CronJob {
        file: String::new(),
        schedule: "set".to_owned(),
        user: owner.unwrap_or_default().to_owned(),
        program: name.to_owned(),
        command: digest(value.trim()),
    })
}

/// The first so many words, made one blank apart, and the rest.
fn words(line: &str, count: usize) -> Option<(String, &str)> {
    let mut rest = line;
    for _ in 0..count {
        rest = rest.trim_start();
        rest = rest.find(char::is_whitespace).map(|at| &rest[at..])?;
    }
    Some((squeeze(&line[..line.len() - rest.len()]), rest.trim()))
}

/// `period delay name command`, anacrontab(5).
fn anacron(line: &str) -> Option<CronJob> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') || variable(line, None).is_some() {
        return None;
    }
    let (period, rest) = words(line, 2)?;
    let (name, command) = words(rest, 1)?;
    let (file, user) = ("/etc/anacrontab".to_owned(), "root".to_owned());
    Some(CronJob { file, schedule: period, user, program: name, command: digest(command) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    #[test]
    fn every_kind_of_job_is_found_and_arguments_are_not_told() {
        let tree = Tree::new("cron");
        tree.file("/etc/crontab", "# m h\nSHELL=/bin/sh\n17 *\t* * *  root cd / && run-parts /etc/cron.hourly\n");
        tree.file(
            "/etc/cron.d/app",
            "@reboot app /opt/app --password=hunter2\n@reboot app /opt/app --password=hunter2\n",
        );
        tree.file("/etc/cron.d/app.bak", "@reboot app /opt/old\n");
        tree.file("/etc/cron.daily/logrotate", "#!/bin/sh\n");
        tree.file("/etc/anacrontab", "PATH=/bin\n7 10 cron.weekly run-parts /etc/cron.weekly\n");
        tree.file(&format!("{SPOOL}/ada"), "0 3 * * 1-5 /home/ada/backup\nbroken\n");
        let found = read(&tree.root());
        assert!(found.gaps.is_empty());
        let text = serde_json::to_string(&found.entries).expect("plain data");
        assert!(!text.contains("hunter2"), "{text}");
        let seen: Vec<String> = found
            .entries
            .iter()
            .map(|record| match record {
                Record::CronJob(job) => format!("{} {} {} {}", job.file, job.schedule, job.user, job.program),
                _ => panic!("another section"),
            })
            .collect();
        assert_eq!(
            seen,
            [
                "/etc/crontab set  SHELL",
                "/etc/crontab 17 * * * * root cd",
                "/etc/cron.d/app @reboot app /opt/app",
                "/etc/cron.d/app @reboot app /opt/app",
                "/var/spool/cron/crontabs/ada 0 3 * * 1-5 ada /home/ada/backup",
                "/var/spool/cron/crontabs/ada unreadable  ",
                "/etc/anacrontab 7 10 root cron.weekly",
                "/etc/cron.daily/logrotate daily root logrotate",
            ]
        );
    }
}
