//! Follows a difference that the second deploy left: a third deploy, and a fourth where the third took something back.

use std::collections::BTreeMap;

use redrill_machines::Machine;
use redrill_model::{Moment, Pass};
use redrill_state::{Control, Judgement, Observation, Section, Trend, Trends, Weight};

use super::{Again, Comparison, changed_again, judge_machine};
use crate::captures::Captures;
use crate::captures::TakeError;
use crate::deploy::tools::{Deployed, Ended};
use crate::deploy::{Deployer, told};
use crate::facts::Deploys;
use crate::problem::Problem;

/// Places of a machine, and what further deploys made of each.
type Places = BTreeMap<(Section, String), Trend>;

/// What following a difference takes.
pub(crate) struct Following<'a, M> {
    pub(crate) captures: &'a Captures,
    pub(crate) deployer: Deployer<'a, M>,
    /// Twins were forks of S1, and not machines left alone at S2.
    pub(crate) twins: bool,
    /// What came before; the further deploys are added.
    pub(crate) deploys: &'a mut Deploys,
    /// In words for the report.
    pub(crate) remarks: Vec<String>,
}

/// Whether there is a difference to follow.
pub(crate) fn is_worth_following(compared: &Comparison) -> bool {
    compared.judged.values().any(|judgement| judgement.observations.iter().any(differs))
}

fn differs(observation: &Observation) -> bool {
    observation.section.is_some() && observation.kind.weight() == Weight::Fails
}

impl<M: Machine> Following<'_, M> {
    /// Runs the further deploys. Returns what they made of each difference, by machine, and a note.
    pub(crate) async fn follow(
        &mut self,
        judged: &BTreeMap<String, Judgement>,
    ) -> Result<(BTreeMap<String, Places>, String), Problem> {
        let third = self.deploy(Pass::Third).await?;
        let mut note = format!("third deploy: {}", told(&third));
        if third.ended != Ended::Well {
            // The verdict on the second deploy stands without it.
            self.remarks.push("the third deploy, which follows a difference, did not end well".to_owned());
            self.deploys.add(Pass::Third, third);
            return Ok((BTreeMap::new(), note));
        }
        self.take(Moment::Third).await?;
        self.deploys.add(Pass::Third, third);
        let mut compared = self.read(judged, false)?;
        let back = |(name, compared): (&String, &Compared)| {
            judged[name].observations.iter().any(|observation| taken_back(compared, observation))
        };
        if compared.iter().any(back) {
            let fourth = self.deploy(Pass::Fourth).await?;
            note = format!("{note}; fourth deploy: {}", told(&fourth));
            self.take(Moment::Fourth).await?;
            self.deploys.add(Pass::Fourth, fourth);
            compared = self.read(judged, true)?;
        }
        let second = self.deploys.get(Pass::Second);
        let places = |(name, compared): (String, Compared)| {
            let differences = judged[&name].observations.iter().filter(|observation| differs(observation));
            let places = differences.filter_map(|observation| compared.place(second, &name, observation)).collect();
            (name, places)
        };
        Ok((compared.into_iter().map(places).collect(), note))
    }

    async fn deploy(&mut self, pass: Pass) -> Result<Deployed, Problem> {
        let ran = self.deployer.deploy(pass).await?;
        self.remarks.extend(ran.remarks);
        Ok(ran.deployed)
    }

    async fn take(&self, moment: Moment) -> Result<(), Problem> {
        let Deployer { machines, deadline, .. } = self.deployer;
        self.captures.take_all(machines, moment, deadline).await.map(drop)
    }

    fn read(&self, judged: &BTreeMap<String, Judgement>, fourth: bool) -> Result<BTreeMap<String, Compared>, Problem> {
        let compare = |name: &String| self.compare(name, fourth).map(|compared| (name.clone(), compared));
        let compared = judged.keys().map(compare).collect::<Result<_, _>>();
        compared.map_err(Problem::from)
    }

    fn compare(&self, name: &str, fourth: bool) -> Result<Compared, TakeError> {
        let read = |moment| self.captures.read(name, moment);
        let (s1, s2, s3) = (read(Moment::Deployed)?, read(Moment::Redeployed)?, read(Moment::Third)?);
        let idled = read(Moment::Idled)?;
        let mut trends = Trends::new(&s1, &s2, &s3);
        if fourth {
            trends = trends.with_fourth(&s3, &read(Moment::Fourth)?);
        }
        let control = Control { before: if self.twins { &s1 } else { &s2 }, after: &idled };
        let again = match self.deploys.get(Pass::Third) {
            Some(third) => changed_again(&judge_machine(name, third, (&s2, &s3, Some(control))), third, name),
            None => Again::default(),
        };
        Ok(Compared { trends, again })
    }
}

/// What further deploys made of one machine.
struct Compared {
    trends: Trends,
    /// What changed something in the third deploy.
    again: Again,
}

impl Compared {
    /// `second` is the deploy that made the difference.
    fn place(
        &self,
        second: Option<&Deployed>,
        machine: &str,
        observation: &Observation,
    ) -> Option<((Section, String), Trend)> {
        let section = observation.section?;
        let mut windows = second.into_iter().flat_map(|second| &second.windows).filter(|w| w.host == machine);
        let operation = windows.find(|w| Some(w.window.number) == observation.window).map(|w| &w.window.name);
        let again = match operation {
            Some(name) => self.again.operations.contains(name),
            None => self.again.sections.contains(&section),
        };
        Some(((section, observation.subject.clone()), self.trends.of(section, &observation.subject, again)))
    }
}

fn taken_back(compared: &Compared, observation: &Observation) -> bool {
    let section = observation.section.filter(|_| differs(observation));
    section.is_some_and(|section| compared.trends.taken_back(section, &observation.subject))
}
