//! The claim `survives-reboot`: after a reboot every check holds again.

use std::collections::BTreeMap;

use redrill_model::{After, Claim, Scenario};

use super::serves::{self, checks_that_hold};
use super::{Counted, not_reached};
use crate::facts::Facts;

pub(super) fn verdict(scenario: &Scenario, facts: &Facts) -> Counted {
    match facts.checks.get(Some(After::Reboot)) {
        None => ((0, scenario.checks.len(), "checks"), vec![not_reached(&[Claim::SurvivesReboot], facts)]),
        Some(checked) => {
            let (counts, mut findings) = serves::verdict(scenario, facts, checked);
            // One that did not hold before says nothing about the reboot.
            let before: BTreeMap<&str, bool> = checks_that_hold(scenario, facts.checks.first());
            for finding in findings.iter_mut().filter(|finding| before.get(finding.subject.as_str()) == Some(&false)) {
                finding.evidence.push("it did not hold before the reboot either".to_owned());
            }
            (counts, findings)
        }
    }
}
