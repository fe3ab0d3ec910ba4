//! The `[[backup]]` tables: what is restored, into what, and what shows that the data is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::checks::{said, text};
use super::{Check, MachineSpec};
use crate::duration::Limit;
use crate::input::InputError;

/// One backup, and what must come of its restore.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Its name, unique in the scenario.
    pub name: String,
    /// The machine it is restored into.
    pub machine: String,
    /// What can read it.
    pub kind: BackupKind,
    /// Where it comes from.
    pub origin: Origin,
    /// Absolute path at which the machine sees the repository.
    pub at: String,
    /// How the machine sees it.
    pub view: View,
    /// Where the passphrase lies, relative to the scenario.
    pub passphrase: Option<PathBuf>,
    /// What is filled by the restore, and must be empty before it.
    pub into: Vec<Target>,
    /// Paths and tables in there that the deploy makes, and that are no sign of a target in use.
    pub deployed: Vec<String>,
    /// Which point is restored.
    pub point: Point,
    /// Commands in the machine before the restore: services stopped, so that nobody writes meanwhile.
    pub before: Vec<Vec<String>>,
    /// Commands in the machine after it: quiesce steps, services started.
    pub after: Vec<Vec<String>>,
    /// What is added to the arguments of the restoring tool.
    pub arguments: Vec<String>,
    /// `USER:GROUP` that the restored files are given, for kinds that do not know it.
    pub owner: Option<String>,
    /// Text on the standard error of a restore that is no sign of trouble.
    pub harmless: Vec<String>,
    /// The longest that the restore may take on a host with hardware virtualization.
    pub within: Duration,
    /// The oldest that the newest record may be.
    pub rpo: Option<Duration>,
    /// The longest from a clean machine to green checks.
    pub rto: Option<Duration>,
    /// The real data's size in MiB, if this backup is a smaller one: the measured speed gives the estimate for it.
    pub real_size_mib: Option<u64>,
    /// What shows that the data is right.
    pub oracle: Oracle,
}

/// What can read a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupKind {
    /// The servers repo's own restore script.
    Script(Run),
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

impl BackupKind {
    /// The word for it in `scenario.toml`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Script(_) => "script",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Directory => "directory",
            Self::Tar => "tar",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
            Self::Sqlite => "sqlite",
        }
    }
}

/// Where a command runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Site {
    /// In the machine, as root.
    #[default]
    Machine,
    /// In the checkout, beside the keys, as the deploy tool does.
    Controller,
}

/// A command of the servers repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments. On the controller, `{repository}` becomes the path of the repository there.
    pub words: Vec<String>,
    /// Where.
    pub on: Site,
    /// A file of the scenario that is its standard input.
    pub input: Option<PathBuf>,
}

/// Where a backup comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A directory or file, relative to the scenario. It is only ever read.
    Local(PathBuf),
    /// The round trip: made on a machine of this drill, and restored into another one.
    Made {
        /// Fills the service.
        seed: Option<Run>,
        /// The repo's own backup job.
        job: Run,
        /// Where the job leaves the repository, in the machine.
        leaves: String,
    },
}

/// How a machine sees a repository. It has a copy either way: the original is out of its reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// Mounted read-only.
    #[default]
    ReadOnly,
    /// Writable, for tools that must write a lock.
    Copy,
}

/// What a restore fills.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// A file or directory.
    Path(String),
    /// A database of PostgreSQL.
    Postgres(String),
    /// A database of MariaDB.
    Mariadb(String),
    /// A database file of SQLite.
    Sqlite(String),
}

impl Target {
    /// `/path`, `postgres:NAME`, `mariadb:NAME` or `sqlite:/path`.
    pub fn parse(text: &str) -> Option<Self> {
        let named = |name: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            (!name.is_empty() && !name.starts_with('-') && name.chars().all(plain)).then(|| name.to_owned())
        };
        match text.split_once(':') {
            Some(("postgres", name)) => named(name).map(Self::Postgres),
            Some(("mariadb", name)) => named(name).map(Self::Mariadb),
            Some(("sqlite", path)) if is_inner(path) => Some(Self::Sqlite(path.to_owned())),
            _ if is_inner(text) => Some(Self::Path(text.to_owned())),
            _ => None,
        }
    }

    /// Its path in the machine, if it has one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Path(path) | Self::Sqlite(path) => Some(path),
            Self::Postgres(_) | Self::Mariadb(_) => None,
        }
    }
}

/// An absolute path without `.` and `..`, and not the root.
fn is_inner(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Postgres(name) => write!(f, "postgres:{name}"),
            Self::Mariadb(name) => write!(f, "mariadb:{name}"),
            Self::Sqlite(path) => write!(f, "sqlite:{path}"),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is no target"))
    }
}

/// Which point of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The newest.
    Latest,
    /// One older than the newest, another at each drill; the report tells the seed.
    Random,
    /// This one.
    Named(String),
}

/// What shows that restored data is right.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Oracle {
    /// Written when the backup was made: all of it is compared.
    pub manifest: Option<PathBuf>,
    /// At least so many rows, by `DATABASE.TABLE`.
    pub min_rows: BTreeMap<String, u64>,
    /// At least so many bytes in the restored files.
    pub min_bytes: Option<u64>,
    /// At least so many restored files.
    pub min_files: Option<u64>,
    /// The newest record is no older than this.
    pub newest: Option<Duration>,
    /// Planted in the live service by `redrill canary`.
    pub canary: Option<Canary>,
    /// Questions in SQL.
    pub queries: Vec<Query>,
    /// Checks of the scenario that read the restored data.
    pub checks: Vec<String>,
    /// The most, in percent, that a count may have shrunk since the last drill.
    pub max_shrink: Option<f64>,
}

impl Oracle {
    /// How many things it asks; the last drill is no oracle, since the first drill has none before it.
    pub fn count(&self) -> usize {
        usize::from(self.manifest.is_some())
            + self.min_rows.len()
            + usize::from(self.min_bytes.is_some())
            + usize::from(self.min_files.is_some())
            + usize::from(self.newest.is_some())
            + usize::from(self.canary.is_some())
            + self.queries.len()
            + self.checks.len()
    }
}

/// A canary, and where it is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Prints what holds the canary: a command in the machine.
    pub run: Vec<String>,
    /// The oldest it may be.
    pub newest: Duration,
}

/// A question to a restored database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The database.
    pub on: Target,
    /// One statement.
    pub sql: String,
    /// What it must print.
    pub equals: String,
}

/// What may be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ephemeral {
    /// A path and all below it.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl Ephemeral {
    /// Whether `path` is this or lies below it.
    pub fn covers(&self, path: &str) -> bool {
        is_below(path, &self.path)
    }
}

/// Whether `path` is `root`, or lies below it.
pub fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct BackupFile {
    name: Spanned<String>,
    machine: Option<Spanned<String>>,
    kind: Spanned<Kind>,
    repository: Option<Spanned<PathBuf>>,
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
enum Kind {
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
pub(super) struct EphemeralFile {
    path: Spanned<String>,
    reason: Spanned<String>,
}

/// A restore that takes longer than this on the smallest machine has hung.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// The backups in the order of the file.
pub(super) fn backups(
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
pub(super) fn ephemeral(files: Vec<EphemeralFile>) -> Result<Vec<Ephemeral>, InputError> {
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
    let machine = super::checks::machine(file.machine.as_ref(), &file.name, machines, "backup")?;
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
            Ok(Origin::Local(within_scenario(repository)?))
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
fn within_scenario(written: &Spanned<PathBuf>) -> Result<PathBuf, InputError> {
    match written.get_ref().as_os_str().is_empty() {
        true => Err(InputError::new(written.span(), "an empty path names nothing", "a path, relative to the scenario")),
        false => Ok(written.get_ref().clone()),
    }
}
