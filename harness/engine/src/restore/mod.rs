//! Backups come back: each into a target that was found empty, from a copy of its repository that the machine can only
//! read, and its data is looked at. [`restore`] is the page to read first.

mod faults;
mod kinds;
mod loss;
mod made;
mod mutate;
mod oracle;
mod redeploy;
mod repository;
mod session;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use redrill_machines::{Backend, Deadline, Exec, Machine, MachineError};
use redrill_model::{
    Backup, Finding, Found, LastTime, LossReport, Mutant, Origin, Report, RepositoryReport, RestoreReport, Severity,
    Stage, is_below,
};
use redrill_state::Manifest;

use crate::drill::{Drill, Outcome, Progress};
pub(crate) use faults::Fault;
pub(crate) use made::{back_up, finding as loss_finding, losses, renew};
pub(crate) use mutate::mutate;
use oracle::{Judged, Known};
pub(crate) use redeploy::{after_redeploy, before_redeploy};
use repository::{Contents, Source};
use session::Session;

/// Commands before and after a restore: services that stop and start.
const AROUND: Duration = Duration::from_secs(120);

/// What restores leave for the verdicts.
#[derive(Debug, Default)]
pub(crate) struct Restores {
    /// In the order of the scenario; shorter if the drill ended early.
    pub(crate) restored: Vec<Restored>,
    /// What a deploy after the restore did to the data.
    pub(crate) fights: Vec<Finding>,
    /// Machines whose data was looked at before and after that deploy.
    pub(crate) redeployed: usize,
    /// What a round trip lost.
    pub(crate) losses: Vec<LossReport>,
    /// Why a loss report could not be made.
    pub(crate) no_losses: Option<Fault>,
    /// Planted faults.
    pub(crate) mutants: Vec<Mutant>,
    /// How long each stage took that lies between a clean machine and green checks.
    pub(crate) took: Vec<(Stage, f64)>,
    /// Made in this drill, by backup.
    made: BTreeMap<String, made::Made>,
    /// All tables of a machine when its backup was made, and every path of its packages.
    lived: BTreeMap<String, made::Lived>,
    /// The data before the deploy that follows the restore, by machine.
    before: BTreeMap<String, Manifest>,
}

/// One backup, restored or not.
#[derive(Debug, Clone)]
pub(crate) struct Restored {
    pub(crate) report: RestoreReport,
    /// All that is wrong with it.
    pub(crate) faults: Vec<Fault>,
}

/// Restores every backup in turn. One that fails keeps no other from being tried: each gets its own sentence.
pub(crate) async fn restore<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let last = last_report(drill);
    if drill.mutate
        && let Err(error) = keep_unrestored(drill, progress, deadline).await
    {
        return crate::stages::unknown("MACHINE_LOST", &error);
    }
    for backup in &drill.loaded.scenario.backups {
        drill.events.progress(&format!("restoring `{}` into `{}`", backup.name, backup.machine));
        let restored = one(drill, progress, backup, None, last.as_ref(), deadline).await;
        for fault in &restored.faults {
            drill.events.progress(&format!("{}: {}", backup.name, fault.text));
        }
        progress.evidence.restores.restored.push(restored);
    }
    let restored = &progress.evidence.restores.restored;
    let good = restored.iter().filter(|one| !one.faults.iter().any(stops)).count();
    let seconds: f64 = restored.iter().flat_map(|one| &one.report.phases).map(|phase| phase.seconds).sum();
    let note = format!("{good} of {} backups restored in {seconds:.1} s", restored.len());
    if good == restored.len() { Outcome::Done(note) } else { Outcome::Failed(note) }
}

/// Whether the checks and the deploy that follow would say nothing: the data is not there.
fn stops(fault: &Fault) -> bool {
    let of_data =
        ["DATA_EXTRA", "DATA_DIFFERS", "SHRUNK", "TOO_FEW", "TOO_OLD", "RPO_MISSED", "NO_AGE", "CLOCK_IN_FUTURE"];
    let of_asking = ["CANARY_MISSING", "CANARY_OLD", "QUERY_DIFFERS", "QUERY_UNKNOWN", "NO_MANIFEST", "ERROR_TEXT"];
    fault.severity >= Severity::Unknown && !of_data.contains(&fault.code) && !of_asking.contains(&fault.code)
}

async fn one<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    instead: Option<&Source>,
    last: Option<&Report>,
    deadline: &Deadline,
) -> Restored {
    let mut report = RestoreReport {
        backup: backup.name.clone(),
        machine: backup.machine.clone(),
        kind: backup.kind.name().to_owned(),
        rpo: backup.rpo.map(|rpo| rpo.as_secs_f64()),
        ..RestoreReport::default()
    };
    report.last = last.and_then(|last| last_time(last, &backup.name));
    let mut judged = Judged::default();
    if let Err(fault) = through(drill, progress, backup, (instead, last), deadline, (&mut report, &mut judged)).await {
        judged.faults.push(fault);
    }
    report.oracles = judged.oracles;
    report.age = judged.age;
    Restored { report, faults: judged.faults }
}

/// From the repository to the answers. What was learnt before a fault stays in the report.
async fn through<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    (instead, last): (Option<&Source>, Option<&Report>),
    deadline: &Deadline,
    (report, judged): (&mut RestoreReport, &mut Judged),
) -> Result<(), Fault> {
    let machine = progress.machines.iter().find(|machine| machine.name() == backup.machine);
    let machine = machine.ok_or_else(|| Fault::unknown("MACHINE_LOST", "its machine is not there"))?;
    let restores = &progress.evidence.restores;
    let source = instead.cloned().or_else(|| source_of(drill, progress, backup));
    let source = source.ok_or_else(|| Fault::unknown("NOT_RUN", "its job did not leave a backup"))?;
    report.repository.place = source.path().display().to_string();
    let before = read(&source).await?;
    report.repository = RepositoryReport {
        place: report.repository.place.clone(),
        files: before.files,
        bytes: before.bytes,
        before: before.digest.clone(),
        after: String::new(),
    };
    if before.files == 0 {
        report.repository.after.clone_from(&before.digest);
        return Err(Fault::fails("EMPTY_REPOSITORY", "the repository is empty: there is not one file in it"));
    }
    let scratch = drill.run_dir.path().join("restores").join(&backup.name);
    std::fs::create_dir_all(&scratch).map_err(|error| Fault::unknown("RESTORE_UNKNOWN", error.to_string()))?;
    let limit = deadline.child(&format!("the restore of `{}`", backup.name), backup.within);
    let mut session = Session {
        machine,
        backup,
        source: &source,
        contents: &before,
        passphrase: backup.passphrase.as_ref().map(|path| passphrase(drill, path)),
        scratch: &scratch,
        guard: &drill.guard,
        seed: seed(),
        deadline: limit,
        phases: Vec::new(),
        said: String::new(),
    };
    let loaded = load(&mut session, progress.controller.as_ref(), report).await;
    report.phases = std::mem::take(&mut session.phases);
    let after = read(&source).await.map(|contents| contents.digest).unwrap_or_default();
    let changed = after != before.digest;
    report.repository.after = after;
    if changed {
        judged.faults.push(Fault::fails("REPOSITORY_CHANGED", "the repository is another one after the restore"));
    }
    let found = loaded?;
    let speaks = faults::trouble(&session.said, &backup.harmless);
    if !speaks.is_empty() {
        let text = format!(
            "the restore ended well, and spoke of trouble {} times: declare it `harmless`, or mend it",
            speaks.len()
        );
        judged.faults.push(Fault::unknown("ERROR_TEXT", text).with(&speaks.join("\n")));
    }
    let last = last.and_then(|last| found_last(last, &backup.name));
    let made = restores.made.get(&backup.name).map(|made| &made.manifest);
    let manifest = backup.oracle.manifest.as_ref().map(|path| declared(&drill.loaded.directory.join(path)));
    let known = Known { manifest: manifest.as_ref(), made, last, ephemeral: &drill.loaded.scenario.ephemeral };
    let early = std::mem::take(&mut judged.faults);
    *judged = oracle::judge(backup, &known, &found);
    judged.faults.splice(0..0, early);
    oracle::ask(backup, machine, deadline, judged).await;
    Ok(())
}

/// Where the repository is read from.
fn source_of<B: Backend>(drill: &Drill<B>, progress: &Progress<B>, backup: &Backup) -> Option<Source> {
    match &backup.origin {
        Origin::Local(path) => Some(Source::Tree(drill.loaded.directory.join(path))),
        Origin::Made { .. } => progress.evidence.restores.made.get(&backup.name).map(|made| made.source.clone()),
    }
}

/// Freezes the machines as they are before a restore, for bad backups to be restored into; forks of them go on.
async fn keep_unrestored<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    deadline: &Deadline,
) -> Result<(), MachineError> {
    progress.unrestored = mutate::freeze(drill, progress, "pre", deadline).await?;
    let addresses: Vec<_> = progress.machines.iter().map(Machine::address).collect();
    match progress.controller.as_mut().map(|controller| controller.connect(&addresses)) {
        Some(Err(error)) => Err(MachineError::Program { program: "controller".to_owned(), said: error.to_string() }),
        _ => Ok(()),
    }
}

/// Empty, filled, looked at. The services start when the data has been looked at: they may write.
async fn load<M: Machine>(
    session: &mut Session<'_, M>,
    controller: Option<&crate::controller::Controller>,
    report: &mut RestoreReport,
) -> Result<Manifest, Fault> {
    let (backup, machine) = (session.backup, session.machine);
    around(session, "stop", &backup.before).await?;
    let targets = targets(backup);
    let was = oracle::look(machine, &targets, &session.deadline).await?;
    let data = was.data(|subject| deployed(backup, subject));
    if !data.is_empty() {
        let text = format!("the target was not empty: {} things were there before the restore", data.len());
        return Err(Fault::unknown("NOT_EMPTY", text).with(&data.join("\n")));
    }
    let (source, at) = (session.source, backup.at.as_str());
    let began = Instant::now();
    let presented = repository::present(machine, source, (&backup.name, at, backup.view), &session.deadline).await;
    session.took("fetch", began);
    let loaded = match presented {
        Ok(()) => kinds::restore(session, controller).await,
        Err(error) => Err(error.into()),
    };
    let tidied = tidy(session).await;
    let point = loaded?;
    tidied?;
    report.point = Some(point);
    let began = Instant::now();
    let found = oracle::look(machine, &targets, &session.deadline).await?;
    session.took("look", began);
    report.found = oracle::found(&found);
    if found.data(|subject| deployed(backup, subject)).is_empty() {
        let text = "the restore ended well and restored nothing: the targets are as empty as before";
        return Err(Fault::unknown("EMPTY_RESTORE", text).with(&session.said));
    }
    around(session, "start", &backup.after).await?;
    Ok(found)
}

/// The copy and the secrets go, however the restore ended.
async fn tidy<M: Machine>(session: &Session<'_, M>) -> Result<(), Fault> {
    // The restore's own limit may be what ended it.
    let limit = Deadline::root("tidying up", AROUND, 4.0);
    repository::withdraw(session.machine, (&session.backup.name, &session.backup.at), &limit).await?;
    session.forget_secrets().await
}

async fn around<M: Machine>(session: &mut Session<'_, M>, phase: &str, commands: &[Vec<String>]) -> Result<(), Fault> {
    for words in commands {
        let began = Instant::now();
        let limit = session.deadline.child("a command around the restore", AROUND);
        let output = session.machine.exec(&Exec(words.clone()), b"", &limit).await;
        session.took(phase, began);
        let output = output?;
        if output.status != 0 {
            let text = format!("`{}` ended with exit status {}", words.join(" "), output.status);
            return Err(Fault::fails("AROUND_FAILED", text).with(&output.stderr));
        }
    }
    Ok(())
}

fn targets(backup: &Backup) -> Vec<String> {
    backup.into.iter().map(ToString::to_string).collect()
}

/// Whether the scenario says that the deploy makes this in the target.
fn deployed(backup: &Backup, subject: &str) -> bool {
    backup.deployed.iter().any(|known| known == subject || (known.starts_with('/') && is_below(subject, known)))
}

/// Reads a repository on a thread of its own: it may be large.
async fn read(source: &Source) -> Result<Contents, Fault> {
    let reading = source.clone();
    let read = tokio::task::spawn_blocking(move || reading.contents()).await;
    let read = read.map_err(|error| Fault::unknown("RESTORE_UNKNOWN", error.to_string()))?;
    read.map_err(|error| {
        let text = format!("the repository `{}` cannot be read: {error}", source.path().display());
        Fault::unknown("UNREACHABLE", text)
    })
}

/// Where the passphrase lies: `keys/...` is below the keys, wherever these are.
fn passphrase<B: Backend>(drill: &Drill<B>, path: &Path) -> PathBuf {
    match (path.strip_prefix("keys"), drill.loaded.keys()) {
        (Ok(inner), Some(keys)) => keys.join(inner),
        _ => drill.loaded.directory.join(path),
    }
}

fn declared(path: &Path) -> Result<Manifest, String> {
    let text = std::fs::read(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| format!("`{}`: {error}", path.display()))?;
    if manifest.schema != redrill_state::MANIFEST_SCHEMA {
        return Err(format!(
            "`{}` has schema {}, this is schema {}",
            path.display(),
            manifest.schema,
            redrill_state::MANIFEST_SCHEMA
        ));
    }
    match manifest.gaps.first() {
        Some(gap) => Err(format!("`{}` was written with a gap: {gap}", path.display())),
        None => Ok(manifest),
    }
}

/// The report of the last drill of this scenario that restored something.
fn last_report<B: Backend>(drill: &Drill<B>) -> Option<Report> {
    let name = &drill.loaded.name;
    let mut runs = drill.home.run_dirs();
    runs.retain(|run| run.file_name().is_some_and(|run| run.to_string_lossy().starts_with(&format!("{name}-"))));
    runs.iter().rev().find_map(|run| {
        let report: Report = serde_json::from_slice(&std::fs::read(run.join("report.json")).ok()?).ok()?;
        (report.scenario == *name && !report.restores.is_empty()).then_some(report)
    })
}

fn found_last<'a>(last: &'a Report, backup: &str) -> Option<&'a Found> {
    let restored = last.restores.iter().find(|restored| restored.backup == backup)?;
    restored.point.is_some().then_some(&restored.found)
}

/// What is told of the last drill beside this one.
fn last_time(last: &Report, backup: &str) -> Option<LastTime> {
    let restored = last.restores.iter().find(|restored| restored.backup == backup && restored.point.is_some())?;
    Some(LastTime {
        started: last.started.clone(),
        age: restored.age,
        recovery: restored.recovery.as_ref().map(|recovery| recovery.seconds),
        rows: restored.found.rows.values().sum(),
        bytes: restored.found.bytes,
    })
}

fn seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs()
}

/// Reboots every machine, up to the first answer. A backend without kernels of their own starts them anew from what
/// they have on disk.
pub(crate) async fn reboot<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let limit = deadline.child("a reboot", drill.loaded.scenario.limits.boot);
    if drill.backend.capabilities().own_kernel {
        let reboots = progress.machines.iter().map(|machine| machine.reboot(&limit));
        let failed = join_all(reboots).await.into_iter().find_map(Result::err);
        return match failed {
            Some(error) => crate::stages::unknown("NOT_REBOOTED", &error),
            None => Outcome::Done(format!("{} machines rebooted", progress.machines.len())),
        };
    }
    progress
        .remarks
        .push("the machines were started anew from their disks; their kernel, which is the host's, was not".to_owned());
    let mut again = Vec::new();
    for machine in std::mem::take(&mut progress.machines) {
        let name = machine.name().to_owned();
        let started = async {
            let frozen = drill.backend.freeze(machine, &limit).await?;
            let dir = crate::stages::machine_dir(drill, &name)?;
            drill.backend.fork(&frozen, crate::stages::MAIN, &dir, &limit).await
        };
        match started.await {
            Ok(machine) => again.push(machine),
            Err(error) => {
                progress.machines = again;
                return crate::stages::unknown("NOT_REBOOTED", &error);
            }
        }
    }
    progress.machines = again;
    let count = progress.machines.len();
    crate::stages::connect(progress, format!("{count} machines started anew from their disks"))
}

#[cfg(test)]
mod tests {
    use redrill_machines::process::Guard;
    use redrill_machines::{Fake, FakeMachine, Needs, Output, PROBE};
    use redrill_model::Scenario;
    use redrill_state::Leaf;

    use super::*;

    const SCENARIO: &str = "claims = ['restores']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\n\
        script = 'd'\n[[machine]]\nname = 'web'\nimage = 'debian-13'\n[[backup]]\nname = 'notes'\nkind = 'script'\n\
        restore = ['restore-notes']\nrepository = 'r'\ninto = ['/d']\ndeployed = ['/d/config']\n\
        before = [['systemctl', 'stop', 'notes']]\nafter = [['systemctl', 'start', 'notes']]\n";

    fn manifest(files: &[&str]) -> Output {
        let mut manifest = Manifest { schema: redrill_state::MANIFEST_SCHEMA, ..Manifest::default() };
        for file in files {
            let leaf = Leaf { kind: "file".into(), size: Some(1), ..Leaf::default() };
            manifest.paths.insert((*file).to_owned(), leaf);
        }
        Output { stdout: serde_json::to_vec(&manifest).expect("plain data"), ..Output::default() }
    }

    /// A machine whose target holds these files before and after, and whose script ends so. Everything else goes well.
    async fn machine(before: &[&str], after: &[&str], script: Output) -> (FakeMachine, Fake) {
        let answers = BTreeMap::from([
            (format!("{PROBE} manifest /d"), vec![manifest(before), manifest(after)]),
            ("restore-notes".to_owned(), vec![script]),
        ]);
        let fake = Fake { answers, otherwise: Some(Output::default()), ..Fake::default() };
        let scenario = Scenario::parse(SCENARIO).expect("valid");
        let deadline = Deadline::root("test", Duration::from_secs(60), 1.0);
        let booted = fake.boot(&scenario.machines[0], &Needs::default(), Path::new("/"), &deadline).await;
        (booted.expect("boots"), fake)
    }

    /// What comes of a restore, and what was run in the machine.
    async fn restored(
        before: &[&str],
        after: &[&str],
        script: Output,
    ) -> (Result<Manifest, Fault>, Vec<String>, String) {
        let (machine, fake) = machine(before, after, script).await;
        let scenario = Scenario::parse(SCENARIO).expect("valid");
        let name = format!("redrill-restore-{}-{:?}", std::process::id(), std::thread::current().id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("directory");
        std::fs::write(directory.join("a"), "x").expect("file");
        let source = Source::Tree(directory.clone());
        let contents = source.contents().expect("readable");
        let mut session = Session {
            machine: &machine,
            backup: &scenario.backups[0],
            source: &source,
            contents: &contents,
            passphrase: None,
            scratch: &directory,
            guard: &Guard::new("/nonexistent".into(), directory.clone()),
            seed: 0,
            deadline: Deadline::root("test", Duration::from_secs(60), 1.0),
            phases: Vec::new(),
            said: String::new(),
        };
        let mut report = RestoreReport::default();
        let loaded = load(&mut session, None, &mut report).await;
        let said = session.said.clone();
        std::fs::remove_dir_all(&directory).expect("cleaned up");
        let log = fake.log.lock().expect("no panic").clone();
        (loaded, log, said)
    }

    fn position(log: &[String], part: &str) -> Option<usize> {
        log.iter().position(|line| line.contains(part))
    }

    #[tokio::test]
    async fn a_restore_stops_presents_fills_looks_and_starts_in_this_order() {
        let (loaded, log, _) = restored(&["/d/config"], &["/d/config", "/d/a"], Output::default()).await;
        assert_eq!(loaded.map(|manifest| manifest.paths.len()), Ok(2));
        let steps = ["stop notes", "manifest", "remount,bind,ro", "restore-notes", "umount", "start notes"];
        let places: Vec<_> = steps.iter().map(|step| position(&log, step)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {log:#?}");
    }

    #[tokio::test]
    async fn a_target_in_use_is_never_restored_into() {
        let (loaded, log, _) = restored(&["/d/config", "/d/old"], &["/d/old"], Output::default()).await;
        let fault = loaded.expect_err("refused");
        assert_eq!((fault.code, fault.severity), ("NOT_EMPTY", Severity::Unknown));
        assert_eq!(fault.evidence, ["/d/old"], "what the deploy makes there is no sign of use");
        assert_eq!((position(&log, "restore-notes"), position(&log, "mount")), (None, None), "{log:?}");
    }

    #[tokio::test]
    async fn exit_status_0_with_nothing_restored_is_no_proof() {
        let (loaded, log, _) = restored(&[], &["/d/config"], Output::default()).await;
        assert_eq!(loaded.map_err(|fault| (fault.code, fault.severity)), Err(("EMPTY_RESTORE", Severity::Unknown)));
        assert_eq!(position(&log, "start notes"), None, "a service is not started over nothing");
    }

    #[tokio::test]
    async fn a_failed_restore_leaves_neither_copy_nor_secret() {
        let script = Output { status: 1, stderr: "no such table".into(), ..Output::default() };
        let (loaded, log, said) = restored(&[], &["/d/a"], script).await;
        assert_eq!(loaded.map_err(|fault| fault.code), Err("RESTORE_FAILED"));
        assert!(position(&log, "umount") > position(&log, "restore-notes"), "{log:?}");
        assert!(log.last().is_some_and(|line| line.contains("/run/redrill-restore")), "{log:?}");
        assert_eq!(said, "no such table");
    }

    #[tokio::test]
    async fn data_that_cannot_be_read_is_not_taken_for_none() {
        let odd = Output { stdout: b"{".to_vec(), ..Output::default() };
        let fake = Fake { otherwise: Some(odd), ..Fake::default() };
        let scenario = Scenario::parse(SCENARIO).expect("valid");
        let deadline = Deadline::root("test", Duration::from_secs(60), 1.0);
        let booted =
            fake.boot(&scenario.machines[0], &Needs::default(), Path::new("/"), &deadline).await.expect("boots");
        let looked = oracle::look(&booted, &["/d".to_owned()], &deadline).await;
        assert_eq!(looked.map_err(|fault| (fault.code, fault.severity)), Err(("NOT_LOOKED_AT", Severity::Unknown)));
    }
}
