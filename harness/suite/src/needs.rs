//! What a trial needs of its host. What is missing is told on a laptop, and fails in CI, which promised it.

use std::path::Path;

use redrill_machines::{Amount, container};
use redrill_model::{BackendKind, Claim, Scenario};

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
    let twins = backend != BackendKind::Container && scenario.claims.contains(&Claim::Idempotent);
    let wanted = Amount::of(&scenario.machines, twins).memory_mib;
    let there = Amount::of_host(None).memory_mib;
    (wanted > there).then(|| Lacking(format!("it needs {wanted} MiB of memory, the host has {there} MiB to give")))
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([Path::new("/usr/bin").to_owned()]).any(|dir| dir.join(program).is_file())
}

/// Whether what is missing is a failure here.
pub(crate) fn promised() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}
