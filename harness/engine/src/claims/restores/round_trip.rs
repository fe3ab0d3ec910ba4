//! The round trip: the service is filled, the repo's own job backs it up, and clean machines take the old ones' place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, Output, find_machine};
use redrill_model::{Backup, Code, Moment, Origin, RepoCommand, Site, Target};
use redrill_state::Manifest;

use super::loss::{self, Lives};
use super::oracle;
use super::repository::Source;
use super::{Restores, machine_of};
use crate::captures::{Captures, TakeError};
use crate::context::Context;
use crate::deploy::controller::Controller;
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
pub(crate) struct MadeBackup {
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

/// What seeds and backup jobs run with.
#[derive(Clone, Copy)]
pub(crate) struct Jobs<'a> {
    pub(crate) context: &'a Context,
    pub(crate) controller: Option<&'a Controller>,
    pub(crate) deadline: &'a Deadline,
}

/// Backups that were made, and what is remembered of their machines.
#[derive(Debug, Default)]
pub(crate) struct BackedUp {
    /// By backup.
    made: BTreeMap<String, MadeBackup>,
    /// By machine.
    lived: BTreeMap<String, Lived>,
}

impl BackedUp {
    /// A note.
    pub(crate) fn note(&self) -> String {
        let size = |made: &MadeBackup| std::fs::metadata(made.source.path()).map(|metadata| metadata.len());
        let bytes: u64 = self.made.values().filter_map(|made| size(made).ok()).sum();
        format!("{} backups made, {} KiB", self.made.len(), bytes / 1024)
    }

    pub(super) fn into_parts(self) -> (BTreeMap<String, MadeBackup>, BTreeMap<String, Lived>) {
        (self.made, self.lived)
    }
}

impl Jobs<'_> {
    /// Seeds first, then the jobs: a backup of one service may hold what another's seed left.
    pub(crate) async fn run_all<M: Machine>(&self, machines: &[M]) -> Result<BackedUp, Problem> {
        let all = &self.context.scenario().backups;
        let backups: Vec<&Backup> = all.iter().filter(|backup| matches!(backup.origin, Origin::Made { .. })).collect();
        let mut done = BackedUp::default();
        for backup in &backups {
            if let Origin::Made { seed: Some(seed), .. } = &backup.origin {
                self.context.tell(&format!("filling the service of `{}`", backup.name));
                let machine = machine_of(machines, backup).map_err(named(&backup.name))?;
                self.run(machine, seed, (Code::SeedFailed, "the seed")).await.map_err(named(&backup.name))?;
            }
        }
        for backup in &backups {
            self.context.tell(&format!("running the backup job of `{}`", backup.name));
            let machine = machine_of(machines, backup).map_err(named(&backup.name))?;
            let made = self.made(machine, backup).await.map_err(named(&backup.name))?;
            done.made.insert(backup.name.clone(), made);
        }
        for machine in machines {
            let lived = remember(machine, self.deadline).await.map_err(named(machine.name()))?;
            done.lived.insert(machine.name().to_owned(), lived);
        }
        Ok(done)
    }

    /// Runs the job; what was backed up is looked at.
    async fn made<M: Machine>(&self, machine: &M, backup: &Backup) -> Result<MadeBackup, Problem> {
        let source = self.back_up(machine, backup, "repository.tar").await?;
        let limit = self.deadline.child("looking at what was backed up", JOB);
        let manifest = oracle::look(machine, &super::targets(backup), &limit).await?;
        if manifest.data(|subject| super::deployed(backup, subject)).is_empty() {
            let text = "there was nothing to back up: the seed left the targets empty";
            return Err(Problem::new(Code::NothingSeeded, text));
        }
        Ok(MadeBackup { source, manifest })
    }

    /// Runs the job of a backup; what it leaves goes to the host, with its owners, into `file` of the backup's directory.
    pub(super) async fn back_up<M: Machine>(
        &self,
        machine: &M,
        backup: &Backup,
        file: &str,
    ) -> Result<Source, Problem> {
        let Origin::Made { job, leaves, .. } = &backup.origin else {
            return Err(Problem::new(Code::NotRun, "it has no job"));
        };
        self.run(machine, job, (Code::JobFailed, "the backup job")).await?;
        let limit = self.deadline.child("fetching the backup", JOB);
        let dir = self.context.path().join("restores").join(&backup.name);
        std::fs::create_dir_all(&dir).map_err(|error| Problem::new(Code::RestoreUnknown, error.to_string()))?;
        fetch(machine, leaves, &dir.join(file), &limit).await
    }

    async fn run<M: Machine>(&self, machine: &M, run: &RepoCommand, (code, what): (Code, &str)) -> Result<(), Problem> {
        let limit = self.deadline.child(what, JOB);
        let output: Output = match run.on {
            Site::Machine => {
                let input = match &run.input {
                    None => Vec::new(),
                    Some(path) => std::fs::read(self.context.file(path)).map_err(|error| {
                        let text = format!("{what} was not started: cannot read `{}`: {error}", path.display());
                        Problem::new(Code::NotRun, text)
                    })?,
                };
                machine.exec(&Exec(run.words.clone()), &input, &limit).await?
            }
            Site::Controller => {
                let none = || Problem::new(Code::NotRun, "there is no controller");
                let ran = limit.limit(self.controller.ok_or_else(none)?.run(&run.words)).await;
                ran.map_err(|limit| Problem::new(Code::TimedOut, limit.to_string()))??
            }
        };
        match output.status {
            0 => Ok(()),
            status => Err(Problem::new(code, format!("{what} ended with exit status {status}")).with(&output.stderr)),
        }
    }
}

/// A problem of this backup, or of this machine.
fn named(name: &str) -> impl FnOnce(Problem) -> Problem {
    let name = name.to_owned();
    move |problem| Problem { text: format!("backup `{name}`: {}", problem.text), ..problem }
}

/// What a job left at `leaves`, as an archive.
async fn fetch<M: Machine>(machine: &M, leaves: &str, file: &Path, limit: &Deadline) -> Result<Source, Problem> {
    let line = "if [ -d \"$1\" ]; then exec tar -c --numeric-owner -C \"$1\" .; fi; \
                exec tar -c --numeric-owner -C \"$(dirname \"$1\")\" \"$(basename \"$1\")\"";
    let output = machine.exec_to_file(&Exec::new(["sh", "-c", line, "sh", leaves]), b"", file, limit).await?;
    if output.status != 0 {
        let text = format!("the job ended well, and `{leaves}` cannot be read");
        return Err(Problem::new(Code::NoBackupMade, text).with(&output.stderr));
    }
    let source = Source::Archive(file.to_owned());
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

/// Makes the loss report of every machine whose backup was made here; the first that cannot be made says why.
pub(crate) async fn losses<M: Machine>(
    (context, captures): (&Context, &Captures),
    machines: &[M],
    restores: &mut Restores,
    deadline: &Deadline,
) {
    let made = context.scenario().backups.iter().filter(|backup| matches!(backup.origin, Origin::Made { .. }));
    let names: BTreeSet<&str> = made.map(|backup| backup.machine.as_str()).collect();
    for name in names {
        let missing = || Problem::new(Code::NoLossReport, format!("`{name}` was not captured in both of its lives"));
        let report = match (find_machine(machines, name), restores.lived.get(name)) {
            (Some(machine), Some(lived)) => of_machine((context, captures), machine, lived, deadline).await,
            _ => Err(missing()),
        };
        match report {
            Ok(report) => restores.losses.push(report),
            Err(problem) => drop(restores.no_losses.get_or_insert(problem)),
        }
    }
}

async fn of_machine<M: Machine>(
    (context, captures): (&Context, &Captures),
    machine: &M,
    lived: &Lived,
    deadline: &Deadline,
) -> Result<redrill_model::LossReport, Problem> {
    let name = machine.name();
    let limit = deadline.child("questions about the machine", ASKING);
    let tables = if lived.databases.is_empty() {
        Manifest::default()
    } else {
        oracle::look(machine, &lived.databases, &limit).await?
    };
    let accounts = lines(machine, ACCOUNTS, &limit).await?;
    let none = |error: TakeError| Problem::new(Code::NoLossReport, error.to_string());
    let read = |moment| captures.read(name, moment).map_err(none);
    let (clean, deployed) = (read(Moment::Clean).ok(), read(Moment::Deployed)?);
    let (backed_up, restored) = (read(Moment::BackedUp)?, read(Moment::Restored)?);
    let backups: Vec<&Backup> = context.scenario().backups.iter().filter(|backup| backup.machine == name).collect();
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
        ephemeral: &context.scenario().ephemeral,
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

/// What a loss report means for the claim.
pub(crate) fn finding(report: &redrill_model::LossReport) -> Option<redrill_model::Finding> {
    loss::finding(report)
}
