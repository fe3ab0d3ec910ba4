//! The drill is drilled: faults are planted into forks of the restored machines, and into copies of the backups, and
//! the checks and oracles of the scenario must turn red. One that survives tells what they do not see.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use redrill_machines::{Backend, Deadline, Exec, Machine, MachineError};
use redrill_model::{Backup, Check, Moment, Mutant, Point, Severity, Target, is_below};
use redrill_state::Manifest;

use super::faults::Fault;
use super::oracle::{self, Known};
use super::repository::Source;
use super::{Restored, declared, targets};
use crate::capture;
use crate::checks::{self, Place, Seen};
use crate::drill::{Drill, Outcome, Progress};
use crate::prove::Trouble;

/// After a fault has been planted a check need not wait for a service to come up: it was up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Planting one.
const PLANTING: Duration = Duration::from_secs(60);
/// Services and timers of a machine that are planted faults' victims, of each kind.
const UNITS: usize = 4;

/// A fault to be planted into a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plant {
    /// In words.
    fault: String,
    machine: String,
    /// The command that plants it.
    words: Vec<String>,
    input: String,
    /// What would notice it.
    suggestion: String,
}

/// Plants every fault in a fork of its own.
pub(crate) async fn mutate<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let plants = match plants(drill, progress, deadline).await {
        Ok(plants) => plants,
        Err(fault) => {
            return Outcome::Unknown(Trouble { code: fault.code, text: fault.text, evidence: fault.evidence });
        }
    };
    let frozen = match freeze(drill, progress, "ok", deadline).await {
        Ok(frozen) => frozen,
        Err(error) => return crate::stages::unknown("MACHINE_LOST", &error),
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
        tell(drill, &mutant);
        mutants.push(mutant);
    }
    mutants.extend(of_backups(drill, progress, deadline, mutants.len()).await);
    let planted: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.unknown.is_none()).collect();
    let killed = planted.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
    let note = format!("{killed} of {} planted faults noticed", planted.len());
    progress.evidence.restores.mutants = mutants;
    Outcome::Done(note)
}

fn tell<B: Backend>(drill: &Drill<B>, mutant: &Mutant) {
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
        Ok(red) => red,
        Err(fault) => return unknown(plant, fault.text),
    };
    let limit = deadline.child("planting a fault", PLANTING);
    match machine.exec(&Exec(plant.words.clone()), plant.input.as_bytes(), &limit).await {
        Ok(output) if output.status == 0 => {}
        Ok(output) => return unknown(plant, format!("it could not be planted: {}", output.stderr.trim())),
        Err(error) => return unknown(plant, format!("it could not be planted: {error}")),
    }
    let killed_by = match red(drill, progress, machines, Some(PATIENCE), deadline).await {
        Ok(after) => after.difference(&before).cloned().collect(),
        Err(fault) => vec![fault.text],
    };
    told(plant, killed_by)
}

fn told(plant: &Plant, killed_by: Vec<String>) -> Mutant {
    let suggestion = killed_by.is_empty().then(|| plant.suggestion.clone());
    Mutant { fault: plant.fault.clone(), machine: plant.machine.clone(), killed_by, unknown: None, suggestion }
}

/// Names of all checks and oracles that are red. `patience` shortens that of the checks.
async fn red<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    machines: &[B::Machine],
    patience: Option<Duration>,
    deadline: &Deadline,
) -> Result<BTreeSet<String>, Fault> {
    let scenario = &drill.loaded.scenario;
    let tries = scenario.checks.iter().filter_map(|check| {
        let machine = machines.iter().find(|machine| machine.name() == check.machine)?;
        let check =
            Check { within: patience.map_or(check.within, |patience| patience.min(check.within)), ..check.clone() };
        Some(async move {
            let place = Place { machine, machines, directory: &drill.loaded.directory };
            let checked = checks::check(&check, &place, deadline).await;
            (!matches!(checked.seen, Ok(Seen::Holds))).then(|| format!("check `{}`", check.name))
        })
    });
    let mut red: BTreeSet<String> = join_all(tries).await.into_iter().flatten().collect();
    for backup in &scenario.backups {
        let Some(machine) = machines.iter().find(|machine| machine.name() == backup.machine) else { continue };
        let found = oracle::look(machine, &targets(backup), deadline).await?;
        red.extend(red_oracles(drill, progress, backup, machine, &found, deadline).await);
    }
    Ok(red)
}

async fn red_oracles<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    machine: &B::Machine,
    found: &Manifest,
    deadline: &Deadline,
) -> Vec<String> {
    let made = progress.evidence.restores.made.get(&backup.name).map(|made| &made.manifest);
    let manifest = backup.oracle.manifest.as_ref().map(|path| declared(&drill.loaded.directory.join(path)));
    let known = Known { manifest: manifest.as_ref(), made, last: None, ephemeral: &drill.loaded.scenario.ephemeral };
    let mut judged = oracle::judge(backup, &known, found);
    oracle::ask(backup, machine, deadline, &mut judged).await;
    let red = judged.oracles.into_iter().filter(|oracle| oracle.holds != Some(true));
    red.map(|oracle| format!("oracle `{}` of `{}`", oracle.name, backup.name)).collect()
}

/// All faults that these machines allow.
async fn plants<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    deadline: &Deadline,
) -> Result<Vec<Plant>, Fault> {
    let mut plants = Vec::new();
    for machine in &progress.machines {
        let name = machine.name();
        for backup in drill.loaded.scenario.backups.iter().filter(|backup| backup.machine == name) {
            let found = oracle::look(machine, &targets(backup), deadline).await?;
            plants.extend(of_data(backup, &found));
        }
        let clean = capture::path(&drill.run_dir.path().join("captures"), name, Moment::Clean);
        let clean = capture::read(&clean).ok();
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

/// Faults in what one backup brought.
fn of_data(backup: &Backup, found: &Manifest) -> Vec<Plant> {
    let mut plants = Vec::new();
    let plant = |fault: String, words: Vec<String>, input: String, suggestion: &str| Plant {
        fault,
        machine: backup.machine.clone(),
        words,
        input,
        suggestion: suggestion.replace("NAME", &backup.name),
    };
    for target in &backup.into {
        match target {
            Target::Path(root) => {
                let ordinary = |path: &&String| is_below(path, root) && !path.contains('\\');
                let files =
                    found.paths.iter().filter(|(path, leaf)| ordinary(path) && leaf.size.is_some_and(|size| size > 1));
                // The last of the largest: what a cut-off copy would lack.
                let Some((path, leaf)) = files.max_by_key(|(_, leaf)| leaf.size) else { continue };
                let half = (leaf.size.unwrap_or_default() / 2).to_string();
                let other = if leaf.owner == "root:root" { "65534:65534" } else { "root:root" };
                let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
                let (whole, owner) = (
                    "a `manifest` under the oracle of `NAME` compares every path, with size, content, owner and mode",
                    "a `manifest` under the oracle of `NAME`, or a `[[check.file]]` with `owner`, would tell",
                );
                plants.push(plant(
                    format!("file missing: {path}"),
                    words(&["rm", "-f", "--", path]),
                    String::new(),
                    whole,
                ));
                plants.push(plant(
                    format!("file truncated: {path}"),
                    words(&["truncate", "-s", &half, "--", path]),
                    String::new(),
                    whole,
                ));
                plants.push(plant(
                    format!("wrong owner: {path}"),
                    words(&["chown", other, "--", path]),
                    String::new(),
                    owner,
                ));
            }
            database => {
                let table = found
                    .tables
                    .iter()
                    .filter(|(name, _)| of_database(database, name))
                    .max_by_key(|(_, table)| table.rows);
                let Some((name, _)) = table.filter(|(_, table)| table.rows > 0) else { continue };
                let (words, input) = emptied(database, name);
                let suggestion = format!(
                    "`min-rows = {{ \"{name}\" = N }}` under the oracle of `NAME`, or its `manifest`, counts rows"
                );
                plants.push(plant(format!("table emptied: {name}"), words, input, &suggestion));
            }
        }
    }
    plants
}

fn of_database(target: &Target, table: &str) -> bool {
    let database = match target {
        Target::Postgres(name) | Target::Mariadb(name) => name.clone(),
        Target::Sqlite(path) | Target::Path(path) => {
            std::path::Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    table.strip_prefix(&database).is_some_and(|rest| rest.starts_with('.'))
}

/// The client, and the statement that empties the table.
fn emptied(target: &Target, name: &str) -> (Vec<String>, String) {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let parts: Vec<&str> = name.split('.').collect();
    let quoted = |parts: &[&str], quote: &str| {
        parts.iter().map(|part| format!("{quote}{part}{quote}")).collect::<Vec<_>>().join(".")
    };
    match target {
        Target::Postgres(database) => (
            words(&[
                "runuser",
                "-u",
                "postgres",
                "--",
                "psql",
                "-X",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                database,
                "-f",
                "-",
            ]),
            format!("truncate table {} cascade;", quoted(&parts[1..], "\"")),
        ),
        Target::Mariadb(database) => (
            words(&["mariadb", database]),
            format!("set foreign_key_checks = 0; delete from {};", quoted(&parts[1..], "`")),
        ),
        Target::Sqlite(path) | Target::Path(path) => (
            words(&[
                "sh",
                "-c",
                "if command -v sqlite3 >/dev/null; then exec sqlite3 -bail \"$1\"; fi; \
                 exec python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())' \"$1\"",
                "sh",
                path,
            ]),
            format!("delete from {};", quoted(&parts[1..], "\"")),
        ),
    }
}

/// What the deploy runs: its timers, and its services with the ports that they hold.
fn of_units(machine: &str, listed: &str, clean: impl Fn(&str) -> bool) -> Vec<Plant> {
    let ours = [
        "redrill",
        "user@",
        "getty@",
        "serial-getty@",
        "systemd-",
        "dbus",
        "ssh.service",
        "container-getty@",
        "console-getty",
    ];
    let fits = |unit: &&str| !clean(unit) && !ours.iter().any(|known| unit.starts_with(known));
    let of = |ending: &str, word: &str, suggestion: &str| {
        let units = listed.lines().map(str::trim).filter(|unit| unit.ends_with(ending)).filter(fits).take(UNITS);
        units
            .map(|unit| Plant {
                fault: format!("{word} stopped: {unit}"),
                machine: machine.to_owned(),
                words: ["systemctl", "stop", "--", unit].map(str::to_owned).to_vec(),
                input: String::new(),
                suggestion: suggestion.replace("UNIT", unit),
            })
            .collect::<Vec<_>>()
    };
    let mut plants = of(".timer", "timer", "a `[[check.unit]]` with `unit = \"UNIT\"` and `active = true`");
    plants.extend(of(
        ".service",
        "service",
        "a `[[check.unit]]` with `unit = \"UNIT\"` and `active = true`, or a check of what its users see",
    ));
    plants
}

/// Faults in copies of the backups: restored into machines that are deployed and empty, they must not pass.
async fn of_backups<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    deadline: &Deadline,
    first: usize,
) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    let unrestored = std::mem::take(&mut progress.unrestored);
    if unrestored.is_empty() {
        return mutants;
    }
    let mut number = first;
    for backup in &drill.loaded.scenario.backups {
        let Some(restored) =
            progress.evidence.restores.restored.iter().find(|one| one.report.backup == backup.name).cloned()
        else {
            continue;
        };
        if backup.restore_after.is_some() {
            let fault = format!("faults in the backup: {}", backup.name);
            let why = "it is restored while the deploy waits: no machine stands still there".to_owned();
            let (machine, unknown) = (backup.machine.clone(), Some(why));
            mutants.push(Mutant { fault, machine, killed_by: Vec::new(), unknown, suggestion: None });
            continue;
        }
        for (fault, backup, source) in bad_backups(drill, progress, backup, &restored) {
            drill.events.progress(&format!("planting: {fault}"));
            number += 1;
            let plant = Plant {
                fault,
                machine: backup.machine.clone(),
                words: Vec::new(),
                input: String::new(),
                suggestion: format!(
                    "`newest`, `rpo` or a `manifest` under `{}` tells an old or partial backup from the right one",
                    backup.name
                ),
            };
            let mutant = match source {
                Err(why) => unknown(&plant, why),
                Ok(source) => match forked(drill, &unrestored, number, deadline).await {
                    Err(error) => unknown(&plant, error.to_string()),
                    Ok(machines) => {
                        let real = std::mem::replace(&mut progress.machines, machines);
                        let given = super::Given { instead: Some(&source), ..super::Given::default() };
                        let again = super::one(drill, progress, &backup, given, deadline).await;
                        let forks = std::mem::replace(&mut progress.machines, real);
                        let _ = crate::stages::teardown(forks, false).await; // The sweep gets what stays.
                        let before: BTreeSet<&str> = restored.faults.iter().map(|fault| fault.code).collect();
                        let new = again
                            .faults
                            .iter()
                            .filter(|fault| fault.severity >= Severity::Unknown && !before.contains(fault.code));
                        told(&plant, new.map(|fault| format!("{} ({})", fault.code, fault.text)).collect())
                    }
                },
            };
            tell(drill, &mutant);
            mutants.push(mutant);
        }
    }
    mutants
}

type Bad = (String, Backup, Result<Source, String>);

/// An older point in place of the newest where there is one, and the repository with its largest file cut in half.
fn bad_backups<B: Backend>(drill: &Drill<B>, progress: &Progress<B>, backup: &Backup, restored: &Restored) -> Vec<Bad> {
    let Some(source) = super::source_of(drill, progress, backup) else { return Vec::new() };
    let mut all = Vec::new();
    let older = restored.report.point.as_ref().and_then(|point| point.of).is_some_and(|of| of > 1);
    if older && backup.point == Point::Latest {
        let other = Backup { point: Point::Random, ..backup.clone() };
        all.push((format!("an old point in place of the new: {}", backup.name), other, Ok(source.clone())));
    }
    let cut = drill.run_dir.path().join("restores").join(&backup.name).join("cut");
    let made = super::repository::copy_on_host(&source, &cut).and_then(|()| cut_largest(&cut));
    let cut = made.map(|()| Source::Tree(cut)).map_err(|error| format!("no copy could be made: {error}"));
    all.push((format!("a backup of which one file is cut in half: {}", backup.name), backup.clone(), cut));
    all
}

fn cut_largest(root: &std::path::Path) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use redrill_model::Scenario;
    use redrill_state::{Leaf, Table};

    use super::*;

    fn backup(into: &str) -> Backup {
        let text = format!(
            "claims = ['restores']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
             [[machine]]\nname = 'web'\nimage = 'debian-13'\n[[backup]]\nname = 'notes'\nkind = 'script'\n\
             restore = ['r']\nrepository = 'r'\ninto = [{into}]\n"
        );
        Scenario::parse(&text).expect("valid").backups.remove(0)
    }

    #[test]
    fn every_target_gets_the_faults_of_its_kind() {
        let mut found = Manifest::default();
        let leaf =
            |size| Leaf { kind: "file".into(), size: Some(size), owner: "notes:notes".into(), ..Leaf::default() };
        found.paths.insert("/d/small".into(), leaf(2));
        found.paths.insert("/d/large".into(), leaf(100));
        found.tables.insert("notes.documents".into(), Table { rows: 9, ..Table::default() });
        found.tables.insert("notes.app.log".into(), Table { rows: 3, ..Table::default() });
        let plants = of_data(&backup("'/d', 'postgres:notes'"), &found);
        let faults: Vec<&str> = plants.iter().map(|plant| plant.fault.as_str()).collect();
        assert_eq!(
            faults,
            [
                "file missing: /d/large",
                "file truncated: /d/large",
                "wrong owner: /d/large",
                "table emptied: notes.documents"
            ]
        );
        assert_eq!(plants[1].words, ["truncate", "-s", "50", "--", "/d/large"]);
        assert_eq!(plants[2].words, ["chown", "root:root", "--", "/d/large"]);
        assert_eq!(plants[3].input, "truncate table \"documents\" cascade;");
        assert!(plants[3].suggestion.contains("notes.documents"));
        assert_eq!(of_data(&backup("'/d'"), &Manifest::default()), [], "nothing is there to be harmed");
        assert_eq!(emptied(&Target::Mariadb("m".into()), "m.t").1, "set foreign_key_checks = 0; delete from `t`;");
    }

    #[test]
    fn only_what_the_deploy_runs_is_stopped() {
        let listed = "notes.service\nbackup.timer\napt-daily.timer\nsystemd-networkd.service\nuser@0.service\n";
        let faults: Vec<String> =
            of_units("web", listed, |unit| unit == "apt-daily.timer").into_iter().map(|p| p.fault).collect();
        assert_eq!(faults, ["timer stopped: backup.timer", "service stopped: notes.service"]);
    }
}
