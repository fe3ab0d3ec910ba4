//! The claim `resumes`: cut off anywhere, the next deploy reaches the same state.

mod cuts;
mod verdict;

pub(crate) use cuts::{Cut, Cuts, Cutting, NextDeploy};
pub(super) use verdict::verdict;
