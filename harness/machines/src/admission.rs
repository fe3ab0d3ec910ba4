//! Who may make machines now: a budget of memory, processors and machines that all drills of a user on this host share.
//!
//! Each drill that holds something has a file in one directory, and holds its lock, as do the guards of its processes.
//! Only files whose lock is held count: the kernel gives it back when the last holder ends, however it ends. A machine
//! that is kept so keeps its place. A drill takes all that it needs at once, under a lock of its own, so that no two can
//! each hold half of what both need.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_model::MachineSpec;
use serde::{Deserialize, Serialize};

use crate::host::{self, Shortage};
use crate::lock;

/// What QEMU needs beside the guest's own memory: measured 120-180 MiB with a translation buffer of 512 MiB barely used.
const OVERHEAD_MIB: u64 = 192;
/// Virtual processors per processor: machines of a drill wait more than they work.
const OVERCOMMIT: u32 = 2;
/// Of all memory; the rest is the host's own.
const SHARE: f64 = 0.8;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// What a drill takes, or all drills may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Machines.
    pub machines: u32,
}

impl Amount {
    /// What these machines can grow to. A twin has its own copy of whatever it changes, and is no load.
    pub fn of(machines: &[MachineSpec], twins: bool) -> Self {
        let memory: u64 = machines.iter().map(|machine| machine.memory_mib + OVERHEAD_MIB).sum();
        Self {
            memory_mib: if twins { memory * 2 } else { memory },
            cpus: machines.iter().map(|machine| machine.cpus).sum(),
            machines: u32::try_from(machines.len()).unwrap_or(u32::MAX),
        }
    }

    /// What this host has to give: `REDRILL_MEMORY_MIB`, else most of its memory; and `jobs` machines, if that is said.
    pub fn of_host(jobs: Option<u32>) -> Self {
        let named = std::env::var("REDRILL_MEMORY_MIB").ok().and_then(|text| text.parse().ok());
        let processors =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        Self {
            memory_mib: named.unwrap_or((host::total_memory_mib() as f64 * SHARE) as u64),
            cpus: processors * OVERCOMMIT,
            machines: jobs.unwrap_or(u32::MAX),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            memory_mib: self.memory_mib + other.memory_mib,
            cpus: self.cpus.saturating_add(other.cpus),
            machines: self.machines.saturating_add(other.machines),
        }
    }

    /// What does not fit into `budget`, in words.
    fn exceeds(&self, budget: &Self) -> Option<&'static str> {
        if self.memory_mib > budget.memory_mib {
            Some("memory")
        } else if self.cpus > budget.cpus {
            Some("processors")
        } else if self.machines > budget.machines {
            Some("machines")
        } else {
            None
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Held {
    run: String,
    amount: Amount,
}

/// What a drill holds. Dropping it, or ending, gives it back.
#[derive(Debug)]
pub struct Ticket {
    path: PathBuf,
    run: String,
    kept: bool,
    _lock: File,
}

impl Ticket {
    /// The file that guards hold as well.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the place to the guards of machines that stay: this much of it, until they end.
    pub fn keep(mut self, amount: &Amount) -> io::Result<()> {
        let text = serde_json::to_vec(&Held { run: format!("{}, kept", self.run), amount: amount.clone() })?;
        let _gate = gate(self.path.parent().unwrap_or(Path::new("/")))?;
        self.kept = true;
        // The lock is on this very file: it is written anew, not replaced.
        fs::write(&self.path, text)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whoever looks at the books or writes in them holds this.
fn gate(directory: &Path) -> io::Result<File> {
    let gate = File::create(directory.join("gate"))?;
    gate.lock()?;
    Ok(gate)
}

/// The shared books.
#[derive(Debug, Clone)]
pub struct Admission {
    directory: PathBuf,
    budget: Amount,
}

/// Why a drill was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// It would not fit even alone.
    #[error(transparent)]
    Shortage(#[from] Shortage),
    /// The books cannot be kept.
    #[error("cannot use `{path}`")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What a look at the books shows.
enum Answer {
    In(Ticket),
    Wait(String),
}

impl Admission {
    /// Books in the harness's state directory.
    pub fn new(state: &Path, budget: Amount) -> Self {
        Self { directory: state.join("admission"), budget }
    }

    /// Waits until there is room for all of `wanted`; `tell` hears once what is waited for. A drill that is larger than
    /// the budget in processors or machines runs alone; one that is larger in memory is refused.
    pub async fn admit(&self, run: &str, wanted: &Amount, tell: impl Fn(&str)) -> Result<Ticket, AdmissionError> {
        let wanted = Amount {
            cpus: wanted.cpus.min(self.budget.cpus),
            machines: wanted.machines.min(self.budget.machines),
            ..wanted.clone()
        };
        if wanted.memory_mib > self.budget.memory_mib {
            let free_mib = self.budget.memory_mib;
            return Err(Shortage::Memory { wanted_mib: wanted.memory_mib, free_mib }.into());
        }
        let mut told = String::new();
        loop {
            let failed = |source| AdmissionError::Io { path: self.directory.clone(), source };
            match self.ask(run, &wanted, host::free_memory_mib()).map_err(failed)? {
                Ok(Answer::In(ticket)) => return Ok(ticket),
                Ok(Answer::Wait(why)) if told != why => {
                    tell(&why);
                    told = why;
                }
                Ok(Answer::Wait(_)) => {}
                Err(shortage) => return Err(shortage.into()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn ask(&self, run: &str, wanted: &Amount, free_mib: u64) -> io::Result<Result<Answer, Shortage>> {
        fs::create_dir_all(&self.directory)?;
        let _gate = gate(&self.directory)?;
        let held = self.held();
        let none = Amount { memory_mib: 0, cpus: 0, machines: 0 };
        let sum = held.iter().fold(none, |sum, held| sum.plus(&held.amount));
        let lacking = sum.plus(wanted).exceeds(&self.budget);
        let lacking = lacking.or((wanted.memory_mib > free_mib).then_some("memory"));
        let Some(lacking) = lacking else { return self.take(run, wanted).map(|ticket| Ok(Answer::In(ticket))) };
        if held.is_empty() {
            return Ok(Err(Shortage::Memory { wanted_mib: wanted.memory_mib, free_mib }));
        }
        let runs: Vec<&str> = held.iter().map(|held| held.run.as_str()).collect();
        Ok(Ok(Answer::Wait(format!(
            "waiting for {lacking}: {} MiB, {} processors, {} machines are wanted, of {} MiB and {} processors {} holds {} \
             MiB and {}",
            wanted.memory_mib,
            wanted.cpus,
            wanted.machines,
            self.budget.memory_mib,
            self.budget.cpus,
            runs.join(", "),
            sum.memory_mib,
            sum.cpus,
        ))))
    }

    /// What is held now; files that nobody holds are removed.
    fn held(&self) -> Vec<Held> {
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let held = |path: PathBuf| {
            let file = File::open(&path).ok()?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => serde_json::from_slice(&fs::read(&path).ok()?).ok(),
                _ => {
                    let _ = fs::remove_file(&path);
                    None
                }
            }
        };
        files.filter(|path| path.extension().is_some_and(|end| end == "held")).filter_map(held).collect()
    }

    fn take(&self, run: &str, amount: &Amount) -> io::Result<Ticket> {
        let path = self.directory.join(format!("{}-{}.held", std::process::id(), crate::random::hex()));
        let mut file = File::create(&path)?;
        file.lock_shared()?;
        let text = serde_json::to_vec(&Held { run: run.to_owned(), amount: amount.clone() })?;
        file.write_all(&text)?;
        Ok(Ticket { path, run: run.to_owned(), kept: false, _lock: file })
    }
}

/// Files of drills that have ended without giving back: they hold nothing, and are no good to anybody.
pub(crate) fn abandoned(state: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(state.join("admission")).into_iter().flatten().flatten().map(|entry| entry.path());
    let held = files.filter(|path| path.extension().is_some_and(|end| end == "held"));
    held.filter(|path| lock::is_abandoned(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(memory_mib: u64, cpus: u32, machines: u32) -> Amount {
        Amount { memory_mib, cpus, machines }
    }

    fn books() -> (tempfile::TempDir, Admission) {
        let place = tempfile::tempdir().expect("a directory");
        let admission = Admission::new(place.path(), amount(4096, 4, 3));
        (place, admission)
    }

    const PLENTY: u64 = 1 << 20;

    fn waits(answer: io::Result<Result<Answer, Shortage>>) -> String {
        match answer.expect("books").expect("no shortage") {
            Answer::In(_) => panic!("let in"),
            Answer::Wait(why) => why,
        }
    }

    fn is_in(answer: io::Result<Result<Answer, Shortage>>) -> Ticket {
        match answer.expect("books").expect("no shortage") {
            Answer::In(ticket) => ticket,
            Answer::Wait(why) => panic!("{why}"),
        }
    }

    #[test]
    fn what_does_not_fit_waits_and_is_told_for_what_and_for_whom() {
        let (_place, books) = books();
        let first = is_in(books.ask("web-1", &amount(3000, 2, 1), PLENTY));
        let why = waits(books.ask("web-2", &amount(2000, 1, 1), PLENTY));
        assert!(why.starts_with("waiting for memory: 2000 MiB") && why.contains("web-1 holds 3000 MiB"), "{why}");
        assert!(waits(books.ask("web-2", &amount(100, 3, 1), PLENTY)).starts_with("waiting for processors"));
        assert!(waits(books.ask("web-2", &amount(100, 1, 3), PLENTY)).starts_with("waiting for machines"));
        let small = is_in(books.ask("web-3", &amount(1000, 2, 2), PLENTY));
        drop((first, small));
        is_in(books.ask("web-2", &amount(4096, 4, 3), PLENTY));
    }

    #[test]
    fn machines_that_are_kept_hold_their_place_until_their_guard_ends() {
        let (place, books) = books();
        let ticket = is_in(books.ask("web", &amount(3000, 4, 1), PLENTY));
        let guard = lock::hold(ticket.path()).expect("held");
        ticket.keep(&amount(1500, 2, 1)).expect("kept");
        let why = waits(books.ask("db", &amount(3000, 1, 1), PLENTY));
        assert!(why.contains("web, kept holds 1500 MiB"), "without its twin: {why}");
        assert!(abandoned(place.path()).is_empty());
        is_in(books.ask("db", &amount(2000, 2, 1), PLENTY));
        drop(guard);
        assert_eq!(abandoned(place.path()).len(), 1);
        is_in(books.ask("db", &amount(4096, 4, 3), PLENTY));
        assert!(abandoned(place.path()).is_empty());
    }

    #[test]
    fn a_holder_that_died_holds_nothing() {
        let (place, books) = books();
        let left = place.path().join("admission/1-x.held");
        fs::create_dir_all(left.parent().expect("a parent")).expect("made");
        let text = serde_json::to_vec(&Held { run: "dead".into(), amount: amount(4096, 4, 3) }).expect("plain data");
        fs::write(&left, text).expect("written");
        assert_eq!(abandoned(place.path()), std::slice::from_ref(&left));
        let _all = is_in(books.ask("web", &amount(4096, 4, 3), PLENTY));
        assert!(!left.exists(), "and is removed");
        assert!(abandoned(place.path()).is_empty());
    }

    #[tokio::test]
    async fn more_memory_than_there_is_is_an_error_and_no_endless_wait() {
        let (_place, books) = books();
        let error = books.admit("web", &amount(5000, 1, 1), |_| ()).await.expect_err("too much");
        assert!(error.to_string().contains("5000 MiB"), "{error}");
        assert!(books.ask("web", &amount(4000, 1, 1), 100).expect("books").is_err(), "nobody will give any back");
        let ticket = books.admit("web", &amount(64, 40, 30), |_| ()).await.expect("runs alone");
        drop(ticket);
    }

    #[tokio::test]
    async fn whoever_waits_comes_in_when_the_other_is_done() {
        let (_place, books) = books();
        let ticket = is_in(books.ask("first", &amount(64, 4, 1), PLENTY));
        let waiting = tokio::spawn({
            let books = books.clone();
            async move { books.admit("second", &amount(64, 1, 1), |_| ()).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        drop(ticket);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("in time").expect("ran").expect("let in");
    }
}
