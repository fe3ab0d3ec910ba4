//! A drill: the plan of a scenario, walked from stage to stage, and the report it ends in.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use redrill_machines::process::Guard;
use redrill_machines::{Backend, Capabilities, Deadline, Home, RunDir};
use redrill_model::{Code, HostFacts, Report, SCHEMA, ScopeReport, Stage, StageReport, Status, Verdict, plan};
use redrill_state::{compared, not_compared};

use crate::captures::Captures;
use crate::claims;
use crate::claims::idempotent::compare::Watch;
use crate::context::Context;
use crate::deploy::controller;
use crate::drill_state::{Stop, Walk};
use crate::events::{Event, Events};
use crate::facts::Facts;
use crate::fleet::Fleet;
use crate::loaded::Loaded;
use crate::outside;
use crate::problem::Problem;
use crate::scenario_error::ScenarioError;
use crate::services::Services;
use crate::stages::{self, StageOutcome};

/// Whether machines stay when the drill is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// They are ended.
    Never,
    /// They stay if a claim is not proven.
    OnFailure,
    /// They stay.
    Always,
}

/// Everything one drill needs.
pub struct Drill<B> {
    /// What is drilled.
    pub loaded: Loaded,
    /// Makes the machines.
    pub backend: B,
    /// Starts processes.
    pub guard: Guard,
    /// Where everything lies.
    pub run_dir: RunDir,
    /// Caches.
    pub home: Home,
    /// What the drill runs on.
    pub host: HostFacts,
    /// Versions of the host's tools.
    pub tools: BTreeMap<String, String>,
    /// Told what happens.
    pub events: Events,
    /// Becomes true when the user wants an end.
    pub stop: Stop,
    /// Plant faults into what was restored, and see who notices.
    pub mutate: bool,
    /// What becomes of the machines.
    pub keep: Keep,
    /// The command that repeats the drill.
    pub repeat: String,
}

impl<B: Backend> Drill<B> {
    /// Walks the plan. An error means that the scenario does not fit the world, and that nothing was booted.
    pub async fn run(self) -> Result<Report, ScenarioError> {
        let (started, began) = (SystemTime::now(), Instant::now());
        let Self { loaded, backend, guard, run_dir, home, host, mut tools, events, stop, mutate, mut keep, repeat } =
            self;
        let context = Context { loaded, run_dir, home, guard, host, events, mutate };
        let directory = context.path().display().to_string();
        context.events.send(Event::Started { scenario: context.loaded.name.clone(), run_dir: directory.clone() });
        let mut walk = Walk::new(context, backend, stop);
        let stages = match walk.stages(&mut keep).await {
            Ok(stages) => stages,
            Err(wrong) => {
                walk.context.run_dir.close();
                return Err(wrong);
            }
        };
        walk.look_for_wants();
        let claims = walk.claims();
        let scope = walk.scope();
        let Walk { context, services, controller, facts, reports, remarks, .. } = walk;
        let source = controller.as_ref().map(|controller| controller.source.clone());
        if let Some(controller) = &controller {
            tools.insert(controller.found.tool.name().to_owned(), controller.tool_version.clone());
        }
        let acme = match services.authority {
            Some(authority) => Some(authority.close().await),
            None => None,
        };
        let report = Report {
            schema: SCHEMA,
            generator: format!("redrill {}", env!("CARGO_PKG_VERSION")),
            scenario: context.loaded.name.clone(),
            summary: context.scenario().summary.clone(),
            commit: source.as_ref().map(|source| source.commit.clone()).unwrap_or_default(),
            source,
            started: humantime::format_rfc3339_seconds(started).to_string(),
            seconds: began.elapsed().as_secs_f64(),
            claims,
            stages,
            deploys: facts.deploys.runs(),
            machines: reports,
            restores: claims::restores::restore_reports(context.scenario(), &facts, &context.host),
            losses: facts.restores.losses,
            mutants: facts.restores.mutants,
            mail: services.mail_sink.map(|room| room.report()),
            acme,
            scope,
            host: context.host.clone(),
            tools,
            remarks: remarks.into_iter().chain(facts.sandbox).collect(),
            run_dir: directory,
            repeat,
        };
        leave(context.run_dir, keep);
        Ok(report)
    }
}

impl<B: Backend> Walk<B> {
    fn new(context: Context, backend: B, stop: Stop) -> Self {
        let events = context.events.clone();
        backend.witnesses().clean_with(move |text| events.redactor().clean(text));
        Self {
            captures: Captures::new(context.path(), context.events.shared_redactor()),
            services: Services::new(&context),
            fleet: Fleet::new(backend),
            context,
            controller: None,
            watch: Watch::default(),
            unrestored: Vec::new(),
            facts: Facts::default(),
            reports: Vec::new(),
            remarks: Vec::new(),
            stop,
        }
    }

    /// Every stage of the plan, until one makes the rest pointless. `keep` becomes what was done with the machines.
    async fn stages(&mut self, keep: &mut Keep) -> Result<Vec<StageReport>, ScenarioError> {
        let context = &self.context;
        let deadline = Deadline::root("the drill", context.scenario().limits.drill, context.host.slowness);
        let can = self.fleet.capabilities();
        let plan = plan(context.scenario(), can.memory_fork).with_mutants(context.mutate);
        self.remarks.extend(remarks(can));
        let (mut reports, mut over) = (Vec::new(), false);
        for stage in plan.stages {
            let report = match stage {
                // Judged first: whether the machines stay may depend on the verdicts.
                Stage::Teardown => self.teardown(keep).await,
                _ if over => not_run(stage),
                _ => self.stage(stage, &deadline).await?,
            };
            over |= ends(stage, report.status);
            self.facts.took.push((stage, report.seconds));
            self.context.events.send(Event::StageEnded { report: report.clone() });
            reports.push(report);
        }
        Ok(reports)
    }

    async fn stage(&mut self, stage: Stage, deadline: &Deadline) -> Result<StageReport, ScenarioError> {
        self.context.events.send(Event::StageStarted { stage });
        self.services.stage(stage);
        let began = Instant::now();
        let mut stop = self.stop.clone();
        let witnesses = self.fleet.witnesses();
        let cut = |code, text: String| StageOutcome::Unknown(Problem::new(code, text));
        let mut work = Box::pin(stages::run(self, stage, deadline));
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = tokio::time::sleep(deadline.left()) => cut(Code::TimedOut, deadline.error().to_string()),
            () = interrupted(&mut stop) => cut(Code::Interrupted, "interrupted by the user".to_owned()),
        };
        if matches!(outcome, StageOutcome::Unknown(_)) {
            // Whatever the stage had started dies with its future.
            witnesses.take().await;
        }
        drop(work);
        let outcome = self.lost(stage).await.map_or(outcome, StageOutcome::Unknown);
        let seconds = began.elapsed().as_secs_f64();
        let (status, note) = match outcome {
            StageOutcome::Done(note) => (Status::Done, note),
            StageOutcome::Failed(note) => (Status::Failed, note),
            StageOutcome::Unknown(problem) => {
                let note = problem.text.clone();
                self.facts.stop(self.clean(problem));
                (Status::Unknown, note)
            }
            StageOutcome::Wrong(error) => return Err(error),
        };
        Ok(StageReport { stage, status, seconds, note: self.context.events.redactor().clean(&note) })
    }

    /// Why nothing that came of this stage can be relied on, if the authority was lost meanwhile.
    async fn lost(&mut self, stage: Stage) -> Option<Problem> {
        let problem = self.services.authority.as_ref()?.lost().await?;
        self.facts.discard(stage, &problem.text);
        Some(problem)
    }

    fn clean(&self, problem: Problem) -> Problem {
        let clean = |text: &String| self.context.events.redactor().clean(text);
        Problem { text: clean(&problem.text), evidence: problem.evidence.iter().map(clean).collect(), ..problem }
    }

    /// Reads what the repo's programs wanted of the world.
    fn look_for_wants(&mut self) {
        let deploys: Vec<_> = self.facts.deploys.all().collect();
        let production = self.controller.as_ref().map(|controller| &controller.production);
        let ledgers = controller::ledgers(self.context.path());
        self.facts.wanted = outside::findings(&ledgers, &deploys, production);
        self.facts.sandbox = outside::remarks(&ledgers);
    }

    fn claims(&self) -> Vec<redrill_model::ClaimReport> {
        let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let context = &self.context;
        let mut claims = claims::claims(context.scenario(), &self.facts, &context.host, &today[..10]);
        let redactor = context.events.redactor();
        for finding in claims.iter_mut().flat_map(|claim| &mut claim.findings) {
            finding.summary = redactor.clean(&finding.summary);
            finding.evidence.iter_mut().for_each(|line| *line = redactor.clean(line));
            for also in &mut finding.also {
                also.summary = redactor.clean(&also.summary);
                also.evidence.iter_mut().for_each(|line| *line = redactor.clean(line));
            }
        }
        claims
    }

    /// What PROVEN speaks of, where machines were compared.
    fn scope(&self) -> Option<ScopeReport> {
        (!self.facts.compared.judged.is_empty()).then(|| ScopeReport {
            compared: compared().into_iter().map(str::to_owned).collect(),
            not_compared: not_compared(self.fleet.capabilities().own_kernel)
                .map(|one| (one.what.to_owned(), one.why.to_owned()))
                .collect(),
        })
    }

    /// On every path: a machine that will not end is itself worth reporting.
    async fn teardown(&mut self, keep: &mut Keep) -> StageReport {
        let stage = Stage::Teardown;
        self.context.events.send(Event::StageStarted { stage });
        let began = Instant::now();
        self.look_for_wants();
        let proven = |claim: &redrill_model::ClaimReport| {
            matches!(claim.verdict, Verdict::Proven | Verdict::Waived | Verdict::Undeclared)
        };
        let wanted = match keep {
            Keep::Never => false,
            Keep::OnFailure => !self.claims().iter().all(proven),
            Keep::Always => true,
        };
        let (count, note) = self.fleet.end_all(wanted && !*self.stop.borrow()).await;
        *keep = if wanted && count > 0 { Keep::Always } else { Keep::Never };
        let status = if note.is_empty() { Status::Done } else { Status::Unknown };
        let note = match (note.is_empty(), *keep) {
            (false, _) => note,
            (true, Keep::Always) => format!("{count} machines kept: redrill shell"),
            (true, _) => format!("{count} machines ended"),
        };
        StageReport { stage, status, seconds: began.elapsed().as_secs_f64(), note }
    }
}

/// Removes what is disposable, unless machines stay.
fn leave(run_dir: RunDir, keep: Keep) {
    if keep == Keep::Always {
        // The worst that can come of it is that the next start sweeps the machines.
        let _ = run_dir.keep();
    } else {
        run_dir.close();
    }
}

/// What the machines could not do, in words for the report.
fn remarks(can: Capabilities) -> Vec<String> {
    let kernel = "the machines had no kernel of their own: what was shown about firewalls, kernel settings and the start \
                  of the system holds under the host's kernel";
    let fork = "noise, where there was a difference for it to excuse, was measured by leaving the machines alone \
                afterwards, since they cannot be forked with their memory";
    let lacking = [(can.own_kernel, kernel), (can.memory_fork, fork)];
    lacking.into_iter().filter(|(able, _)| !able).map(|(_, text)| text.to_owned()).collect()
}

/// Whether nothing can come of the stages after this one. A red check is an answer, and others are still to be had.
fn ends(stage: Stage, status: Status) -> bool {
    match stage {
        Stage::Check | Stage::CheckAgain(_) => !matches!(status, Status::Done | Status::Failed),
        _ => status != Status::Done,
    }
}

fn not_run(stage: Stage) -> StageReport {
    StageReport { stage, status: Status::NotRun, seconds: 0.0, note: "not run".to_owned() }
}

async fn interrupted(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}
