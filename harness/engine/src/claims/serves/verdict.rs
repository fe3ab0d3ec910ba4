//! What came of the checks.

use std::collections::BTreeMap;

use redrill_model::{Claim, Code, Finding, Scenario};

use crate::claims::serves::checks::{Checked, Seen};
use crate::claims::{Counted, not_reached};
use crate::facts::Facts;

/// What came of these checks.
pub(in crate::claims) fn verdict(scenario: &Scenario, facts: &Facts, checked: &[Checked]) -> Counted {
    let mut findings = Vec::new();
    let mut answered = 0;
    for (check, checked) in scenario.checks.iter().zip(checked) {
        let (code, text, complaints) = match &checked.seen {
            Ok(Seen::Holds) => {
                answered += 1;
                continue;
            }
            Ok(Seen::Not(complaints)) => {
                answered += 1;
                let text = format!("check `{}` does not hold: {}", check.name, complaints.join("; "));
                (Code::CheckFailed, text, complaints.clone())
            }
            Err(error) => {
                let text = format!("check `{}` could not be made: {error}", check.name);
                (Code::CheckUnknown, text, Vec::new())
            }
        };
        let mut finding = Finding::new(code, &check.name, text);
        finding.machine = Some(check.machine.clone());
        finding.evidence = [vec![format!("why it matters: {}", check.why)], complaints].concat();
        findings.push(finding);
    }
    if checked.len() < scenario.checks.len() {
        findings.push(not_reached(&[Claim::Serves], facts));
    }
    ((answered, scenario.checks.len(), "checks"), findings)
}

/// Which checks hold.
pub(crate) fn checks_that_hold<'a>(scenario: &'a Scenario, checked: &[Checked]) -> BTreeMap<&'a str, bool> {
    let pairs = scenario.checks.iter().zip(checked);
    pairs.map(|(check, checked)| (check.name.as_str(), matches!(checked.seen, Ok(Seen::Holds)))).collect()
}
