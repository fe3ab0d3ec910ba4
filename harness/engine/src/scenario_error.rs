//! What is wrong with a scenario.

use std::path::PathBuf;

use redrill_model::InputError;
use thiserror::Error;

/// A scenario that cannot be run as it is: exit status 2.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// No file.
    #[error("cannot read the scenario `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A mistake in a file, with its place.
    #[error("{}", error.message)]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
        /// The mistake.
        error: InputError,
    },
    /// What the scenario names does not fit the world.
    #[error("{message}")]
    Mismatch {
        /// What does not fit.
        message: String,
        /// What would.
        expected: String,
    },
}

impl ScenarioError {
    pub(crate) fn mismatch(message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Mismatch { message: message.into(), expected: expected.into() }
    }
}
