//! Deploy tools: each runs the whole deploy once and says, operation by operation, what it believes it did.

mod pyinfra;
mod transcript;

use std::path::Path;

use redrill_machines::{Deadline, MachineError};
use redrill_model::{Deploy, DeployRun, OperationRef, Pass, Tool};
use redrill_state::{Outcome, Window};

use crate::controller::Controller;
use crate::events::Events;

/// One run of a deploy, as the tool told it.
#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    /// For the report.
    pub(crate) run: DeployRun,
    /// When each operation ran on which host, on the controller's clock: nanoseconds since 1970.
    pub(crate) windows: Vec<HostWindow>,
    /// When the tool was started, on the same clock.
    pub(crate) began: i64,
    /// How it ended.
    pub(crate) ended: Ended,
    /// What the tool printed and the parser could not place, in words for the report.
    pub(crate) remarks: Vec<String>,
}

/// An operation on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostWindow {
    pub(crate) host: String,
    pub(crate) window: Window,
}

/// How a deploy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every operation ended well, or failed where its author allows it.
    Well,
    /// The tool says that it failed.
    Failed { operation: Option<OperationRef>, host: Option<String>, evidence: Vec<String> },
    /// Nobody can tell.
    Unclear(String),
}

impl Deployed {
    /// Name, occurrence and host of every operation: the same in both runs, if the second was whole.
    pub(crate) fn operations(&self) -> Vec<(String, usize, String)> {
        let mut seen = std::collections::BTreeMap::new();
        let mut keys = Vec::new();
        for run in &self.run.runs {
            let count = seen.entry((run.name.clone(), run.host.clone())).or_insert(0_usize);
            *count += 1;
            keys.push((run.name.clone(), *count, run.host.clone()));
        }
        keys
    }

    /// Operations that failed on some host.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &HostWindow> {
        self.windows.iter().filter(|window| window.window.outcome == Outcome::Failed)
    }
}

/// Runs the deploy. Its output goes to the events as it comes, and whole to `log_dir`.
pub(crate) async fn deploy(
    controller: &Controller,
    deploy: &Deploy,
    pass: Pass,
    log_dir: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Deployed, MachineError> {
    match deploy.tool {
        Tool::Pyinfra => pyinfra::deploy(controller, deploy, pass, log_dir, events, deadline).await,
    }
}
