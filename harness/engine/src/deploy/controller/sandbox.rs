//! Programs of the repo, sealed: each runs in a cell of its own, and leaves a ledger of what it wanted else.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use redrill_machines::process::Guard;
use redrill_machines::{MachineError, Sealing};
use redrill_sandbox::{Cell, Ledger, Unable};
use tokio::process::Command;

use super::ControllerError;

/// Where cells lie, in the controller's directory.
const CELLS: &str = "cells";
/// What a cell was for, beside it.
const LABEL: &str = "label";

/// Makes cells.
#[derive(Debug)]
pub(crate) struct Sandbox {
    guard: Guard,
    sealing: Sealing,
    cells: PathBuf,
    made: AtomicUsize,
}

/// A command in a cell that is yet to be made.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    /// Names its ledger: `deploy-1`, `inventory`.
    label: String,
    words: Vec<OsString>,
    cell: Cell,
}

impl Sealed {
    pub(crate) fn new(label: &str, program: impl AsRef<OsStr>, cell: Cell) -> Self {
        Self { label: label.to_owned(), words: vec![program.as_ref().to_owned()], cell }
    }

    pub(crate) fn arg(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    pub(crate) fn args<W: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = W>) -> &mut Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// A variable of its environment; a value that is no text is a path of ours that is none, and becomes text.
    pub(crate) fn env(&mut self, name: impl AsRef<str>, value: impl AsRef<OsStr>) -> &mut Self {
        let value = value.as_ref().to_string_lossy().into_owned();
        self.cell.environment.insert(name.as_ref().to_owned(), value);
        self
    }

    pub(crate) fn envs<N: AsRef<str>, V: AsRef<OsStr>>(
        &mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> &mut Self {
        for (name, value) in variables {
            self.env(name, value);
        }
        self
    }

    /// Names what it wanted by this.
    pub(crate) fn label(&mut self, label: &str) -> &mut Self {
        label.clone_into(&mut self.label);
        self
    }
}

impl Sandbox {
    /// An error where this host cannot seal anything.
    pub(crate) async fn open(guard: &Guard, directory: &Path) -> Result<Self, Unable> {
        let sealing = Sealing::find(guard).await?;
        let cells = directory.join(CELLS);
        // Those of an earlier controller in this directory keep their ledgers.
        let made = std::fs::read_dir(&cells).into_iter().flatten().count();
        Ok(Self { guard: guard.clone(), sealing, cells, made: AtomicUsize::new(made) })
    }

    /// What a reader of the report must know of it.
    pub(crate) fn remark(&self) -> Option<String> {
        self.sealing.remark()
    }

    /// Makes the cell, and the guarded command that runs in it; also where the cell lies.
    pub(crate) fn command(&self, sealed: &Sealed) -> Result<(Command, PathBuf), MachineError> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let place = self.cells.join(format!("{number:04}"));
        let failed = |source| MachineError::Io { what: "cannot make a sandbox".to_owned(), source };
        sealed.cell.write(&place).map_err(failed)?;
        std::fs::write(place.join(LABEL), &sealed.label).map_err(failed)?;
        Ok((self.sealing.command(&self.guard, &place, &sealed.words), place))
    }
}

impl Sandbox {
    /// Runs it to its end, with all that it prints.
    pub(crate) async fn output(&self, sealed: &Sealed, name: &str) -> Result<std::process::Output, MachineError> {
        let (command, place) = self.command(sealed)?;
        let output = crate::process::output(&self.guard, command, name).await?;
        lost(&place).map_or(Ok(output), |said| Err(MachineError::Program { program: "the sandbox".to_owned(), said }))
    }

    /// The error of a program that failed, with what it wanted and could not have.
    pub(crate) fn failed(&self, what: &str, label: &str, said: String) -> ControllerError {
        let wanted = self.wanted(label);
        let why = match wanted.is_empty() {
            true => String::new(),
            false => format!("\nit wanted {}, which is neither in the repo nor among the keys", wanted.join(", ")),
        };
        ControllerError::Program { what: what.to_owned(), said: said + &why }
    }

    /// What programs of this label wanted, in words.
    pub(crate) fn wanted(&self, label: &str) -> Vec<String> {
        let ours = ledgers_in(&self.cells).into_iter().filter(|(known, _)| known == label);
        let mut targets: Vec<String> = ours.flat_map(|(_, ledger)| ledger.attempts).map(|one| one.target()).collect();
        targets.sort();
        targets.dedup();
        targets
    }
}

/// Why nothing can be said of a program that ran in the cell in `place` and has ended, if so: then it was not its end, but
/// that of the sandbox.
pub(crate) fn lost(place: &Path) -> Option<String> {
    let ledger = Ledger::read(place);
    let lost = || "the sandbox ended before the program did".to_owned();
    ledger.failed.map(|why| format!("the sandbox could not be made: {why}")).or_else(|| (!ledger.over).then(lost))
}

/// What every sealed program of a run wanted, with its label, in the order in which they were started.
pub(crate) fn ledgers(run: &Path) -> Vec<(String, Ledger)> {
    ledgers_in(&run.join(super::DIRECTORY).join(CELLS))
}

fn ledgers_in(cells: &Path) -> Vec<(String, Ledger)> {
    let cells = std::fs::read_dir(cells).into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = cells.map(|cell| cell.path()).collect();
    places.sort();
    let read = |place: &PathBuf| {
        let label = std::fs::read_to_string(place.join(LABEL)).unwrap_or_default();
        (label, Ledger::read(place))
    };
    places.iter().map(read).collect()
}
