//! What each stage of a plan does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use redrill_machines::{Backend, Deadline, Machine, MachineError, Needs, Seat};
use redrill_model::{After, Claim, Code, ImageUsed, MachineReport, MachineSpec, Moment, Scenario, Stage};
use redrill_state::{Capture, Control, Section, counts, diff};

use crate::acme::Authority;
use crate::capture;
use crate::causes::chain;
use crate::checks;
use crate::controller::{Controller, ControllerError};
use crate::drill::{Drill, Outcome, Progress};
use crate::events::Event;
use crate::problem::Problem;
use crate::prove::{add_flip_flops, is_without_effect, judge_machine};
use crate::restore;
use crate::settle::settle;
use crate::{deploying, details, resume, trend, writes};

pub(crate) async fn run<B: Backend>(
    drill: &mut Drill<B>,
    stage: Stage,
    progress: &mut Progress<B>,
    deadline: &Deadline,
) -> Outcome {
    match stage {
        Stage::Controller => controller(drill, progress).await,
        Stage::Images => images(drill, progress).await,
        Stage::Boot => match Authority::open(drill).await {
            Ok(authority) => {
                progress.authority = authority;
                boot(drill, progress, "", deadline).await
            }
            Err(error) => unknown(Code::NoAcme, &error),
        },
        Stage::Deploy(pass) => deploying::deploy(drill, progress, pass, deadline).await,
        Stage::Capture(moment) => capture_and_look(drill, progress, moment, deadline).await,
        Stage::Twin => twin(drill, progress, deadline).await,
        Stage::Idle => idle(drill, progress).await,
        Stage::Trend => trend::follow(drill, progress, deadline).await,
        Stage::Check => check(drill, progress, None, deadline).await,
        Stage::CheckAgain(after) => check(drill, progress, Some(after), deadline).await,
        Stage::BackUp => restore::back_up(drill, progress, deadline).await,
        Stage::Renew => restore::renew(drill, progress, deadline).await,
        Stage::Restore => restore::restore(drill, progress, deadline).await,
        Stage::Mutate => restore::mutate(drill, progress, deadline).await,
        Stage::Reboot => restore::reboot(drill, progress, deadline).await,
        Stage::Resume => resume::follow(drill, progress, deadline).await,
        Stage::Teardown => Outcome::Done(String::new()),
    }
}

/// What was restored is looked at beside the captures: they see no values in databases.
async fn capture_and_look<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    moment: Moment,
    deadline: &Deadline,
) -> Outcome {
    let taken = take(drill, progress, moment, deadline).await;
    let Outcome::Done(note) = taken else { return taken };
    let looked = match moment {
        Moment::Restored => {
            restore::losses(drill, progress, deadline).await;
            restore::before_redeploy(drill, progress, deadline).await
        }
        Moment::Settled => restore::after_redeploy(drill, progress, deadline).await,
        _ => return Outcome::Done(note),
    };
    match looked {
        Outcome::Done(more) if more.is_empty() => Outcome::Done(note),
        Outcome::Done(more) => Outcome::Done(format!("{note}; {more}")),
        other => other,
    }
}

/// An error with all its causes, as trouble of this kind.
pub(crate) fn unknown(code: Code, error: &(dyn std::error::Error + 'static)) -> Outcome {
    let text = chain(error);
    let full = std::iter::successors(Some(error), |error| error.source()).any(is_full);
    let tail = of_machine(error).map(|error| error.console_tail().to_vec());
    let code = if full { Code::HostFull } else { code };
    let mend = full.then(|| "free some: redrill image prune; redrill clean --all".to_owned());
    Outcome::Unknown(Problem { code, text, evidence: tail.into_iter().flatten().chain(mend).collect() })
}

/// An error that passes for a machine's is not its cause, but it.
fn of_machine<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a MachineError> {
    error.downcast_ref().or_else(|| match error.downcast_ref() {
        Some(capture::TakeError::Machine(error)) => Some(error),
        _ => None,
    })
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_machine = of_machine(error).is_some_and(|error| matches!(error, MachineError::DiskFull { .. }));
    let of_system = error.downcast_ref::<std::io::Error>();
    of_machine || of_system.is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

async fn controller<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>) -> Outcome {
    let events = drill.progress_events();
    let made = Controller::make(&drill.loaded, &drill.home, &drill.guard, drill.run_dir.path(), &events).await;
    match made {
        Err(ControllerError::Scenario(error)) => Outcome::Wrong(error),
        Err(ControllerError::Unsealed(why)) => {
            let text = ControllerError::Unsealed(why.clone()).to_string();
            Outcome::Unknown(Problem { code: Code::Unsealed, text, evidence: vec![why.mend()] })
        }
        Err(error) => unknown(Code::NoController, &error),
        Ok(controller) => {
            let uncommitted = controller.source.uncommitted.len();
            if uncommitted > 0 {
                let files = controller.source.uncommitted.join(", ");
                progress.remarks.push(format!("uncommitted changes were no part of the drill: {files}"));
            }
            if drill.loaded.scenario.network == redrill_model::Network::Open {
                progress
                    .remarks
                    .push("the machines could reach whatever the host reaches (network mode `open`)".to_owned());
            }
            progress.remarks.extend(controller.remarks.iter().cloned());
            progress.remarks.extend(perturbation(&controller, &drill.loaded.scenario));
            let note = format!("{} {}", &controller.source.commit[..12], controller.source.title);
            progress.controller = Some(controller);
            Outcome::Done(note)
        }
    }
}

/// What is another about the controller of the second deploy, and what is not.
fn perturbation(controller: &Controller, scenario: &Scenario) -> Vec<String> {
    if !scenario.claims.contains(&Claim::Idempotent) {
        return Vec::new();
    }
    let mut remarks = Vec::new();
    match controller.perturbed().join(", ") {
        none if none.is_empty() => {
            remarks.push("the second deploy ran from the same controller as the first".to_owned())
        }
        what => remarks.push(format!("the second deploy ran from another controller: {what} were others")),
    }
    let same = scenario.deploy.same.iter();
    remarks.extend(same.map(|(what, why)| format!("`{}` of the controller stayed the same: {why}", what.name())));
    remarks
}

async fn images<B: Backend>(drill: &mut Drill<B>, progress: &mut Progress<B>) -> Outcome {
    let machines = &drill.loaded.scenario.machines;
    let mut names: Vec<String> = machines.iter().map(|machine| machine.image.get_ref().clone()).collect();
    names.sort();
    names.dedup();
    let tell = drill.progress_events();
    match drill.backend.prepare(&names, tell).await {
        Err(error) => unknown(Code::NoImage, &error),
        Ok(images) => {
            let used = |name: &str| images.iter().find(|image| image.name == name).cloned();
            for machine in machines {
                let name = machine.image.get_ref();
                let image = used(name).unwrap_or(ImageUsed { name: name.clone(), digest: String::new() });
                progress.reports.push(MachineReport {
                    name: machine.name.clone(),
                    image,
                    boot_seconds: None,
                    captures: BTreeMap::new(),
                    became: BTreeMap::new(),
                    noise: Vec::new(),
                    left_out: BTreeMap::new(),
                });
            }
            let short = |image: &ImageUsed| format!("{} {}", image.name, &image.digest[..12.min(image.digest.len())]);
            Outcome::Done(images.iter().map(short).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Makes every machine; their files lie below `within` of each machine's directory.
pub(crate) async fn boot<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    within: &str,
    deadline: &Deadline,
) -> Outcome {
    let scenario = &drill.loaded.scenario;
    let post = progress.mailroom.as_ref().map(|room| room.post(&drill.events.shared_redactor()));
    let acme = progress.authority.as_ref().map(Authority::acme);
    let boots = scenario.machines.iter().enumerate().map(|(number, spec)| {
        let needs = Needs { mail: post.clone(), acme: acme.clone(), ..needs(drill, number, spec) };
        (spec, needs)
    });
    let boots = boots.map(|(spec, needs)| async move {
        let deadline = deadline.child(&format!("the boot of `{}`", spec.name), scenario.limits.boot);
        let dir = machine_dir(drill, &PathBuf::from(&spec.name).join(within).display().to_string())?;
        drill.backend.boot(spec, &needs, &dir, &deadline).await
    });
    let mut failed = None;
    for booted in join_all(boots).await {
        match booted {
            Ok(machine) => progress.machines.push(machine),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return unknown(Code::MachineNotReady, &error);
    }
    for report in &mut progress.reports {
        let machine = progress.machines.iter().find(|machine| machine.name() == report.name);
        report.boot_seconds = machine.map(Machine::boot_seconds);
    }
    let slowest = progress.machines.iter().map(Machine::boot_seconds).fold(0.0, f64::max);
    connect(progress, format!("{} answered after {slowest:.1} s", progress.machines.len()))
}

pub(crate) fn machine_dir<B>(drill: &Drill<B>, name: &str) -> Result<PathBuf, MachineError> {
    let dir = drill.run_dir.dir(PathBuf::from("machines").join(name));
    dir.map_err(|error| MachineError::Io { what: error.to_string(), source: error.source })
}

/// Lets the deploy tool reach the machines that there are now.
pub(crate) fn connect<B: Backend>(progress: &mut Progress<B>, done: String) -> Outcome {
    let machines = &progress.machines;
    match progress.controller.as_mut().map(|controller| controller.connect(machines)) {
        Some(Err(error)) => unknown(Code::NoController, &error),
        _ => Outcome::Done(done),
    }
}

/// The private network of every drill; drills do not hear each other.
const LAN: [u8; 3] = [10, 77, 0];
/// The group of the machines that are deployed to, and that of their twins.
pub(crate) const MAIN: &str = "main";
const TWINS: &str = "twins";

fn needs<B: Backend>(drill: &Drill<B>, number: usize, spec: &MachineSpec) -> Needs {
    let scenario = &drill.loaded.scenario;
    let host = |number: usize| Ipv4Addr::new(LAN[0], LAN[1], LAN[2], u8::try_from(10 + number).unwrap_or(u8::MAX));
    let hosts: Vec<_> = scenario.machines.iter().enumerate().map(|(n, m)| (host(n), m.name.clone())).collect();
    let seat = Seat { group: MAIN.to_owned(), address: host(number), hosts };
    let mine = scenario.checks.iter().filter(|check| check.machine == spec.name);
    // What the controller may reach of it, SSH aside.
    let ways = scenario.ways_out.iter().filter(|way| way.host.eq_ignore_ascii_case(&spec.name));
    let declared = ways.map(|way| way.port).filter(|port| *port != 22);
    Needs {
        ports: checks::outside_ports(mine).into_iter().chain(declared).collect(),
        network: scenario.network,
        // Alone, a machine has nobody to talk to.
        lan: (scenario.machines.len() > 1).then_some(seat),
        lease: u8::try_from(number).unwrap_or(u8::MAX),
        mail: None,
        acme: None,
        freezable: drill.mutate || scenario.claims.contains(&Claim::Idempotent),
        forks_freezable: drill.mutate,
    }
}

/// Freezes every machine; one fork goes on in its place, another is left alone.
async fn twin<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let began = Instant::now();
    let names: Vec<String> = progress.machines.iter().map(|machine| machine.name().to_owned()).collect();
    let machines = std::mem::take(&mut progress.machines);
    let frozen = join_all(machines.into_iter().map(|machine| drill.backend.freeze(machine, deadline))).await;
    match frozen.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(frozen) => progress.frozen = frozen,
        Err(error) => return unknown(Code::MachineLost, &error),
    }
    let seconds = began.elapsed().as_secs_f64();
    let forks = progress.frozen.iter().zip(&names).map(|(frozen, name)| async move {
        let (dir, limit) = (machine_dir(drill, name)?, deadline.child("a fork", drill.loaded.scenario.limits.boot));
        let twin = dir.join("twin");
        std::fs::create_dir_all(&twin)
            .map_err(|source| MachineError::Io { what: "cannot make a directory for the twin".to_owned(), source })?;
        tokio::try_join!(
            drill.backend.fork(frozen, MAIN, &dir, &limit),
            drill.backend.fork(frozen, TWINS, &twin, &limit)
        )
    });
    for forked in join_all(forks).await {
        match forked {
            Ok((main, twin)) => {
                progress.machines.push(main);
                progress.twins.push(twin);
            }
            Err(error) => return unknown(Code::MachineNotReady, &error),
        }
    }
    connect(progress, format!("{} frozen in {seconds:.1} s and forked twice", names.len()))
}

async fn take<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    moment: Moment,
    deadline: &Deadline,
) -> Outcome {
    let dir = drill.run_dir.path().join("captures");
    let twins = moment == Moment::Idled && !progress.twins.is_empty();
    if twins && let Err(error) = read_all_back(drill, progress).await {
        return unknown(Code::NoCapture, &error);
    }
    let (machines, key) = (if twins { &progress.twins } else { &progress.machines }, &progress.secrets);
    let takes = machines.iter().map(|machine| {
        let (path, limit) = (capture::path(&dir, machine.name(), moment), deadline.child("a capture", CAPTURE));
        async move {
            if moment != Moment::Idled {
                // Not at rest after all patience is its ordinary life; a lost machine is told by the capture.
                let _ = settle(machine, &limit).await;
            }
            let taken = capture::take(machine, key, &path, &limit).await;
            if moment == Moment::Clean {
                machine.learn(&limit).await;
            }
            (machine.name().to_owned(), taken)
        }
    });
    let mut entries = 0;
    let mut judged = Vec::new();
    for (name, taken) in join_all(takes).await {
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => return unknown(Code::NoCapture, &error),
        };
        let counted: Vec<(Section, usize)> = Section::ALL.iter().map(|s| (*s, taken.count(*s))).collect();
        entries += counted.iter().map(|(_, count)| count).sum::<usize>();
        let Some(report) = progress.reports.iter_mut().find(|report| report.name == name) else { continue };
        let counted = counted.into_iter().map(|(section, count)| (section.name().to_owned(), count)).collect();
        report.captures.insert(moment.file_stem().to_owned(), counted);
        match moment {
            Moment::Deployed => keep_contents(progress, &dir, &name, &taken, deadline).await,
            Moment::Idled => judged.extend(judge_with(progress, &name, &taken, twins).map(|s2| (name, s2))),
            _ => {}
        }
    }
    for (name, s2) in judged {
        gather_details(progress, &name, &s2, deadline).await;
    }
    let (_, trouble) = teardown(if twins { std::mem::take(&mut progress.twins) } else { Vec::new() }, false).await;
    if !trouble.is_empty() {
        progress.remarks.push(format!("a twin would not end: {trouble}"));
    }
    Outcome::Done(format!("{entries} entries"))
}

/// A full capture of a Debian server takes 10-20 s under emulation and 1-2 s without; disks may be larger.
const CAPTURE: Duration = Duration::from_secs(300);

/// Keeps the texts that a later deploy may change. Without them a finding shows digests.
async fn keep_contents<B: Backend>(
    progress: &mut Progress<B>,
    dir: &Path,
    name: &str,
    s1: &Capture,
    deadline: &Deadline,
) {
    let path = capture::path(dir, name, Moment::Clean);
    let Ok(Ok(clean)) = tokio::task::spawn_blocking(move || capture::read(&path)).await else { return };
    progress.watched.insert(name.to_owned(), writes::worth_watching(&clean, s1));
    let Some(machine) = progress.machines.iter().find(|machine| machine.name() == name) else { return };
    if let Ok(contents) = details::read(machine, &details::worth_keeping(&clean, s1), deadline).await {
        progress.kept.insert(name.to_owned(), contents);
    }
}

/// Holds S1, S2 and the control against each other: a twin began as S1, a machine that was left alone as S2. Returns S2.
fn judge_with<B: Backend>(progress: &mut Progress<B>, name: &str, idled: &Capture, twin: bool) -> Option<Capture> {
    let (s1, s2) = progress.compared.remove(name)?;
    let second = progress.evidence.second.as_ref()?;
    let offset = progress.offsets.get(name).copied().unwrap_or_default();
    let control = Control { before: if twin { &s1 } else { &s2 }, after: idled };
    let mut judgement = judge_machine(name, offset, second, (&s1, &s2, Some(control)));
    if let Some(record) = progress.record.remove(name) {
        add_flip_flops(&mut judgement, name, offset, second, &record);
    }
    if let Some(report) = progress.reports.iter_mut().find(|report| report.name == name) {
        report.noise.clone_from(&judgement.noise);
        report.left_out.clone_from(&judgement.left_out);
    }
    progress.evidence.judged.insert(name.to_owned(), judgement);
    Some(s2)
}

/// What the differences look like, asked while the machine is as the second deploy left it.
async fn gather_details<B: Backend>(progress: &mut Progress<B>, name: &str, s2: &Capture, deadline: &Deadline) {
    let machine = progress.machines.iter().find(|machine| machine.name() == name);
    let (Some(machine), Some(judgement)) = (machine, progress.evidence.judged.get(name)) else { return };
    let kept = progress.kept.remove(name).unwrap_or_default();
    let offset = progress.offsets.get(name).copied().unwrap_or_default();
    let since = progress.evidence.second.as_ref().map_or(0, |second| second.began + offset);
    let found = details::gather(machine, judgement, (&kept, s2), since, deadline).await;
    progress.evidence.details.extend(found.into_iter().map(|(subject, lines)| ((name.to_owned(), subject), lines)));
}

/// Leaves the machines alone for as long as the second deploy took, if it left anything that noise could excuse. The
/// captures are read back meanwhile: that is the host's work and not the machines'.
async fn idle<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>) -> Outcome {
    let began = Instant::now();
    if let Err(error) = read_all_back(drill, progress).await {
        return unknown(Code::NoCapture, &error);
    }
    let Some(second) = &progress.evidence.second else { return Outcome::Done(String::new()) };
    let quiet = progress.compared.iter().all(|(name, (s1, s2))| {
        is_without_effect(name, progress.offsets.get(name).copied().unwrap_or_default(), second, (s1, s2))
    });
    if quiet {
        return Outcome::Done("not needed: the second deploy left nothing that noise could excuse".to_owned());
    }
    let seconds = second.run.seconds;
    drill.events.progress(&format!("leaving the machines alone for {seconds:.0} s, to see what changes by itself"));
    tokio::time::sleep(Duration::from_secs_f64(seconds).saturating_sub(began.elapsed())).await;
    Outcome::Done(format!("{seconds:.0} s, as long as the second deploy"))
}

/// Reads S0, S1 and S2 of every machine, to be judged.
async fn read_all_back<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>) -> Result<(), capture::TakeError> {
    let names: Vec<String> = progress.machines.iter().map(|machine| machine.name().to_owned()).collect();
    let dir = drill.run_dir.path().join("captures");
    let reading = tokio::task::spawn_blocking(move || {
        names.into_iter().map(|name| read_back(&dir, &name).map(|read| (name, read))).collect::<Result<Vec<_>, _>>()
    });
    let read = reading.await.map_err(|error| capture::TakeError::Probe { status: 0, said: error.to_string() })??;
    for (name, (became, s1, s2)) in read {
        if let Some(report) = progress.reports.iter_mut().find(|report| report.name == name) {
            report.became = became;
        }
        progress.compared.insert(name, (s1, s2));
    }
    Ok(())
}

type ReadBack = (BTreeMap<String, String>, Capture, Capture);

/// What the first deploy made of the clean machine, S1 and S2.
fn read_back(dir: &Path, name: &str) -> Result<ReadBack, capture::TakeError> {
    let read = |moment| capture::read(&capture::path(dir, name, moment));
    let s1 = read(Moment::Deployed)?;
    let became = counts(&diff(&read(Moment::Clean)?, &s1));
    let became = became.into_iter().map(|(section, text)| (section.name().to_owned(), text)).collect();
    Ok((became, s1, read(Moment::Redeployed)?))
}

/// Checks made at once: more would only make an emulated machine's answers later.
const AT_ONCE: usize = 4;

async fn check<B: Backend>(
    drill: &Drill<B>,
    progress: &mut Progress<B>,
    again: Option<After>,
    deadline: &Deadline,
) -> Outcome {
    let scenario = &drill.loaded.scenario;
    drill.events.progress(&format!("{} checks, side by side", scenario.checks.len()));
    let (machines, trusted) = (&progress.machines, progress.authority.as_ref().map(Authority::root));
    let tries = scenario.checks.iter().map(|check| async move {
        let machine = machines.iter().find(|machine| machine.name() == check.machine)?;
        let place = checks::Place { machine, machines, directory: &drill.loaded.directory, trusted };
        let checked = checks::check(check, &place, deadline).await;
        let holds = matches!(checked.seen, Ok(checks::Seen::Holds));
        drill.events.send(Event::Check { name: check.name.clone(), holds, seconds: checked.seconds });
        Some(checked)
    });
    let checked: Vec<_> = stream::iter(tries).buffered(AT_ONCE).collect().await;
    let checked: Vec<_> = checked.into_iter().flatten().collect();
    let green = checked.iter().filter(|c| matches!(c.seen, Ok(checks::Seen::Holds))).count();
    match again {
        None => progress.evidence.checked = checked,
        Some(after) => drop(progress.evidence.checked_again.insert(after, checked)),
    }
    let note = format!("{green} of {} checks hold", scenario.checks.len());
    if green == scenario.checks.len() { Outcome::Done(note) } else { Outcome::Failed(note) }
}

/// Ends machines, or lets them be; returns how many there were, and what went wrong.
pub(crate) async fn teardown<M: Machine>(machines: Vec<M>, keep: bool) -> (usize, String) {
    let count = machines.len();
    let ends = machines.into_iter().map(|machine| async move {
        let name = machine.name().to_owned();
        let ended = if keep { machine.keep().await } else { machine.destroy().await };
        ended.err().map(|error| format!("`{name}`: {error}"))
    });
    let troubles: Vec<String> = join_all(ends).await.into_iter().flatten().collect();
    (count, troubles.join("; "))
}
