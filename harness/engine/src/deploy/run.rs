//! A deploy: the tool runs, and the machines are watched meanwhile.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use redrill_machines::{Deadline, Exec, Machine, MachineError, host};
use redrill_model::{Code, OperationRef, Pass, Tool};
use redrill_state::Seen;

use crate::claims::idempotent::outage::{self, Gaps, Outage};
use crate::claims::idempotent::{witness, writes};
use crate::claims::restores::{Between, Restorer, Restores};
use crate::context::Context;
use crate::deploy::controller::Controller;
use crate::deploy::leftovers;
use crate::deploy::tools::{self, Deployed, Ended};
use crate::problem::Problem;

/// What a deploy came to, and what was seen of the machines meanwhile.
pub(crate) struct Ran {
    pub(crate) deployed: Deployed,
    /// By machine: ports that did not answer; empty where all did, or nobody asked.
    pub(crate) outages: BTreeMap<String, Vec<Outage>>,
    /// By machine: the states in which followed files were seen.
    pub(crate) record: BTreeMap<String, Vec<Seen>>,
    /// In words for the report.
    pub(crate) remarks: Vec<String>,
}

/// By machine: paths that are followed during a deploy.
pub(crate) type Followed = BTreeMap<String, Vec<String>>;

/// What a deploy takes: where it runs, into which machines, and what is restored while it waits.
pub(crate) struct Deployer<'a, M> {
    pub(crate) context: &'a Context,
    pub(crate) controller: &'a mut Controller,
    pub(crate) machines: &'a [M],
    pub(crate) restores: &'a mut Restores,
    pub(crate) deadline: &'a Deadline,
}

/// How often to look whether the operation has begun.
const LOOK: Duration = Duration::from_millis(100);
/// Kills whatever a deploy tool started over SSH, as a lost connection and a power cut would.
const KILL_REMOTE: &str = "for it in $(grep -lz '^SSH_CONNECTION=' /proc/[0-9]*/environ 2>/dev/null); do \
    pid=${it#/proc/}; kill -KILL \"${pid%/environ}\" 2>/dev/null; done; true";

impl<M: Machine> Deployer<'_, M> {
    /// Runs the deploy tool, whatever comes of it. An error means that it said nothing about the repo.
    pub(crate) async fn deploy(&mut self, pass: Pass) -> Result<Ran, Problem> {
        self.run(tools::Run::whole(pass), None).await
    }

    /// The same, and sees which ports do not answer, and what becomes of these files.
    pub(crate) async fn deploy_watched(&mut self, pass: Pass, followed: &Followed) -> Result<Ran, Problem> {
        self.run(tools::Run::whole(pass), Some(followed)).await
    }

    /// Kills the tool right before the operation of this number.
    pub(crate) async fn deploy_until(&mut self, boundary: usize) -> Result<Ran, Problem> {
        self.run(tools::Run::cut_before(boundary, format!("deploy-cut-{boundary}")), None).await
    }

    /// Kills the tool, with all that it runs in the machines, when this operation has worked for so long. Returns whether
    /// that came to pass.
    pub(crate) async fn deploy_into(&mut self, operation: &str, long: Duration) -> Result<bool, Problem> {
        self.controller.stand(Pass::Resumed);
        let controller = &*self.controller;
        let run = tools::Run { label: "deploy-cut-within".to_owned(), ..tools::Run::whole(Pass::Resumed) };
        let limit = self.deadline.child(Pass::Resumed.name(), self.context.scenario().limits.deploy);
        let half_way = async {
            while tools::at_work(controller, &run.label).is_none_or(|at| at.name != operation) {
                tokio::time::sleep(LOOK).await;
            }
            tokio::time::sleep(long).await;
        };
        let cut = tokio::select! {
            deployed = tools::deploy(controller, &run, self.context.path(), &self.context.events, &limit) => {
                deployed.map_err(|error| Problem::of(Code::NoController, &error))?;
                false
            }
            // What the tool had started on this host dies with its future.
            () = half_way => true,
        };
        for machine in self.machines {
            let killed = machine.exec(&Exec::new(["sh", "-c", KILL_REMOTE]), b"", &limit).await;
            killed.map_err(|error| Problem::of(Code::MachineLost, &error))?;
        }
        Ok(cut)
    }

    async fn run(&mut self, run: tools::Run, followed: Option<&Followed>) -> Result<Ran, Problem> {
        let (context, machines, pass) = (self.context, self.machines, run.pass);
        let limits = &context.scenario().limits;
        let offsets = clocks(machines, &self.deadline.child("the clocks", limits.command)).await?;
        self.controller.stand(pass);
        let controller = &*self.controller;
        let between = Between::of(context.scenario(), pass);
        if !between.is_empty() && controller.found.tool == Tool::Shell {
            return Err(between.no_waiting());
        }
        let run = tools::Run { pauses: between.names(), ..run };
        let limit = self.deadline.child(pass.name(), limits.deploy + between.longest());
        let gaps = Gaps::default();
        let recorders = match followed {
            Some(followed) => record(followed, machines, &limit).await,
            None => Vec::new(),
        };
        let unseen = watch_writers(machines, &limit).await;
        let is_script = controller.found.tool == Tool::Shell;
        let (done, restores) = (Mutex::new(Vec::new()), &*self.restores);
        let restorer = Restorer { context, controller: Some(controller), machines, restores, deadline: self.deadline };
        let deployed = tokio::select! {
            deployed = tools::deploy(controller, &run, context.path(), &context.events, &limit) => {
                deployed.map_err(|error| Problem::of(Code::NoController, &error))
            }
            // A tool may wait for a dead machine for as long as it is let (pyinfra 3.10 spins).
            error = loss(machines) => Err(Problem::of(Code::MachineLost, &error)),
            // What waits for data that did not come is ended with its future.
            problem = between.restore(&restorer, &run.label, &done) => Err(problem),
            never = attend(machines, followed.map(|_| &gaps), &limit) => never,
        };
        let missing = match &deployed {
            Ok(deployed) if deployed.ended == Ended::Well || controller.found.tool == Tool::Pyinfra => {
                between.missing(tools::paused(controller, &run.label))
            }
            _ => None,
        };
        self.restores.between(done.into_inner().expect("no panic while it is held"));
        if let Some(problem) = missing {
            return Err(problem);
        }
        let mut ran = Ran::of(Deployed { offsets, is_script, ..deployed? });
        ran.wait_for_leftovers(machines, &limit).await;
        ran.end_witness(machines, unseen, &limit).await;
        if let Some(followed) = followed {
            ran.end_watching((machines, followed), recorders, &limit).await;
        }
        ran.count_outages(context, gaps);
        Ok(ran)
    }
}

impl Ran {
    fn of(deployed: Deployed) -> Self {
        let remarks = deployed.remarks.clone();
        Self { deployed, outages: BTreeMap::new(), record: BTreeMap::new(), remarks }
    }

    /// Before anybody looks at what the deploy did: what it left may still do more.
    async fn wait_for_leftovers<M: Machine>(&mut self, machines: &[M], limit: &Deadline) {
        let wait = machines.iter().map(|machine| async {
            let began = self.deployed.began + self.deployed.offset(machine.name());
            (machine.name().to_owned(), leftovers::wait(machine, began, limit).await)
        });
        let waited = join_all(wait).await;
        self.deployed.leftovers.extend(waited);
    }

    /// Keeps what was seen of who wrote. `unseen` are machines without a witness, and why.
    async fn end_witness<M: Machine>(&mut self, machines: &[M], unseen: BTreeMap<String, String>, limit: &Deadline) {
        let watched = machines.iter().filter(|machine| !unseen.contains_key(machine.name()));
        let ends = watched.map(|machine| async { (machine.name().to_owned(), witness::stop(machine, limit).await) });
        for (name, seen) in join_all(ends).await {
            self.remarks.extend(witness::remarks(&name, &seen));
            self.deployed.witnessed.insert(name, seen);
        }
        let pass = self.deployed.run.pass.name();
        let text = |(name, why)| format!("who writes on `{name}` was not watched during {pass}: {why}");
        self.remarks.extend(unseen.into_iter().map(text));
    }

    fn count_outages(&mut self, context: &Context, gaps: Gaps) {
        for (name, gaps) in gaps.into_inner().expect("no panic while it is held") {
            let began = self.deployed.began + self.deployed.offset(&name);
            let outages = outage::outages(&gaps, &context.scenario().checks, &name, began);
            self.outages.insert(name, outages);
        }
    }

    /// Keeps what was seen of the files that the first deploy wrote.
    async fn end_watching<M: Machine>(
        &mut self,
        (machines, followed): (&[M], &Followed),
        recorders: Vec<Option<writes::Recorder>>,
        limit: &Deadline,
    ) {
        for (machine, recorder) in machines.iter().zip(recorders) {
            let Some(recorder) = recorder else {
                if followed.get(machine.name()).is_some_and(|paths| !paths.is_empty()) {
                    let text = format!("operations that undo each other were not looked for on `{}`", machine.name());
                    self.remarks.push(text);
                }
                continue;
            };
            let record = writes::stop(machine, recorder, limit).await;
            self.record.insert(machine.name().to_owned(), record);
        }
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

/// Why a deploy that did not end well leaves nothing to go on with: of the repo (`NOT_RUN`), or of the world around it.
pub(crate) async fn stops<M: Machine>(
    context: &Context,
    machines: &[M],
    (pass, operation): (Pass, Option<&OperationRef>),
    deadline: &Deadline,
) -> Problem {
    // Whether it failed for this or not, it cannot be told.
    if host::free_disk_mib(context.path()) < FULL_MIB {
        let place = context.path().display().to_string();
        let what = format!("{}, which failed", pass.name());
        return Problem::of(Code::HostFull, &MachineError::DiskFull { place, what });
    }
    if let Some(error) = lost_machine(machines, deadline).await {
        return Problem::of(Code::MachineLost, &error);
    }
    let at = operation.map(|operation| format!(" at `{}`", operation.name)).unwrap_or_default();
    Problem::new(Code::NotRun, format!("not run, since {} failed{at}", pass.name()))
}

/// With less than this a tool may have failed on its own files.
const FULL_MIB: u64 = 4;

/// Nanoseconds that each machine's clock is ahead of ours.
async fn clocks<M: Machine>(machines: &[M], limit: &Deadline) -> Result<BTreeMap<String, i64>, Problem> {
    let mut offsets = BTreeMap::new();
    for machine in machines {
        let offset = machine.clock_offset(limit).await.map_err(|error| Problem::of(Code::MachineLost, &error))?;
        offsets.insert(machine.name().to_owned(), offset);
    }
    Ok(offsets)
}

/// Keeps the machines company, and notes the gaps in which ports did not answer; never ends.
async fn attend<M: Machine, T>(machines: &[M], gaps: Option<&Gaps>, limit: &Deadline) -> T {
    let watching = async {
        if let Some(gaps) = gaps {
            join_all(machines.iter().map(|machine| outage::watch(machine, gaps, limit))).await;
        }
    };
    tokio::join!(watching, join_all(machines.iter().map(|machine| machine.attend(limit))));
    std::future::pending().await
}

/// Starts to follow what the first deploy wrote.
async fn record<M: Machine>(followed: &Followed, machines: &[M], limit: &Deadline) -> Vec<Option<writes::Recorder>> {
    let start = machines.iter().map(|machine| async {
        let paths = followed.get(machine.name()).map(Vec::as_slice).unwrap_or_default();
        writes::start(machine, paths, limit).await
    });
    join_all(start).await
}

/// Starts the witness of writers everywhere; returns where there is none, and why.
async fn watch_writers<M: Machine>(machines: &[M], limit: &Deadline) -> BTreeMap<String, String> {
    let start =
        machines.iter().map(|machine| async { (machine.name().to_owned(), witness::start(machine, limit).await) });
    join_all(start).await.into_iter().filter_map(|(name, started)| started.err().map(|why| (name, why))).collect()
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
async fn lost_machine<M: Machine>(machines: &[M], deadline: &Deadline) -> Option<MachineError> {
    for machine in machines {
        let limit = deadline.child("a sign of life", Duration::from_secs(20));
        if let Err(error) = machine.exec(&Exec::new(["true"]), b"", &limit).await {
            return Some(error);
        }
    }
    None
}
