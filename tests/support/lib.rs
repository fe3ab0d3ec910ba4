//! Shared by the suites: the built program, places of its own for each test, and what a run left.

mod backup_host;
pub mod corpus;
mod leftovers;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use backup_host::{Budget, RestHost, SftpHost, has_sshd};
pub use leftovers::leftovers;
use serde_json::Value;
pub use server::{FileServer, Manner};

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// The program under test, built by `cargo build` into the directory that holds the tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a program");
    let program = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST").join("redrill");
    assert!(program.is_file(), "{} is missing: cargo build --workspace", program.display());
    program
}

/// A state directory of its own; images and virtual environments are shared with other tests.
pub struct Sandbox {
    directory: tempfile::TempDir,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A place for files of the test.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where run directories come to lie.
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The program with these arguments, in the repository.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(root()).env("REDRILL_STATE_DIR", self.state()).env("NO_COLOR", "1");
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("redrill runs"))
    }

    /// Writes a file below the sandbox and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// The only run directory.
    pub fn run_dir(&self) -> PathBuf {
        let runs: Vec<PathBuf> = std::fs::read_dir(self.state().join("runs"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|run| run.path())
            .collect();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs[0].clone()
    }

    /// The report of the only run.
    pub fn report(&self) -> Value {
        let text = std::fs::read_to_string(self.run_dir().join("report.json")).expect("a report was written");
        serde_json::from_str(&text).expect("the report is JSON")
    }
}

/// What the program left.
#[derive(Debug)]
pub struct Ran {
    /// Exit status.
    pub status: i32,
    /// The result.
    pub stdout: String,
    /// The story.
    pub stderr: String,
}

impl Ran {
    /// From a finished process.
    pub fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics with everything printed unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

/// Whether QEMU can be called here.
pub fn has_qemu() -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join("qemu-system-x86_64").is_file())
}

/// Process ids of those whose environment has `REDRILL_RUN` below this directory.
pub fn processes_of(state: &Path) -> Vec<u32> {
    let mark = [b"REDRILL_RUN=", state.as_os_str().as_encoded_bytes()].concat();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = |id: &u32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(&mark))
    };
    ids.filter(marked).collect()
}

/// Waits until this holds, for at most that long; tells whether it came true.
pub fn wait_for(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < limit {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    holds()
}

/// Verdict by claim that the scenario makes.
pub fn verdicts(report: &Value) -> Vec<(String, String)> {
    let claims = report["claims"].as_array().expect("claims");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let declared = claims.iter().filter(|claim| claim["verdict"] != "UNDECLARED");
    declared.map(|claim| (text(&claim["claim"]), text(&claim["verdict"]))).collect()
}
