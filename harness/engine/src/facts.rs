//! What a drill has learnt, for the verdicts. A slot that is empty was not looked at.

use std::collections::BTreeMap;

use redrill_model::{After, DeployRun, Finding, Pass, Stage};

use crate::claims::idempotent::Comparison;
use crate::claims::restores::Restores;
use crate::claims::resumes::Cuts;
use crate::claims::serves::checks::Checked;
use crate::deploy::tools::{Deployed, Ended};
use crate::problem::Problem;

/// Everything that verdicts are made of.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) deploys: Deploys,
    pub(crate) checks: Checks,
    /// What the captures say of the second deploy.
    pub(crate) compared: Comparison,
    pub(crate) restores: Restores,
    /// Cuts; none where the stage never ran.
    pub(crate) cuts: Option<Cuts>,
    /// What the repo's programs wanted of the world, as findings.
    pub(crate) wanted: Vec<Finding>,
    /// What a reader must know of the sandbox beside that.
    pub(crate) sandbox: Vec<String>,
    /// Why the drill did not get to its end.
    pub(crate) stopped: Option<Problem>,
    /// How long each stage took, in seconds.
    pub(crate) took: Vec<(Stage, f64)>,
}

impl Facts {
    /// The first reason is the one that counts.
    pub(crate) fn stop(&mut self, problem: Problem) {
        self.stopped.get_or_insert(problem);
    }

    /// Seconds that a stage took; 0 if it did not run.
    pub(crate) fn seconds(&self, wanted: Stage) -> f64 {
        self.took.iter().find(|(stage, _)| *stage == wanted).map_or(0.0, |(_, seconds)| *seconds)
    }

    /// Something that a stage relied on was lost meanwhile: whatever came of the stage may have come of that.
    pub(crate) fn discard(&mut self, stage: Stage, why: &str) {
        self.stopped = None;
        match stage {
            Stage::Deploy(pass) => self.deploys.discard(pass, why),
            Stage::Check => self.checks.discard(None),
            Stage::CheckAgain(after) => self.checks.discard(Some(after)),
            Stage::Resume => self.cuts.iter_mut().for_each(|cuts| cuts.done.clear()),
            _ => {}
        }
    }
}

/// Deploys of whole plans, by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Deploys(BTreeMap<Pass, Deployed>);

impl Deploys {
    pub(crate) fn add(&mut self, pass: Pass, deployed: Deployed) {
        self.0.insert(pass, deployed);
    }

    pub(crate) fn get(&self, pass: Pass) -> Option<&Deployed> {
        self.0.get(&pass)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Deployed> {
        self.0.values()
    }

    /// For the report.
    pub(crate) fn runs(&self) -> Vec<DeployRun> {
        self.all().map(|deployed| deployed.run.clone()).collect()
    }

    fn discard(&mut self, pass: Pass, why: &str) {
        if let Some(deployed) = self.0.get_mut(&pass) {
            deployed.ended = Ended::Unclear(why.to_owned());
        }
    }
}

#[cfg(test)]
impl<const N: usize> From<[(Pass, Deployed); N]> for Deploys {
    fn from(deploys: [(Pass, Deployed); N]) -> Self {
        Self(deploys.into())
    }
}

/// Answers of the checks, in the order of the scenario, by when they were made: first, or after something.
#[derive(Debug, Default)]
pub(crate) struct Checks(BTreeMap<Option<After>, Vec<Checked>>);

impl Checks {
    pub(crate) fn add(&mut self, when: Option<After>, checked: Vec<Checked>) {
        self.0.insert(when, checked);
    }

    /// `None` where they were not made.
    pub(crate) fn get(&self, when: Option<After>) -> Option<&[Checked]> {
        self.0.get(&when).map(Vec::as_slice)
    }

    /// Those that were made first; empty where none were.
    pub(crate) fn first(&self) -> &[Checked] {
        self.get(None).unwrap_or_default()
    }

    pub(crate) fn discard(&mut self, when: Option<After>) {
        self.0.remove(&when);
    }
}
