//! The stages of a drill, as data: `redrill plan` prints them, the engine walks them.

use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::verdict::Claim;

/// Which deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Into the clean machines.
    First,
    /// The same again, which must change nothing.
    Second,
    /// Where the second changed something: what becomes of it.
    Third,
    /// Where the third took that back: whether it stays so.
    Fourth,
}

impl Pass {
    /// The ordinal, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Third => "third",
            Self::Fourth => "fourth",
        }
    }

    /// From 1; names the deploy's log in the run directory.
    pub fn number(self) -> usize {
        match self {
            Self::First => 1,
            Self::Second => 2,
            Self::Third => 3,
            Self::Fourth => 4,
        }
    }
}

/// When a capture is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// S0: the clean machine.
    Clean,
    /// S1: after the first deploy.
    Deployed,
    /// S2: after the second deploy.
    Redeployed,
    /// What was left alone for as long as the second deploy took, which measures the noise: twins of the machines as
    /// they were at S1, or the machines themselves after S2.
    Idled,
    /// S3: after a third deploy.
    Third,
    /// After a fourth.
    Fourth,
}

impl Moment {
    /// The name of the capture's file in the run directory, without its ending.
    pub fn file_stem(self) -> &'static str {
        match self {
            Self::Clean => "s0-clean",
            Self::Deployed => "s1-deployed",
            Self::Redeployed => "s2-redeployed",
            Self::Idled => "s2-idled",
            Self::Third => "s3-third",
            Self::Fourth => "s4-fourth",
        }
    }
}

/// One step of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage", content = "of")]
pub enum Stage {
    /// The checkout, the deploy tool at the repo's versions, and the inventory compared with the machines.
    Controller,
    /// Base images, built where they are missing.
    Images,
    /// Every machine made from its image, up to a login over SSH.
    Boot,
    /// The full deploy.
    Deploy(Pass),
    /// The state of every machine.
    Capture(Moment),
    /// Every machine frozen and forked twice: one goes on, its twin is left alone.
    Twin,
    /// Nothing happens for as long as the second deploy took.
    Idle,
    /// Where the second deploy left a difference: a third deploy, and a fourth if that took it back, to tell what
    /// settles late from what never does.
    Trend,
    /// Every check of the scenario.
    Check,
    /// Machines ended, disks removed.
    Teardown,
}

/// What a drill will do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<Stage>,
}

/// The stages that the claims of `scenario` need, and no others. Where machines `fork` with their memory, twins measure
/// the noise while the second deploy runs; where they do not, the machines are left alone afterwards.
pub fn plan(scenario: &Scenario, fork: bool) -> Plan {
    let mut stages = vec![Stage::Controller, Stage::Images, Stage::Boot];
    let idempotent = scenario.claims.contains(&Claim::Idempotent);
    if idempotent {
        stages.push(Stage::Capture(Moment::Clean));
    }
    stages.push(Stage::Deploy(Pass::First));
    if idempotent {
        stages.push(Stage::Capture(Moment::Deployed));
        stages.extend(fork.then_some(Stage::Twin));
        stages.extend([Stage::Deploy(Pass::Second), Stage::Capture(Moment::Redeployed)]);
        stages.extend((!fork).then_some(Stage::Idle));
        stages.extend([Stage::Capture(Moment::Idled), Stage::Trend]);
    }
    if scenario.claims.contains(&Claim::Serves) {
        stages.push(Stage::Check);
    }
    stages.push(Stage::Teardown);
    Plan { stages }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::tests::scenario_with;

    #[test]
    fn only_what_the_claims_need_is_planned() {
        let stages = |claims| plan(&scenario_with(claims), false).stages;
        assert_eq!(
            stages("['rebuilds']"),
            [Stage::Controller, Stage::Images, Stage::Boot, Stage::Deploy(Pass::First), Stage::Teardown]
        );
        let all = stages("['rebuilds', 'idempotent', 'serves']");
        let second = all.iter().position(|s| *s == Stage::Deploy(Pass::Second)).expect("a second deploy");
        assert_eq!(all[second - 1], Stage::Capture(Moment::Deployed), "S1 right before the second deploy");
        assert_eq!(all[second + 1], Stage::Capture(Moment::Redeployed), "S2 right after it");
        assert!(all.ends_with(&[Stage::Check, Stage::Teardown]), "checks would disturb the captures: {all:?}");
        assert!(all.contains(&Stage::Idle) && !all.contains(&Stage::Twin), "{all:?}");
        let forked = plan(&scenario_with("['idempotent']"), true).stages;
        let twin = forked.iter().position(|s| *s == Stage::Twin).expect("twins");
        assert_eq!(forked[twin + 1], Stage::Deploy(Pass::Second), "the twin idles while the deploy runs");
        assert!(!forked.contains(&Stage::Idle), "{forked:?}");
    }
}
