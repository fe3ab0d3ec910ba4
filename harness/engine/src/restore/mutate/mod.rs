//! The drill is drilled: faults are planted into forks of the restored machines, and into copies of the backups, and
//! the checks and oracles of the scenario must turn red. One that survives tells what they do not see.

mod backups;
mod plants;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use redrill_machines::{Backend, Deadline, Exec, Machine, MachineError};
use redrill_model::{Backup, Check, Code, Moment, Mutant};
use redrill_state::Manifest;

use super::oracle::{self, Known};
use super::{declared, targets};
use crate::acme::Authority;
use crate::capture;
use crate::checks::{self, Place, Seen};
use crate::drill::{Drill, Outcome, Progress};
use crate::problem::Problem;
use plants::{Plant, of_data, of_ports, of_units};

/// After a fault has been planted a check need not wait for a service to come up: it was up. One that takes longer when
/// all is well may take [`SLOWER`] times as long.
const PATIENCE: Duration = Duration::from_secs(4);
const SLOWER: f64 = 3.0;
/// Planting one.
const PLANTING: Duration = Duration::from_secs(60);
/// Plants every fault in a fork of its own.
pub(crate) async fn mutate<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let plants = match plants(drill, progress, deadline).await {
        Ok(plants) => plants,
        Err(problem) => return Outcome::Unknown(problem),
    };
    let frozen = match freeze(drill, progress, "ok", deadline).await {
        Ok(frozen) => frozen,
        Err(error) => return crate::stages::unknown(Code::MachineLost, &error),
    };
    let mut mutants: Vec<Mutant> = Vec::new();
    for (number, plant) in plants.into_iter().enumerate() {
        drill.events.progress(&format!("planting: {} on {}", plant.fault, plant.machine));
        let mutant = match forked(drill, &frozen, number, deadline).await {
            Ok(machines) => {
                let mutant = noticed(drill, progress, &machines, &plant, deadline).await;
                let (_, trouble) = crate::stages::teardown(machines, false).await;
                if !trouble.is_empty() {
                    progress.remarks.push(format!("a fork with a planted fault would not end: {trouble}"));
                }
                mutant
            }
            Err(error) => unknown(&plant, error.to_string()),
        };
        tell(drill, Some(&mutant));
        mutants.push(mutant);
    }
    mutants.extend(backups::of_backups(drill, progress, &frozen, mutants.len(), deadline).await);
    let planted: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.unknown.is_none()).collect();
    let killed = planted.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
    let note = format!("{killed} of {} planted faults noticed", planted.len());
    progress.evidence.restores.mutants = mutants;
    Outcome::Done(note)
}

fn tell<B: Backend>(drill: &Drill<B>, mutant: Option<&Mutant>) {
    let Some(mutant) = mutant else { return };
    let said = match (&mutant.unknown, mutant.killed_by.first()) {
        (Some(why), _) => format!("unknown: {why}"),
        (None, Some(by)) => format!("noticed by {by}"),
        (None, None) => "not noticed".to_owned(),
    };
    drill.events.progress(&said);
}

fn unknown(plant: &Plant, why: String) -> Mutant {
    let (fault, machine) = (plant.fault.clone(), plant.machine.clone());
    Mutant { fault, machine, killed_by: Vec::new(), unknown: Some(why), suggestion: None }
}

/// Freezes every machine; a fork of each goes on in its place, with its files in `within`.
pub(super) async fn freeze<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    within: &str,
    deadline: &Deadline,
) -> Result<Vec<(String, B::Frozen)>, MachineError> {
    let mut frozen = Vec::new();
    for machine in std::mem::take(&mut progress.machines) {
        let name = machine.name().to_owned();
        frozen.push((name, drill.backend.freeze(machine, deadline).await?));
    }
    progress.machines = fork(drill, &frozen, within, crate::stages::MAIN, deadline).await?;
    Ok(frozen)
}

async fn fork<B: Backend>(
    drill: &Drill<B>,
    frozen: &[(String, B::Frozen)],
    within: &str,
    group: &str,
    deadline: &Deadline,
) -> Result<Vec<B::Machine>, MachineError> {
    let limit = deadline.child("a fork", drill.loaded.scenario.limits.boot);
    let forks = frozen.iter().map(|(name, frozen)| {
        let limit = &limit;
        async move {
            let dir = crate::stages::machine_dir(drill, &format!("{name}/{within}"))?;
            drill.backend.fork(frozen, group, &dir, limit).await
        }
    });
    let (mut machines, mut failed) = (Vec::new(), None);
    for forked in join_all(forks).await {
        match forked {
            Ok(machine) => machines.push(machine),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        None => Ok(machines),
        Some(error) => {
            let _ = crate::stages::teardown(machines, false).await; // The fork's error is the one to tell.
            Err(error)
        }
    }
}

/// A set of machines of their own for one fault: neighbours ask each other.
async fn forked<B: Backend>(
    drill: &Drill<B>,
    frozen: &[(String, B::Frozen)],
    number: usize,
    deadline: &Deadline,
) -> Result<Vec<B::Machine>, MachineError> {
    let name = format!("m{number}");
    fork(drill, frozen, &name, &name, deadline).await
}

/// Puts forks in the place of the machines, for the controller too; gives back those that were there.
fn enter<B: Backend>(progress: &mut Progress<B>, forks: Vec<B::Machine>) -> Vec<B::Machine> {
    let real = std::mem::replace(&mut progress.machines, forks);
    reach(progress);
    real
}

/// Ends the forks, and puts the machines back.
async fn leave<B: Backend>(progress: &mut Progress<B>, real: Vec<B::Machine>) {
    let forks = std::mem::replace(&mut progress.machines, real);
    reach(progress);
    let (_, trouble) = crate::stages::teardown(forks, false).await;
    if !trouble.is_empty() {
        progress.remarks.push(format!("a fork with a planted fault would not end: {trouble}"));
    }
}

/// A controller that cannot be told fails by itself when it is used.
fn reach<B: Backend>(progress: &mut Progress<B>) {
    let _ = crate::stages::connect(progress, String::new());
}

/// Plants it, and says who noticed. What was red before does not count.
async fn noticed<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    machines: &[B::Machine],
    plant: &Plant,
    deadline: &Deadline,
) -> Mutant {
    let Some(machine) = machines.iter().find(|machine| machine.name() == plant.machine) else {
        return unknown(plant, "its machine is not there".to_owned());
    };
    let before = match red(drill, progress, machines, None, deadline).await {
        Ok(before) => before,
        Err(fault) => return unknown(plant, fault.text),
    };
    let limit = deadline.child("planting a fault", PLANTING);
    match machine.exec(&Exec(plant.words.clone()), plant.input.as_bytes(), &limit).await {
        Ok(output) if output.status == 0 => {}
        Ok(output) => return unknown(plant, format!("it could not be planted: {}", output.stderr.trim())),
        Err(error) => return unknown(plant, format!("it could not be planted: {error}")),
    }
    let held = async {
        if let Some(words) = &plant.hold {
            // It goes on until the fork ends; one that stops early leaves the fault as it was planted.
            let _ = machine.exec(&Exec(words.clone()), b"", deadline).await;
        }
        std::future::pending().await
    };
    let after = tokio::select! {
        after = red(drill, progress, machines, Some(&before), deadline) => after,
        never = held => never,
    };
    match after {
        Ok(after) => told(plant, &after.red.difference(&before.red).cloned().collect::<Vec<_>>()),
        Err(problem) => told(plant, &[Noticed::Refused(problem.text)]),
    }
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
struct Look {
    /// Names of all that are red.
    red: BTreeSet<Noticed>,
    /// Seconds that each check took.
    took: BTreeMap<String, f64>,
}

/// Asks all of them. `before` shortens the patience of the checks to what they needed then.
async fn red<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    machines: &[B::Machine],
    before: Option<&Look>,
    deadline: &Deadline,
) -> Result<Look, Problem> {
    let scenario = &drill.loaded.scenario;
    let patience = |check: &Check| {
        let Some(took) = before.and_then(|before| before.took.get(&check.name)) else { return check.within };
        PATIENCE.max(Duration::from_secs_f64(took * SLOWER)).min(check.within)
    };
    let tries = scenario.checks.iter().filter_map(|check| {
        let machine = machines.iter().find(|machine| machine.name() == check.machine)?;
        let check = Check { within: patience(check), ..check.clone() };
        Some(async move {
            let trusted = progress.authority.as_ref().map(Authority::root);
            let place = Place { machine, machines, directory: &drill.loaded.directory, trusted };
            let checked = checks::check(&check, &place, deadline).await;
            (check.name, matches!(checked.seen, Ok(Seen::Holds)), checked.seconds)
        })
    });
    let asked = join_all(tries).await;
    let took = asked.iter().map(|(name, _, seconds)| (name.clone(), *seconds)).collect();
    let failed = asked.iter().filter(|(_, holds, _)| !holds);
    let mut red: BTreeSet<Noticed> = failed.map(|(name, ..)| Noticed::Check(name.clone())).collect();
    for backup in &scenario.backups {
        let Some(machine) = machines.iter().find(|machine| machine.name() == backup.machine) else { continue };
        match oracle::look(machine, &targets(backup), deadline).await {
            Ok(found) => red.extend(red_oracles(drill, progress, backup, machine, &found, deadline).await),
            // What could be looked at before, and now cannot, has been noticed.
            Err(fault) if before.is_some() => drop(red.insert(Noticed::Refused(first_line(&fault.text)))),
            Err(fault) => return Err(fault),
        }
    }
    Ok(Look { red, took })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

async fn red_oracles<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    machine: &B::Machine,
    found: &Manifest,
    deadline: &Deadline,
) -> Vec<Noticed> {
    let made = progress.evidence.restores.made.get(&backup.name).map(|made| &made.manifest);
    let manifest = backup.oracle.manifest.as_ref().map(|path| declared(&drill.loaded.directory.join(path)));
    let known = Known { manifest: manifest.as_ref(), made, last: None, ephemeral: &drill.loaded.scenario.ephemeral };
    let mut judged = oracle::judge(backup, &known, found);
    oracle::ask(backup, machine, deadline, &mut judged).await;
    let red = judged.oracles.into_iter().filter(|oracle| oracle.holds != Some(true));
    red.map(|oracle| match oracle.name.as_str() {
        oracle::ROUND_TRIP => Noticed::RoundTrip { backup: backup.name.clone() },
        _ => Noticed::Oracle { name: oracle.name, backup: backup.name.clone() },
    })
    .collect()
}

/// All faults that these machines allow.
async fn plants<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    deadline: &Deadline,
) -> Result<Vec<Plant>, Problem> {
    let mut plants = Vec::new();
    for machine in &progress.machines {
        let name = machine.name();
        for backup in drill.loaded.scenario.backups.iter().filter(|backup| backup.machine == name) {
            let found = oracle::look(machine, &targets(backup), deadline).await?;
            plants.extend(of_data(backup, &found));
        }
        let captures = drill.run_dir.path().join("captures");
        let clean = capture::read(&capture::path(&captures, name, Moment::Clean)).ok();
        let now = capture::read(&capture::path(&captures, name, Moment::Settled)).ok();
        if let (Some(clean), Some(now)) = (&clean, &now) {
            plants.extend(of_ports(name, clean, now));
        }
        let known = |unit: &str| {
            clean.as_ref().is_some_and(|clean| clean.units.get(unit).is_some_and(|unit| unit.active == "active"))
        };
        let list = "systemctl list-units --plain --no-legend --no-pager --state=active --type=timer,service \
                    | awk '$4 == \"running\" || $4 == \"waiting\" {print $1}'";
        let units = machine.exec(&Exec::new(["sh", "-c", list]), b"", deadline).await?.text();
        plants.extend(of_units(name, &units, known));
    }
    Ok(plants)
}
