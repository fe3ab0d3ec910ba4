//! The claim `idempotent`: the second deploy changes nothing.

pub(crate) mod compare;
pub(crate) mod details;
pub(crate) mod outage;
mod salt;
pub(crate) mod trend;
mod verdict;
pub(crate) mod witness;
pub(crate) mod writes;

use std::collections::BTreeMap;

use redrill_state::{Judgement, Section, Trend};

use outage::Outage;
pub(super) use verdict::verdict;
pub(crate) use verdict::{Again, add_flip_flops, changed_again, is_without_effect, judge_machine};

/// What captures and further deploys say of the second deploy.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// By machine.
    pub(crate) judged: BTreeMap<String, Judgement>,
    /// By machine, and by place: what further deploys made of a difference.
    pub(crate) trends: BTreeMap<String, BTreeMap<(Section, String), Trend>>,
    /// By machine and subject: what was there before and after, and what the machine said.
    pub(crate) details: BTreeMap<(String, String), Vec<String>>,
    /// By machine: ports that did not answer during the second deploy; empty where all did.
    pub(crate) outages: BTreeMap<String, Vec<Outage>>,
}
