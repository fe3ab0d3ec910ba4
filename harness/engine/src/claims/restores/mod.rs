//! Backups come back: each into a target that was found empty, from a copy of its repository that the machine can only
//! read, and its data is looked at. [`restore`] is the page to read first.

mod faults;
mod kinds;
mod loss;
mod mid_deploy;
mod mutate;
mod oracle;
mod redeploy;
mod remote;
mod repository;
mod round_trip;
mod session;
mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use redrill_machines::{Deadline, Exec, Machine, find_machine};
use redrill_model::{
    Backup, Code, Finding, Found, LastTime, LossReport, Mutant, Origin, Phase, Report, RepositoryReport, RestoreReport,
    Severity, is_below,
};
use redrill_state::Manifest;

use crate::context::Context;
use crate::deploy::controller::Controller;
use crate::problem::Problem;
pub(crate) use mid_deploy::Between;
pub(crate) use mutate::Mutation;
use oracle::{Judgement, KnownData};
pub(crate) use redeploy::{look_after, look_before};
pub(crate) use remote::Fetched;
use repository::{Contents, Source};
pub(crate) use round_trip::{Jobs, finding as loss_finding, losses};
use session::Session;
pub(crate) use verdict::restore_reports;
pub(super) use verdict::{restored_summary, verdict};

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
    pub(crate) no_losses: Option<Problem>,
    /// Planted faults.
    pub(crate) mutants: Vec<Mutant>,
    /// Made in this drill, by backup.
    pub(crate) made: BTreeMap<String, round_trip::MadeBackup>,
    /// Fetched from backup hosts, by backup.
    pub(crate) fetched: BTreeMap<String, Fetched>,
    /// All tables of a machine when its backup was made, and every path of its packages.
    lived: BTreeMap<String, round_trip::Lived>,
    /// The data before the deploy that follows the restore, by machine.
    pub(crate) before: BTreeMap<String, Manifest>,
}

impl Restores {
    /// Keeps what was backed up in this drill.
    pub(crate) fn keep(&mut self, done: round_trip::BackedUp) {
        (self.made, self.lived) = done.into_parts();
    }
}

/// One backup, restored or not.
#[derive(Debug, Clone)]
pub(crate) struct Restored {
    pub(crate) report: RestoreReport,
    /// All that is wrong with it.
    pub(crate) faults: Vec<Problem>,
}

/// A backup that was tried, and what came from its host if it lies on one.
pub(crate) struct Done {
    pub(crate) restored: Restored,
    fetched: Option<Fetched>,
}

impl Done {
    /// Whether what follows would say nothing: the data is not there.
    pub(crate) fn stops(&self) -> Option<&Problem> {
        self.restored.faults.iter().find(|fault| stops(fault))
    }
}

impl Restores {
    pub(crate) fn take(&mut self, done: Done) {
        if let Some(fetched) = done.fetched {
            self.fetched.insert(done.restored.report.backup.clone(), fetched);
        }
        self.restored.push(done.restored);
    }

    /// Puts what was restored while the deploy waited where it belongs; returns a note, and whether all of it is there.
    pub(crate) fn counted(&mut self, backups: &[Backup]) -> (String, bool) {
        self.restored.sort_by_key(|one| backups.iter().position(|backup| backup.name == one.report.backup));
        let good = self.restored.iter().filter(|one| !one.faults.iter().any(stops)).count();
        let seconds: f64 = self.restored.iter().flat_map(|one| &one.report.phases).map(|phase| phase.seconds).sum();
        let all = self.restored.len();
        (format!("{good} of {all} backups restored in {seconds:.1} s"), good == all)
    }
}

/// What a restore is given beside the backup.
#[derive(Clone, Copy, Default)]
struct Given<'a> {
    /// A repository in place of the backup's own.
    instead: Option<&'a Source>,
    /// What came from the backup's host.
    fetched: Option<&'a Fetched>,
    /// The last drill.
    last: Option<&'a Report>,
}

/// Whether the checks and the deploy that follow would say nothing: the data is not there.
fn stops(fault: &Problem) -> bool {
    let of_data = [
        Code::DataExtra,
        Code::DataDiffers,
        Code::Shrunk,
        Code::TooFew,
        Code::TooOld,
        Code::RpoMissed,
        Code::NoAge,
        Code::ClockInFuture,
    ];
    let of_asking = [
        Code::CanaryMissing,
        Code::CanaryOld,
        Code::QueryDiffers,
        Code::QueryUnknown,
        Code::NoManifest,
        Code::ErrorText,
    ];
    fault.severity() >= Severity::Unknown && !of_data.contains(&fault.code) && !of_asking.contains(&fault.code)
}

/// What restores go into, and what they know of this drill.
pub(crate) struct Restorer<'a, M> {
    pub(crate) context: &'a Context,
    pub(crate) controller: Option<&'a Controller>,
    pub(crate) machines: &'a [M],
    pub(crate) restores: &'a Restores,
    pub(crate) deadline: &'a Deadline,
}

impl<M: Machine> Restorer<'_, M> {
    /// One backup, from wherever it lies to the answers of its oracles.
    pub(crate) async fn restore(&self, backup: &Backup, last: Option<&Report>) -> Done {
        let Self { context, deadline, .. } = *self;
        context.tell(&format!("restoring `{}` into `{}`", backup.name, backup.machine));
        let remote = if let Origin::Remote(remote) = &backup.origin { Some(remote) } else { None };
        let fetched = match remote {
            Some(remote) => Some(remote::fetch(context, backup, remote, deadline).await),
            None => None,
        };
        let given = Given { instead: None, fetched: fetched.as_ref(), last };
        let restored = self.one(backup, given).await;
        for fault in &restored.faults {
            context.tell(&format!("{}: {}", backup.name, fault.text));
        }
        if let Some(remote) = remote
            && restored.faults.iter().any(|fault| [Code::Damaged, Code::Cut].contains(&fault.code))
        {
            remote::forget(context, remote);
        }
        Done { restored, fetched }
    }

    async fn one(&self, backup: &Backup, given: Given<'_>) -> Restored {
        let mut report = RestoreReport {
            backup: backup.name.clone(),
            machine: backup.machine.clone(),
            kind: backup.kind.name().to_owned(),
            rpo: backup.rpo.map(|rpo| rpo.as_secs_f64()),
            ..RestoreReport::default()
        };
        report.last = given.last.and_then(|last| last_time(last, &backup.name));
        let mut judged = Judgement::default();
        if let Err(fault) = self.through(backup, given, (&mut report, &mut judged)).await {
            judged.faults.push(fault);
        }
        report.oracles = judged.oracles;
        report.age = judged.age;
        Restored { report, faults: judged.faults }
    }

    /// From the repository to the answers. What was learnt before a fault stays in the report.
    async fn through(
        &self,
        backup: &Backup,
        given: Given<'_>,
        (report, judged): (&mut RestoreReport, &mut Judgement),
    ) -> Result<(), Problem> {
        let (context, machine) = (self.context, machine_of(self.machines, backup)?);
        let source = self.opened(backup, given, report).await?;
        let before = read(&source).await?;
        if given.fetched.is_none() {
            report.repository = RepositoryReport {
                place: source.path().display().to_string(),
                files: before.files,
                bytes: before.bytes,
                before: before.digest.clone(),
                ..RepositoryReport::default()
            };
        }
        if before.files == 0 {
            report.repository.after.clone_from(&report.repository.before);
            return Err(faults::empty_repository());
        }
        let scratch = context.path().join("restores").join(&backup.name);
        std::fs::create_dir_all(&scratch).map_err(|error| Problem::new(Code::RestoreUnknown, error.to_string()))?;
        let limit = self.deadline.child(&format!("the restore of `{}`", backup.name), backup.within);
        let mut session = Session {
            machine,
            backup,
            source: &source,
            contents: &before,
            passphrase: backup.passphrase.as_ref().map(|path| key_file(context, path)),
            scratch: &scratch,
            guard: &context.guard,
            seed: seed(),
            deadline: limit,
            phases: downloaded(given.fetched),
            said: String::new(),
        };
        let loaded = load(&mut session, self.controller, report).await;
        report.phases = std::mem::take(&mut session.phases);
        let said = std::mem::take(&mut session.said);
        judged.faults.extend(self.read_again(backup, given, (&source, &before), &mut report.repository).await);
        let found = loaded?;
        judged.faults.extend(spoke(&said, &backup.harmless));
        self.judge(backup, (machine, &found), given.last, judged).await;
        Ok(())
    }

    /// Asks the oracles about what was found; what was wrong before stands first.
    async fn judge(
        &self,
        backup: &Backup,
        (machine, found): (&M, &Manifest),
        last: Option<&Report>,
        judged: &mut Judgement,
    ) {
        let last = last.and_then(|last| found_last(last, &backup.name));
        let made = self.restores.made.get(&backup.name).map(|made| &made.manifest);
        let manifest = backup.oracle.manifest.as_ref().map(|path| declared(&self.context.file(path)));
        let ephemeral = &self.context.scenario().ephemeral;
        let known = KnownData { manifest: manifest.as_ref(), made, last, ephemeral };
        let early = std::mem::take(&mut judged.faults);
        *judged = oracle::judge(backup, &known, found);
        judged.faults.splice(0..0, early);
        oracle::ask(backup, machine, self.deadline, judged).await;
    }

    /// The repository as it can be read on this host.
    async fn opened(&self, backup: &Backup, given: Given<'_>, report: &mut RestoreReport) -> Result<Source, Problem> {
        if let Some(instead) = given.instead {
            return Ok(instead.clone());
        }
        let Some(fetched) = given.fetched else {
            // A local path is told even if nothing can be read there.
            if let Origin::Local(path) = &backup.origin {
                report.repository.place = self.context.file(path).display().to_string();
            }
            let missing = || Problem::new(Code::NotRun, "its job did not leave a backup");
            return source_of(self.context, self.restores, backup).ok_or_else(missing);
        };
        report.repository = fetched.report();
        report.phases = downloaded(given.fetched);
        if let (Err(fault), Origin::Remote(remote)) = (&fetched.source, &backup.origin) {
            if !report.repository.before.is_empty() {
                let again = remote::list_again(self.context, backup, remote, self.deadline).await;
                report.repository.after = again.map(|listing| listing.digest()).unwrap_or_default();
            }
            return Err(fault.clone());
        }
        fetched.source.clone()
    }

    /// Whether the repository is still what it was.
    async fn read_again(
        &self,
        backup: &Backup,
        given: Given<'_>,
        (source, before): (&Source, &Contents),
        report: &mut RepositoryReport,
    ) -> Option<Problem> {
        if let (Some(fetched), Origin::Remote(remote)) = (given.fetched, &backup.origin) {
            return match remote::list_again(self.context, backup, remote, self.deadline).await {
                Err(fault) => Some(fault),
                Ok(later) => {
                    report.after = later.digest();
                    fetched.changed(&later)
                }
            };
        }
        report.after = read(source).await.map(|contents| contents.digest).unwrap_or_default();
        let changed = "the repository is another one after the restore";
        (report.after != before.digest).then(|| Problem::new(Code::RepositoryChanged, changed))
    }
}

/// The machine of a backup.
fn machine_of<'a, M: Machine>(machines: &'a [M], backup: &Backup) -> Result<&'a M, Problem> {
    let missing = || Problem::new(Code::MachineLost, "its machine is not there");
    find_machine(machines, &backup.machine).ok_or_else(missing)
}

/// What a restore that ended well said of trouble.
fn spoke(said: &str, harmless: &[String]) -> Option<Problem> {
    let lines = faults::trouble(said, harmless);
    let count = lines.len();
    let text = format!("the restore ended well, and spoke of trouble {count} times: declare it `harmless`, or mend it");
    (count > 0).then(|| Problem::new(Code::ErrorText, text).with(&lines.join("\n")))
}

/// What came from another host is part of the time that a recovery takes.
fn downloaded(fetched: Option<&Fetched>) -> Vec<Phase> {
    fetched.map(|fetched| Phase { name: "download".to_owned(), seconds: fetched.seconds }).into_iter().collect()
}

/// Where the repository is read from.
fn source_of(context: &Context, restores: &Restores, backup: &Backup) -> Option<Source> {
    match &backup.origin {
        Origin::Local(path) => Some(Source::Tree(context.file(path))),
        Origin::Made { .. } => restores.made.get(&backup.name).map(|made| made.source.clone()),
        Origin::Remote(_) => restores.fetched.get(&backup.name)?.source.clone().ok(),
    }
}

/// Empty, filled, looked at. The services start when the data has been looked at: they may write.
async fn load<M: Machine>(
    session: &mut Session<'_, M>,
    controller: Option<&Controller>,
    report: &mut RestoreReport,
) -> Result<Manifest, Problem> {
    let (backup, machine) = (session.backup, session.machine);
    around(session, "stop", &backup.before).await?;
    let targets = targets(backup);
    let was = oracle::look(machine, &targets, &session.deadline).await?;
    let data = was.data(|subject| deployed(backup, subject));
    if !data.is_empty() {
        let text = format!("the target was not empty: {} things were there before the restore", data.len());
        return Err(Problem::new(Code::NotEmpty, text).with(&data.join("\n")));
    }
    let source = session.source;
    let began = Instant::now();
    let presented = repository::present(machine, source, backup, &session.deadline).await;
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
        return Err(Problem::new(Code::EmptyRestore, text).with(&session.said));
    }
    around(session, "start", &backup.after).await?;
    Ok(found)
}

/// The copy and the secrets go, however the restore ended.
async fn tidy<M: Machine>(session: &Session<'_, M>) -> Result<(), Problem> {
    // The restore's own limit may be what ended it.
    let limit = Deadline::root("tidying up", AROUND, 4.0);
    repository::withdraw(session.machine, (&session.backup.name, &session.backup.at), &limit).await?;
    session.forget_secrets().await
}

async fn around<M: Machine>(
    session: &mut Session<'_, M>,
    phase: &str,
    commands: &[Vec<String>],
) -> Result<(), Problem> {
    for words in commands {
        let began = Instant::now();
        let limit = session.deadline.child("a command around the restore", AROUND);
        let output = session.machine.exec(&Exec(words.clone()), b"", &limit).await;
        session.took(phase, began);
        let output = output?;
        if output.status != 0 {
            let text = format!("`{}` ended with exit status {}", words.join(" "), output.status);
            return Err(Problem::new(Code::AroundFailed, text).with(&output.stderr));
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
async fn read(source: &Source) -> Result<Contents, Problem> {
    let reading = source.clone();
    let read = tokio::task::spawn_blocking(move || reading.contents()).await;
    let read = read.map_err(|error| Problem::new(Code::RestoreUnknown, error.to_string()))?;
    read.map_err(|error| {
        let text = format!("the repository `{}` cannot be read: {error}", source.path().display());
        Problem::new(Code::Unreachable, text)
    })
}

/// Where a secret lies: `keys/...` is below the keys, wherever these are.
fn key_file(context: &Context, path: &Path) -> PathBuf {
    match (path.strip_prefix("keys"), context.loaded.keys()) {
        (Ok(inner), Some(keys)) => keys.join(inner),
        _ => context.file(path),
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
pub(crate) fn last_report(context: &Context) -> Option<Report> {
    let name = &context.loaded.name;
    let mut runs = context.home.run_dirs();
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

#[cfg(test)]
mod tests;
