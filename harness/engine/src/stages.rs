//! What each stage does: takes values out of the walk, calls a function of them, and puts its value back.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use redrill_machines::{Backend, Deadline, Machine, find_machine};
use redrill_model::{After, Code, ImageUsed, MachineReport, Moment, Network, Pass, Scenario, Stage};
use redrill_state::Section;

use crate::captures::Taken;
use crate::claims::idempotent::trend::{self, Following};
use crate::claims::restores::{self, Jobs, Mutation, Restorer};
use crate::claims::resumes::{Cuts, Cutting};
use crate::claims::serves::checks::{self, Checked, Place, Seen};
use crate::context::Context;
use crate::deploy::controller::{Controller, ControllerError, Workplace};
use crate::deploy::tools::{Deployed, Ended};
use crate::deploy::{self, Deployer, told};
use crate::drill_state::Walk;
use crate::events::Event;
use crate::fleet::Fleet;
use crate::problem::Problem;
use crate::scenario_error::ScenarioError;

/// What came of a stage.
pub(crate) enum StageOutcome {
    /// It did what it is for; a line about it.
    Done(String),
    /// It gave an answer that makes the rest pointless.
    Failed(String),
    /// It could not give one.
    Unknown(Problem),
    /// The scenario cannot be run as it is.
    Wrong(ScenarioError),
}

impl From<Result<String, Problem>> for StageOutcome {
    fn from(result: Result<String, Problem>) -> Self {
        result.map_or_else(Self::Unknown, Self::Done)
    }
}

pub(crate) async fn run<B: Backend>(walk: &mut Walk<B>, stage: Stage, deadline: &Deadline) -> StageOutcome {
    match stage {
        Stage::Controller => controller(walk).await,
        Stage::Images => images(walk).await.into(),
        Stage::Boot => boot(walk, deadline).await.into(),
        Stage::Deploy(pass) => deploy(walk, pass, deadline).await,
        Stage::Capture(moment) => capture(walk, moment, deadline).await.into(),
        Stage::Twin => twin(walk, deadline).await.into(),
        Stage::Idle => idle(walk).await.into(),
        Stage::Trend => follow(walk, deadline).await.into(),
        Stage::Check => check(walk, None, deadline).await,
        Stage::CheckAgain(after) => check(walk, Some(after), deadline).await,
        Stage::BackUp => back_up(walk, deadline).await.into(),
        Stage::Renew => renew(walk, deadline).await.into(),
        Stage::Restore => restore(walk, deadline).await,
        Stage::Mutate => mutate(walk, deadline).await.into(),
        Stage::Reboot => reboot(walk, deadline).await.into(),
        Stage::Resume => resume(walk, deadline).await.into(),
        Stage::Teardown => StageOutcome::Done(String::new()),
    }
}

async fn controller<B: Backend>(walk: &mut Walk<B>) -> StageOutcome {
    let context = &walk.context;
    let (home, guard) = (context.home.clone(), context.guard.clone());
    match Controller::make(&context.loaded, &Workplace { home, guard, progress: context.teller() }).await {
        Err(ControllerError::Scenario(error)) => StageOutcome::Wrong(error),
        Err(ControllerError::Unsealed(why)) => {
            let text = ControllerError::Unsealed(why.clone()).to_string();
            StageOutcome::Unknown(Problem { evidence: vec![why.mend()], ..Problem::new(Code::Unsealed, text) })
        }
        Err(error) => StageOutcome::Unknown(Problem::of(Code::NoController, &error)),
        Ok(controller) => {
            walk.remarks.extend(remarks(&controller, context.scenario()));
            let note = format!("{} {}", &controller.source.commit[..12], controller.source.title);
            walk.controller = Some(controller);
            StageOutcome::Done(note)
        }
    }
}

/// What a reader must know of where the deploy comes from.
fn remarks(controller: &Controller, scenario: &Scenario) -> Vec<String> {
    let mut remarks = Vec::new();
    if !controller.source.uncommitted.is_empty() {
        let files = controller.source.uncommitted.join(", ");
        remarks.push(format!("uncommitted changes were no part of the drill: {files}"));
    }
    if scenario.network == Network::Open {
        remarks.push("the machines could reach whatever the host reaches (network mode `open`)".to_owned());
    }
    remarks.extend(controller.remarks.iter().cloned());
    remarks
}

/// Where the second deploy came from, once there was one.
fn from_elsewhere(controller: &Controller, scenario: &Scenario) -> Vec<String> {
    let from = match controller.perturbed().join(", ") {
        none if none.is_empty() => "the second deploy ran from the same controller as the first".to_owned(),
        what => format!("the second deploy ran from another controller: {what} were others"),
    };
    let same = scenario.deploy.same.iter();
    let same = same.map(|(what, why)| format!("`{}` of the controller stayed the same: {why}", what.name()));
    std::iter::once(from).chain(same).collect()
}

async fn images<B: Backend>(walk: &mut Walk<B>) -> Result<String, Problem> {
    let images = walk.fleet.prepare(&walk.context).await.map_err(|error| Problem::of(Code::NoImage, &error))?;
    let used = |name: &str| images.iter().find(|image| image.name == name).cloned();
    walk.reports.extend(walk.context.scenario().machines.iter().map(|machine| {
        let name = machine.image.get_ref();
        MachineReport {
            name: machine.name.clone(),
            image: used(name).unwrap_or(ImageUsed { name: name.clone(), digest: String::new() }),
            boot_seconds: None,
            captures: BTreeMap::new(),
            became: BTreeMap::new(),
            noise: Vec::new(),
            left_out: BTreeMap::new(),
        }
    }));
    let short = |image: &ImageUsed| format!("{} {}", image.name, &image.digest[..12.min(image.digest.len())]);
    Ok(images.iter().map(short).collect::<Vec<_>>().join(", "))
}

async fn boot<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    walk.services.open(&walk.context).await.map_err(|error| Problem::of(Code::NoAcme, &error))?;
    boot_in(walk, "", deadline).await
}

/// Boots clean machines, with their files in `within`, and lets the deploy tool reach them.
async fn boot_in<B: Backend>(walk: &mut Walk<B>, within: &str, deadline: &Deadline) -> Result<String, Problem> {
    let note = walk.fleet.boot_all(&walk.context, &walk.services, within, deadline).await?;
    for report in &mut walk.reports {
        report.boot_seconds = walk.fleet.get(&report.name).map(Machine::boot_seconds);
    }
    connect(walk.controller.as_mut(), &walk.fleet)?;
    Ok(note)
}

/// Lets the deploy tool reach the machines that there are now.
fn connect<B: Backend>(controller: Option<&mut Controller>, fleet: &Fleet<B>) -> Result<(), Problem> {
    let connected = controller.map(|controller| controller.connect(&fleet.machines));
    connected.transpose().map(drop).map_err(|error| Problem::of(Code::NoController, &error))
}

async fn deploy<B: Backend>(walk: &mut Walk<B>, pass: Pass, deadline: &Deadline) -> StageOutcome {
    let deployed = match run_deploy(walk, pass, deadline).await {
        Ok(deployed) => deployed,
        Err(problem) => return StageOutcome::Unknown(problem),
    };
    if pass == Pass::Second && matches!(deployed.ended, Ended::Failed { .. }) {
        ask_the_first_controller(walk, deadline).await;
    }
    let note = told(&deployed);
    let outcome = match &deployed.ended {
        Ended::Well => StageOutcome::Done(note),
        Ended::Unclear(why) => StageOutcome::Unknown(Problem::new(Code::NotProven, format!("{}: {why}", pass.name()))),
        Ended::Failed { operation, .. } => {
            let stop = deploy::stops(&walk.context, &walk.fleet.machines, (pass, operation.as_ref()), deadline).await;
            if stop.code == Code::NotRun {
                walk.facts.stop(stop);
                let at = operation.as_ref().map(|o| format!(" at `{}`", o.name)).unwrap_or_default();
                StageOutcome::Failed(format!("failed{at}; {note}"))
            } else {
                StageOutcome::Unknown(stop)
            }
        }
    };
    walk.facts.deploys.add(pass, deployed);
    outcome
}

/// Deploys, and keeps what was seen meanwhile.
async fn run_deploy<B: Backend>(walk: &mut Walk<B>, pass: Pass, deadline: &Deadline) -> Result<Deployed, Problem> {
    let none = || Problem::new(Code::NoController, "no controller");
    let mut deployer = Deployer {
        context: &walk.context,
        controller: walk.controller.as_mut().ok_or_else(none)?,
        machines: &walk.fleet.machines,
        restores: &mut walk.facts.restores,
        deadline,
    };
    let ran = match pass {
        Pass::Second => deployer.deploy_watched(pass, &walk.watch.followed).await?,
        _ => deployer.deploy(pass).await?,
    };
    walk.remarks.extend(ran.remarks);
    if let (Pass::Second, Some(controller)) = (pass, &walk.controller) {
        walk.remarks.extend(from_elsewhere(controller, walk.context.scenario()));
    }
    walk.facts.compared.outages.extend(ran.outages);
    walk.watch.record.extend(ran.record);
    Ok(ran.deployed)
}

/// A second deploy that failed may have failed because it ran from elsewhere: once more from where the first one did.
async fn ask_the_first_controller<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) {
    if walk.controller.as_ref().is_none_or(|controller| controller.perturbed().is_empty()) {
        return;
    }
    walk.context.tell("the second deploy failed: once more from the first controller, to see whether that matters");
    // Whatever comes of it is reported with the failure of the second.
    if let Ok(third) = run_deploy(walk, Pass::Third, deadline).await {
        walk.facts.deploys.add(Pass::Third, third);
    }
}

async fn twin<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let note = walk.fleet.twin_all(&walk.context, deadline).await?;
    connect(walk.controller.as_mut(), &walk.fleet)?;
    Ok(note)
}

/// What was restored is looked at beside the captures: they see no values in databases.
async fn capture<B: Backend>(walk: &mut Walk<B>, moment: Moment, deadline: &Deadline) -> Result<String, Problem> {
    let twins = moment == Moment::Idled && !walk.fleet.twins.is_empty();
    if twins {
        read_back(walk).await?;
    }
    let machines = if twins { &walk.fleet.twins } else { &walk.fleet.machines };
    let taken = walk.captures.take_all(machines, moment, deadline).await?;
    let entries = count(walk, moment, &taken);
    match moment {
        Moment::Clean => drop(join_all(walk.fleet.machines.iter().map(|machine| machine.learn(deadline))).await),
        Moment::Deployed => walk.watch.keep(&walk.captures, &walk.fleet.machines, &taken, deadline).await,
        Moment::Idled => judge(walk, &taken, twins, deadline).await,
        _ => {}
    }
    let mut note = format!("{entries} entries");
    match moment {
        Moment::Restored => look_before(walk, deadline).await?,
        Moment::Settled => note = format!("{note}; {}", look_after(walk, deadline).await?),
        _ => {}
    }
    Ok(note)
}

/// Counts the entries of captures for the report.
fn count<B: Backend>(walk: &mut Walk<B>, moment: Moment, taken: &Taken) -> usize {
    let mut entries = 0;
    for (name, capture) in taken {
        let counted: BTreeMap<String, usize> =
            Section::ALL.iter().map(|section| (section.name().to_owned(), capture.count(*section))).collect();
        entries += counted.values().sum::<usize>();
        if let Some(report) = walk.reports.iter_mut().find(|report| report.name == *name) {
            report.captures.insert(moment.file_stem().to_owned(), counted);
        }
    }
    entries
}

/// Reads S0, S1 and S2 of every machine, to be judged.
async fn read_back<B: Backend>(walk: &mut Walk<B>) -> Result<(), Problem> {
    let mut became = walk.watch.read_back(&walk.captures, walk.fleet.names()).await?;
    for report in &mut walk.reports {
        report.became = became.remove(&report.name).unwrap_or_default();
    }
    Ok(())
}

/// Judges every machine by what changed by itself, and ends the twins.
async fn judge<B: Backend>(walk: &mut Walk<B>, idled: &Taken, twins: bool, deadline: &Deadline) {
    for (name, idled) in idled {
        let Some(second) = walk.facts.deploys.get(Pass::Second) else { continue };
        let Some((judgement, s2)) = walk.watch.judge(name, idled, twins, second) else { continue };
        if let Some(report) = walk.reports.iter_mut().find(|report| report.name == *name) {
            report.noise.clone_from(&judgement.noise);
            report.left_out.clone_from(&judgement.left_out);
        }
        if let Some(machine) = walk.fleet.get(name) {
            let found = walk.watch.details(machine, (&judgement, &s2), second, deadline).await;
            let found = found.into_iter().map(|(subject, lines)| ((name.clone(), subject), lines));
            walk.facts.compared.details.extend(found);
        }
        walk.facts.compared.judged.insert(name.clone(), judgement);
    }
    let trouble = walk.fleet.end_twins().await;
    if !trouble.is_empty() {
        walk.remarks.push(format!("a twin would not end: {trouble}"));
    }
}

async fn idle<B: Backend>(walk: &mut Walk<B>) -> Result<String, Problem> {
    let began = Instant::now();
    read_back(walk).await?;
    match walk.facts.deploys.get(Pass::Second) {
        Some(second) => Ok(walk.watch.idle(&walk.context, second, began).await),
        None => Ok(String::new()),
    }
}

async fn follow<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    if !trend::is_worth_following(&walk.facts.compared) {
        return Ok("the second deploy left no difference to follow".to_owned());
    }
    let none = || Problem::new(Code::NoController, "no controller");
    let mut following = Following {
        captures: &walk.captures,
        deployer: Deployer {
            context: &walk.context,
            controller: walk.controller.as_mut().ok_or_else(none)?,
            machines: &walk.fleet.machines,
            restores: &mut walk.facts.restores,
            deadline,
        },
        twins: walk.fleet.capabilities().memory_fork,
        deploys: &mut walk.facts.deploys,
        remarks: Vec::new(),
    };
    let followed = following.follow(&walk.facts.compared.judged).await;
    walk.remarks.extend(following.remarks);
    let (trends, note) = followed?;
    walk.facts.compared.trends = trends;
    Ok(note)
}

/// Checks made at once: more would only make an emulated machine's answers later.
const AT_ONCE: usize = 4;

async fn check<B: Backend>(walk: &mut Walk<B>, again: Option<After>, deadline: &Deadline) -> StageOutcome {
    let checks = &walk.context.scenario().checks;
    walk.context.tell(&format!("{} checks, side by side", checks.len()));
    let checked = ask(&walk.context, &walk.fleet.machines, walk.services.trusted(), deadline).await;
    let green = checked.iter().filter(|checked| matches!(checked.seen, Ok(Seen::Holds))).count();
    let (note, all) = (format!("{green} of {} checks hold", checks.len()), green == checks.len());
    walk.facts.checks.add(again, checked);
    if all { StageOutcome::Done(note) } else { StageOutcome::Failed(note) }
}

/// Makes every check of the scenario; the answers are in its order.
async fn ask<M: Machine>(
    context: &Context,
    machines: &[M],
    trusted: Option<&str>,
    deadline: &Deadline,
) -> Vec<Checked> {
    let tries = context.scenario().checks.iter().map(|check| async move {
        let machine = find_machine(machines, &check.machine)?;
        let place = Place { machine, machines, directory: &context.loaded.directory, trusted };
        let checked = checks::check(check, &place, deadline).await;
        let holds = matches!(checked.seen, Ok(Seen::Holds));
        context.events.send(Event::Check { name: check.name.clone(), holds, seconds: checked.seconds });
        Some(checked)
    });
    let checked: Vec<_> = stream::iter(tries).buffered(AT_ONCE).collect().await;
    checked.into_iter().flatten().collect()
}

async fn back_up<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let jobs = Jobs { context: &walk.context, controller: walk.controller.as_ref(), deadline };
    let done = jobs.run_all(&walk.fleet.machines).await?;
    let note = done.note();
    walk.facts.restores.keep(done);
    Ok(note)
}

async fn renew<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let trouble = walk.fleet.end_machines().await;
    if !trouble.is_empty() {
        return Err(Problem::new(Code::MachineLost, trouble));
    }
    boot_in(walk, "new", deadline).await
}

async fn restore<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> StageOutcome {
    if walk.context.mutate {
        let still = walk.fleet.freeze_all(&walk.context, "pre", deadline).await;
        match still.map_err(|error| Problem::of(Code::MachineLost, &error)) {
            Ok(still) => walk.unrestored = still,
            Err(problem) => return StageOutcome::Unknown(problem),
        }
        if let Err(problem) = connect(walk.controller.as_mut(), &walk.fleet) {
            return StageOutcome::Unknown(problem);
        }
    }
    let last = restores::last_report(&walk.context);
    let backups = &walk.context.scenario().backups;
    for backup in backups.iter().filter(|backup| backup.restore_after.is_none()) {
        let restorer = Restorer {
            context: &walk.context,
            controller: walk.controller.as_ref(),
            machines: &walk.fleet.machines,
            restores: &walk.facts.restores,
            deadline,
        };
        let done = restorer.restore(backup, last.as_ref()).await;
        walk.facts.restores.take(done);
    }
    let (note, all) = walk.facts.restores.counted(backups);
    if all { StageOutcome::Done(note) } else { StageOutcome::Failed(note) }
}

async fn look_before<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<(), Problem> {
    let (place, machines) = ((&walk.context, &walk.captures), &walk.fleet.machines);
    restores::losses(place, machines, &mut walk.facts.restores, deadline).await;
    walk.facts.restores.before = restores::look_before(&walk.context, machines, deadline).await?;
    Ok(())
}

async fn look_after<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let place = (&walk.context, &walk.captures);
    let deploys = (&walk.facts.restores.before, walk.facts.deploys.get(Pass::Restored));
    let fights = restores::look_after(place, &walk.fleet.machines, deploys, deadline).await?;
    let note = format!("{} of the restored paths and tables changed", fights.findings.len());
    (walk.facts.restores.fights, walk.facts.restores.redeployed) = (fights.findings, fights.machines);
    Ok(note)
}

async fn mutate<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let mut mutation = Mutation {
        context: &walk.context,
        fleet: &mut walk.fleet,
        controller: walk.controller.as_mut(),
        restores: &walk.facts.restores,
        captures: &walk.captures,
        unrestored: std::mem::take(&mut walk.unrestored),
        trusted: walk.services.trusted(),
        deadline,
        remarks: Vec::new(),
    };
    let planted = mutation.plant_all().await;
    walk.remarks.append(&mut mutation.remarks);
    let (mutants, note) = planted?;
    walk.facts.restores.mutants = mutants;
    Ok(note)
}

async fn reboot<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let own_kernel = walk.fleet.capabilities().own_kernel;
    if !own_kernel {
        let text = "the machines were started anew from their disks; their kernel, which is the host's, was not";
        walk.remarks.push(text.to_owned());
    }
    let note = walk.fleet.reboot_all(&walk.context, deadline).await?;
    if !own_kernel {
        connect(walk.controller.as_mut(), &walk.fleet)?;
    }
    Ok(note)
}

async fn resume<B: Backend>(walk: &mut Walk<B>, deadline: &Deadline) -> Result<String, Problem> {
    let cuts = walk.facts.cuts.get_or_insert_with(Cuts::default);
    let Some(first) = walk.facts.deploys.get(Pass::First) else {
        return Ok("there is no place to cut the deploy off".to_owned());
    };
    let none = || Problem::new(Code::NoController, "no controller");
    let mut cutting = Cutting {
        context: &walk.context,
        captures: &walk.captures,
        fleet: &mut walk.fleet,
        services: &walk.services,
        controller: walk.controller.as_mut().ok_or_else(none)?,
        restores: &mut walk.facts.restores,
        deadline,
        remarks: Vec::new(),
    };
    let note = cutting.cut_everywhere(first, cuts).await;
    walk.remarks.extend(cutting.remarks);
    note
}
