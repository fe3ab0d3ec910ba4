//! Processes that cannot outlive the harness.
//!
//! Each is started under a guard: this same program, called `redrill guard`. The guard holds one end of a pipe (the
//! leash) whose other end only the harness holds. When the harness ends, however it ends, the kernel closes the pipe,
//! and the guard kills what it started and everything that came of it. Should the guard itself be killed, the kernel
//! kills its child (`PR_SET_PDEATHSIG`, set by `redrill leashed` between fork and exec).

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt;

use crate::error::MachineError;
use crate::lock;

/// Marks every process of a run with its directory, so that a sweep can tell whose it is.
pub const RUN_VARIABLE: &str = "REDRILL_RUN";
/// Written to the leash: stay when the harness goes.
const KEEP: u8 = b'k';

/// Starts guarded processes for one run.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The `redrill` program.
    program: PathBuf,
    run: PathBuf,
    place: Option<PathBuf>,
}

impl Guard {
    /// `program` is the `redrill` binary, `run` the directory that marks the processes.
    pub fn new(program: PathBuf, run: PathBuf) -> Self {
        Self { program, run, place: None }
    }

    /// Guards hold the drill's place in the budget, whose file this is, for as long as what they guard.
    #[must_use]
    pub fn holding(self, place: &Path) -> Self {
        Self { place: Some(place.to_owned()), ..self }
    }

    /// The file of the drill's place in the budget.
    pub(crate) fn place(&self) -> Option<&Path> {
        self.place.as_deref()
    }

    /// The `redrill` binary.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The directory that marks the processes.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// A command that will run `program` under a guard. Its standard input is the leash: the program itself gets none.
    pub fn command(&self, program: impl AsRef<OsStr>) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.arg("guard");
        if let Some(place) = &self.place {
            command.arg("--place").arg(place);
        }
        command.arg("--").arg(program);
        command.env(RUN_VARIABLE, &self.run).stdin(Stdio::piped()).process_group(0);
        command
    }

    /// Starts a command made by [`Guard::command`].
    pub fn spawn(&self, command: &mut tokio::process::Command, name: &str) -> Result<Guarded, MachineError> {
        let failed = |source| MachineError::Spawn { program: name.to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        let leash = child.stdin.take();
        Ok(Guarded { child, leash })
    }
}

/// A process under a guard. Dropping it kills the process.
#[derive(Debug)]
pub struct Guarded {
    child: tokio::process::Child,
    leash: Option<tokio::process::ChildStdin>,
}

impl Guarded {
    /// The guard itself, for its output pipes.
    pub fn child(&mut self) -> &mut tokio::process::Child {
        &mut self.child
    }

    /// Waits for the end. A signal that ended the program is told as status 128 + its number, as shells do.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it and all that came of it, and waits until that is done.
    pub async fn kill(&mut self) -> io::Result<()> {
        drop(self.leash.take());
        self.child.wait().await.map(drop)
    }

    /// Lets it live when the harness ends.
    pub async fn release(mut self) -> io::Result<()> {
        if let Some(mut leash) = self.leash.take() {
            leash.write_all(&[KEEP]).await?;
            leash.shutdown().await?;
        }
        Ok(())
    }
}

/// The first descriptor that is none of the standard ones.
const FIRST: i32 = 3;
/// Set for a program that was started anew by [`inherit_nothing`].
const ANEW: &str = "REDRILL_ANEW";

/// Marks what this program inherited, so that nothing that it starts inherits it: a lock of whoever called us is held by
/// us, and not by a machine that is kept. To be called before anything else is opened.
pub fn pass_nothing_on() {
    close_fds::set_fds_cloexec(FIRST, &[]);
}

/// Closes what this program inherited, for those that outlive whoever called: by becoming the same program once more.
/// Where nothing was inherited, which is the rule, nothing happens. To be called after [`pass_nothing_on`].
pub fn inherit_nothing() -> io::Result<()> {
    if !inherited()? || std::env::var_os(ANEW).is_some() {
        return Ok(());
    }
    let mut words = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    again.arg0(words.next().unwrap_or_default()).args(words).env(ANEW, "1");
    Err(again.exec())
}

/// Whether there is more than the standard descriptors.
fn inherited() -> io::Result<bool> {
    let open = std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.path());
    // The directory's own is closed by then.
    let open: Vec<PathBuf> = open.collect();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<i32>().ok();
    Ok(open.iter().any(|path| number(path).is_some_and(|fd| fd >= FIRST) && path.symlink_metadata().is_ok()))
}

/// Exit status of a guard whose leash was let go: as a shell tells SIGKILL.
const KILLED: u8 = 137;

/// `redrill guard -- PROGRAM ARGS`: the guard's own life.
pub fn guard(words: &[std::ffi::OsString], place: Option<&Path>) -> io::Result<ExitCode> {
    let _held = place.and_then(lock::hold);
    // Orphans of what we start become our children, wherever they set up their own process groups.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("leashed")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(words)
        .env_remove(ANEW)
        .stdin(Stdio::null())
        .spawn()?;
    std::thread::spawn(|| {
        let mut byte = [0];
        let kept = matches!(io::stdin().read(&mut byte), Ok(1) if byte == [KEEP]);
        if !kept {
            kill_descendants();
            std::process::exit(KILLED.into());
        }
    });
    let status = child.wait();
    kill_descendants();
    // The thread above may have killed it and taken its status.
    let Ok(status) = status else { return Ok(ExitCode::from(KILLED)) };
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// `redrill leashed PARENT -- PROGRAM ARGS`: becomes PROGRAM, to be killed when PARENT dies. Returns only on failure.
pub fn leashed(parent: u32, words: &[std::ffi::OsString]) -> io::Error {
    let [program, args @ ..] = words else { return io::Error::other("nothing to run") };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the line above.
    if std::os::unix::process::parent_id() != parent {
        return io::Error::other("the guard is gone");
    }
    let error = Command::new(program).args(args).exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}

/// Kills children until there are none: each kill may hand us the orphans of the killed.
fn kill_descendants() {
    for _ in 0..1000 {
        let children = children();
        if children.is_empty() {
            return;
        }
        for pid in children {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Our living children, on whichever of our threads.
fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> =
        lists.flat_map(|list| list.split(' ').filter_map(|p| p.parse().ok()).collect::<Vec<_>>()).collect();
    let alive = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "PID (NAME) STATE ...": a zombie needs no killing, only its parent's attention.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    pids.into_iter().filter(alive).filter_map(Pid::from_raw).collect()
}

/// Processes marked with this run, whoever started them.
pub(crate) fn marked(run: &Path) -> Vec<Pid> {
    let mark = [RUN_VARIABLE.as_bytes(), b"=", run.as_os_str().as_encoded_bytes()].concat();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = std::process::id();
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    processes
        .filter_map(pid)
        .filter(|pid| pid.unsigned_abs() != own)
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Kills every process marked with this run; returns how many there were.
pub fn kill_marked(run: &Path) -> usize {
    let mut killed = 0;
    for _ in 0..100 {
        let pids = marked(run);
        if pids.is_empty() {
            break;
        }
        killed = killed.max(pids.len());
        for pid in pids {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    killed
}
