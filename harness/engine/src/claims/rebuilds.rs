//! The claim `rebuilds`: clean machines, a checkout and the keys are enough.

use redrill_model::{Claim, Code, Finding, Pass};

use super::{Counted, ended, not_reached};
use crate::deploy::tools::Ended;
use crate::facts::Facts;

pub(super) fn verdict(facts: &Facts) -> Counted {
    let Some(first) = facts.deploys.get(Pass::First) else {
        return ((0, 0, "operations"), vec![not_reached(&[Claim::Rebuilds], facts)]);
    };
    let total = first.run.operations;
    let mut findings: Vec<Finding> = first
        .failed()
        .filter(|_| first.ended == Ended::Well)
        .map(|failed| {
            let text = format!("operation `{}` failed, and its author allows that", failed.window.name);
            let mut finding = Finding::new(Code::IgnoredError, &failed.window.name, text);
            finding.operation = Some(failed.operation());
            finding.machine = Some(failed.host.clone());
            finding
        })
        .collect();
    findings.extend(ended(Code::DeployFailed, "the deploy into clean machines failed", first, facts));
    // An unfinished deploy was not looked at to its end: nobody knows how many operations it has.
    let done = if first.ended == Ended::Well { total } else { total - first.run.failed.min(total) };
    let declared = if first.ended == Ended::Well { total } else { total.max(done + 1) };
    ((done, declared, "operations"), findings)
}
