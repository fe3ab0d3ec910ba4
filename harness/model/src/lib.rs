//! What a drill is: the scenario an author wrote, the plan made of it, and the report it ends in.
//!
//! Pure data and pure functions: no I/O, no async, no clock.

mod duration;
mod elsewhere;
mod input;
mod plan;
mod recipe;
mod report;
mod scenario;
mod verdict;
mod waiver;

pub use duration::Limit;
pub use elsewhere::{Algorithm, Checksum, Elsewhere};
pub use input::{InputError, Position};
pub use plan::{Moment, Pass, Plan, Stage, plan};
pub use recipe::{ImageRecipe, ImageSource};
pub use report::{
    DeployRun, HostFacts, ImageUsed, MachineReport, OperationRun, Report, SCHEMA, SourceReport, StageReport, Status,
};
pub use scenario::{
    BackendKind, Check, CheckKind, CommandCheck, Deploy, Expect, FileCheck, FileType, From, HttpCheck, Limits,
    MachineSpec, Network, Perturbation, RunsOn, Scenario, Servers, TcpCheck, Tool, UnitCheck,
};
pub use verdict::{Claim, ClaimReport, Finding, OperationRef, Severity, Verdict};
pub use waiver::{Waived, Waiver, apply_waivers};
