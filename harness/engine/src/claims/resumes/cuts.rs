//! Cuts the deploy off between operations, runs it again, and looks at what the cut left.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use redrill_machines::{Backend, Deadline};
use redrill_model::{Code, Moment, Pass};
use redrill_state::{Observation, Resumed, resume};

use crate::captures::{Captures, Taken};
use crate::claims::restores::Restores;
use crate::context::Context;
use crate::deploy::Deployer;
use crate::deploy::controller::Controller;
use crate::deploy::tools::{Boundary, Deployed, Ended, HostWindow};
use crate::fleet::Fleet;
use crate::problem::Problem;
use crate::services::Services;

/// One cut, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) place: CutPlace,
    pub(crate) after: NextDeploy,
}

impl fmt::Display for CutPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Boundary { number, name, .. } = &self.boundary;
        match self.within {
            None => write!(f, "before operation {number}: {name}"),
            Some(long) => write!(f, "within operation {number}, after {:.0} s: {name}", long.as_secs_f64()),
        }
    }
}

/// What was there after the next whole deploy.
#[derive(Debug, Clone)]
pub(crate) enum NextDeploy {
    /// By machine: what the cut left.
    Looked(BTreeMap<String, Vec<Observation>>),
    /// The next deploy failed.
    Stuck(Ended),
    /// The tool did not stop where it should.
    NotCut,
}

/// Everything about cuts.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    pub(crate) done: Vec<Cut>,
    /// How many were to be made.
    pub(crate) wanted: usize,
    /// How many places there are.
    pub(crate) places: usize,
}

/// Where a deploy is cut off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CutPlace {
    /// The operation before which, or within which.
    pub(crate) boundary: Boundary,
    /// Within it, after so long.
    pub(crate) within: Option<Duration>,
}

/// An operation that works for longer may well be cut off in its middle.
const LONG: Duration = Duration::from_secs(4);

/// Those before operations that depend on a change come first: there a restart gets lost. Before the first operation
/// there is nothing to cut off. Long operations are cut off half way too: `took` tells how long one worked.
pub(crate) fn choose(
    boundaries: &[Boundary],
    took: impl Fn(&Boundary) -> Duration,
    most: Option<usize>,
) -> Vec<CutPlace> {
    let before = boundaries.iter().filter(|boundary| boundary.number > 1);
    let mut chosen: Vec<CutPlace> =
        before.map(|boundary| CutPlace { boundary: boundary.clone(), within: None }).collect();
    let long = boundaries.iter().filter(|boundary| took(boundary) > LONG);
    chosen.extend(long.map(|boundary| CutPlace { boundary: boundary.clone(), within: Some(took(boundary) / 2) }));
    chosen.sort_by_key(|place| (!place.boundary.depends, place.within.is_none(), place.boundary.number));
    chosen.truncate(most.unwrap_or(usize::MAX));
    chosen
}

/// How long an operation worked on the host where it took longest.
fn took(first: &Deployed, boundary: &Boundary) -> Duration {
    let same = |window: &&HostWindow| {
        let window = &window.window;
        window.name == boundary.name && window.place == boundary.place
    };
    let longest = first.windows.iter().filter(same).map(|window| window.window.end - window.window.start).max();
    Duration::from_nanos(longest.and_then(|nanoseconds| u64::try_from(nanoseconds).ok()).unwrap_or_default())
}

/// What cutting a deploy off takes.
pub(crate) struct Cutting<'a, B: Backend> {
    pub(crate) context: &'a Context,
    pub(crate) captures: &'a Captures,
    pub(crate) fleet: &'a mut Fleet<B>,
    pub(crate) services: &'a Services,
    pub(crate) controller: &'a mut Controller,
    pub(crate) restores: &'a mut Restores,
    pub(crate) deadline: &'a Deadline,
    /// In words for the report.
    pub(crate) remarks: Vec<String>,
}

impl<B: Backend> Cutting<'_, B> {
    /// Cuts the deploy off at every chosen place; what came of each stands in `cuts` at once. Returns a note.
    pub(crate) async fn cut_everywhere(&mut self, first: &Deployed, cuts: &mut Cuts) -> Result<String, Problem> {
        let all = |most| choose(&first.boundaries, |boundary| took(first, boundary), most);
        let (places, chosen) = (all(None).len(), all(self.context.scenario().cuts));
        (cuts.wanted, cuts.places) = (chosen.len(), places);
        if chosen.is_empty() {
            return Ok("there is no place to cut the deploy off".to_owned());
        }
        self.context.tell("another machine deployed without a cut: what differs then differs between any two");
        self.clean_machines("uncut").await?;
        for _ in 0..2 {
            if self.deploy().await?.ended != Ended::Well {
                let text = "a deploy without a cut failed in another clean machine";
                return Err(Problem::new(Code::NotProven, text));
            }
        }
        let reference = self.take("uncut").await?;
        for place in chosen {
            self.context.tell(&format!("a deploy cut off {place}"));
            let after = self.cut(&place, &reference).await?;
            cuts.done.push(Cut { place, after });
        }
        Ok(format!("cut off at {} of {} places", cuts.done.len(), cuts.places))
    }

    fn deployer(&mut self) -> Deployer<'_, B::Machine> {
        Deployer {
            context: self.context,
            controller: self.controller,
            machines: &self.fleet.machines,
            restores: self.restores,
            deadline: self.deadline,
        }
    }

    async fn deploy(&mut self) -> Result<Deployed, Problem> {
        let ran = self.deployer().deploy(Pass::Resumed).await?;
        self.remarks.extend(ran.remarks);
        Ok(ran.deployed)
    }

    async fn cut(&mut self, place: &CutPlace, reference: &Taken) -> Result<NextDeploy, Problem> {
        let CutPlace { boundary, within } = place;
        let name = format!("cut-{}{}", if within.is_some() { "in-" } else { "" }, boundary.number);
        self.clean_machines(&name).await?;
        let was_cut = match within {
            None => {
                let first = self.deployer().deploy_until(boundary.number).await?;
                first.deployed.cut == Some(boundary.number)
            }
            Some(long) => self.deployer().deploy_into(&boundary.name, *long).await?,
        };
        if !was_cut {
            return Ok(NextDeploy::NotCut);
        }
        let second = self.deploy().await?;
        if second.ended != Ended::Well {
            return Ok(NextDeploy::Stuck(second.ended));
        }
        let resumed = self.take(&name).await?;
        let mut looked = BTreeMap::new();
        for (machine, resumed) in &resumed {
            let read = |moment| {
                let read = self.captures.read(machine, moment);
                read.map_err(Problem::from)
            };
            let (clean, whole) = (read(Moment::Clean)?, read(Moment::Deployed)?);
            if let Some(reference) = reference.get(machine) {
                let captures = Resumed { clean: &clean, whole: &whole, reference, resumed };
                looked.insert(machine.clone(), resume(&captures));
            }
        }
        Ok(NextDeploy::Looked(looked))
    }

    /// New machines in place of those that there are.
    async fn clean_machines(&mut self, name: &str) -> Result<(), Problem> {
        let trouble = self.fleet.end_machines().await;
        if !trouble.is_empty() {
            self.remarks.push(format!("a machine would not end: {trouble}"));
        }
        self.fleet.boot_all(self.context, self.services, name, self.deadline).await?;
        let connected = self.controller.connect(&self.fleet.machines);
        connected.map_err(|error| Problem::of(Code::NoController, &error))
    }

    async fn take(&self, name: &str) -> Result<Taken, Problem> {
        self.captures.take_named(&self.fleet.machines, name, true, self.deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_where_a_restart_may_get_lost_come_first() {
        let boundary = |number, depends| Boundary { number, name: number.to_string(), place: None, depends };
        let all = [boundary(1, false), boundary(2, false), boundary(3, true), boundary(4, false)];
        let took = |boundary: &Boundary| Duration::from_secs(if boundary.number == 4 { 10 } else { 1 });
        let places = |most| choose(&all, took, most).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            places(None),
            [
                "before operation 3: 3",
                "within operation 4, after 5 s: 4",
                "before operation 2: 2",
                "before operation 4: 4"
            ],
            "before the first operation there is nothing to cut off"
        );
        assert_eq!(places(Some(1)).len(), 1);
    }
}
