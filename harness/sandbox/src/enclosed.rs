//! `redrill enclosed`: the warden as the first process of a container. It does what [`crate::warden()`] does, but that the
//! container is what seals: the program is started as the caller, without any capability.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::enclosure::{PROGRAM, Task, WIRE};
use crate::filter;
use crate::ledger::Writer;
use crate::means::{find, missing};
use crate::names::Asked;
use crate::warden::{Leads, NOT_STARTED, answer_names, set_up, watch};
use crate::watch::Packets;

/// As a shell tells SIGKILL.
const KILLED: i32 = 137;
/// How often what a program left is killed before the container's end does it.
const ROUNDS: usize = 200;

/// What a program becomes, after whatever it was that started it has lost its rights. It is told on standard input:
/// variables of the repo's choice, such as `LD_PRELOAD`, must not meet a process that has rights.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

/// The first process of a container that [`crate::Enclosure`] describes. What it cannot tell over the wire it prints.
pub fn enclosed() -> io::Result<ExitCode> {
    // A program of the same user must not look into us, whatever it may.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let wire = UnixStream::connect(WIRE)?;
    let (task, stdout, stderr) = Task::receive(&wire)?;
    let ledger = Arc::new(Mutex::new(Writer::to(wire.try_clone()?)));
    leash(wire);
    let ended = run(task, (stdout, stderr), &ledger);
    let mut ledger = ledger.lock().expect("no panic while it is held");
    let status = match ended {
        Ok(status) => {
            ledger.over()?;
            status
        }
        Err(error) => {
            ledger.failed(&error.to_string())?;
            NOT_STARTED
        }
    };
    ledger.ended(status)?;
    Ok(ExitCode::SUCCESS)
}

/// When the harness's end breaks we end, and the kernel ends everything else in the container.
fn leash(mut wire: UnixStream) {
    std::thread::spawn(move || {
        // Nothing more comes.
        let _ = wire.read(&mut [0]);
        std::process::exit(KILLED);
    });
}

fn run(task: Task, places: (OwnedFd, OwnedFd), ledger: &Arc<Mutex<Writer>>) -> io::Result<u8> {
    set_up(&find("ip").ok_or_else(|| missing("ip", "iproute2"))?)?;
    let mut asked = Asked::default();
    asked.know(&task.cell);
    let leads = Leads::of(&task.cell);
    leads.listen()?;
    answer_names(&task.cell, &asked)?;
    let packets = Packets::open()?;
    let over = Arc::new(AtomicBool::new(false));
    let watcher = watch(packets, &leads, &asked, ledger, &over);
    let why = "the sandbox was a container of the engine";
    ledger.lock().expect("no panic while it is held").files_unseen(why)?;
    let status = start(task, places).and_then(wait)?;
    end_the_rest();
    over.store(true, Ordering::Release);
    watcher.join().map_err(|_| io::Error::other("the watcher of packets failed"))??;
    Ok(status)
}

/// As the caller, without capabilities and without a way to gain any: also where the caller is root.
fn start(task: Task, (stdout, stderr): (OwnedFd, OwnedFd)) -> io::Result<Pid> {
    let Task { cell, words, user: (user, group) } = task;
    let start = Start { directory: cell.directory, environment: cell.environment.into_iter().collect() };
    let mut told = File::from(rustix::fs::memfd_create("redrill", rustix::fs::MemfdFlags::CLOEXEC)?);
    told.write_all(&serde_json::to_vec(&start)?)?;
    told.rewind()?;
    let mut command = Command::new(find("setpriv").ok_or_else(|| missing("setpriv", "util-linux"))?);
    command.args([format!("--reuid={user}"), format!("--regid={group}")]);
    command.args(["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
    command.args(["--", PROGRAM, "sealed", "--"]).args(words);
    command.env_clear().current_dir("/").stdin(told).stdout(stdout).stderr(stderr);
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("it has no number"))
}

/// Waits for this child, and for whatever others become ours: nobody else does in a container.
fn wait(program: Pid) -> io::Result<u8> {
    loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let signal = status.terminating_signal().map(|signal| 128 + signal);
        if let Some(code) = status.exit_status().or(signal).filter(|_| pid == program) {
            return Ok(u8::try_from(code).unwrap_or(1));
        }
    }
}

/// Kills what the program left: what the ledger says is over must be.
fn end_the_rest() {
    for _ in 0..ROUNDS {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let others: Vec<Pid> = ids.filter(|id| *id != 1).filter_map(Pid::from_raw).collect();
        if others.is_empty() {
            return;
        }
        for process in others {
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `redrill sealed -- PROGRAM ARGS`: becomes PROGRAM, under the filter of system calls. Returns only on failure.
pub fn sealed(words: &[std::ffi::OsString]) -> io::Error {
    let [program, arguments @ ..] = words else { return io::Error::other("nothing to run") };
    let mut told = Vec::new();
    let start: Start = match io::stdin().read_to_end(&mut told).map(|_| serde_json::from_slice(&told)) {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return error.into(),
        Err(error) => return error,
    };
    if let Err(error) = filter::apply() {
        return io::Error::other(error);
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(start.environment).current_dir(start.directory);
    let error = command.stdin(Stdio::null()).exec();
    io::Error::new(error.kind(), format!("{}: {error}", Path::new(program).display()))
}
