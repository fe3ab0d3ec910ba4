//! A drill: the plan of a scenario, walked from stage to stage, and the report it ends in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use redrill_machines::process::Guard;
use redrill_machines::{Backend, Capabilities, Deadline, Home, RunDir};
use redrill_model::{Code, HostFacts, MachineReport, Report, SCHEMA, Stage, StageReport, Status, Verdict, plan};
use redrill_state::{Capture, Seen};
use tokio::sync::watch;

use crate::acme::{self, Authority};
use crate::capture::Secrets;
use crate::controller::{self, Controller};
use crate::details::Contents;
use crate::events::{Event, Events};
use crate::loaded::{Loaded, ScenarioError};
use crate::mail::Mailroom;
use crate::outside;
use crate::problem::Problem;
use crate::prove::{self, Evidence};
use crate::stages;

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

/// Asks a drill to end early, clean up and report what was learnt.
pub type Stop = watch::Receiver<bool>;

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

/// What has been made and learnt so far; every stage adds to it.
pub(crate) struct Progress<B: Backend> {
    pub(crate) controller: Option<Controller>,
    pub(crate) machines: Vec<B::Machine>,
    /// Machines as they were at S1: what went on is a fork of these.
    pub(crate) frozen: Vec<B::Frozen>,
    /// Forks of the same that are left alone.
    pub(crate) twins: Vec<B::Machine>,
    /// Machines as they were before the restore, where faults will be planted into backups.
    pub(crate) unrestored: Vec<(String, B::Frozen)>,
    pub(crate) reports: Vec<MachineReport>,
    /// Nanoseconds that each machine's clock is ahead, measured at the second deploy.
    pub(crate) offsets: BTreeMap<String, i64>,
    /// S1 and S2 of each machine, until they are judged.
    pub(crate) compared: BTreeMap<String, (Capture, Capture)>,
    /// By machine: texts of the files that the first deploy wrote, as they were at S1.
    pub(crate) kept: BTreeMap<String, Contents>,
    /// By machine: the paths that the first deploy wrote, to be followed during the second.
    pub(crate) watched: BTreeMap<String, Vec<String>>,
    /// By machine: the states in which these were seen.
    pub(crate) record: BTreeMap<String, Vec<Seen>>,
    /// What captures of this drill keep to themselves.
    pub(crate) secrets: Secrets,
    /// Where the machines' mail goes, if anywhere.
    pub(crate) mailroom: Option<Arc<Mailroom>>,
    /// Who gives the machines certificates, from the first boot on, if anybody.
    pub(crate) authority: Option<Authority>,
    pub(crate) evidence: Evidence,
    pub(crate) remarks: Vec<String>,
}

/// What came of a stage.
pub(crate) enum Outcome {
    /// It did what it is for; a line about it.
    Done(String),
    /// It gave an answer that makes the rest pointless.
    Failed(String),
    /// It could not give one.
    Unknown(Problem),
    /// The scenario cannot be run as it is.
    Wrong(ScenarioError),
}

impl<B: Backend> Drill<B> {
    /// Walks the plan. An error means that the scenario does not fit the world, and that nothing was booted.
    pub async fn run(mut self) -> Result<Report, ScenarioError> {
        let (started, began) = (SystemTime::now(), Instant::now());
        let run_dir = self.run_dir.path().display().to_string();
        self.events.send(Event::Started { scenario: self.loaded.name.clone(), run_dir: run_dir.clone() });
        let deadline = Deadline::root("the drill", self.loaded.scenario.limits.drill, self.host.slowness);
        let mut progress = self.progress();
        let mut reports = Vec::new();
        let mut over = false;
        let can = self.backend.capabilities();
        let forks = can.memory_fork;
        progress.remarks.extend(remarks(can));
        for stage in plan(&self.loaded.scenario, forks).with_mutants(self.mutate).stages {
            let report = match stage {
                // Judged first: whether the machines stay may depend on the verdicts.
                Stage::Teardown => self.teardown(&mut progress).await,
                _ if over => not_run(stage),
                _ => match self.stage(stage, &mut progress, &deadline).await {
                    Ok(report) => report,
                    Err(wrong) => {
                        self.run_dir.close();
                        return Err(wrong);
                    }
                },
            };
            over |= ends(stage, report.status);
            progress.evidence.restores.took.push((stage, report.seconds));
            self.events.send(Event::StageEnded { report: report.clone() });
            reports.push(report);
        }
        self.look_for_wants(&mut progress);
        let claims = self.claims(&progress.evidence);
        let Evidence { first, second, later, rebuilt, restored, .. } = &progress.evidence;
        let deploys = first.iter().chain(second).chain(later).chain(rebuilt).chain(restored);
        let deploys: Vec<_> = deploys.map(|deployed| deployed.run.clone()).collect();
        let source = progress.controller.as_ref().map(|controller| controller.source.clone());
        if let Some(controller) = &progress.controller {
            self.tools.insert(controller.found.tool.name().to_owned(), controller.tool_version.clone());
        }
        let acme = match progress.authority {
            Some(authority) => Some(authority.close().await),
            None => None,
        };
        Ok(Report {
            schema: SCHEMA,
            generator: format!("redrill {}", env!("CARGO_PKG_VERSION")),
            scenario: self.loaded.name.clone(),
            summary: self.loaded.scenario.summary.clone(),
            commit: source.as_ref().map(|source| source.commit.clone()).unwrap_or_default(),
            source,
            started: humantime::format_rfc3339_seconds(started).to_string(),
            seconds: began.elapsed().as_secs_f64(),
            claims,
            stages: reports,
            deploys,
            machines: progress.reports,
            restores: prove::restore_reports(&self.loaded.scenario, &progress.evidence, &self.host),
            losses: progress.evidence.restores.losses,
            mutants: progress.evidence.restores.mutants,
            mail: progress.mailroom.map(|room| room.report()),
            acme,
            host: self.host.clone(),
            tools: self.tools.clone(),
            remarks: progress.remarks.into_iter().chain(progress.evidence.sandbox).collect(),
            run_dir,
            repeat: self.repeat.clone(),
        })
        .inspect(|_| self.leave())
    }

    fn progress(&self) -> Progress<B> {
        let events = self.events.clone();
        self.backend.witnesses().clean_with(move |text| events.redactor().clean(text));
        Progress {
            controller: None,
            machines: Vec::new(),
            frozen: Vec::new(),
            twins: Vec::new(),
            unrestored: Vec::new(),
            reports: Vec::new(),
            offsets: BTreeMap::new(),
            secrets: Secrets { key: redrill_machines::run_key(), redactor: self.events.shared_redactor() },
            compared: BTreeMap::new(),
            kept: BTreeMap::new(),
            watched: BTreeMap::new(),
            record: BTreeMap::new(),
            mailroom: Mailroom::open(&self.loaded.scenario.mail, self.run_dir.path()),
            authority: None,
            evidence: Evidence::default(),
            remarks: Vec::new(),
        }
    }

    async fn stage(
        &mut self,
        stage: Stage,
        progress: &mut Progress<B>,
        deadline: &Deadline,
    ) -> Result<StageReport, ScenarioError> {
        self.events.send(Event::StageStarted { stage });
        if let Some(room) = &progress.mailroom {
            room.stage(stage);
        }
        if let Some(authority) = &progress.authority {
            authority.stage(stage);
        }
        let began = Instant::now();
        let mut stop = self.stop.clone();
        let witnesses = self.backend.witnesses();
        let cut = |code, text| Outcome::Unknown(Problem { code, text, evidence: Vec::new() });
        let mut work = Box::pin(stages::run(self, stage, progress, deadline));
        let outcome = tokio::select! {
            outcome = &mut work => outcome,
            () = tokio::time::sleep(deadline.left()) => cut(Code::TimedOut, deadline.error().to_string()),
            () = interrupted(&mut stop) => cut(Code::Interrupted, "interrupted by the user".to_owned()),
        };
        if matches!(outcome, Outcome::Unknown(_)) {
            // Whatever the stage had started dies with its future.
            witnesses.take().await;
        }
        drop(work);
        let outcome = acme::lost(progress, stage).await.unwrap_or(outcome);
        let seconds = began.elapsed().as_secs_f64();
        let (status, note) = match outcome {
            Outcome::Done(note) => (Status::Done, note),
            Outcome::Failed(note) => (Status::Failed, note),
            Outcome::Unknown(trouble) => {
                let note = trouble.text.clone();
                progress.evidence.trouble.get_or_insert(self.clean(trouble));
                (Status::Unknown, note)
            }
            Outcome::Wrong(error) => return Err(error),
        };
        Ok(StageReport { stage, status, seconds, note: self.events.redactor().clean(&note) })
    }

    fn clean(&self, trouble: Problem) -> Problem {
        let clean = |text: &String| self.events.redactor().clean(text);
        Problem { text: clean(&trouble.text), evidence: trouble.evidence.iter().map(clean).collect(), ..trouble }
    }

    /// Reads what the repo's programs wanted of the world.
    fn look_for_wants(&self, progress: &mut Progress<B>) {
        let Evidence { first, second, later, rebuilt, restored, .. } = &progress.evidence;
        let deploys: Vec<_> = first.iter().chain(second).chain(later).chain(rebuilt).chain(restored).collect();
        let production = progress.controller.as_ref().map(|controller| &controller.production);
        let ledgers = controller::ledgers(self.run_dir.path());
        progress.evidence.wanted = outside::findings(&ledgers, &deploys, production);
        progress.evidence.sandbox = outside::remarks(&ledgers);
    }

    fn claims(&self, evidence: &Evidence) -> Vec<redrill_model::ClaimReport> {
        let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut claims = prove::claims(&self.loaded.scenario, evidence, &self.host, &today[..10]);
        let redactor = self.events.redactor();
        for finding in claims.iter_mut().flat_map(|claim| &mut claim.findings) {
            finding.summary = redactor.clean(&finding.summary);
            finding.evidence.iter_mut().for_each(|line| *line = redactor.clean(line));
        }
        claims
    }

    /// On every path: a machine that will not end is itself worth reporting.
    async fn teardown(&mut self, progress: &mut Progress<B>) -> StageReport {
        let stage = Stage::Teardown;
        self.events.send(Event::StageStarted { stage });
        let began = Instant::now();
        self.look_for_wants(progress);
        let proven = self
            .claims(&progress.evidence)
            .iter()
            .all(|claim| matches!(claim.verdict, Verdict::Proven | Verdict::Waived | Verdict::Undeclared));
        let keep = match self.keep {
            Keep::Never => false,
            Keep::OnFailure => !proven,
            Keep::Always => true,
        };
        let twins = stages::teardown(std::mem::take(&mut progress.twins), false).await;
        let (count, note) =
            stages::teardown(std::mem::take(&mut progress.machines), keep && !*self.stop.borrow()).await;
        self.backend.finish().await;
        let note = [twins.1, note].into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join("; ");
        self.keep = if keep && count > 0 { Keep::Always } else { Keep::Never };
        let status = if note.is_empty() { Status::Done } else { Status::Unknown };
        let note = match (note.is_empty(), self.keep) {
            (false, _) => note,
            (true, Keep::Always) => format!("{count} machines kept: redrill shell"),
            (true, _) => format!("{count} machines ended"),
        };
        StageReport { stage, status, seconds: began.elapsed().as_secs_f64(), note }
    }

    /// Removes what is disposable, unless machines stay.
    fn leave(self) {
        if self.keep == Keep::Always {
            // The worst that can come of it is that the next start sweeps the machines.
            let _ = self.run_dir.keep();
        } else {
            self.run_dir.close();
        }
    }

    pub(crate) fn progress_events(&self) -> Arc<dyn Fn(&str) + Send + Sync> {
        let events = self.events.clone();
        Arc::new(move |text| events.progress(text))
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
