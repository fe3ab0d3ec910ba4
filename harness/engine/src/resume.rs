//! Cuts the deploy off between operations, runs it again, and looks at what the cut left.

use std::collections::BTreeMap;

use redrill_machines::{Backend, Deadline, Machine};
use redrill_model::{Moment, Pass};
use redrill_state::{Capture, Observation, Resumed, resume};

use crate::capture;
use crate::deploying::{run_deploy, run_deploy_until};
use crate::drill::{Drill, Outcome, Progress};
use crate::settle::settle;
use crate::stages::{boot, teardown, unknown};
use crate::tools::{Boundary, Ended};

/// One cut, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) boundary: Boundary,
    pub(crate) after: After,
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

/// Those before operations that depend on a change come first: there a restart gets lost. Before the first operation
/// there is nothing to cut off.
pub(crate) fn choose(boundaries: &[Boundary], most: Option<usize>) -> Vec<Boundary> {
    let mut chosen: Vec<Boundary> = boundaries.iter().filter(|boundary| boundary.number > 1).cloned().collect();
    chosen.sort_by_key(|boundary| (!boundary.depends, boundary.number));
    chosen.truncate(most.unwrap_or(usize::MAX));
    chosen
}

pub(crate) async fn follow<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    match all(drill, progress, deadline).await {
        Ok(note) => Outcome::Done(note),
        Err(outcome) => outcome,
    }
}

async fn all<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Result<String, Outcome> {
    let boundaries = progress.evidence.first.as_ref().map(|first| first.boundaries.clone()).unwrap_or_default();
    let chosen = choose(&boundaries, drill.loaded.scenario.cuts);
    let cuts = &mut progress.evidence.cuts;
    (cuts.wanted, cuts.places) = (chosen.len(), boundaries.len().saturating_sub(1));
    if chosen.is_empty() {
        return Ok("there is no place to cut the deploy off".to_owned());
    }
    drill.events.progress("another machine deployed without a cut: what differs then differs between any two");
    clean_machines(drill, progress, "uncut", deadline).await?;
    for _ in 0..2 {
        let deployed = run_deploy(drill, progress, Pass::Resumed, deadline).await?;
        if deployed.ended != Ended::Well {
            let text = "a deploy without a cut failed in another clean machine".to_owned();
            return Err(Outcome::Unknown(crate::prove::Trouble { code: "NOT_PROVEN", text, evidence: Vec::new() }));
        }
    }
    let reference = take(drill, progress, "uncut", deadline).await?;
    for boundary in chosen {
        drill.events.progress(&format!("a deploy cut off before operation {}: {}", boundary.number, boundary.name));
        let after = cut(drill, progress, &boundary, &reference, deadline).await?;
        progress.evidence.cuts.done.push(Cut { boundary, after });
    }
    let cuts = &progress.evidence.cuts;
    Ok(format!("cut off at {} of {} places", cuts.done.len(), cuts.places))
}

async fn cut<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    boundary: &Boundary,
    reference: &BTreeMap<String, Capture>,
    deadline: &Deadline,
) -> Result<After, Outcome> {
    let name = format!("cut-{}", boundary.number);
    clean_machines(drill, progress, &name, deadline).await?;
    let first = run_deploy_until(drill, progress, boundary.number, deadline).await?;
    if first.cut != Some(boundary.number) {
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
        let clean = read(Moment::Clean).map_err(|error| unknown("NO_CAPTURE", &error))?;
        let whole = read(Moment::Deployed).map_err(|error| unknown("NO_CAPTURE", &error))?;
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
        let taken = capture::take(machine, &progress.key, &file, deadline).await;
        captures.insert(machine.name().to_owned(), taken.map_err(|error| unknown("NO_CAPTURE", &error))?);
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
        let numbers = |most| choose(&all, most).iter().map(|boundary| boundary.number).collect::<Vec<_>>();
        assert_eq!(numbers(None), [3, 2, 4], "before the first operation there is nothing to cut off");
        assert_eq!(numbers(Some(1)), [3]);
    }
}
