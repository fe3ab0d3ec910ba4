//! What a drill is: the scenario an author wrote, the plan made of it, and the report it ends in.
//!
//! Pure data and pure functions: no I/O, no async, no clock.

mod acme_report;
mod canary;
mod claim;
mod codes;
mod duration;
mod elsewhere;
mod input;
mod mail_report;
mod plan;
mod recipe;
mod report;
mod restore_report;
mod scenario;
mod schema;
mod spanned;
mod waiver;

pub use acme_report::{AcmeReport, Certificate};
pub use canary::{canary_age, canary_text};
pub use claim::{Also, Claim, ClaimReport, Finding, OperationRef, Severity, Verdict};
pub use codes::{Code, NoSuchCode};
pub use duration::Limit;
pub use elsewhere::{Algorithm, Checksum, Elsewhere};
pub use input::{InputError, Position, span_of};
pub use mail_report::{Caught, MailReport};
pub use plan::{After, Moment, Pass, Plan, Stage, plan};
pub use recipe::{ImageRecipe, ImageSource};
pub use report::{
    DeployRun, HostFacts, ImageUsed, MachineReport, OperationRun, Report, SCHEMA, ScopeReport, SourceReport,
    StageReport, Status,
};
pub use restore_report::{
    Found, LastTime, LossGroup, LossOwner, LossReport, Mutant, OracleReport, Phase, PointReport, Recovery,
    RemoteReport, RepositoryReport, RestoreReport,
};
pub use scenario::{
    BackendKind, Backup, BackupKind, Canary, Check, CheckKind, CommandCheck, Deploy, Ephemeral, Expect, FileCheck,
    FileType, From, HostNeeds, HttpCheck, Limits, MachineSpec, Network, Oracle, Origin, Perturbation, Point, Query,
    Remote, RepoCommand, Rest, RunsOn, Scenario, Servers, Sftp, Site, Target, TcpCheck, Tool, UnitCheck, View, WayOut,
    is_below, is_host_name,
};
pub use schema::{image_schema, report_schema, report_words, scenario_schema};
pub use waiver::{Waived, Waiver, apply_waivers};
