//! What the restores of a drill found out: part of the report.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One backup, restored or not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreReport {
    /// The backup's name.
    pub backup: String,
    /// The machine it was restored into.
    pub machine: String,
    /// What read it.
    pub kind: String,
    /// What was restored; absent if it did not come to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<PointReport>,
    /// The repository, before and after.
    pub repository: RepositoryReport,
    /// What took how long, in order.
    pub phases: Vec<Phase>,
    /// What was in the targets afterwards.
    pub found: Found,
    /// What was asked of the data.
    pub oracles: Vec<OracleReport>,
    /// The age of the newest record, in seconds, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// The declared limit of that, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<f64>,
    /// From a clean machine to green checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// The same in the last drill of this scenario that restored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastTime>,
}

/// What an earlier drill measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LastTime {
    /// When that drill began.
    pub started: String,
    /// The age of the newest record, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// From a clean machine to green checks, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<f64>,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PointReport {
    /// The tool's name for it.
    pub id: String,
    /// When it was taken, as far as the tool tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// How many there were to choose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<usize>,
    /// The seed by which one was picked at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A repository as it was before a restore and after it. Digests are BLAKE3 over paths and contents; of one on another
/// host over its listing: names, sizes and times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryReport {
    /// Where it lies.
    pub place: String,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Before.
    pub before: String,
    /// After; empty if it could not be read again.
    pub after: String,
    /// Of one that lies on another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteReport>,
}

/// What came from a backup host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoteReport {
    /// Files that an earlier drill had fetched: they were not read again on their host.
    pub kept: u64,
    /// Bytes that were fetched in this drill.
    pub fetched_bytes: u64,
}

/// A part of a restore.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    /// Such as `fetch` or `load`.
    pub name: String,
    /// How long.
    pub seconds: f64,
}

/// Counts of what was restored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// When the newest record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
}

/// One question to the data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OracleReport {
    /// Such as `manifest` or `min-rows notes.documents`.
    pub name: String,
    /// The answer; absent if there was none.
    pub holds: Option<bool>,
    /// In words.
    pub said: String,
}

/// From a clean machine to green checks, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recovery {
    /// Measured: boot, deploy, restore and checks.
    pub seconds: f64,
    /// The declared limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<f64>,
    /// For the declared real size, from the measured speed of the restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<f64>,
    /// What a reader must know to weigh it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// What lived on a machine and did not come back, by owner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossReport {
    /// The machine.
    pub machine: String,
    /// Paths, tables and accounts that were compared.
    pub compared: usize,
    /// Owners, the worst first.
    pub groups: Vec<LossGroup>,
}

/// What belongs to one owner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossGroup {
    /// Who should have brought it back.
    pub owner: LossOwner,
    /// How many.
    pub count: usize,
    /// Of these: not there any more. The others have another content, mode or owner.
    #[serde(default)]
    pub gone: usize,
    /// The first of them, what is gone before what differs: subject and what became of it.
    pub entries: Vec<String>,
}

/// Who should have brought something back. In reports a word: `nobody`, `backup`, `deploy`, `package`, `image`, or
/// `ephemeral: REASON`. The worst comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum LossOwner {
    /// No one: it is lost.
    #[default]
    Nobody,
    /// A backup that has it among its targets.
    Backup,
    /// The deploy makes it.
    Deploy,
    /// It belongs to a package.
    Package,
    /// The image has it.
    Image,
    /// It may be lost, for this reason.
    Ephemeral(String),
}

impl LossOwner {
    /// Whether something that should be there is not: the claim may not hold.
    pub fn is_a_loss(&self) -> bool {
        matches!(self, Self::Nobody | Self::Backup)
    }
}

impl fmt::Display for LossOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.pad("nobody"),
            Self::Backup => f.pad("backup"),
            Self::Deploy => f.pad("deploy"),
            Self::Package => f.pad("package"),
            Self::Image => f.pad("image"),
            Self::Ephemeral(reason) => write!(f, "ephemeral: {reason}"),
        }
    }
}

impl From<LossOwner> for String {
    fn from(owner: LossOwner) -> Self {
        owner.to_string()
    }
}

impl From<String> for LossOwner {
    fn from(word: String) -> Self {
        match word.as_str() {
            "nobody" => Self::Nobody,
            "backup" => Self::Backup,
            "deploy" => Self::Deploy,
            "package" => Self::Package,
            "image" => Self::Image,
            other => Self::Ephemeral(other.strip_prefix("ephemeral: ").unwrap_or(other).to_owned()),
        }
    }
}

/// One planted fault, and who noticed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mutant {
    /// What was planted.
    pub fault: String,
    /// The machine.
    pub machine: String,
    /// Checks and oracles that turned red; none means that it survived.
    pub killed_by: Vec<String>,
    /// Why it could not be planted or looked at: then it counts for neither side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// What would notice it, for one that survived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}
