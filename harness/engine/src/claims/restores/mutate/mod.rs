//! The drill is drilled: faults are planted into forks of the restored machines, and into copies of the backups, and
//! the checks and oracles of the scenario must turn red. One that survives tells what they do not see.

mod backups;
mod plants;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use redrill_machines::{Backend, Deadline, Exec, Machine, MachineError, find_machine};
use redrill_model::{Backup, Check, Code, Moment, Mutant};
use redrill_state::Manifest;

use super::oracle::{self, KnownData};
use super::{Restores, declared, targets};
use crate::captures::Captures;
use crate::claims::serves::checks::{self, Place, Seen};
use crate::context::Context;
use crate::deploy::controller::Controller;
use crate::fleet::{self, Fleet, Still};
use crate::problem::Problem;
use plants::{Plant, of_data, of_ports, of_units};

/// After a fault has been planted a check need not wait for a service to come up: it was up. One that takes longer when
/// all is well may take [`SLOWER`] times as long.
const PATIENCE: Duration = Duration::from_secs(4);
const SLOWER: f64 = 3.0;
/// Planting one.
const PLANTING: Duration = Duration::from_secs(60);

/// What faults are planted into, and what they are held against.
pub(crate) struct Mutation<'a, B: Backend> {
    pub(crate) context: &'a Context,
    pub(crate) fleet: &'a mut Fleet<B>,
    pub(crate) controller: Option<&'a mut Controller>,
    pub(crate) restores: &'a Restores,
    pub(crate) captures: &'a Captures,
    /// Machines as they were before the restore: bad backups go into forks of these.
    pub(crate) unrestored: Vec<Still<B>>,
    /// A root (PEM) that the world trusts in this drill.
    pub(crate) trusted: Option<&'a str>,
    pub(crate) deadline: &'a Deadline,
    /// What went wrong with the forks, in words for the report.
    pub(crate) remarks: Vec<String>,
}

impl<B: Backend> Mutation<'_, B> {
    /// Plants every fault in a fork of its own. Returns them with a note.
    pub(crate) async fn plant_all(&mut self) -> Result<(Vec<Mutant>, String), Problem> {
        let plants = self.plants().await?;
        let frozen = self.fleet.freeze_all(self.context, "ok", self.deadline).await;
        let frozen = frozen.map_err(|error| Problem::of(Code::MachineLost, &error))?;
        let mut mutants: Vec<Mutant> = Vec::new();
        for (number, plant) in plants.into_iter().enumerate() {
            self.context.tell(&format!("planting: {} on {}", plant.fault, plant.machine));
            let mutant = match self.forked(&frozen, &format!("m{number}")).await {
                Ok(machines) => {
                    let mutant = self.noticed(&machines, &plant).await;
                    self.end(machines).await;
                    mutant
                }
                Err(error) => unknown(&plant, error.to_string()),
            };
            self.tell(&mutant);
            mutants.push(mutant);
        }
        mutants.extend(self.of_backups(&frozen, mutants.len()).await);
        let planted: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.unknown.is_none()).collect();
        let killed = planted.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
        let note = format!("{killed} of {} planted faults noticed", planted.len());
        Ok((mutants, note))
    }

    fn tell(&self, mutant: &Mutant) {
        let said = match (&mutant.unknown, mutant.killed_by.first()) {
            (Some(why), _) => format!("unknown: {why}"),
            (None, Some(by)) => format!("noticed by {by}"),
            (None, None) => "not noticed".to_owned(),
        };
        self.context.tell(&said);
    }

    /// A set of machines of their own for one fault: neighbours ask each other.
    async fn forked(&self, frozen: &[Still<B>], name: &str) -> Result<Vec<B::Machine>, MachineError> {
        self.fleet.fork_all(self.context, frozen, (name, name), self.deadline).await
    }

    /// Puts forks in the place of the machines for the controller. One that cannot be told fails when it is used.
    fn lead_to(&mut self, forks: Option<&[B::Machine]>) {
        if let Some(controller) = self.controller.as_mut() {
            let _ = controller.connect(forks.unwrap_or(&self.fleet.machines));
        }
    }

    async fn end(&mut self, forks: Vec<B::Machine>) {
        let (_, trouble) = fleet::end(forks, false).await;
        if !trouble.is_empty() {
            self.remarks.push(format!("a fork with a planted fault would not end: {trouble}"));
        }
    }

    /// Plants it, and says who noticed. What was red before does not count.
    async fn noticed(&self, machines: &[B::Machine], plant: &Plant) -> Mutant {
        let Some(machine) = find_machine(machines, &plant.machine) else {
            return unknown(plant, "its machine is not there".to_owned());
        };
        let before = match self.red(machines, None).await {
            Ok(before) => before,
            Err(problem) => return unknown(plant, problem.text),
        };
        let limit = self.deadline.child("planting a fault", PLANTING);
        match machine.exec(&Exec(plant.words.clone()), plant.input.as_bytes(), &limit).await {
            Ok(output) if output.status == 0 => {}
            Ok(output) => return unknown(plant, format!("it could not be planted: {}", output.stderr.trim())),
            Err(error) => return unknown(plant, format!("it could not be planted: {error}")),
        }
        let held = async {
            if let Some(words) = &plant.hold {
                // It goes on until the fork ends; one that stops early leaves the fault as it was planted.
                let _ = machine.exec(&Exec(words.clone()), b"", self.deadline).await;
            }
            std::future::pending().await
        };
        let after = tokio::select! {
            after = self.red(machines, Some(&before)) => after,
            never = held => never,
        };
        match after {
            Ok(after) => told(plant, &after.red.difference(&before.red).cloned().collect::<Vec<_>>()),
            Err(problem) => told(plant, &[Noticed::Refused(problem.text)]),
        }
    }

    /// Asks all checks and oracles. `before` shortens the patience of the checks to what they needed then.
    async fn red(&self, machines: &[B::Machine], before: Option<&Asked>) -> Result<Asked, Problem> {
        let scenario = self.context.scenario();
        let patience = |check: &Check| {
            let Some(took) = before.and_then(|before| before.took.get(&check.name)) else { return check.within };
            PATIENCE.max(Duration::from_secs_f64(took * SLOWER)).min(check.within)
        };
        let tries = scenario.checks.iter().filter_map(|check| {
            let machine = find_machine(machines, &check.machine)?;
            let check = Check { within: patience(check), ..check.clone() };
            let directory = &self.context.loaded.directory;
            let place = Place { machine, machines, directory, trusted: self.trusted };
            Some(async move {
                let checked = checks::check(&check, &place, self.deadline).await;
                (check.name, matches!(checked.seen, Ok(Seen::Holds)), checked.seconds)
            })
        });
        let asked = join_all(tries).await;
        let took = asked.iter().map(|(name, _, seconds)| (name.clone(), *seconds)).collect();
        let failed = asked.iter().filter(|(_, holds, _)| !holds);
        let mut red: BTreeSet<Noticed> = failed.map(|(name, ..)| Noticed::Check(name.clone())).collect();
        for backup in &scenario.backups {
            let Some(machine) = find_machine(machines, &backup.machine) else { continue };
            match oracle::look(machine, &targets(backup), self.deadline).await {
                Ok(found) => red.extend(self.red_oracles(backup, machine, &found).await),
                // What could be looked at before, and now cannot, has been noticed.
                Err(problem) if before.is_some() => drop(red.insert(Noticed::Refused(first_line(&problem.text)))),
                Err(problem) => return Err(problem),
            }
        }
        Ok(Asked { red, took })
    }

    async fn red_oracles(&self, backup: &Backup, machine: &B::Machine, found: &Manifest) -> Vec<Noticed> {
        let made = self.restores.made.get(&backup.name).map(|made| &made.manifest);
        let manifest = backup.oracle.manifest.as_ref().map(|path| declared(&self.context.file(path)));
        let ephemeral = &self.context.scenario().ephemeral;
        let known = KnownData { manifest: manifest.as_ref(), made, last: None, ephemeral };
        let mut judged = oracle::judge(backup, &known, found);
        oracle::ask(backup, machine, self.deadline, &mut judged).await;
        let red = judged.oracles.into_iter().filter(|oracle| oracle.holds != Some(true));
        red.map(|oracle| match oracle.name.as_str() {
            oracle::ROUND_TRIP => Noticed::RoundTrip { backup: backup.name.clone() },
            _ => Noticed::Oracle { name: oracle.name, backup: backup.name.clone() },
        })
        .collect()
    }

    /// All faults that these machines allow.
    async fn plants(&self) -> Result<Vec<Plant>, Problem> {
        let mut plants = Vec::new();
        for machine in &self.fleet.machines {
            let name = machine.name();
            for backup in self.context.scenario().backups.iter().filter(|backup| backup.machine == name) {
                let found = oracle::look(machine, &targets(backup), self.deadline).await?;
                plants.extend(of_data(backup, &found));
            }
            let clean = self.captures.read(name, Moment::Clean).ok();
            let now = self.captures.read(name, Moment::Settled).ok();
            if let (Some(clean), Some(now)) = (&clean, &now) {
                plants.extend(of_ports(name, clean, now));
            }
            let known = |unit: &str| {
                clean.as_ref().is_some_and(|clean| clean.units.get(unit).is_some_and(|unit| unit.active == "active"))
            };
            let list = "systemctl list-units --plain --no-legend --no-pager --state=active --type=timer,service \
                        | awk '$4 == \"running\" || $4 == \"waiting\" {print $1}'";
            let units = machine.exec(&Exec::new(["sh", "-c", list]), b"", self.deadline).await?.text();
            plants.extend(of_units(name, &units, known));
        }
        Ok(plants)
    }
}

fn unknown(plant: &Plant, why: String) -> Mutant {
    let (fault, machine) = (plant.fault.clone(), plant.machine.clone());
    Mutant { fault, machine, killed_by: Vec::new(), unknown: Some(why), suggestion: None }
}

/// Who noticed a planted fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Noticed {
    /// A check of the scenario.
    Check(String),
    /// An oracle of a backup.
    Oracle { name: String, backup: String },
    /// The comparison with the machine that was backed up: of a live backup there is none.
    RoundTrip { backup: String },
    /// Whatever else refused it, in words.
    Refused(String),
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(name) => write!(f, "check `{name}`"),
            Self::Oracle { name, backup } => write!(f, "oracle `{name}` of `{backup}`"),
            Self::RoundTrip { backup } => write!(f, "oracle `{}` of `{backup}`", oracle::ROUND_TRIP),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// What only the round trip has noticed nobody will notice of the live backup: a suggestion goes with it.
fn told(plant: &Plant, noticed: &[Noticed]) -> Mutant {
    let only_here = noticed.iter().all(|by| matches!(by, Noticed::RoundTrip { .. }));
    let suggestion = only_here.then(|| plant.suggestion.clone());
    let killed_by = noticed.iter().map(ToString::to_string).collect();
    Mutant { fault: plant.fault.clone(), machine: plant.machine.clone(), killed_by, unknown: None, suggestion }
}

/// Checks and oracles of machines.
struct Asked {
    /// Names of all that are red.
    red: BTreeSet<Noticed>,
    /// Seconds that each check took.
    took: BTreeMap<String, f64>,
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
