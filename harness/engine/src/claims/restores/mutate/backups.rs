//! Faults in copies of the backups: restored into machines that are deployed and empty, they must not pass.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use redrill_machines::{Backend, Exec, Machine, MachineError, find_machine};
use redrill_model::{Backup, Code, Mutant, Origin, Point, Severity, Target};

use super::super::repository::{self, Source};
use super::super::round_trip::Jobs;
use super::super::{Given, Restored, Restorer, oracle, source_of, targets};
use super::plants::{Plant, emptying};
use super::{Mutation, Noticed, PLANTING, told, unknown};
use crate::captures::settle::settle;
use crate::fleet::Still;
use crate::problem::Problem;

/// Old enough for every limit of age that a backup of each night deserves.
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);

/// A backup with a fault in it.
struct BadBackup {
    /// The fault, in words.
    fault: String,
    backup: Backup,
    made: Bad,
}

/// What is restored in place of the backup.
enum Bad {
    /// This, by the backup's own way.
    Source(Source),
    /// The backup's job noticed: it failed.
    Refused(String),
    /// It could not be made.
    Unknown(String),
}

impl<B: Backend> Mutation<'_, B> {
    /// Every bad backup of the scenario, restored. `frozen` are the restored machines; `first` is the number of faults
    /// that were planted before.
    pub(super) async fn of_backups(&mut self, frozen: &[Still<B>], first: usize) -> Vec<Mutant> {
        let mut mutants = Vec::new();
        for backup in &self.context.scenario().backups {
            let restored = &self.restores.restored;
            let Some(restored) = restored.iter().find(|one| one.report.backup == backup.name) else { continue };
            let aged = self.aged(backup).await;
            self.tell(&aged);
            mutants.push(aged);
            if backup.restore_after.is_some() {
                let plant = of_backup(format!("faults in the backup: {}", backup.name), backup);
                let why = "it is restored while the deploy waits: no machine stands still there";
                mutants.push(unknown(&plant, why.to_owned()));
                continue;
            }
            for bad in self.bad_backups((backup, restored), frozen).await {
                self.context.tell(&format!("planting: {}", bad.fault));
                let name = format!("m{}", first + mutants.len());
                let plant = of_backup(bad.fault, &bad.backup);
                let mutant = match bad.made {
                    Bad::Unknown(why) => unknown(&plant, why),
                    Bad::Refused(why) => told(&plant, &[Noticed::Refused(format!("its own job ({why})"))]),
                    Bad::Source(source) => match self.tried((&bad.backup, &source), &name, restored).await {
                        Ok(refusals) => told(&plant, &refusals),
                        Err(error) => unknown(&plant, error.to_string()),
                    },
                };
                self.tell(&mutant);
                mutants.push(mutant);
            }
        }
        mutants
    }

    /// Restores it into machines of its own, and says who refused it; what was wrong with the right backup (`restored`)
    /// does not count.
    async fn tried(
        &mut self,
        (backup, source): (&Backup, &Source),
        name: &str,
        restored: &Restored,
    ) -> Result<Vec<Noticed>, MachineError> {
        let forks = self.forked(&self.unrestored, name).await?;
        self.lead_to(Some(&forks));
        let given = Given { instead: Some(source), ..Given::default() };
        let restorer = Restorer {
            context: self.context,
            controller: self.controller.as_deref(),
            machines: &forks,
            restores: self.restores,
            deadline: self.deadline,
        };
        let again = restorer.one(backup, given).await;
        self.lead_to(None);
        self.end(forks).await;
        let known: BTreeSet<Code> = restored.faults.iter().map(|fault| fault.code).collect();
        let counts = |fault: &&Problem| fault.severity() >= Severity::Unknown && !known.contains(&fault.code);
        let new = again.faults.iter().filter(counts);
        Ok(new.map(|fault| refused(fault.code, &fault.text)).collect())
    }

    /// The data that came back, looked at as if the backup had been made so much earlier.
    async fn aged(&self, backup: &Backup) -> Mutant {
        let days = OLD.as_secs() / (24 * 3600);
        let plant = Plant {
            suggestion: format!(
                "`rpo = \"24h\"` of `{0}`, or `newest` under its oracle, tells how old it is",
                backup.name
            ),
            ..of_backup(format!("a backup of {days} days ago in place of the new: {}", backup.name), backup)
        };
        self.context.tell(&format!("planting: {}", plant.fault));
        let Some(machine) = self.fleet.get(&backup.machine) else {
            return unknown(&plant, "its machine is not there".to_owned());
        };
        let now = match oracle::look(machine, &targets(backup), self.deadline).await {
            Ok(found) => found,
            Err(fault) => return unknown(&plant, fault.text),
        };
        let old = redrill_state::Manifest {
            taken: now.taken + i64::try_from(OLD.as_secs()).unwrap_or(i64::MAX),
            ..now.clone()
        };
        let faults = |found| -> BTreeSet<(Code, String)> {
            let known = oracle::KnownData { manifest: None, made: None, last: None, ephemeral: &[] };
            oracle::judge(backup, &known, found).faults.into_iter().map(|fault| (fault.code, fault.text)).collect()
        };
        let before: BTreeSet<Code> = faults(&now).into_iter().map(|(code, _)| code).collect();
        let new = faults(&old).into_iter().filter(|(code, _)| !before.contains(code));
        told(&plant, &new.map(|(code, text)| refused(code, &text)).collect::<Vec<_>>())
    }

    /// An older point in place of the newest where there is one, the repository with its largest file cut in half, and a
    /// backup that was made when the data was gone.
    async fn bad_backups(&mut self, (backup, restored): (&Backup, &Restored), frozen: &[Still<B>]) -> Vec<BadBackup> {
        let Some(source) = source_of(self.context, self.restores, backup) else { return Vec::new() };
        let mut all = Vec::new();
        let older = restored.report.point.as_ref().and_then(|point| point.of).is_some_and(|of| of > 1);
        if older && backup.point == Point::Latest {
            let other = Backup { point: Point::Random, ..backup.clone() };
            let fault = format!("an older point in place of the newest: {}", backup.name);
            all.push(BadBackup { fault, backup: other, made: Bad::Source(source.clone()) });
        }
        let cut = self.context.path().join("restores").join(&backup.name).join("cut");
        let made = repository::copy_on_host(&source, &cut).and_then(|()| cut_largest(&cut));
        let cut = match made {
            Ok(()) => Bad::Source(Source::Tree(cut)),
            Err(error) => Bad::Unknown(format!("no copy could be made: {error}")),
        };
        let fault = format!("a backup of which one file is cut in half: {}", backup.name);
        all.push(BadBackup { fault, backup: backup.clone(), made: cut });
        let what = match backup.into.iter().all(|target| matches!(target, Target::Path(_))) {
            true => "a backup of emptied directories",
            false => "a dump of an empty database",
        };
        let empty = match &backup.origin {
            Origin::Local(_) | Origin::Remote(_) => {
                Bad::Unknown("it was made elsewhere, and only its own job could make such a one".to_owned())
            }
            Origin::Made { .. } => self.of_nothing(backup, frozen).await,
        };
        let fault = format!("{what} in place of the real one: {}", backup.name);
        all.push(BadBackup { fault, backup: backup.clone(), made: empty });
        all
    }

    /// Runs the backup's own job in a fork of the restored machine: once as it is, to see that it can, and once more when
    /// the data is gone.
    async fn of_nothing(&mut self, backup: &Backup, frozen: &[Still<B>]) -> Bad {
        self.context.tell(&format!("running the backup job of `{}` without its data", backup.name));
        let forks = match self.forked(frozen, &format!("nothing-{}", backup.name)).await {
            Ok(forks) => forks,
            Err(error) => return Bad::Unknown(error.to_string()),
        };
        self.lead_to(Some(&forks));
        let made = self.emptied(backup, &forks).await;
        self.lead_to(None);
        self.end(forks).await;
        made
    }

    async fn emptied(&self, backup: &Backup, machines: &[B::Machine]) -> Bad {
        let Some(machine) = find_machine(machines, &backup.machine) else {
            return Bad::Unknown("its machine is not there".to_owned());
        };
        // Without memory the services of a fork start anew.
        let _ = settle(machine, self.deadline).await;
        let jobs = Jobs { context: self.context, controller: self.controller.as_deref(), deadline: self.deadline };
        if let Err(fault) = jobs.back_up(machine, backup, "whole.tar").await {
            return Bad::Unknown(format!("its job does not run on the restored machine: {}", fault.text));
        }
        let found = match oracle::look(machine, &targets(backup), self.deadline).await {
            Ok(found) => found,
            Err(fault) => return Bad::Unknown(fault.text),
        };
        let limit = self.deadline.child("planting a fault", PLANTING);
        for (words, input) in emptying(backup, &found) {
            match machine.exec(&Exec(words), input.as_bytes(), &limit).await {
                Ok(output) if output.status == 0 => {}
                Ok(output) => return Bad::Unknown(format!("the data could not be removed: {}", output.stderr.trim())),
                Err(error) => return Bad::Unknown(format!("the data could not be removed: {error}")),
            }
        }
        match jobs.back_up(machine, backup, "empty.tar").await {
            Ok(source) => Bad::Source(source),
            Err(fault) if [Code::JobFailed, Code::NoBackupMade].contains(&fault.code) => Bad::Refused(fault.text),
            Err(fault) => Bad::Unknown(fault.text),
        }
    }
}

fn of_backup(fault: String, backup: &Backup) -> Plant {
    let suggestion = format!(
        "`newest`, `rpo`, floors or a `manifest` under `{}` tell an old, empty or partial backup from the right one",
        backup.name
    );
    Plant { fault, machine: backup.machine.clone(), words: Vec::new(), input: String::new(), hold: None, suggestion }
}

fn refused(code: Code, text: &str) -> Noticed {
    Noticed::Refused(format!("{code} ({text})"))
}

fn cut_largest(root: &Path) -> std::io::Result<()> {
    let mut largest: Option<(u64, std::path::PathBuf)> = None;
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = std::fs::symlink_metadata(entry.path())?;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if metadata.is_file() && largest.as_ref().is_none_or(|(size, _)| *size < metadata.len()) {
                largest = Some((metadata.len(), entry.path()));
            }
        }
    }
    let (size, path) = largest.ok_or_else(|| std::io::Error::other("it holds no file"))?;
    std::fs::OpenOptions::new().write(true).open(path)?.set_len(size / 2)
}
