//! A reboot of all machines, for what must survive one.

use futures_util::future::join_all;
use redrill_machines::{Backend, Deadline, Machine};
use redrill_model::Code;

use crate::drill::{Drill, Outcome, Progress};

/// Reboots every machine, up to the first answer. A backend without kernels of their own starts them anew from what
/// they have on disk.
pub(crate) async fn reboot<B: Backend>(drill: &Drill<B>, progress: &mut Progress<B>, deadline: &Deadline) -> Outcome {
    let limit = deadline.child("a reboot", drill.loaded.scenario.limits.boot);
    if drill.backend.capabilities().own_kernel {
        let reboots = progress.machines.iter().map(|machine| machine.reboot(&limit));
        let failed = join_all(reboots).await.into_iter().find_map(Result::err);
        return match failed {
            Some(error) => crate::stages::unknown(Code::NotRebooted, &error),
            None => Outcome::Done(format!("{} machines rebooted", progress.machines.len())),
        };
    }
    progress
        .remarks
        .push("the machines were started anew from their disks; their kernel, which is the host's, was not".to_owned());
    let mut again = Vec::new();
    for machine in std::mem::take(&mut progress.machines) {
        let name = machine.name().to_owned();
        let started = async {
            let frozen = drill.backend.freeze(machine, &limit).await?;
            let dir = crate::stages::machine_dir(drill, &name)?;
            drill.backend.fork(&frozen, crate::stages::MAIN, &dir, &limit).await
        };
        match started.await {
            Ok(machine) => again.push(machine),
            Err(error) => {
                progress.machines = again;
                return crate::stages::unknown(Code::NotRebooted, &error);
            }
        }
    }
    progress.machines = again;
    let count = progress.machines.len();
    crate::stages::connect(progress, format!("{count} machines started anew from their disks"))
}
