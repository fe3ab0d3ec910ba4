//! The claim `serves`: every check holds.

pub(crate) mod checks;
mod verdict;

pub(super) use verdict::{checks_that_hold, verdict};
