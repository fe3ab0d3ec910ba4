//! The `[[backup]]` and `[[ephemeral]]` tables as their author writes them, and what makes them trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::checks::{machine, said, text};
use super::super::{Check, MachineSpec};
use super::remote::{self, AccessFile};
use super::{
    Backup, BackupKind, Canary, Ephemeral, Oracle, Origin, Point, Query, RepoCommand, Site, Target, View, is_inner,
};
use crate::duration::Limit;
use crate::input::InputError;
use crate::spanned::Spanned;

/// One backup, and what must come of its restore.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::scenario) struct BackupFile {
    /// Its name, unique in the scenario: letters, digits, `.`, `-` and `_`.
    #[schemars(example = &"notes")]
    name: Spanned<String>,
    /// The machine that it is restored into; needed where there are several.
    #[schemars(example = &"app.example.org")]
    machine: Option<Spanned<String>>,
    /// What can read it.
    #[schemars(example = &"restic")]
    kind: Spanned<WrittenKind>,
    /// Where it is: a path relative to the scenario, `sftp://USER@HOST/PATH`, `sftp:USER@HOST:/PATH`,
    /// `ssh://USER@HOST/PATH` or `rest:https://HOST/PATH/`. Either this or `job`.
    #[schemars(example = &"../backups/notes")]
    repository: Option<Spanned<PathBuf>>,
    /// How to reach a repository on another host: `key` and `known-hosts` for SFTP, `login` and `ca` for a rest-server. If
    /// absent, your own SSH configuration says.
    access: Option<Spanned<AccessFile>>,
    /// Where the machine sees the repository; `/srv/redrill/NAME` if absent.
    #[schemars(example = &"/srv/backup/notes")]
    at: Option<Spanned<String>>,
    /// How the machine sees the repository. It has a copy either way.
    #[serde(default)]
    #[schemars(example = &"copy")]
    view: View,
    /// The repo's own restore script and its arguments. Only for `kind = "script"`, which needs it.
    #[schemars(extend("examples" = [["restore-notes", "latest"]]))]
    restore: Option<Spanned<Vec<String>>>,
    /// Where the restore script runs. Only for `kind = "script"`.
    #[schemars(extend("default" = "machine"), example = &"controller")]
    on: Option<Spanned<Site>>,
    /// A file with the passphrase, relative to the scenario. For `restic`, `borg` and `script`.
    #[schemars(example = &"keys/restic")]
    passphrase: Option<Spanned<PathBuf>>,
    /// What the restore fills, and what must be empty before it: paths, `postgres:NAME`, `mariadb:NAME`, `sqlite:/PATH`.
    #[schemars(extend("examples" = [["/var/lib/notes", "postgres:notes"]]))]
    into: Spanned<Vec<Spanned<String>>>,
    /// Paths and tables in there that the deploy makes: they do not mean that a target is in use.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["/var/lib/notes/.version"]]))]
    deployed: Vec<Spanned<String>>,
    /// Which point to restore: `latest`, `random`, or the name of one.
    #[schemars(extend("default" = "latest"), example = &"random")]
    point: Option<Spanned<String>>,
    /// The operation of the deploy behind which the deploy waits until the data is there; after the whole deploy if absent.
    #[schemars(example = &"Make the data directory")]
    restore_after: Option<Spanned<String>>,
    /// Commands in the machine before the restore, such as one that stops a service.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [[["systemctl", "stop", "notes"]]]))]
    before: Vec<Spanned<Vec<String>>>,
    /// Commands in the machine once the data is back, in order.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [[["systemctl", "start", "notes"]]]))]
    after: Vec<Spanned<Vec<String>>>,
    /// Arguments added to those of the restoring tool.
    #[serde(default)]
    #[schemars(extend("examples" = [["--no-lock"]]))]
    arguments: Vec<String>,
    /// `USER:GROUP` that the restored files are given, for kinds that do not record it.
    #[schemars(example = &"notes:notes")]
    owner: Option<Spanned<String>>,
    /// Text on a restore's standard error that does not mean trouble.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["removing leading `/'"]]))]
    harmless: Vec<Spanned<String>>,
    /// The longest that the restore may take, on a host with hardware virtualization.
    #[schemars(extend("default" = "15m"), example = &"30m")]
    within: Option<Limit>,
    /// The oldest that the newest record may be.
    #[schemars(example = &"24h")]
    rpo: Option<Limit>,
    /// The longest from a clean machine to green checks.
    #[schemars(example = &"30m")]
    rto: Option<Limit>,
    /// Size of the real data in MiB, if this backup is a smaller one: the report then estimates the real recovery.
    #[schemars(example = 50_000)]
    real_size_mib: Option<u64>,
    /// What fills the service before `job` backs it up.
    seed: Option<Spanned<RunFile>>,
    /// The repo's own backup job, run in the drill. Either this or `repository`.
    job: Option<Spanned<JobFile>>,
    /// What shows that the data is right. Without any the claim is UNPROVEN.
    oracle: Option<Spanned<OracleFile>>,
}

/// What can read a backup.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "BackupKind")]
pub(super) enum WrittenKind {
    /// The repo's own restore script.
    Script,
    /// A restic repository.
    Restic,
    /// A Borg repository.
    Borg,
    /// Plain files, as rsync leaves them.
    Directory,
    /// Archives of tar, the newest by name.
    Tar,
    /// A dump of PostgreSQL (custom, directory or plain), or a base backup.
    Postgres,
    /// A dump of MariaDB.
    Mariadb,
    /// A copy of an SQLite database, or its dump.
    Sqlite,
}

/// What fills the service before the job backs it up.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RunFile {
    /// Program and arguments.
    #[schemars(extend("examples" = [["seed-notes", "--count", "500"]]))]
    run: Spanned<Vec<String>>,
    /// Where it runs.
    #[serde(default)]
    #[schemars(example = &"controller")]
    on: Site,
    /// A file that is its standard input, relative to the scenario.
    #[schemars(example = &"seed.sql")]
    input: Option<PathBuf>,
}

/// The repo's own backup job.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct JobFile {
    /// Program and arguments.
    #[schemars(extend("examples" = [["systemctl", "start", "--wait", "notes-backup.service"]]))]
    run: Spanned<Vec<String>>,
    /// Where it runs.
    #[serde(default)]
    #[schemars(example = &"controller")]
    on: Site,
    /// Where it leaves the repository in the machine; `at` of the backup if absent.
    #[schemars(example = &"/var/backups/notes")]
    leaves: Option<Spanned<String>>,
}

/// What shows that the data is right. An oracle that asks nothing is a mistake.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct OracleFile {
    /// What `redrill manifest` recorded on the live host, relative to the scenario.
    #[schemars(example = &"../backups/notes.manifest.json")]
    manifest: Option<Spanned<PathBuf>>,
    /// The least number of rows, by `DATABASE.TABLE`.
    #[serde(default)]
    #[schemars(extend("default" = {}, "examples" = [{"notes.documents": 500}]))]
    min_rows: BTreeMap<Spanned<String>, Spanned<u64>>,
    /// The least size of all restored files.
    #[schemars(example = 10_000_000)]
    min_bytes: Option<Spanned<u64>>,
    /// The least number of restored files.
    #[schemars(example = 120)]
    min_files: Option<Spanned<u64>>,
    /// The oldest that the newest record may be.
    #[schemars(example = &"26h")]
    newest: Option<Limit>,
    /// A dated line that `redrill canary plant` left in the live service.
    canary: Option<Spanned<CanaryFile>>,
    /// Queries that must answer as written.
    #[serde(default)]
    query: Vec<Spanned<QueryFile>>,
    /// Names of checks that must hold.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["site answers over TLS"]]))]
    checks: Vec<Spanned<String>>,
    /// The most that the data may have shrunk since the last drill; not an oracle of its own.
    #[schemars(example = &"10%")]
    max_shrink: Option<Spanned<String>>,
}

/// A dated line in the live service.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CanaryFile {
    /// The file that holds it. Either this or `run`.
    #[schemars(example = &"/var/lib/notes/canary")]
    file: Option<Spanned<String>>,
    /// A command in the machine that prints it. Either this or `file`.
    #[schemars(extend("examples" = [["curl", "-sf", "http://127.0.0.1:8000/canary"]]))]
    run: Option<Spanned<Vec<String>>>,
    /// The oldest that it may be.
    #[schemars(example = &"26h")]
    newest: Limit,
}

/// A query, and its answer.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct QueryFile {
    /// The database, if the backup fills several.
    #[schemars(example = &"postgres:notes")]
    on: Option<Spanned<String>>,
    /// What is asked.
    #[schemars(example = &"select count(*) from documents")]
    sql: Spanned<String>,
    /// What it must answer.
    #[schemars(example = &"500")]
    equals: Spanned<String>,
}

/// What may be lost with a machine.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::scenario) struct EphemeralFile {
    /// An absolute path in the machine, and all below it.
    #[schemars(example = &"/var/backups/notes")]
    path: Spanned<String>,
    /// Why it may be lost.
    #[schemars(example = &"the repository itself; the real one is on another machine")]
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
    if kind != WrittenKind::Script {
        let odd = file.restore.as_ref().map(Spanned::span).or(file.on.as_ref().map(Spanned::span));
        if let Some(span) = odd {
            return Err(InputError::new(span, "only a script is told how to restore", "`kind = \"script\"`"));
        }
    }
    if !matches!(kind, WrittenKind::Restic | WrittenKind::Borg | WrittenKind::Script)
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
        WrittenKind::Script => {
            let Some(restore) = &file.restore else {
                let expected = "`restore = [\"PROGRAM\", \"ARGUMENT\"]`";
                return Err(InputError::new(file.kind.span(), "a script needs `restore`", expected));
            };
            let on = file.on.as_ref().map(|on| *on.get_ref()).unwrap_or_default();
            BackupKind::Script(RepoCommand { words: words(restore)?, on, input: None })
        }
        WrittenKind::Restic => BackupKind::Restic,
        WrittenKind::Borg => BackupKind::Borg,
        WrittenKind::Directory => {
            only(|target| matches!(target, Target::Path(_)), "one absolute path")?;
            BackupKind::Directory
        }
        WrittenKind::Tar => BackupKind::Tar,
        WrittenKind::Postgres => {
            only(
                |t| matches!(t, Target::Postgres(_) | Target::Path(_)),
                "`postgres:NAME`; a data directory for a base backup",
            )?;
            BackupKind::Postgres
        }
        WrittenKind::Mariadb => {
            only(|target| matches!(target, Target::Mariadb(_)), "`mariadb:NAME`")?;
            BackupKind::Mariadb
        }
        WrittenKind::Sqlite => {
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
                Ok::<_, InputError>(RepoCommand { words: words(&seed.run)?, on: seed.on, input: seed.input.clone() })
            });
            let leaves = job.get_ref().leaves.as_ref().map_or_else(|| Ok(at.to_owned()), inner)?;
            let run = RepoCommand { words: words(&job.get_ref().run)?, on: job.get_ref().on, input: None };
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
