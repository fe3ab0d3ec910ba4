//! A drill on its way.

use redrill_machines::Backend;
use redrill_model::MachineReport;
use tokio::sync::watch;

use crate::captures::Captures;
use crate::claims::idempotent::compare::Watch;
use crate::context::Context;
use crate::deploy::controller::Controller;
use crate::facts::Facts;
use crate::fleet::{Fleet, Still};
use crate::services::Services;

/// Asks a drill to end early, clean up and report what was learnt.
pub type Stop = watch::Receiver<bool>;

/// What a drill may read, what it works with, what it has learnt.
pub(crate) struct Walk<B: Backend> {
    pub(crate) context: Context,
    pub(crate) captures: Captures,
    pub(crate) fleet: Fleet<B>,
    pub(crate) services: Services,
    pub(crate) controller: Option<Controller>,
    /// What the stages of a comparison hand on.
    pub(crate) watch: Watch,
    /// Machines as they were before the restore, where faults will be planted into backups.
    pub(crate) unrestored: Vec<Still<B>>,
    pub(crate) facts: Facts,
    /// Of the machines, for the report.
    pub(crate) reports: Vec<MachineReport>,
    /// In words for the report.
    pub(crate) remarks: Vec<String>,
    pub(crate) stop: Stop,
}
