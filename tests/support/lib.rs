//! Shared by the suites: the built program, places of its own for each test, and what a run left.

mod backup_host;
pub mod corpus;
mod engine;
mod leftovers;
mod production;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use backup_host::{Budget, RestHost, SftpHost, has_sshd};
pub use engine::{Engine, Refusal};
pub use leftovers::leftovers;
pub use production::{Host, Packet, Production, key};
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

    /// Commits all of a repository below the sandbox, which it makes if there is none.
    pub fn commit(&self, repo: &str) {
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            git.current_dir(self.path().join(repo)).args(["-c", "user.name=ada", "-c", "user.email=ada@example.org"]);
            assert!(git.args(words).status().expect("git").success(), "{words:?}");
        };
        git(&["init", "--quiet"]); // Of no effect on one that is there.
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message", "a commit"]);
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

/// Whether this program can be called here.
pub fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join(program).is_file())
}

/// Whether QEMU can be called here.
pub fn has_qemu() -> bool {
    has("qemu-system-x86_64")
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

/// Where a test finds that it runs in a mount namespace of its own.
const NAMESPACE: &str = "REDRILL_TESTS_NAMESPACE";

/// Runs `test` where it may mount file systems that nobody else sees and that go with it: this program again, for the
/// trial of this name, as root of a user namespace if need be.
pub fn in_mount_namespace(trial: &str, test: impl FnOnce()) {
    if std::env::var_os(NAMESPACE).is_some() {
        return test();
    }
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let mut again = Command::new("unshare");
    again.args(["--mount", "--kill-child"]).args(if root { None } else { Some("--map-root-user") });
    again.arg(std::env::current_exe().expect("a test is a program")).args([trial, "--exact"]).env(NAMESPACE, "1");
    let output = again.output().expect("unshare runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

/// A file system of its own on `place`, in memory.
pub fn mount_small(place: &Path, mib: u64) {
    std::fs::create_dir_all(place).expect("made");
    let size = format!("size={mib}m,mode=755");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(place).status();
    assert!(mounted.expect("mount runs").success(), "no file system for {}", place.display());
}

/// Leaves no more than `kib` KiB free on such a file system, whatever is written to it meanwhile.
pub fn fill(place: &Path, kib: u64) {
    for more in (0..1 << 20).step_by(512) {
        let used = Command::new("df").args(["--block-size=1K", "--output=used"]).arg(place).output().expect("df runs");
        let used =
            String::from_utf8_lossy(&used.stdout).lines().last().and_then(|line| line.trim().parse::<u64>().ok());
        let size = format!("remount,size={}k", used.expect("a number") + kib + more);
        let made = Command::new("mount").args(["-o", &size]).arg(place).stderr(std::process::Stdio::null()).status();
        if made.expect("mount runs").success() {
            return;
        }
    }
    panic!("{} cannot be made smaller", place.display());
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
