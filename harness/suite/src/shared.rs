//! One drill for all trials of a scenario, each of which cargo-nextest runs in a process of its own.
//!
//! A drill has a directory, named after the test run, scenario and backend. Whoever holds the lock in it and finds no
//! result runs the drill; the others wait for the lock and read the result. If the first is killed, the kernel gives its
//! lock back, and the next one runs the drill.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use redrill_machines::Home;
use redrill_model::{BackendKind, Report};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// Longer than any drill of ours, shorter than the slow-timeout of our nextest profiles.
const LIMIT: Duration = Duration::from_secs(25 * 60);
/// How long a drill may take to clean up and tell what was learnt, once it was asked to end.
const GRACE: Duration = Duration::from_secs(90);
/// Test runs of before; their reports lie in the run directories.
const OLD: Duration = Duration::from_secs(2 * 24 * 3600);

/// What came of a drill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Drilled {
    /// Exit status of `redrill run`.
    pub(crate) status: i32,
    /// Its report; none if the scenario was wrong, or the host.
    pub(crate) report: Option<Report>,
    /// The end of what it told.
    pub(crate) said: String,
}

/// Runs the drill, or reads what came of it.
pub(crate) fn drilled(program: &Path, scenario: &Path, backend: BackendKind) -> io::Result<Drilled> {
    let suites = home().state.join("suite");
    forget_old(&suites);
    let name = scenario.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = suites.join(run_id()).join(format!("{name}-{}", backend.name()));
    fs::create_dir_all(&directory)?;
    let lock = File::create(directory.join("lock"))?;
    lock.lock()?;
    let result = directory.join("result.json");
    if let Ok(text) = fs::read(&result) {
        return serde_json::from_slice(&text).map_err(io::Error::other);
    }
    let drilled = drill(program, scenario, backend)?;
    let new = directory.join("result.new");
    fs::write(&new, serde_json::to_vec(&drilled)?)?;
    fs::rename(new, result)?;
    Ok(drilled)
}

pub(crate) fn home() -> Home {
    Home::from_environment(|name| std::env::var_os(name).map(Into::into))
}

/// The same for all processes of a test run: nextest tells it; without nextest there is only one process.
fn run_id() -> String {
    std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("process-{}", std::process::id()))
}

fn forget_old(suites: &Path) {
    let entries = fs::read_dir(suites).into_iter().flatten().flatten();
    let old = |entry: &fs::DirEntry| {
        let changed = entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::now());
        changed.elapsed().is_ok_and(|age| age > OLD)
    };
    for entry in entries.filter(old) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

fn drill(program: &Path, scenario: &Path, backend: BackendKind) -> io::Result<Drilled> {
    let mut command = Command::new(program);
    command.arg("run").arg(scenario).args(["--backend", backend.name(), "--format", "json"]);
    // Held until the drill is over: should we be killed, the drill ends too, and in order.
    command.arg("--leash").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        io::Error::other(format!("{}: {error} (REDRILL_PROGRAM names another one)", program.display()))
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let told = std::thread::spawn(move || read(stderr));
    let result = std::thread::spawn(move || read(stdout));
    let status = watch(&mut child, limit())?;
    let (result, told) = (result.join().unwrap_or_default(), told.join().unwrap_or_default());
    let lines: Vec<&str> = told.lines().collect();
    let said = lines[lines.len().saturating_sub(30)..].join("\n");
    Ok(Drilled { status, report: serde_json::from_str(&result).ok(), said })
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `REDRILL_TEST_LIMIT`, such as `20m`, if the tests' runner is more or less patient than ours.
fn limit() -> Duration {
    let named = std::env::var("REDRILL_TEST_LIMIT").ok();
    named.and_then(|text| humantime::parse_duration(&text).ok()).unwrap_or(LIMIT)
}

/// Waits for the end; a drill that takes too long is asked to end, so that it takes its evidence and cleans up.
fn watch(child: &mut Child, limit: Duration) -> io::Result<i32> {
    let began = Instant::now();
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or(-1));
        }
        if began.elapsed() > limit && !asked {
            asked = true;
            let _ = rustix::process::kill_process(Pid::from_child(child), Signal::INT);
        }
        if began.elapsed() > limit + GRACE {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_stuck_drill_is_asked_to_end_before_it_is_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("stuck");
        std::fs::write(&program, "#!/bin/sh\ntrap 'exit 3' INT\nwhile :; do sleep 0.05; done\n").expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let mut child = Command::new(&program).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(watch(&mut child, Duration::ZERO).expect("watched"), 3, "it ended in order");
    }
}
