//! The stages of a drill, as data: `redrill plan` prints them, the engine walks them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::scenario::{Origin, Scenario};

/// Which deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
    /// Into the clean machines that a backup made in this drill is restored into.
    Rebuilt,
    /// After a restore: it must not fight the restored data.
    Restored,
    /// After a deploy that was cut off.
    Resumed,
}

impl Pass {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "the first deploy",
            Self::Second => "the second deploy",
            Self::Third => "the third deploy",
            Self::Fourth => "the fourth deploy",
            Self::Rebuilt => "the deploy into the machines to be restored",
            Self::Restored => "the deploy after the restore",
            Self::Resumed => "the deploy after a cut",
        }
    }

    /// The name of its log in the run directory, without the ending.
    pub fn file_stem(self) -> &'static str {
        match self {
            Self::First => "deploy-1",
            Self::Second => "deploy-2",
            Self::Third => "deploy-3",
            Self::Fourth => "deploy-4",
            Self::Rebuilt => "deploy-rebuilt",
            Self::Restored => "deploy-restored",
            Self::Resumed => "deploy-resumed",
        }
    }
}

/// When a capture is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
    /// With the seeded data, right after the backup was made of it.
    BackedUp,
    /// After the restore.
    Restored,
    /// After the deploy that follows the restore.
    Settled,
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
            Self::BackedUp => "s5-backed-up",
            Self::Restored => "s6-restored",
            Self::Settled => "s7-settled",
        }
    }
}

/// One step of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
    /// The service filled, and the repo's own backup job run.
    BackUp,
    /// The machines replaced by clean ones.
    Renew,
    /// Every backup restored into targets that were found empty, and its data looked at.
    Restore,
    /// Every machine rebooted.
    Reboot,
    /// Faults planted into forks of the restored machines.
    Mutate,
    /// Every check again.
    CheckAgain(After),
    /// For each place between two operations: a clean machine, a deploy that is cut off there, and a whole one.
    Resume,
    /// Machines ended, disks removed.
    Teardown,
}

impl Stage {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => "checkout and deploy tool",
            Self::Images => "base images",
            Self::Boot => "boot clean machines",
            Self::Deploy(Pass::First) => "first deploy",
            Self::Deploy(Pass::Second) => "second deploy",
            Self::Deploy(Pass::Third) => "third deploy",
            Self::Deploy(Pass::Rebuilt) => "deploy into the clean machines",
            Self::Deploy(Pass::Restored) => "deploy after the restore",
            Self::Deploy(Pass::Fourth) => "fourth deploy",
            Self::Capture(Moment::Clean) => "capture the clean state",
            Self::Capture(Moment::Deployed) => "capture after the first deploy",
            Self::Capture(Moment::Redeployed) => "capture after the second deploy",
            Self::Capture(Moment::Idled) => "capture after idling, compare",
            Self::Capture(Moment::BackedUp) => "capture with the data that was backed up",
            Self::Capture(Moment::Restored) => "capture after the restore",
            Self::Capture(Moment::Settled) => "capture after that deploy, compare the data",
            Self::Twin => "freeze, fork twins",
            Self::Idle => "idle",
            Self::Trend => "follow what differs",
            Self::Capture(Moment::Third) => "capture after the third deploy",
            Self::Capture(Moment::Fourth) => "capture after the fourth deploy",
            Self::Check => "checks",
            Self::BackUp => "fill the service, run its backup job",
            Self::Renew => "clean machines in place of the old",
            Self::Restore => "restore",
            Self::Reboot => "reboot",
            Self::Resume => "cut deploys off, deploy again",
            Self::Deploy(Pass::Resumed) => "deploy after a cut",
            Self::Mutate => "plant faults",
            Self::CheckAgain(After::Redeploy) => "checks after that deploy",
            Self::CheckAgain(After::Reboot) => "checks after the reboot",
            Self::Teardown => "end machines",
        }
    }
}

/// What came before checks that are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// The deploy after a restore.
    Redeploy,
    /// A reboot.
    Reboot,
}

/// What a drill will do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The stages.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// With faults planted at the end, if there is something to plant them into.
    pub fn with_mutants(mut self, wanted: bool) -> Self {
        if wanted && self.stages.contains(&Stage::Restore) {
            let last = self.stages.len().saturating_sub(1);
            self.stages.insert(last, Stage::Mutate);
            // Services and timers of the image are nobody's to watch: only this capture tells which they are.
            let boot = self.stages.iter().position(|stage| *stage == Stage::Boot);
            if let Some(boot) = boot.filter(|_| !self.stages.contains(&Stage::Capture(Moment::Clean))) {
                self.stages.insert(boot + 1, Stage::Capture(Moment::Clean));
            }
        }
        self
    }
}

/// The stages that the claims of `scenario` need, and no others. Where machines `fork` with their memory, twins measure
/// the noise while the second deploy runs; where they do not, the machines are left alone afterwards.
pub fn plan(scenario: &Scenario, fork: bool) -> Plan {
    let mut stages = vec![Stage::Controller, Stage::Images, Stage::Boot];
    let idempotent = scenario.claims.contains(&Claim::Idempotent);
    let resumes = scenario.claims.contains(&Claim::Resumes);
    // The loss report tells what the image brought from what the deploy made.
    let made = scenario.backups.iter().any(|backup| matches!(backup.origin, Origin::Made { .. }));
    if idempotent || resumes || (made && scenario.claims.contains(&Claim::Restores)) {
        stages.push(Stage::Capture(Moment::Clean));
    }
    stages.push(Stage::Deploy(Pass::First));
    if idempotent || resumes {
        stages.push(Stage::Capture(Moment::Deployed));
    }
    if idempotent {
        stages.extend(fork.then_some(Stage::Twin));
        stages.extend([Stage::Deploy(Pass::Second), Stage::Capture(Moment::Redeployed)]);
        stages.extend((!fork).then_some(Stage::Idle));
        stages.extend([Stage::Capture(Moment::Idled), Stage::Trend]);
    }
    let restores = scenario.claims.contains(&Claim::Restores);
    if restores {
        stages.extend(restore(scenario, idempotent || resumes));
    }
    // What a service shows of its data it shows after the restore.
    let reboots = scenario.claims.contains(&Claim::SurvivesReboot);
    let looked_at = restores || reboots || scenario.claims.contains(&Claim::Serves);
    let checks = looked_at && !scenario.checks.is_empty();
    stages.extend(checks.then_some(Stage::Check));
    if restores {
        stages.extend([
            Stage::Capture(Moment::Restored),
            Stage::Deploy(Pass::Restored),
            Stage::Capture(Moment::Settled),
        ]);
        stages.extend(checks.then_some(Stage::CheckAgain(After::Redeploy)));
    }
    if reboots {
        stages.extend([Stage::Reboot, Stage::CheckAgain(After::Reboot)]);
    }
    // Last: it ends the machines, and goes on with new ones.
    stages.extend(resumes.then_some(Stage::Resume));
    stages.push(Stage::Teardown);
    Plan { stages }
}

/// Up to the restored data. A backup that is made in the drill is restored into machines that never saw the data.
fn restore(scenario: &Scenario, captured: bool) -> Vec<Stage> {
    let made = scenario.backups.iter().any(|backup| matches!(backup.origin, Origin::Made { .. }));
    let mut stages = Vec::new();
    if made {
        // The loss report needs what the deploy made of the machine before it was filled.
        stages.extend((!captured).then_some(Stage::Capture(Moment::Deployed)));
        stages.extend([Stage::BackUp, Stage::Capture(Moment::BackedUp), Stage::Renew, Stage::Deploy(Pass::Rebuilt)]);
    }
    stages.push(Stage::Restore);
    stages
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

    #[test]
    fn cuts_come_last_and_need_the_uncut_machine() {
        let stages = plan(&scenario_with("['rebuilds', 'resumes']"), true).stages;
        assert!(stages.ends_with(&[Stage::Resume, Stage::Teardown]), "{stages:?}");
        assert!(stages.contains(&Stage::Capture(Moment::Deployed)), "{stages:?}");
        assert!(!stages.contains(&Stage::Deploy(Pass::Second)), "{stages:?}");
    }

    #[test]
    fn a_backup_is_restored_before_the_checks_and_deployed_over_afterwards() {
        let machine = "[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
            [[machine]]\nname = 'web'\nimage = 'debian-13'\n[[check.tcp]]\nname = 'ssh'\nwhy = 'w'\nport = 22\n\
            [[backup]]\nname = 'n'\nkind = 'directory'\ninto = ['/d']\n";
        let stages = |claims: &str, more: &str| {
            let scenario = Scenario::parse(&format!("claims = {claims}\n{machine}{more}")).expect("valid");
            plan(&scenario, false).with_mutants(true).stages
        };
        let local = stages("['restores', 'survives-reboot']", "repository = 'r'\n");
        assert_eq!(
            local[3..],
            [
                Stage::Capture(Moment::Clean),
                Stage::Deploy(Pass::First),
                Stage::Restore,
                Stage::Check,
                Stage::Capture(Moment::Restored),
                Stage::Deploy(Pass::Restored),
                Stage::Capture(Moment::Settled),
                Stage::CheckAgain(After::Redeploy),
                Stage::Reboot,
                Stage::CheckAgain(After::Reboot),
                Stage::Mutate,
                Stage::Teardown,
            ]
        );
        let made = stages("['restores']", "[backup.job]\nrun = ['j']\n");
        assert_eq!(
            made[5..10],
            [
                Stage::Capture(Moment::Deployed),
                Stage::BackUp,
                Stage::Capture(Moment::BackedUp),
                Stage::Renew,
                Stage::Deploy(Pass::Rebuilt),
            ]
        );
        let rebuilds = stages("['rebuilds']", "repository = 'r'\n");
        assert!(!rebuilds.contains(&Stage::Restore) && !rebuilds.contains(&Stage::Mutate), "{rebuilds:?}");
    }
}
