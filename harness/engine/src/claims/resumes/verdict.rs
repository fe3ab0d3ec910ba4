//! The claim `resumes`: a deploy that was cut off is made good by the next one.

use redrill_model::{Claim, Code, Finding, OperationRef};

use crate::claims::resumes::{Cut, Cuts, NextDeploy};
use crate::claims::{Counted, code_of, not_reached};
use crate::deploy::tools::{Boundary, Ended};
use crate::facts::Facts;

pub(in crate::claims) fn verdict(facts: &Facts) -> Counted {
    let none = Cuts::default();
    let cuts = facts.cuts.as_ref().unwrap_or(&none);
    let mut findings: Vec<Finding> = cuts.done.iter().flat_map(of_cut).collect();
    if cuts.done.len() < cuts.wanted || cuts.wanted == 0 {
        let mut finding = not_reached(&[Claim::Resumes], facts);
        if facts.stopped.is_none() && facts.cuts.is_some() && cuts.wanted == 0 {
            "there is no place to cut the deploy off".clone_into(&mut finding.summary);
        }
        findings.push(finding);
    }
    let looked = cuts.done.iter().filter(|cut| !matches!(cut.after, NextDeploy::NotCut)).count();
    ((looked, cuts.wanted, "cuts"), findings)
}

fn of_cut(cut: &Cut) -> Vec<Finding> {
    let Cut { place, after } = cut;
    let boundary = &place.boundary;
    let at = format!("the deploy was cut off {place}");
    let with = |mut finding: Finding| {
        finding.operation = Some(operation(boundary));
        finding.evidence.insert(0, at.clone());
        finding
    };
    match after {
        NextDeploy::NotCut => {
            let text = format!("the deploy could not be cut off {place}");
            vec![with(Finding::new(Code::NotProven, &boundary.name, text))]
        }
        NextDeploy::Stuck(Ended::Unclear(why)) => {
            vec![with(Finding::new(Code::NotProven, &boundary.name, why))]
        }
        NextDeploy::Stuck(ended) => {
            let text = format!("after a cut {place}, the next deploy fails");
            let mut finding = with(Finding::new(Code::Stuck, &boundary.name, text));
            if let Ended::Failed { operation: Some(failed), host, evidence } = ended {
                finding.machine.clone_from(host);
                finding.operation = Some(failed.clone());
                finding.evidence.extend(evidence.iter().cloned());
            }
            vec![finding]
        }
        NextDeploy::Looked(machines) => machines
            .iter()
            .flat_map(|(machine, observations)| observations.iter().map(move |observation| (machine, observation)))
            .map(|(machine, observation)| {
                let mut finding = Finding::new(code_of(observation.kind), &observation.subject, &observation.summary);
                finding.machine = Some(machine.clone());
                finding.evidence.clone_from(&observation.evidence);
                with(finding)
            })
            .collect(),
    }
}

fn operation(boundary: &Boundary) -> OperationRef {
    let Boundary { number, name, place, .. } = boundary;
    OperationRef { number: *number, name: name.clone(), place: place.clone(), item: None }
}
