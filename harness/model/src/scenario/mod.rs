//! What the author of a scenario asks for, as the harness trusts it. [`Scenario::parse`] makes one from text.

mod backups;
mod checks;
mod parse;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use crate::claim::Claim;
use crate::waiver::Waiver;
pub use backups::{
    Backup, BackupKind, Canary, Ephemeral, Oracle, Origin, Point, Query, Remote, RepoCommand, Rest, Sftp, Site, Target,
    View, is_below,
};
pub(crate) use parse::ScenarioFile;
pub use parse::is_host_name;

/// A drill to be run. Every path is as written: relative to the directory of `scenario.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The author's own line about it.
    pub summary: String,
    /// What is to be proven.
    pub claims: Vec<Claim>,
    /// The repo under test.
    pub servers: Servers,
    /// Directory of the keys, laid beside the checkout as `keys`.
    pub keys: Option<PathBuf>,
    /// What else is a secret, and what is none though it stands among the keys.
    pub redaction: Redaction,
    /// How the repo is deployed.
    pub deploy: Deploy,
    /// What the machines are.
    pub backend: BackendKind,
    /// What a host must have beyond what every drill needs.
    pub needs: HostNeeds,
    /// One per host of the inventory.
    pub machines: Vec<MachineSpec>,
    /// What the machines may reach.
    pub network: Network,
    /// Names of mail servers: what machines send there is caught.
    pub mail: Vec<String>,
    /// Where the controller may go beside the machines and its package index.
    pub ways_out: Vec<WayOut>,
    /// Names of ACME servers: machines that ask there get certificates of the drill's own.
    pub acme: Vec<String>,
    /// The longest that things may take on a host with hardware virtualization.
    pub limits: Limits,
    /// In the order of the file.
    pub checks: Vec<Check>,
    /// What is restored, in the order of the file.
    pub backups: Vec<Backup>,
    /// What may be lost with a machine.
    pub ephemeral: Vec<Ephemeral>,
    /// How many places between operations a deploy is cut at, if not all.
    pub cuts: Option<usize>,
    /// Failures accepted for a while.
    pub waivers: Vec<Waiver>,
}

/// What the author says about secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Regular expressions: what they match in a line is a secret. The span lets a bad one be reported where it stands.
    pub patterns: Vec<Spanned<String>>,
    /// Values that are no secrets, each exactly as it stands in the keys.
    pub public: Vec<String>,
}

/// The servers repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// A git repository, or a directory inside one.
    pub path: PathBuf,
    /// What to check out: any name that git resolves to a commit.
    pub commit: String,
}

/// The tool that deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// pyinfra 3.
    Pyinfra,
    /// ansible-core: a playbook.
    Ansible,
    /// A script.
    Shell,
}

impl Tool {
    /// The word for it in `scenario.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pyinfra => "pyinfra",
            Self::Ansible => "ansible",
            Self::Shell => "shell",
        }
    }
}

/// A way out of the controller's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayOut {
    /// A name in small letters, or an address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Why the deploy needs it.
    pub why: String,
}

/// Where a shell script runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunsOn {
    /// On the controller, once; it reaches the machines by `ssh HOST`.
    #[default]
    Controller,
    /// On every machine, one after the other, as root, in a copy of the checkout that is removed afterwards.
    Machine,
}

/// How the repo is deployed, as far as its author says. Paths are relative to the checkout; what is absent is looked for
/// in the checkout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deploy {
    /// The tool.
    pub tool: Option<Tool>,
    /// The production inventory, unmodified.
    pub inventory: Option<PathBuf>,
    /// The deploy itself.
    pub script: Option<PathBuf>,
    /// Pinned Python requirements that bring the tool.
    pub requirements: Option<PathBuf>,
    /// Where a shell script runs, if its author says so.
    pub on: Option<RunsOn>,
    /// Passed on to the tool.
    pub args: Vec<String>,
    /// Passed on as well when the tool runs again.
    pub again_args: Vec<String>,
    /// Added to the tool's environment.
    pub env: BTreeMap<String, String>,
    /// Hosts to deploy to, if not all of the inventory.
    pub limit: Vec<String>,
    /// What stays as it was in the second deploy, each with the reason.
    pub same: BTreeMap<Perturbation, String>,
    /// An operation that reports a change and makes none fails too.
    pub strict: bool,
}

/// What differs about the controller in the second deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Perturbation {
    /// Where the checkout lies, with new times of its files.
    Path,
    /// `HOME`.
    Home,
    /// `USER` and `LOGNAME`.
    User,
    /// The host's name.
    HostName,
    /// `TZ`, and with it the day.
    TimeZone,
    /// `LANG`.
    Language,
    /// `PYTHONHASHSEED`, and with it the order of sets.
    HashSeed,
}

impl Perturbation {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Path, Self::Home, Self::User, Self::HostName, Self::TimeZone, Self::Language, Self::HashSeed];

    /// The word for it in `scenario.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Home => "home",
            Self::User => "user",
            Self::HostName => "host-name",
            Self::TimeZone => "time-zone",
            Self::Language => "language",
            Self::HashSeed => "hash-seed",
        }
    }
}

/// What machines are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// QEMU where it is there, else containers.
    #[default]
    Auto,
    /// Virtual machines with a kernel of their own.
    Qemu,
    /// Containers with systemd as their first process, under the host's kernel.
    Container,
}

impl BackendKind {
    /// The word for it in `scenario.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Qemu => "qemu",
            Self::Container => "container",
        }
    }
}

/// What a host must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostNeeds {
    /// Hardware virtualization: emulated machines would show nothing, or take too long.
    pub kvm: bool,
}

/// A machine to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Its name, which is the inventory's name for the host.
    pub name: String,
    /// A directory under `images`; the span lets an unknown one be reported where it is written.
    pub image: Spanned<String>,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub cpus: u32,
}

/// What machines may reach beyond the drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The package mirror of their image, through the harness; there is no route to anything else.
    Mirror,
    /// Whatever the host reaches. The report says so.
    Open,
}

/// Time limits, for a host with hardware virtualization; slower hosts get them stretched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One command in a machine.
    pub command: Duration,
    /// A machine, from start to its first answer.
    pub boot: Duration,
    /// One run of the deploy tool.
    pub deploy: Duration,
    /// Everything.
    pub drill: Duration,
}

/// One check.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Its name, unique in the scenario.
    pub name: String,
    /// Why it matters, told when it fails.
    pub why: String,
    /// The machine it is about.
    pub machine: String,
    /// How long it may take to turn green.
    pub within: Duration,
    /// What is looked at.
    pub kind: CheckKind,
}

/// Where a connection is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum From {
    /// Through a forwarded port, as a user would come.
    #[default]
    Outside,
    /// From within the machine.
    Inside,
    /// From this other machine of the drill, over the private network.
    Neighbour(String),
}

/// What a check looks at. Each kind holds at least one assertion.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// An answer over HTTP or HTTPS.
    Http(HttpCheck),
    /// A port that accepts connections, or does not.
    Tcp(TcpCheck),
    /// A systemd unit.
    Unit(UnitCheck),
    /// A command in the machine.
    Command(CommandCheck),
    /// A file in the machine.
    File(FileCheck),
}

impl CheckKind {
    /// The word for it in `scenario.toml`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Unit(_) => "unit",
            Self::Command(_) => "command",
            Self::File(_) => "file",
        }
    }
}

/// An answer over HTTP or HTTPS. Redirects are not followed: they are answers.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpCheck {
    /// Where the request comes from.
    pub from: From,
    /// The address as a user would type it; the host's name need not resolve anywhere.
    pub url: String,
    /// The host of `url`.
    pub host: String,
    /// The port of `url`, or its scheme's.
    pub port: u16,
    /// Certificates (PEM file) that may sign the server's; without it the host's own, and the root of those that the
    /// drill itself issues.
    pub ca: Option<PathBuf>,
    /// Status the answer must have.
    pub status: Option<u16>,
    /// Headers that must be there, and contain this text.
    pub header: BTreeMap<String, String>,
    /// Text that the body must contain.
    pub contains: Option<String>,
    /// Values that a JSON body must hold, by JSON pointer.
    pub json: BTreeMap<String, serde_json::Value>,
    /// How long the certificate must still be valid.
    pub valid_for: Option<Duration>,
}

/// Whether something answers at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// A connection is accepted.
    Open,
    /// None is.
    Closed,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpCheck {
    /// Where the connection comes from.
    pub from: From,
    /// The port in the machine.
    pub port: u16,
    /// What must come of it.
    pub expect: Expect,
}

/// A systemd unit. At least one field is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitCheck {
    /// Its name with the ending.
    pub unit: String,
    /// Whether it must be active.
    pub active: Option<bool>,
    /// Whether it must be enabled.
    pub enabled: Option<bool>,
}

/// A command, run as root in the machine without a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandCheck {
    /// Program and arguments.
    pub run: Vec<String>,
    /// Status it must end with.
    pub exit: i32,
    /// What it must print, but for white space at the end.
    pub stdout: Option<String>,
    /// Text that what it prints must contain.
    pub contains: Option<String>,
}

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Nothing may be there.
    Absent,
}

/// A file. At least one field beside the path is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCheck {
    /// Absolute path in the machine.
    pub path: String,
    /// What must be there.
    pub kind: Option<FileType>,
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner's name.
    pub owner: Option<String>,
    /// Group's name.
    pub group: Option<String>,
    /// Text that it must contain.
    pub contains: Option<String>,
}
