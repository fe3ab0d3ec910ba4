//! Cuts the deploy off between operations, runs it again, and looks at what the cut left.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use redrill_machines::{Backend, Deadline, Machine};
use redrill_model::{Code, Moment, Pass};
use redrill_state::{Capture, Observation, Resumed, resume};

use crate::capture;
use crate::deploying::{run_deploy, run_deploy_into, run_deploy_until};
use crate::drill::{Drill, Outcome, Progress};
use crate::settle::settle;
use crate::stages::{boot, teardown, unknown};
use crate::tools::{Boundary, Deployed, Ended, HostWindow};

/// One cut, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) place: Place,
    pub(crate) after: After,
}

impl fmt::Display for Place {
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
pub(crate) enum After {
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
pub(crate) struct Place {
    /// The operation before which, or within which.
    pub(crate) boundary: Boundary,
    /// Within it, after so long.
    pub(crate) within: Option<Duration>,
}

/// An operation that works for longer may well be cut off in its middle.
const LONG: Duration = Duration::from_secs(4);

/// Those before operations that depend on a change come first: there a restart gets lost. Before the first operation
/// there is nothing to cut off. Long operations are cut off half way too: `took` tells how long one worked.
pub(crate) fn choose(boundaries: &[Boundary], took: impl Fn(&Boundary) -> Duration, most: Option<usize>) -> Vec<Place> {
    let before = boundaries.iter().filter(|boundary| boundary.number > 1);
    let mut chosen: Vec<Place> = before.map(|boundary| Place { boundary: boundary.clone(), within: None }).collect();
    let long = boundaries.iter().filter(|boundary| took(boundary) > LONG);
    chosen.extend(long.map(|boundary| Place { boundary: boundary.clone(), within: Some(took(boundary) / 2) }));
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

pub(crate) async fn follow<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    match all(drill, progress, deadline).await {
        Ok(note) => Outcome::Done(note),
        Err(outcome) => outcome,
    }
}

async fn all<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Result<String, Outcome> {
    let all = |first: &Deployed, most| choose(&first.boundaries, |boundary| took(first, boundary), most);
    let first = progress.evidence.first.as_ref();
    let places = first.map_or(0, |first| all(first, None).len());
    let chosen = first.map(|first| all(first, drill.loaded.scenario.cuts)).unwrap_or_default();
    (progress.evidence.cuts.wanted, progress.evidence.cuts.places) = (chosen.len(), places);
    if chosen.is_empty() {
        return Ok("there is no place to cut the deploy off".to_owned());
    }
    drill.events.progress("another machine deployed without a cut: what differs then differs between any two");
    clean_machines(drill, progress, "uncut", deadline).await?;
    for _ in 0..2 {
        let deployed = run_deploy(drill, progress, Pass::Resumed, deadline).await?;
        if deployed.ended != Ended::Well {
            let text = "a deploy without a cut failed in another clean machine".to_owned();
            return Err(Outcome::Unknown(crate::problem::Problem {
                code: Code::NotProven,
                text,
                evidence: Vec::new(),
            }));
        }
    }
    let reference = take(drill, progress, "uncut", deadline).await?;
    for place in chosen {
        drill.events.progress(&format!("a deploy cut off {place}"));
        let after = cut(drill, progress, &place, &reference, deadline).await?;
        progress.evidence.cuts.done.push(Cut { place, after });
    }
    let cuts = &progress.evidence.cuts;
    Ok(format!("cut off at {} of {} places", cuts.done.len(), cuts.places))
}

async fn cut<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    place: &Place,
    reference: &BTreeMap<String, Capture>,
    deadline: &Deadline,
) -> Result<After, Outcome> {
    let Place { boundary, within } = place;
    let name = format!("cut-{}{}", if within.is_some() { "in-" } else { "" }, boundary.number);
    clean_machines(drill, progress, &name, deadline).await?;
    let was_cut = match within {
        None => {
            let first = run_deploy_until(drill, progress, boundary.number, deadline).await?;
            first.cut == Some(boundary.number)
        }
        Some(long) => run_deploy_into(drill, progress, (&boundary.name, *long), deadline).await?,
    };
    if !was_cut {
        return Ok(After::NotCut);
    }
    let second = run_deploy(drill, progress, Pass::Resumed, deadline).await?;
    if second.ended != Ended::Well {
        return Ok(After::Stuck(second.ended));
    }
    let resumed = take(drill, progress, &name, deadline).await?;
    let mut looked = BTreeMap::new();
    for (machine, resumed) in &resumed {
        let read = |moment| capture::read(&capture::path(&drill.run_dir.path().join("captures"), machine, moment));
        let clean = read(Moment::Clean).map_err(|error| unknown(Code::NoCapture, &error))?;
        let whole = read(Moment::Deployed).map_err(|error| unknown(Code::NoCapture, &error))?;
        if let Some(reference) = reference.get(machine) {
            let captures = Resumed { clean: &clean, whole: &whole, reference, resumed };
            looked.insert(machine.clone(), resume(&captures));
        }
    }
    Ok(After::Looked(looked))
}

/// New machines in place of those that there are.
async fn clean_machines<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    name: &str,
    deadline: &Deadline,
) -> Result<(), Outcome> {
    let (_, trouble) = teardown(std::mem::take(&mut progress.machines), false).await;
    if !trouble.is_empty() {
        progress.remarks.push(format!("a machine would not end: {trouble}"));
    }
    match boot(drill, progress, name, deadline).await {
        Outcome::Done(_) => Ok(()),
        other => Err(other),
    }
}

async fn take<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    name: &str,
    deadline: &Deadline,
) -> Result<BTreeMap<String, Capture>, Outcome> {
    let mut captures = BTreeMap::new();
    for machine in &progress.machines {
        // Not at rest after all patience is its ordinary life; a lost machine is told by the capture.
        let _ = settle(machine, deadline).await;
        let file = drill.run_dir.path().join("captures").join(machine.name()).join(format!("{name}.jsonl.gz"));
        let taken = capture::take(machine, &progress.secrets, &file, deadline).await;
        captures.insert(machine.name().to_owned(), taken.map_err(|error| unknown(Code::NoCapture, &error))?);
    }
    Ok(captures)
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
