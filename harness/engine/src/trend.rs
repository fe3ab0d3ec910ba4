//! Follows a difference that the second deploy left: a third deploy, and a fourth where the third took something back.

use std::collections::BTreeMap;

use redrill_machines::{Backend, Deadline, Machine};
use redrill_model::{Code, Moment, Pass};
use redrill_state::{Capture, Control, Observation, Section, Trend, Trends, Weight};

use crate::capture::{self, TakeError};
use crate::deploying::{run_deploy, told};
use crate::drill::{Drill, Outcome, Progress};
use crate::prove::{Again, changed_again, judge_machine};
use crate::settle::settle;
use crate::stages::unknown;
use crate::tools::Ended;

/// Runs the further deploys where the captures of the second differ.
pub(crate) async fn follow<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    if !progress.evidence.judged.values().any(|judgement| judgement.observations.iter().any(differs)) {
        return Outcome::Done("the second deploy left no difference to follow".to_owned());
    }
    match third(drill, progress, deadline).await {
        Ok(note) => Outcome::Done(note),
        Err(outcome) => outcome,
    }
}

fn differs(observation: &Observation) -> bool {
    observation.section.is_some() && observation.kind.weight() == Weight::Fails
}

async fn third<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    deadline: &Deadline,
) -> Result<String, Outcome> {
    let third = run_deploy(drill, progress, Pass::Third, deadline).await?;
    let mut note = format!("third deploy: {}", told(&third));
    if third.ended != Ended::Well {
        // The verdict on the second deploy stands without it.
        progress.remarks.push("the third deploy, which follows a difference, did not end well".to_owned());
        progress.evidence.later.push(third);
        return Ok(note);
    }
    take(drill, progress, Moment::Third, deadline).await?;
    progress.evidence.later.push(third);
    let mut compared = read(drill, progress, false)?;
    let back = |name: &String, trends: &Compared| observed(progress, name).any(|o| taken_back(trends, o));
    if compared.iter().any(|(name, trends)| back(name, trends)) {
        let fourth = run_deploy(drill, progress, Pass::Fourth, deadline).await?;
        note = format!("{note}; fourth deploy: {}", told(&fourth));
        take(drill, progress, Moment::Fourth, deadline).await?;
        progress.evidence.later.push(fourth);
        compared = read(drill, progress, true)?;
    }
    for (name, compared) in compared {
        let places = observed(progress, &name).filter(|observation| differs(observation));
        let places: Vec<_> = places.map(|o| place(&compared, progress, &name, o)).collect();
        progress.evidence.trends.insert(name, places.into_iter().flatten().collect());
    }
    Ok(note)
}

/// What further deploys made of one machine.
struct Compared {
    trends: Trends,
    /// What changed something in the third deploy.
    again: Again,
}

fn taken_back(compared: &Compared, observation: &Observation) -> bool {
    let section = observation.section.filter(|_| differs(observation));
    section.is_some_and(|section| compared.trends.taken_back(section, &observation.subject))
}

fn observed<'a, B: Backend>(
    progress: &'a Progress<B>,
    name: &str,
) -> impl Iterator<Item = &'a Observation> + use<'a, B> {
    progress.evidence.judged.get(name).into_iter().flat_map(|judgement| &judgement.observations)
}

fn place<B: Backend>(
    compared: &Compared,
    progress: &Progress<B>,
    machine: &str,
    observation: &Observation,
) -> Option<((Section, String), Trend)> {
    let section = observation.section?;
    let windows = progress.evidence.second.iter().flat_map(|second| &second.windows);
    let mut windows = windows.filter(|w| w.host == machine);
    let operation = windows.find(|w| Some(w.window.number) == observation.window).map(|w| &w.window.name);
    let again = match operation {
        Some(name) => compared.again.operations.contains(name),
        None => compared.again.sections.contains(&section),
    };
    Some(((section, observation.subject.clone()), compared.trends.of(section, &observation.subject, again)))
}

async fn take<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    moment: Moment,
    deadline: &Deadline,
) -> Result<(), Outcome> {
    let dir = drill.run_dir.path().join("captures");
    for machine in &progress.machines {
        // Not at rest after all patience is its ordinary life; a lost machine is told by the capture.
        let _ = settle(machine, deadline).await;
        let taken =
            capture::take(machine, &progress.secrets, &capture::path(&dir, machine.name(), moment), deadline).await;
        taken.map_err(|error| unknown(Code::NoCapture, &error))?;
    }
    Ok(())
}

fn read<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    fourth: bool,
) -> Result<BTreeMap<String, Compared>, Outcome> {
    let compare = |name: &str| compare(drill, progress, name, fourth).map(|compared| (name.to_owned(), compared));
    let names = progress.evidence.judged.keys();
    names.map(|name| compare(name)).collect::<Result<_, _>>().map_err(|error| unknown(Code::NoCapture, &error))
}

fn compare<B: Backend>(
    drill: &Drill<B>,
    progress: &Progress<B>,
    name: &str,
    fourth: bool,
) -> Result<Compared, TakeError> {
    let dir = drill.run_dir.path().join("captures");
    let read = |moment| capture::read(&capture::path(&dir, name, moment));
    let (s1, s2, s3) = (read(Moment::Deployed)?, read(Moment::Redeployed)?, read(Moment::Third)?);
    let idled: Capture = read(Moment::Idled)?;
    let mut trends = Trends::new(&s1, &s2, &s3);
    if fourth {
        trends = trends.with_fourth(&s3, &read(Moment::Fourth)?);
    }
    let offset = progress.offsets.get(name).copied().unwrap_or_default();
    let control = Control { before: if drill.backend.capabilities().memory_fork { &s1 } else { &s2 }, after: &idled };
    let again = match progress.evidence.later.first() {
        Some(third) => changed_again(&judge_machine(name, offset, third, (&s2, &s3, Some(control))), third, name),
        None => Again::default(),
    };
    Ok(Compared { trends, again })
}
