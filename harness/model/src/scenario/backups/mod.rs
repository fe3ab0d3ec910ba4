//! Backups as the harness trusts them: what is restored, into what, and what shows that the data is right. `written` is
//! how their author writes them.

mod remote;
mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use remote::{Remote, Rest, Sftp};
pub(super) use written::{BackupFile, EphemeralFile, backups, ephemeral};

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
    /// The operation of the deploy after which it is restored, while the deploy waits; after the whole deploy if absent.
    pub restore_after: Option<String>,
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

impl Backup {
    /// Whether it is PostgreSQL's whole data directory. A server writes into its files all the time: how they were when
    /// the backup was made only the backup's own manifest tells.
    pub fn is_base_backup(&self) -> bool {
        self.kind == BackupKind::Postgres && matches!(self.into.as_slice(), [Target::Path(_)])
    }
}

/// What can read a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupKind {
    /// The servers repo's own restore script.
    Script(RepoCommand),
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
pub struct RepoCommand {
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
    /// On a backup host, where it is only ever read.
    Remote(Remote),
    /// The round trip: made on a machine of this drill, and restored into another one.
    Made {
        /// Fills the service.
        seed: Option<RepoCommand>,
        /// The repo's own backup job.
        job: RepoCommand,
        /// Where the job leaves the repository, in the machine.
        leaves: String,
    },
}

/// How a machine sees a repository. It has a copy either way: the original is out of its reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
