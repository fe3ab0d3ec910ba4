//! The files that a frozen machine is.

use std::path::PathBuf;

use super::args::{MEMORY, OVERLAY};

/// The state of the devices.
pub(super) const STATE: &str = "device.state";

/// The files of a frozen machine, in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrozenFiles(pub(super) PathBuf);

impl FrozenFiles {
    /// Their names.
    pub(super) const ALL: [&'static str; 3] = [MEMORY, STATE, OVERLAY];

    /// The guest's memory.
    pub(super) fn memory(&self) -> PathBuf {
        self.0.join(MEMORY)
    }

    /// Removes them.
    pub(super) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
