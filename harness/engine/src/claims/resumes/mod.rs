//! The claim `resumes`: cut off anywhere, the next deploy reaches the same state.

mod cuts;
mod verdict;

pub(crate) use cuts::{After, Cut, Cuts, Cutting};
pub(super) use verdict::verdict;
