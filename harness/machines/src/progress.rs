//! How long work tells what it is at.

use std::sync::Arc;

/// Is told what goes on, line by line.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;
