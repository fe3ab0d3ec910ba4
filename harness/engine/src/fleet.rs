//! The machines of a drill, and the backend that makes them.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::join_all;
use redrill_machines::{Backend, Capabilities, Deadline, Machine, MachineError, Needs, Seat, Witnesses, find_machine};
use redrill_model::{Claim, Code, ImageUsed, MachineSpec};

use crate::claims::serves::checks;
use crate::context::Context;
use crate::problem::Problem;
use crate::services::Services;

/// The private network of every drill; drills do not hear each other.
const LAN: [u8; 3] = [10, 77, 0];
/// The group of the machines that are deployed to, and that of their twins.
const MAIN: &str = "main";
const TWINS: &str = "twins";

/// A machine that stands still, by name.
pub(crate) type Still<B> = (String, <B as Backend>::Frozen);

/// Every machine of the scenario.
pub(crate) struct Fleet<B: Backend> {
    backend: B,
    /// Those that are deployed to, in the order of the scenario.
    pub(crate) machines: Vec<B::Machine>,
    /// Forks of the same that are left alone.
    pub(crate) twins: Vec<B::Machine>,
    /// As they were at S1: what went on is a fork of these.
    frozen: Vec<Still<B>>,
}

impl<B: Backend> Fleet<B> {
    pub(crate) fn new(backend: B) -> Self {
        Self { backend, machines: Vec::new(), twins: Vec::new(), frozen: Vec::new() }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    pub(crate) fn witnesses(&self) -> Witnesses {
        self.backend.witnesses()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&B::Machine> {
        find_machine(&self.machines, name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.machines.iter().map(|machine| machine.name().to_owned()).collect()
    }

    /// Sees to it that every image of the scenario is there.
    pub(crate) async fn prepare(&mut self, context: &Context) -> Result<Vec<ImageUsed>, MachineError> {
        let mut names: Vec<String> =
            context.scenario().machines.iter().map(|machine| machine.image.get_ref().clone()).collect();
        names.sort();
        names.dedup();
        self.backend.prepare(&names, context.teller()).await
    }

    /// Makes every machine of the scenario; their files lie below `within` of each machine's directory. Returns a note.
    pub(crate) async fn boot_all(
        &mut self,
        context: &Context,
        services: &Services,
        within: &str,
        deadline: &Deadline,
    ) -> Result<String, Problem> {
        let (backend, scenario) = (&self.backend, context.scenario());
        let boots = scenario.machines.iter().enumerate().map(|(number, spec)| async move {
            let needs = services.needs(context, needs(context, number, spec));
            let deadline = deadline.child(&format!("the boot of `{}`", spec.name), scenario.limits.boot);
            let dir = context.machine_dir(&PathBuf::from(&spec.name).join(within).display().to_string())?;
            backend.boot(spec, &needs, &dir, &deadline).await
        });
        let mut failed = None;
        for booted in join_all(boots).await {
            match booted {
                Ok(machine) => self.machines.push(machine),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(Problem::of(Code::MachineNotReady, &error));
        }
        let slowest = self.machines.iter().map(Machine::boot_seconds).fold(0.0, f64::max);
        Ok(format!("{} answered after {slowest:.1} s", self.machines.len()))
    }

    /// Freezes every machine; one fork goes on in its place, another is left alone. Returns a note.
    pub(crate) async fn twin_all(&mut self, context: &Context, deadline: &Deadline) -> Result<String, Problem> {
        let began = Instant::now();
        let still = self.freeze(deadline).await.map_err(|error| Problem::of(Code::MachineLost, &error))?;
        let seconds = began.elapsed().as_secs_f64();
        let backend = &self.backend;
        let forks = still.iter().map(|(name, frozen)| async move {
            let limit = deadline.child("a fork", context.scenario().limits.boot);
            let dirs = (context.machine_dir(name)?, context.machine_dir(&format!("{name}/twin"))?);
            let (main, twin) =
                (backend.fork(frozen, MAIN, &dirs.0, &limit), backend.fork(frozen, TWINS, &dirs.1, &limit));
            tokio::try_join!(main, twin)
        });
        for forked in join_all(forks).await {
            let (main, twin) = forked.map_err(|error| Problem::of(Code::MachineNotReady, &error))?;
            self.machines.push(main);
            self.twins.push(twin);
        }
        self.frozen = still;
        Ok(format!("{} frozen in {seconds:.1} s and forked twice", self.frozen.len()))
    }

    /// Freezes every machine; they are gone then.
    async fn freeze(&mut self, deadline: &Deadline) -> Result<Vec<Still<B>>, MachineError> {
        let backend = &self.backend;
        let freezing = std::mem::take(&mut self.machines).into_iter().map(|machine| async move {
            let name = machine.name().to_owned();
            Ok((name, backend.freeze(machine, deadline).await?))
        });
        join_all(freezing).await.into_iter().collect()
    }

    /// Freezes every machine; a fork of each goes on in its place, with its files in `within`.
    pub(crate) async fn freeze_all(
        &mut self,
        context: &Context,
        within: &str,
        deadline: &Deadline,
    ) -> Result<Vec<Still<B>>, MachineError> {
        let mut still = Vec::new();
        // One after the other: each is written to the disk.
        for machine in std::mem::take(&mut self.machines) {
            let name = machine.name().to_owned();
            still.push((name, self.backend.freeze(machine, deadline).await?));
        }
        self.machines = self.fork_all(context, &still, (within, MAIN), deadline).await?;
        Ok(still)
    }

    /// Forks of machines that stand still, all or none: with their files in `within`, and in a group of this name.
    pub(crate) async fn fork_all(
        &self,
        context: &Context,
        still: &[Still<B>],
        (within, group): (&str, &str),
        deadline: &Deadline,
    ) -> Result<Vec<B::Machine>, MachineError> {
        let limit = &deadline.child("a fork", context.scenario().limits.boot);
        let forks = still.iter().map(|(name, frozen)| async move {
            let dir = context.machine_dir(&format!("{name}/{within}"))?;
            self.backend.fork(frozen, group, &dir, limit).await
        });
        let (mut machines, mut failed) = (Vec::new(), None);
        for forked in join_all(forks).await {
            match forked {
                Ok(machine) => machines.push(machine),
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else { return Ok(machines) };
        let _ = end(machines, false).await; // The fork's error is the one to report.
        Err(error)
    }

    /// Starts every machine anew, up to the first answer: from its disk, where it has no kernel of its own.
    pub(crate) async fn reboot_all(&mut self, context: &Context, deadline: &Deadline) -> Result<String, Problem> {
        let limit = deadline.child("a reboot", context.scenario().limits.boot);
        if self.capabilities().own_kernel {
            let reboots = self.machines.iter().map(|machine| machine.reboot(&limit));
            return match join_all(reboots).await.into_iter().find_map(Result::err) {
                Some(error) => Err(Problem::of(Code::NotRebooted, &error)),
                None => Ok(format!("{} machines rebooted", self.machines.len())),
            };
        }
        for machine in std::mem::take(&mut self.machines) {
            let name = machine.name().to_owned();
            let started = async {
                let frozen = self.backend.freeze(machine, &limit).await?;
                self.backend.fork(&frozen, MAIN, &context.machine_dir(&name)?, &limit).await
            };
            self.machines.push(started.await.map_err(|error| Problem::of(Code::NotRebooted, &error))?);
        }
        Ok(format!("{} machines started anew from their disks", self.machines.len()))
    }

    /// Ends the machines, for others to take their place; returns what went wrong, in words.
    pub(crate) async fn end_machines(&mut self) -> String {
        // What was frozen is the old machines' past.
        self.frozen.clear();
        end(std::mem::take(&mut self.machines), false).await.1
    }

    /// Ends the twins; returns what went wrong, in words.
    pub(crate) async fn end_twins(&mut self) -> String {
        end(std::mem::take(&mut self.twins), false).await.1
    }

    /// Ends everything, or lets the machines be; returns how many of them there were, and what went wrong.
    pub(crate) async fn end_all(&mut self, keep: bool) -> (usize, String) {
        let twins = self.end_twins().await;
        let (count, machines) = end(std::mem::take(&mut self.machines), keep).await;
        self.backend.finish().await;
        let troubles: Vec<String> = [twins, machines].into_iter().filter(|text| !text.is_empty()).collect();
        (count, troubles.join("; "))
    }
}

/// What a machine is made with, the services aside.
fn needs(context: &Context, number: usize, spec: &MachineSpec) -> Needs {
    let scenario = context.scenario();
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
        freezable: context.mutate || scenario.claims.contains(&Claim::Idempotent),
        forks_freezable: context.mutate,
    }
}

/// Ends machines, or lets them be; returns how many there were, and what went wrong.
pub(crate) async fn end<M: Machine>(machines: Vec<M>, keep: bool) -> (usize, String) {
    let count = machines.len();
    let ends = machines.into_iter().map(|machine| async move {
        let name = machine.name().to_owned();
        let ended = if keep { machine.keep().await } else { machine.destroy().await };
        ended.err().map(|error| format!("`{name}`: {error}"))
    });
    let troubles: Vec<String> = join_all(ends).await.into_iter().flatten().collect();
    (count, troubles.join("; "))
}
