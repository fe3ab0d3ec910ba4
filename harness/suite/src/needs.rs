//! What a trial needs of its host. What is missing is told on a laptop, and fails in CI, which promised it.

use std::path::Path;

use redrill_machines::host::{Accel, Acceleration, PEBBLE};
use redrill_machines::{Amount, container};
use redrill_model::{BackendKind, Claim, Scenario};

use crate::shared::home;

/// Why a host cannot run a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking(pub String);

/// A trial that is not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRun {
    /// Its name.
    pub trial: String,
    /// Why.
    pub why: Lacking,
}

/// What this host has not got, if a drill of `scenario` needs it.
pub(crate) fn lacking(scenario: &Scenario, backend: BackendKind) -> Option<Lacking> {
    let lacking = |text: String| Some(Lacking(text));
    match backend {
        BackendKind::Container => {
            if let Err(why) = container::engine_version() {
                return lacking(format!("no container engine answers ({why})"));
            }
        }
        _ if !in_path("qemu-system-x86_64") => return lacking("qemu-system-x86_64 is not installed".to_owned()),
        _ => {}
    }
    if !scenario.acme.is_empty() && !in_path(PEBBLE) {
        return lacking(format!("{PEBBLE} is not installed"));
    }
    if let Some(why) = scenario.needs.kvm.then(no_kvm).flatten() {
        return lacking(format!("it needs hardware virtualization: {why}"));
    }
    let twins = backend != BackendKind::Container && scenario.claims.contains(&Claim::Idempotent);
    let wanted = Amount::of(&scenario.machines, twins).memory_mib;
    let there = Amount::of_host(None).memory_mib;
    (wanted > there).then(|| Lacking(format!("it needs {wanted} MiB of memory, the host has {there} MiB to give")))
}

/// Why there is no hardware virtualization, as far as is known: listing has no time for a trial. One that was made since
/// the host was booted decides; `redrill test` makes it beforehand.
fn no_kvm() -> Option<String> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm: {error}"));
    }
    let found = Acceleration::remembered(&home().cache, None)?;
    (found.choice != Accel::Kvm).then_some(found.reason)
}

/// How many of the host's processors a drill takes of those that nextest deals out: as many as its machines have, or
/// more where its memory is a larger share of what the host can give. The rest is admission's business.
pub(crate) fn threads(scenario: &Scenario, backend: BackendKind) -> usize {
    let twins = backend != BackendKind::Container && scenario.claims.contains(&Claim::Idempotent);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    share(&Amount::of(&scenario.machines, twins), &Amount::of_host(None), processors)
}

fn share(wanted: &Amount, there: &Amount, processors: usize) -> usize {
    let of_memory = (wanted.memory_mib as usize * processors).div_ceil((there.memory_mib as usize).max(1));
    of_memory.max(wanted.cpus as usize).clamp(1, processors)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([Path::new("/usr/bin").to_owned()]).any(|dir| dir.join(program).is_file())
}

/// Whether what is missing is a failure here.
pub(crate) fn promised() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_takes_its_share_of_the_host_by_what_is_scarcer() {
        let amount = |memory_mib, cpus| Amount { memory_mib, cpus, machines: 1 };
        assert_eq!(share(&amount(1200, 2), &amount(32_000, 16), 8), 2, "processors");
        assert_eq!(share(&amount(9000, 2), &amount(32_000, 16), 8), 3, "memory: more than a quarter of it");
        assert_eq!(share(&amount(1200, 4), &amount(32_000, 4), 2), 2, "all there are");
        assert_eq!(share(&amount(64_000, 1), &amount(32_000, 16), 8), 8);
    }
}
