//! The `[[backup]]` and `[[ephemeral]]` tables as their author writes them, and what makes them trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;

use super::super::checks::{machine, said, text};
use super::super::{Check, MachineSpec};
use super::remote::{self, AccessFile};
use super::{Backup, BackupKind, Canary, Ephemeral, Oracle, Origin, Point, Query, Run, Site, Target, View, is_inner};
use crate::duration::Limit;
use crate::input::InputError;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::scenario) struct BackupFile {
    name: Spanned<String>,
    machine: Option<Spanned<String>>,
    kind: Spanned<Kind>,
    repository: Option<Spanned<PathBuf>>,
    access: Option<Spanned<AccessFile>>,
    at: Option<Spanned<String>>,
    #[serde(default)]
    view: View,
    restore: Option<Spanned<Vec<String>>>,
    on: Option<Spanned<Site>>,
    passphrase: Option<Spanned<PathBuf>>,
    into: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    deployed: Vec<Spanned<String>>,
    point: Option<Spanned<String>>,
    restore_after: Option<Spanned<String>>,
    #[serde(default)]
    before: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    after: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    arguments: Vec<String>,
    owner: Option<Spanned<String>>,
    #[serde(default)]
    harmless: Vec<Spanned<String>>,
    within: Option<Limit>,
    rpo: Option<Limit>,
    rto: Option<Limit>,
    real_size_mib: Option<u64>,
    seed: Option<Spanned<RunFile>>,
    job: Option<Spanned<JobFile>>,
    oracle: Option<Spanned<OracleFile>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Script,
    Restic,
    Borg,
    Directory,
    Tar,
    Postgres,
    Mariadb,
    Sqlite,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RunFile {
    run: Spanned<Vec<String>>,
    #[serde(default)]
    on: Site,
    input: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct JobFile {
    run: Spanned<Vec<String>>,
    #[serde(default)]
    on: Site,
    leaves: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct OracleFile {
    manifest: Option<Spanned<PathBuf>>,
    #[serde(default)]
    min_rows: BTreeMap<Spanned<String>, Spanned<u64>>,
    min_bytes: Option<Spanned<u64>>,
    min_files: Option<Spanned<u64>>,
    newest: Option<Limit>,
    canary: Option<Spanned<CanaryFile>>,
    #[serde(default)]
    query: Vec<Spanned<QueryFile>>,
    #[serde(default)]
    checks: Vec<Spanned<String>>,
    max_shrink: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CanaryFile {
    file: Option<Spanned<String>>,
    run: Option<Spanned<Vec<String>>>,
    newest: Limit,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct QueryFile {
    on: Option<Spanned<String>>,
    sql: Spanned<String>,
    equals: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::scenario) struct EphemeralFile {
    path: Spanned<String>,
    reason: Spanned<String>,
}

/// A restore that takes longer than this on the smallest machine has hung.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// The backups in the order of the file.
pub(in crate::scenario) fn backups(
    files: Vec<Spanned<BackupFile>>,
    machines: &[MachineSpec],
    checks: &[Check],
) -> Result<Vec<Backup>, InputError> {
    let mut names = BTreeSet::new();
    let mut backups = Vec::new();
    for file in files {
        let span = file.span();
        let backup = backup(file.into_inner(), span.clone(), machines, checks)?;
        if !names.insert(backup.name.clone()) {
            let message = format!("two backups are named `{}`", backup.name);
            return Err(InputError::new(span, message, "a name of its own"));
        }
        backups.push(backup);
    }
    Ok(backups)
}

/// What the author declared to be lost with a machine.
pub(in crate::scenario) fn ephemeral(files: Vec<EphemeralFile>) -> Result<Vec<Ephemeral>, InputError> {
    let one = |file: EphemeralFile| Ok(Ephemeral { path: inner(&file.path)?, reason: said(&file.reason, "reason")? });
    files.into_iter().map(one).collect()
}

fn backup(
    file: BackupFile,
    span: Range<usize>,
    machines: &[MachineSpec],
    checks: &[Check],
) -> Result<Backup, InputError> {
    let name = said(&file.name, "name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.chars().all(plain) || name.starts_with('.') {
        return Err(InputError::new(
            file.name.span(),
            format!("`{name}` is no name"),
            "letters, digits, `.`, `-`, `_`",
        ));
    }
    let machine = machine(file.machine.as_ref(), &file.name, machines, "backup")?;
    let into = targets(&file)?;
    let kind = kind(&file, &into)?;
    let at = file.at.as_ref().map_or_else(|| Ok(format!("/srv/redrill/{name}")), inner)?;
    let origin = origin(&file, &span, &at)?;
    let oracle = match &file.oracle {
        Some(written) => oracle(written, &into, checks)?,
        None => Oracle::default(),
    };
    // Without any the claim is UNPROVEN; an empty one is a mistake.
    if let Some(written) = file.oracle.as_ref().filter(|_| oracle.count() == 0) {
        let expected = "`manifest`, `min-rows`, `min-bytes`, `min-files`, `newest`, `canary`, `query` or `checks`";
        return Err(InputError::new(written.span(), "this oracle asks nothing", expected));
    }
    Ok(Backup {
        name,
        machine,
        kind,
        origin,
        at,
        view: file.view,
        passphrase: file.passphrase.as_ref().map(within_scenario).transpose()?,
        deployed: file.deployed.iter().map(|subject| said(subject, "deployed")).collect::<Result<_, _>>()?,
        point: point(file.point.as_ref())?,
        restore_after: text(file.restore_after.as_ref(), "restore-after")?,
        before: file.before.iter().map(words).collect::<Result<_, _>>()?,
        after: file.after.iter().map(words).collect::<Result<_, _>>()?,
        arguments: file.arguments,
        owner: text(file.owner.as_ref(), "owner")?,
        harmless: file.harmless.iter().map(|text| said(text, "harmless")).collect::<Result<_, _>>()?,
        within: file.within.map_or(WITHIN, |limit| limit.0),
        rpo: file.rpo.map(|limit| limit.0),
        rto: file.rto.map(|limit| limit.0),
        real_size_mib: file.real_size_mib,
        into,
        oracle,
    })
}

fn targets(file: &BackupFile) -> Result<Vec<Target>, InputError> {
    let mut targets = Vec::new();
    for written in file.into.get_ref() {
        let target = Target::parse(written.get_ref()).ok_or_else(|| {
            let message = format!("nothing can be restored into `{}`", written.get_ref());
            let expected = "an absolute path, `postgres:NAME`, `mariadb:NAME` or `sqlite:/path`";
            InputError::new(written.span(), message, expected)
        })?;
        targets.push(target);
    }
    if targets.is_empty() {
        let expected = "what is empty before the restore and filled after it";
        return Err(InputError::new(file.into.span(), "`into` is empty", expected));
    }
    Ok(targets)
}

fn kind(file: &BackupFile, into: &[Target]) -> Result<BackupKind, InputError> {
    let kind = *file.kind.get_ref();
    if kind != Kind::Script {
        let odd = file.restore.as_ref().map(Spanned::span).or(file.on.as_ref().map(Spanned::span));
        if let Some(span) = odd {
            return Err(InputError::new(span, "only a script is told how to restore", "`kind = \"script\"`"));
        }
    }
    if !matches!(kind, Kind::Restic | Kind::Borg | Kind::Script)
        && let Some(passphrase) = &file.passphrase
    {
        return Err(InputError::new(
            passphrase.span(),
            "this kind has no passphrase",
            "kinds `restic`, `borg`, `script`",
        ));
    }
    let only = |fits: fn(&Target) -> bool, expected: &str| match into {
        [target] if fits(target) => Ok(()),
        _ => Err(InputError::new(file.into.span(), "this kind restores into one thing of its own kind", expected)),
    };
    Ok(match kind {
        Kind::Script => {
            let Some(restore) = &file.restore else {
                let expected = "`restore = [\"PROGRAM\", \"ARGUMENT\"]`";
                return Err(InputError::new(file.kind.span(), "a script needs `restore`", expected));
            };
            let on = file.on.as_ref().map(|on| *on.get_ref()).unwrap_or_default();
            BackupKind::Script(Run { words: words(restore)?, on, input: None })
        }
        Kind::Restic => BackupKind::Restic,
        Kind::Borg => BackupKind::Borg,
        Kind::Directory => {
            only(|target| matches!(target, Target::Path(_)), "one absolute path")?;
            BackupKind::Directory
        }
        Kind::Tar => BackupKind::Tar,
        Kind::Postgres => {
            only(
                |t| matches!(t, Target::Postgres(_) | Target::Path(_)),
                "`postgres:NAME`; a data directory for a base backup",
            )?;
            BackupKind::Postgres
        }
        Kind::Mariadb => {
            only(|target| matches!(target, Target::Mariadb(_)), "`mariadb:NAME`")?;
            BackupKind::Mariadb
        }
        Kind::Sqlite => {
            only(|target| matches!(target, Target::Sqlite(_)), "`sqlite:/path/of/the/database`")?;
            BackupKind::Sqlite
        }
    })
}

fn origin(file: &BackupFile, span: &Range<usize>, at: &str) -> Result<Origin, InputError> {
    match (&file.repository, &file.job) {
        (Some(repository), None) => {
            if let Some(seed) = &file.seed {
                return Err(InputError::new(seed.span(), "a seed without a job is not backed up", "`[backup.job]`"));
            }
            match remote::remote(repository, file.access.as_ref(), file.kind.get_ref())? {
                Some(remote) => Ok(Origin::Remote(remote)),
                None => Ok(Origin::Local(within_scenario(repository)?)),
            }
        }
        (None, Some(job)) => {
            let seed = file.seed.as_ref().map(|seed| {
                let seed = seed.get_ref();
                Ok::<_, InputError>(Run { words: words(&seed.run)?, on: seed.on, input: seed.input.clone() })
            });
            let leaves = job.get_ref().leaves.as_ref().map_or_else(|| Ok(at.to_owned()), inner)?;
            let run = Run { words: words(&job.get_ref().run)?, on: job.get_ref().on, input: None };
            Ok(Origin::Made { seed: seed.transpose()?, job: run, leaves })
        }
        (Some(repository), Some(_)) => Err(InputError::new(
            repository.span(),
            "this backup is there already, and a job makes it",
            "either `repository`, or `[backup.job]` that makes one in the drill",
        )),
        (None, None) => Err(InputError::new(
            span.clone(),
            "this backup comes from nowhere",
            "`repository = \"PATH\"`, or `[backup.job]` that makes one in the drill",
        )),
    }
}

fn oracle(written: &Spanned<OracleFile>, into: &[Target], checks: &[Check]) -> Result<Oracle, InputError> {
    let file = written.get_ref();
    let positive = |value: &Spanned<u64>, key: &str| match value.get_ref() {
        0 => Err(InputError::new(value.span(), format!("`{key}` of 0 asserts nothing"), "at least 1")),
        value => Ok(*value),
    };
    let mut min_rows = BTreeMap::new();
    for (table, rows) in &file.min_rows {
        if !table.get_ref().contains('.') {
            let message = format!("`{}` names no table", table.get_ref());
            return Err(InputError::new(table.span(), message, "\"DATABASE.TABLE\""));
        }
        min_rows.insert(table.get_ref().clone(), positive(rows, "min-rows")?);
    }
    let mut queries = Vec::new();
    for query in &file.query {
        queries.push(self::query(query, into)?);
    }
    for name in &file.checks {
        if !checks.iter().any(|check| check.name == *name.get_ref()) {
            let message = format!("there is no check `{}`", name.get_ref());
            return Err(InputError::new(name.span(), message, "the `name` of a check of this scenario"));
        }
    }
    Ok(Oracle {
        manifest: file.manifest.as_ref().map(within_scenario).transpose()?,
        min_rows,
        min_bytes: file.min_bytes.as_ref().map(|value| positive(value, "min-bytes")).transpose()?,
        min_files: file.min_files.as_ref().map(|value| positive(value, "min-files")).transpose()?,
        newest: file.newest.map(|limit| limit.0),
        canary: file.canary.as_ref().map(canary).transpose()?,
        queries,
        checks: file.checks.iter().map(|name| name.get_ref().clone()).collect(),
        max_shrink: file.max_shrink.as_ref().map(percent).transpose()?,
    })
}

fn canary(written: &Spanned<CanaryFile>) -> Result<Canary, InputError> {
    let file = written.get_ref();
    let run = match (&file.file, &file.run) {
        (Some(path), None) => vec!["cat".to_owned(), "--".to_owned(), inner(path)?],
        (None, Some(run)) => words(run)?,
        _ => return Err(InputError::new(written.span(), "a canary is found at one place", "either `file` or `run`")),
    };
    Ok(Canary { run, newest: file.newest.0 })
}

fn query(written: &Spanned<QueryFile>, into: &[Target]) -> Result<Query, InputError> {
    let file = written.get_ref();
    let databases: Vec<&Target> = into.iter().filter(|target| !matches!(target, Target::Path(_))).collect();
    let on = match (&file.on, databases.as_slice()) {
        (Some(on), _) => {
            Target::parse(on.get_ref()).filter(|target| !matches!(target, Target::Path(_))).ok_or_else(|| {
                InputError::new(on.span(), format!("`{}` is no database", on.get_ref()), "such as `postgres:NAME`")
            })?
        }
        (None, [only]) => (*only).clone(),
        (None, _) => {
            let message = "this query does not say which database it asks";
            return Err(InputError::new(written.span(), message, "`on`, such as `postgres:NAME`"));
        }
    };
    Ok(Query { on, sql: said(&file.sql, "sql")?, equals: said(&file.equals, "equals")? })
}

fn point(written: Option<&Spanned<String>>) -> Result<Point, InputError> {
    let Some(written) = written else { return Ok(Point::Latest) };
    let odd = |c: char| c.is_whitespace() || c == '/' || c.is_control();
    match written.get_ref().as_str() {
        "latest" => Ok(Point::Latest),
        "random" => Ok(Point::Random),
        name if name.is_empty() || name.starts_with(['-', '.']) || name.contains(odd) => Err(InputError::new(
            written.span(),
            format!("`{name}` names no point"),
            "`latest`, `random`, or the name of one",
        )),
        name => Ok(Point::Named(name.to_owned())),
    }
}

fn percent(written: &Spanned<String>) -> Result<f64, InputError> {
    let value = written.get_ref().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    value.filter(|value| (0.0..100.0).contains(value)).ok_or_else(|| {
        InputError::new(written.span(), format!("`{}` is no share", written.get_ref()), "such as \"10%\", below 100%")
    })
}

fn words(written: &Spanned<Vec<String>>) -> Result<Vec<String>, InputError> {
    match written.get_ref().first() {
        Some(program) if !program.is_empty() => Ok(written.get_ref().clone()),
        _ => Err(InputError::new(written.span(), "nothing to run", "a list: program and arguments")),
    }
}

fn inner(written: &Spanned<String>) -> Result<String, InputError> {
    if is_inner(written.get_ref()) {
        return Ok(written.get_ref().trim_end_matches('/').to_owned());
    }
    let message = format!("`{}` is no path in the machine", written.get_ref());
    Err(InputError::new(written.span(), message, "an absolute path, without `..`"))
}

/// Anywhere on the host, but named.
pub(super) fn within_scenario(written: &Spanned<PathBuf>) -> Result<PathBuf, InputError> {
    match written.get_ref().as_os_str().is_empty() {
        true => Err(InputError::new(written.span(), "an empty path names nothing", "a path, relative to the scenario")),
        false => Ok(written.get_ref().clone()),
    }
}
