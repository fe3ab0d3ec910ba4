//! A deploy as a stage: the tool runs, and the machines are watched meanwhile.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use redrill_machines::{Backend, Deadline, Exec, Machine, MachineError, host};
use redrill_model::{Code, Pass, Tool};

use crate::drill::{Drill, Outcome, Progress};
use crate::outage::{self, Gaps};
use crate::problem::Problem;
use crate::restore::Between;
use crate::stages::unknown;
use crate::tools::{self, Deployed, Ended};
use crate::writes;

pub(crate) async fn deploy<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    pass: Pass,
    deadline: &Deadline,
) -> Outcome {
    let deployed = match run_deploy(drill, progress, pass, deadline).await {
        Ok(deployed) => deployed,
        Err(outcome) => return outcome,
    };
    if pass == Pass::Second && matches!(deployed.ended, Ended::Failed { .. }) {
        ask_the_first_controller(drill, progress, deadline).await;
    }
    let which = pass.name();
    let note = told(&deployed);
    let outcome = match &deployed.ended {
        Ended::Well => Outcome::Done(note),
        Ended::Unclear(why) => {
            Outcome::Unknown(Problem { code: Code::NotProven, text: format!("{which}: {why}"), evidence: Vec::new() })
        }
        // Whether it failed for this or not, it cannot be told.
        Ended::Failed { .. } if host_is_full(drill) => {
            let place = drill.run_dir.path().display().to_string();
            let error = MachineError::DiskFull { place, what: format!("{which}, which failed") };
            unknown(Code::HostFull, &error)
        }
        Ended::Failed { operation, .. } => match lost_machine(progress, deadline).await {
            Some(error) => unknown(Code::MachineLost, &error),
            None => {
                let at = operation.as_ref().map(|o| format!(" at `{}`", o.name)).unwrap_or_default();
                let text = format!("not run, since {which} failed{at}");
                progress.evidence.trouble.get_or_insert(Problem { code: Code::NotRun, text, evidence: Vec::new() });
                Outcome::Failed(format!("failed{at}; {note}"))
            }
        },
    };
    match pass {
        Pass::First => progress.evidence.first = Some(deployed),
        Pass::Second => progress.evidence.second = Some(deployed),
        Pass::Third | Pass::Fourth | Pass::Resumed => progress.evidence.later.push(deployed),
        Pass::Rebuilt => progress.evidence.rebuilt = Some(deployed),
        Pass::Restored => progress.evidence.restored = Some(deployed),
    }
    outcome
}

/// With less than this a tool may have failed on its own files.
const FULL_MIB: u64 = 4;

fn host_is_full<B>(drill: &Drill<B>) -> bool {
    host::free_disk_mib(drill.run_dir.path()) < FULL_MIB
}

/// A second deploy that failed may have failed because it ran from elsewhere: once more from where the first one did.
async fn ask_the_first_controller<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) {
    if progress.controller.as_ref().is_none_or(|controller| controller.perturbed().is_empty()) {
        return;
    }
    drill
        .events
        .progress("the second deploy failed: once more from the first controller, to tell whether that matters");
    // Whatever comes of it is told with the failure of the second.
    if let Ok(third) = run_deploy(drill, progress, Pass::Third, deadline).await {
        progress.evidence.later.push(third);
    }
}

/// A deploy in a few words.
pub(crate) fn told(deployed: &Deployed) -> String {
    let run = &deployed.run;
    format!(
        "{} operations: {} changed, {} unchanged, {} failed",
        run.operations, run.changed, run.unchanged, run.failed
    )
}

/// Runs the deploy tool, whatever comes of it. `Err` means that it said nothing about the repo.
pub(crate) async fn run_deploy<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    pass: Pass,
    deadline: &Deadline,
) -> Result<Deployed, Outcome> {
    run_tool(drill, progress, tools::Run::whole(pass), deadline).await
}

/// Runs the deploy tool, and kills it right before the operation of this number.
pub(crate) async fn run_deploy_until<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    boundary: usize,
    deadline: &Deadline,
) -> Result<Deployed, Outcome> {
    let run = tools::Run::cut_before(boundary, format!("deploy-cut-{boundary}"));
    run_tool(drill, progress, run, deadline).await
}

/// How often to look whether the operation has begun.
const LOOK: Duration = Duration::from_millis(100);
/// Kills whatever a deploy tool started over SSH, as a lost connection and a power cut would.
const KILL_REMOTE: &str = "for it in $(grep -lz '^SSH_CONNECTION=' /proc/[0-9]*/environ 2>/dev/null); do \
    pid=${it#/proc/}; kill -KILL \"${pid%/environ}\" 2>/dev/null; done; true";

/// Runs the deploy tool, and kills it, with all that it runs in the machines, when this operation has worked for so long.
/// Tells whether that came to pass.
pub(crate) async fn run_deploy_into<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    (operation, long): (&str, Duration),
    deadline: &Deadline,
) -> Result<bool, Outcome> {
    let Some(controller) = &mut progress.controller else { return Ok(false) };
    controller.stand(Pass::Resumed);
    let controller = &*controller;
    let run = tools::Run { label: "deploy-cut-within".to_owned(), ..tools::Run::whole(Pass::Resumed) };
    let limit = deadline.child(Pass::Resumed.name(), drill.loaded.scenario.limits.deploy);
    let half_way = async {
        while tools::at_work(controller, &run.label).is_none_or(|at| at.name != operation) {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(long).await;
    };
    let cut = tokio::select! {
        deployed = tools::deploy(controller, &run, drill.run_dir.path(), &drill.events, &limit) => {
            deployed.map_err(|error| unknown(Code::NoController, &error))?;
            false
        }
        // What the tool had started on this host dies with its future.
        () = half_way => true,
    };
    for machine in &progress.machines {
        let killed = machine.exec(&Exec::new(["sh", "-c", KILL_REMOTE]), b"", &limit).await;
        killed.map_err(|error| unknown(Code::MachineLost, &error))?;
    }
    Ok(cut)
}

async fn run_tool<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    run: tools::Run,
    deadline: &Deadline,
) -> Result<Deployed, Outcome> {
    let (pass, scenario) = (run.pass, &drill.loaded.scenario);
    begin(progress, pass, &deadline.child("the clocks", scenario.limits.command)).await?;
    let shared: &Progress<B> = progress;
    let Some(controller) = &shared.controller else { return Err(no_controller()) };
    let between = Between::of(drill, pass);
    if !between.is_empty() && controller.found.tool == Tool::Shell {
        return Err(Outcome::Unknown(between.no_waiting()));
    }
    let run = tools::Run { pauses: between.names(), ..run };
    let limit = deadline.child(pass.name(), scenario.limits.deploy + between.longest());
    let gaps = Gaps::default();
    let machines = &shared.machines;
    let watching = async {
        if pass == Pass::Second {
            join_all(machines.iter().map(|machine| outage::watch(machine, &gaps, &limit))).await;
        }
        std::future::pending::<Result<Deployed, Outcome>>().await
    };
    let attending = async {
        join_all(machines.iter().map(|machine| machine.attend(&limit))).await;
        std::future::pending::<Result<Deployed, Outcome>>().await
    };
    let restored = Mutex::new(Vec::new());
    let restoring = between.restore(drill, shared, &run.label, &restored, deadline);
    let recorders = if pass == Pass::Second { record(&shared.watched, machines, &limit).await } else { Vec::new() };
    let deployed = tokio::select! {
        deployed = tools::deploy(controller, &run, drill.run_dir.path(), &drill.events, &limit) => {
            deployed.map_err(|error| unknown(Code::NoController, &error))
        }
        // A tool may wait for a dead machine for as long as it is let (pyinfra 3.10 spins).
        error = loss(machines) => Err(unknown(Code::MachineLost, &error)),
        // What waits for data that did not come is ended with its future.
        trouble = restoring => Err(Outcome::Unknown(trouble)),
        never = watching => never,
        never = attending => never,
    };
    let whole = deployed.as_ref().is_ok_and(|d| d.ended == Ended::Well || controller.found.tool == Tool::Pyinfra);
    let missing = whole.then(|| between.missing(tools::paused(controller, &run.label))).flatten();
    progress.evidence.restores.between(restored.into_inner().expect("no panic while it is held"));
    if let Some(trouble) = missing {
        return Err(Outcome::Unknown(trouble));
    }
    let deployed = deployed?;
    end_watching(progress, recorders, &limit).await;
    for (name, gaps) in gaps.into_inner().expect("no panic while it is held") {
        let began = deployed.began + progress.offsets.get(&name).copied().unwrap_or_default();
        let outages = outage::outages(&gaps, &scenario.checks, &name, began);
        progress.evidence.outages.insert(name, outages);
    }
    progress.remarks.extend(deployed.remarks.iter().cloned());
    Ok(deployed)
}

fn no_controller() -> Outcome {
    let text = "no controller".to_owned();
    Outcome::Unknown(Problem { code: Code::NoController, text, evidence: Vec::new() })
}

/// Compares the clocks, and goes to where this deploy runs from.
async fn begin<B: Backend>(progress: &mut Progress<B>, pass: Pass, limit: &Deadline) -> Result<(), Outcome> {
    for machine in &progress.machines {
        let offset = machine.clock_offset(limit).await.map_err(|error| unknown(Code::MachineLost, &error))?;
        progress.offsets.insert(machine.name().to_owned(), offset);
    }
    if let Some(controller) = &mut progress.controller {
        controller.stand(pass);
    }
    Ok(())
}

/// Keeps what was seen of the files that the first deploy wrote.
async fn end_watching<B: Backend>(
    progress: &mut Progress<B>,
    recorders: Vec<Option<writes::Recorder>>,
    limit: &Deadline,
) {
    for (machine, recorder) in progress.machines.iter().zip(recorders) {
        let Some(recorder) = recorder else {
            if progress.watched.get(machine.name()).is_some_and(|paths| !paths.is_empty()) {
                let text = format!("operations that undo each other were not looked for on `{}`", machine.name());
                progress.remarks.push(text);
            }
            continue;
        };
        let record = writes::stop(machine, recorder, limit).await;
        progress.record.insert(machine.name().to_owned(), record);
    }
}

/// Starts to follow what the first deploy wrote.
async fn record<M: Machine>(
    watched: &BTreeMap<String, Vec<String>>,
    machines: &[M],
    limit: &Deadline,
) -> Vec<Option<writes::Recorder>> {
    let start = machines.iter().map(|machine| async {
        let paths = watched.get(machine.name()).map(Vec::as_slice).unwrap_or_default();
        writes::start(machine, paths, limit).await
    });
    join_all(start).await
}

/// Comes to an end when a machine does.
async fn loss<M: Machine>(machines: &[M]) -> MachineError {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(error) = machines.iter().find_map(Machine::lost) {
            return error;
        }
    }
}

/// Why a machine no longer answers, if one does not: then the deploy's failure says nothing about the repo.
async fn lost_machine<B: Backend>(progress: &Progress<B>, deadline: &Deadline) -> Option<MachineError> {
    for machine in &progress.machines {
        let limit = deadline.child("a sign of life", Duration::from_secs(20));
        if let Err(error) = machine.exec(&Exec::new(["true"]), b"", &limit).await {
            return Some(error);
        }
    }
    None
}
