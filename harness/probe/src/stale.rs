//! Units that run with something older than what lies on the disk: a change that nobody told them of.
//!
//! What a unit was started with: its unit file and drop-ins, its environment files, the files under `/etc` that its
//! command line names, and its libraries. `systemctl show` for all units takes seconds in an emulated machine, so that
//! only units are asked about for which a file is newer than their start.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A service as its files describe it.
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    pub(crate) service_type: &'a str,
    /// When it was started: nanoseconds since 1970.
    pub(crate) since: i64,
    /// Unit file and drop-ins.
    pub(crate) files: Vec<&'a Path>,
}

/// What `systemctl set-property` writes here has taken effect by then.
const AT_ONCE: &str = "/etc/systemd/system.control";

/// Clocks of files go in steps of some milliseconds.
const SLACK: i64 = 50_000_000;

/// By name: why what runs is not what lies there.
pub(crate) fn find(services: &[Service<'_>]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let suspects: Vec<(&Service<'_>, Vec<Newer>)> =
        services.iter().map(|service| (service, newer(service))).filter(|(_, newer)| !newer.is_empty()).collect();
    let states = show(&suspects.iter().map(|(service, _)| service.name).collect::<Vec<_>>());
    for (service, newer) in suspects {
        let state = states.get(service.name).cloned().unwrap_or_default();
        let reasons: Vec<String> = newer.iter().filter_map(|newer| reason(newer, &state)).collect();
        if !reasons.is_empty() {
            found.insert(service.name.to_owned(), reasons);
        }
    }
    found
}

/// A file that is newer than the run of a unit.
#[derive(Debug, PartialEq, Eq)]
struct Newer {
    path: PathBuf,
    what: What,
    changed: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Counts after `daemon-reload` and a restart.
    Unit,
    /// Counts after a restart.
    Environment,
    /// Counts after a restart or a reload.
    Settings,
}

fn newer(service: &Service<'_>) -> Vec<Newer> {
    let texts: Vec<String> = service.files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let units = service.files.iter().filter(|path| path.starts_with("/etc") && !path.starts_with(AT_ONCE));
    let units = units.map(|path| (path.to_path_buf(), What::Unit));
    let environment = texts.iter().flat_map(|text| environment_files(text)).map(|path| (path, What::Environment));
    // What a job was given when it ran says nothing about now.
    let runs = service.service_type != "oneshot";
    let settings = texts.iter().filter(|_| runs).flat_map(|text| arguments(text)).map(|path| (path, What::Settings));
    let all = units.chain(environment).chain(settings);
    all.filter_map(|(path, what)| {
        let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let changed = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
        (changed > service.since + SLACK).then_some(Newer { path, what, changed })
    })
    .collect()
}

/// `EnvironmentFile=` of a unit file.
fn environment_files(text: &str) -> Vec<PathBuf> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("EnvironmentFile=")).map(str::trim);
    values.map(|value| PathBuf::from(value.trim_start_matches('-'))).filter(|path| path.is_absolute()).collect()
}

/// Paths under `/etc` on the command line.
fn arguments(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("ExecStart="));
    let words = lines.flat_map(|line| line.split([' ', '=', '"', '\''])).filter(|word| word.starts_with("/etc/"));
    words.map(PathBuf::from).collect()
}

/// What systemd says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    needs_reload: bool,
    /// When its state last changed, a reload included: nanoseconds since 1970.
    changed: i64,
}

fn show(names: &[&str]) -> BTreeMap<String, State> {
    if names.is_empty() {
        return BTreeMap::new();
    }
    let mut command = Command::new("systemctl");
    command
        .args(["show", "--timestamp=us+utc", "--property=Id,NeedDaemonReload,StateChangeTimestampMonotonic"])
        .args(names);
    let output = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    states(&output.unwrap_or_default(), boot())
}

/// When this boot began, on the clock of now.
pub(crate) fn boot() -> i64 {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    crate::now() - (monotonic.tv_sec * 1_000_000_000 + monotonic.tv_nsec)
}

/// Paragraphs of `KEY=VALUE`.
fn states(text: &str, boot: i64) -> BTreeMap<String, State> {
    let paragraph = |paragraph: &str| {
        let value = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let changed = value("StateChangeTimestampMonotonic").and_then(|value| value.parse::<i64>().ok());
        let state = State {
            needs_reload: value("NeedDaemonReload") == Some("yes"),
            changed: changed.map_or(0, |microseconds| boot + microseconds * 1000),
        };
        Some((value("Id")?.to_owned(), state))
    };
    text.split("\n\n").filter_map(paragraph).collect()
}

fn reason(newer: &Newer, state: &State) -> Option<String> {
    let path = newer.path.display();
    match newer.what {
        What::Unit if state.needs_reload => Some(format!("`{path}` changed, and systemd was not told (daemon-reload)")),
        What::Unit => Some(format!("it runs since before `{path}` was changed")),
        What::Environment => Some(format!("it runs since before its environment file `{path}` was changed")),
        What::Settings if newer.changed > state.changed + SLACK => {
            Some(format!("it was neither restarted nor reloaded since `{path}` was changed"))
        }
        What::Settings => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_unit_are_found_in_its_text() {
        let text = "[Service]\nEnvironmentFile=-/etc/default/app\nExecStart=/usr/bin/app --config=/etc/app.conf -v\n";
        assert_eq!(environment_files(text), [PathBuf::from("/etc/default/app")]);
        assert_eq!(arguments(text), [PathBuf::from("/etc/app.conf")]);
        assert_eq!(arguments("[Service]\nExecStart=/usr/sbin/nginx -g 'daemon on;'\n"), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn what_systemd_says_is_read_by_unit() {
        let text = "Id=a.service\nNeedDaemonReload=yes\nStateChangeTimestampMonotonic=5\n\nId=b.service\nNeedDaemonReload=no\nStateChangeTimestampMonotonic=7000000\n";
        let states = states(text, 1_000_000);
        assert_eq!(states["a.service"], State { needs_reload: true, changed: 1_005_000 });
        assert_eq!(states["b.service"].changed, 7_001_000_000);
    }

    #[test]
    fn a_reload_counts_for_settings_and_not_for_the_environment() {
        let newer = |what| Newer { path: "/etc/app.conf".into(), what, changed: 10 * SLACK };
        let reloaded = State { needs_reload: false, changed: 11 * SLACK };
        assert_eq!(reason(&newer(What::Settings), &reloaded), None);
        assert!(reason(&newer(What::Settings), &State::default()).is_some());
        assert!(reason(&newer(What::Environment), &reloaded).expect("stale").contains("environment file"));
        let told = reason(&newer(What::Unit), &State { needs_reload: true, changed: 0 });
        assert!(told.expect("stale").contains("daemon-reload"));
    }

    #[test]
    fn only_files_newer_than_the_run_are_looked_at() {
        let dir = std::env::temp_dir().join(format!("redrill-stale-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("made");
        let environment = dir.join("default");
        fs::write(&environment, "A=1").expect("written");
        let unit = dir.join("app.service");
        fs::write(&unit, format!("[Service]\nEnvironmentFile={}\n", environment.display())).expect("written");
        let service = |since| Service { name: "app.service", service_type: "simple", since, files: vec![&unit] };
        assert_eq!(newer(&service(crate::now())), []);
        assert_eq!(newer(&service(0)).iter().map(|newer| newer.what).collect::<Vec<_>>(), [What::Environment]);
        fs::remove_dir_all(&dir).expect("cleaned up");
    }
}
