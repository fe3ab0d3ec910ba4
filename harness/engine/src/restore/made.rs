//! The round trip: the service is filled, the repo's own job backs it up, and clean machines take the old ones' place.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use redrill_machines::{Backend, Deadline, Exec, Machine, Output};
use redrill_model::{Backup, Code, Moment, Origin, Run, Site, Target};
use redrill_state::{Capture, Manifest};

use super::loss::{self, Lives};
use super::oracle;
use super::repository::Source;
use crate::capture;
use crate::drill::{Drill, Outcome, Progress};
use crate::problem::Problem;

/// A seed or a job that takes longer on the smallest machine has hung.
const JOB: Duration = Duration::from_secs(15 * 60);
/// Questions about a machine.
const ASKING: Duration = Duration::from_secs(120);
/// Databases of a machine: nobody declares all of them.
const DATABASES: &str = "command -v psql >/dev/null && runuser -u postgres -- psql -X -A -t -c \
    \"select 'postgres:' || datname from pg_database where not datistemplate and datname <> 'postgres'\" 2>/dev/null; \
    command -v mariadb >/dev/null && mariadb --batch --skip-column-names -e \
    \"select concat('mariadb:', schema_name) from information_schema.schemata where schema_name not in \
    ('information_schema', 'performance_schema', 'mysql', 'sys')\" 2>/dev/null; true";

/// Accounts of database servers: no dump of a database has them.
const ACCOUNTS: &str = "command -v psql >/dev/null && runuser -u postgres -- psql -X -A -t -c \
    \"select 'PostgreSQL role ' || rolname || case when rolcanlogin then ', may log in' else '' end \
    || case when rolsuper then ', superuser' else '' end from pg_roles where rolname !~ '^pg_'\" 2>/dev/null; \
    command -v mariadb >/dev/null && mariadb --batch --skip-column-names -e \
    \"select concat('MariaDB account ', user, '@', host) from mysql.user\" 2>/dev/null; true";

/// A backup that was made in this drill.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) source: Source,
    /// What was in the targets when the job had run.
    pub(super) manifest: Manifest,
}

/// What is remembered of a machine whose backup was made.
#[derive(Debug, Default)]
pub(super) struct Lived {
    databases: Vec<String>,
    accounts: BTreeSet<String>,
    tables: Manifest,
    packaged: BTreeSet<String>,
}

/// Seeds first, then the jobs: a backup of one service may hold what another's seed left.
pub(crate) async fn back_up<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    match all(drill, progress, deadline).await {
        Ok(note) => Outcome::Done(note),
        Err((backup, problem)) => {
            let text = format!("backup `{backup}`: {}", problem.text);
            Outcome::Unknown(Problem { text, ..problem })
        }
    }
}

type Named<T> = Result<T, (String, Problem)>;

async fn all<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Named<String> {
    let made: Vec<&Backup> =
        drill.loaded.scenario.backups.iter().filter(|backup| matches!(backup.origin, Origin::Made { .. })).collect();
    let named = |backup: &Backup| {
        let name = backup.name.clone();
        move |fault| (name, fault)
    };
    for backup in &made {
        if let Origin::Made { seed: Some(seed), .. } = &backup.origin {
            drill.events.progress(&format!("filling the service of `{}`", backup.name));
            run(drill, progress, backup, seed, (Code::SeedFailed, "the seed"), deadline)
                .await
                .map_err(named(backup))?;
        }
    }
    let mut bytes = 0;
    for backup in &made {
        let Origin::Made { job, leaves, .. } = &backup.origin else { continue };
        drill.events.progress(&format!("running the backup job of `{}`", backup.name));
        run(drill, progress, backup, job, (Code::JobFailed, "the backup job"), deadline)
            .await
            .map_err(named(backup))?;
        let made = collect(drill, progress, backup, leaves, deadline).await.map_err(named(backup))?;
        bytes += std::fs::metadata(made.source.path()).map(|metadata| metadata.len()).unwrap_or_default();
        progress.evidence.restores.made.insert(backup.name.clone(), made);
    }
    for machine in &progress.machines {
        let lived = remember(machine, deadline).await.map_err(|fault| (machine.name().to_owned(), fault))?;
        progress.evidence.restores.lived.insert(machine.name().to_owned(), lived);
    }
    Ok(format!("{} backups made, {} KiB", made.len(), bytes / 1024))
}

async fn run<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    run: &Run,
    (code, what): (Code, &str),
    deadline: &Deadline,
) -> Result<(), Problem> {
    let limit = deadline.child(what, JOB);
    let output: Output = match run.on {
        Site::Machine => {
            let input = match &run.input {
                None => Vec::new(),
                Some(path) => std::fs::read(drill.loaded.directory.join(path)).map_err(|error| {
                    Problem::new(
                        Code::NotRun,
                        format!("{what} was not started: cannot read `{}`: {error}", path.display()),
                    )
                })?,
            };
            machine(progress, backup)?.exec(&Exec(run.words.clone()), &input, &limit).await?
        }
        Site::Controller => {
            let controller =
                progress.controller.as_ref().ok_or_else(|| Problem::new(Code::NotRun, "there is no controller"))?;
            limit
                .limit(controller.run(&run.words))
                .await
                .map_err(|limit| Problem::new(Code::TimedOut, limit.to_string()))??
        }
    };
    match output.status {
        0 => Ok(()),
        status => Err(Problem::new(code, format!("{what} ended with exit status {status}")).with(&output.stderr)),
    }
}

fn machine<'a, B: Backend>(progress: &'a Progress<B>, backup: &Backup) -> Result<&'a B::Machine, Problem> {
    let machine = progress.machines.iter().find(|machine| machine.name() == backup.machine);
    machine.ok_or_else(|| Problem::new(Code::MachineLost, "its machine is not there"))
}

/// What the job left goes to the host, with its owners; what was backed up is looked at.
async fn collect<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    leaves: &str,
    deadline: &Deadline,
) -> Result<Made, Problem> {
    let machine = machine(progress, backup)?;
    let limit = deadline.child("fetching the backup", JOB);
    let source = fetch(drill, machine, backup, (leaves, "repository.tar"), &limit).await?;
    let manifest = oracle::look(machine, &super::targets(backup), &limit).await?;
    if manifest.data(|subject| super::deployed(backup, subject)).is_empty() {
        let text = "there was nothing to back up: the seed left the targets empty";
        return Err(Problem::new(Code::NothingSeeded, text));
    }
    Ok(Made { source, manifest })
}

/// Runs the job of a backup once more; what it leaves goes into `file` of the backup's directory.
pub(super) async fn job<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    backup: &Backup,
    file: &str,
    deadline: &Deadline,
) -> Result<Source, Problem> {
    let Origin::Made { job, leaves, .. } = &backup.origin else {
        return Err(Problem::new(Code::NotRun, "it has no job"));
    };
    run(drill, progress, backup, job, (Code::JobFailed, "the backup job"), deadline).await?;
    let limit = deadline.child("fetching the backup", JOB);
    fetch(drill, machine(progress, backup)?, backup, (leaves, file), &limit).await
}

async fn fetch<B: Backend>(
    drill: &Drill<B>,
    machine: &B::Machine,
    backup: &Backup,
    (leaves, file): (&str, &str),
    limit: &Deadline,
) -> Result<Source, Problem> {
    let dir = drill.run_dir.path().join("restores").join(&backup.name);
    std::fs::create_dir_all(&dir).map_err(|error| Problem::new(Code::RestoreUnknown, error.to_string()))?;
    let file = dir.join(file);
    let line = "if [ -d \"$1\" ]; then exec tar -c --numeric-owner -C \"$1\" .; fi; \
                exec tar -c --numeric-owner -C \"$(dirname \"$1\")\" \"$(basename \"$1\")\"";
    let output = machine.exec_to_file(&Exec::new(["sh", "-c", line, "sh", leaves]), b"", &file, limit).await?;
    if output.status != 0 {
        let text = format!("the job ended well, and `{leaves}` cannot be read");
        return Err(Problem::new(Code::NoBackupMade, text).with(&output.stderr));
    }
    let source = Source::Archive(file);
    if super::read(&source).await?.files == 0 {
        return Err(Problem::new(Code::NoBackupMade, format!("the job ended well, and left nothing at `{leaves}`")));
    }
    Ok(source)
}

async fn remember<M: Machine>(machine: &M, deadline: &Deadline) -> Result<Lived, Problem> {
    let limit = deadline.child("questions about the machine", ASKING);
    let databases: Vec<String> = lines(machine, DATABASES, &limit).await?.into_iter().collect();
    let accounts = lines(machine, ACCOUNTS, &limit).await?;
    let tables =
        if databases.is_empty() { Manifest::default() } else { oracle::look(machine, &databases, &limit).await? };
    let lists = machine.exec(&Exec::new(["sh", "-c", "cat /var/lib/dpkg/info/*.list"]), b"", &limit).await?;
    let packaged = lists.text().lines().map(str::to_owned).collect();
    Ok(Lived { databases, accounts, tables, packaged })
}

async fn lines<M: Machine>(machine: &M, shell: &str, deadline: &Deadline) -> Result<BTreeSet<String>, Problem> {
    let output = machine.exec(&Exec::new(["sh", "-c", shell]), b"", deadline).await?;
    Ok(output.text().lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Ends the machines, and makes clean ones in their place.
pub(crate) async fn renew<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let (_, trouble) = crate::stages::teardown(std::mem::take(&mut progress.machines), false).await;
    if !trouble.is_empty() {
        return Outcome::Unknown(Problem::new(Code::MachineLost, trouble));
    }
    // What was frozen at S1 is the old machines' past.
    progress.frozen.clear();
    crate::stages::boot(drill, progress, "new", deadline).await
}

/// Makes the loss report of every machine whose backup was made here.
pub(crate) async fn losses<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) {
    let scenario = &drill.loaded.scenario;
    let names: Vec<String> = scenario
        .backups
        .iter()
        .filter(|backup| matches!(backup.origin, Origin::Made { .. }))
        .map(|backup| backup.machine.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    for name in names {
        match of_machine(drill, progress, &name, deadline).await {
            Ok(report) => progress.evidence.restores.losses.push(report),
            Err(fault) => drop(progress.evidence.restores.no_losses.get_or_insert(fault)),
        }
    }
}

async fn of_machine<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    name: &str,
    deadline: &Deadline,
) -> Result<redrill_model::LossReport, Problem> {
    let missing = || Problem::new(Code::NoLossReport, format!("`{name}` was not captured in both of its lives"));
    let lived = progress.evidence.restores.lived.get(name).ok_or_else(missing)?;
    let machine = progress.machines.iter().find(|machine| machine.name() == name).ok_or_else(missing)?;
    let limit = deadline.child("questions about the machine", ASKING);
    let tables = if lived.databases.is_empty() {
        Manifest::default()
    } else {
        oracle::look(machine, &lived.databases, &limit).await?
    };
    let accounts = lines(machine, ACCOUNTS, &limit).await?;
    let dir = drill.run_dir.path().join("captures");
    let read = |moment| read(&dir, name, moment);
    let (clean, deployed) = (read(Moment::Clean).ok(), read(Moment::Deployed)?);
    let (backed_up, restored) = (read(Moment::BackedUp)?, read(Moment::Restored)?);
    let backups: Vec<&Backup> = drill.loaded.scenario.backups.iter().filter(|backup| backup.machine == name).collect();
    let into: Vec<&Target> = backups.iter().flat_map(|backup| &backup.into).collect();
    let targets: Vec<String> = into.iter().filter_map(|target| path_of(target)).collect();
    let apart: Vec<String> = backups.iter().flat_map(|backup| apart(backup)).collect();
    let database = |target: &Target| match target {
        Target::Postgres(name) | Target::Mariadb(name) => Some(name.clone()),
        _ => None,
    };
    let databases: Vec<String> = into.iter().filter_map(|target| database(target)).collect();
    Ok(loss::report(&Lives {
        machine: name,
        clean: clean.as_ref(),
        deployed: &deployed,
        backed_up: &backed_up,
        restored: &restored,
        packaged: &lived.packaged,
        targets: &targets,
        apart: &apart,
        ephemeral: &drill.loaded.scenario.ephemeral,
        tables: (&lived.tables, &tables),
        accounts: (&lived.accounts, &accounts),
        databases: &databases,
    }))
}

fn path_of(target: &Target) -> Option<String> {
    match target {
        Target::Path(path) => Some(path.clone()),
        _ => None,
    }
}

/// Where the repository lies, and files of databases: tables are compared by manifests, a server's files by none.
fn apart(backup: &Backup) -> Vec<String> {
    let mut apart = vec![backup.at.clone()];
    if let Origin::Made { leaves, .. } = &backup.origin {
        apart.push(leaves.clone());
    }
    for target in &backup.into {
        if let (Target::Path(path), true) = (target, backup.is_base_backup()) {
            apart.push(path.clone());
        }
        if let Target::Sqlite(path) = target {
            apart.extend(["", "-wal", "-shm", "-journal"].map(|ending| format!("{path}{ending}")));
        }
    }
    apart
}

fn read(dir: &Path, name: &str, moment: Moment) -> Result<Capture, Problem> {
    let path = capture::path(dir, name, moment);
    capture::read(&path).map_err(|error| Problem::new(Code::NoLossReport, error.to_string()))
}

/// What a loss report means for the claim.
pub(crate) fn finding(report: &redrill_model::LossReport) -> Option<redrill_model::Finding> {
    loss::finding(report)
}
