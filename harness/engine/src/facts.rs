//! What deploys and checks leave for the verdicts of several claims.

use std::collections::BTreeMap;

use redrill_model::{After, DeployRun, Pass};

pub(crate) use crate::claims::Facts;
use crate::claims::serves::checks::Checked;
use crate::deploy::tools::{Deployed, Ended};

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

    pub(crate) fn discard(&mut self, pass: Pass, why: &str) {
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
