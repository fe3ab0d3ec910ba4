//! What every part of a drill may read, and none changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redrill_machines::process::Guard;
use redrill_machines::{Home, MachineError, RunDir};
use redrill_model::{HostFacts, Scenario};

use crate::events::Events;
use crate::loaded::Loaded;

/// The scenario, and the places and means of this run.
pub(crate) struct Context {
    pub(crate) loaded: Loaded,
    pub(crate) run_dir: RunDir,
    /// Caches.
    pub(crate) home: Home,
    /// Starts processes.
    pub(crate) guard: Guard,
    /// What the drill runs on.
    pub(crate) host: HostFacts,
    /// Told what happens.
    pub(crate) events: Events,
    /// Faults are planted into what was restored.
    pub(crate) mutate: bool,
}

impl Context {
    pub(crate) fn scenario(&self) -> &Scenario {
        &self.loaded.scenario
    }

    /// The run directory.
    pub(crate) fn path(&self) -> &Path {
        self.run_dir.path()
    }

    /// A file that the scenario names.
    pub(crate) fn file(&self, path: &Path) -> PathBuf {
        self.loaded.directory.join(path)
    }

    /// A line about the work, for whoever watches.
    pub(crate) fn tell(&self, text: &str) {
        self.events.progress(text);
    }

    /// The same, for those who work on their own.
    pub(crate) fn teller(&self) -> Arc<dyn Fn(&str) + Send + Sync> {
        let events = self.events.clone();
        Arc::new(move |text| events.progress(text))
    }

    /// The directory of a machine, made; `name` may lead on into it.
    pub(crate) fn machine_dir(&self, name: &str) -> Result<PathBuf, MachineError> {
        let dir = self.run_dir.dir(PathBuf::from("machines").join(name));
        dir.map_err(|error| MachineError::Io { what: error.to_string(), source: error.source })
    }
}
