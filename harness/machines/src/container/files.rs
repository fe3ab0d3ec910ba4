//! What lies in a container's directory on the host, and what an engine does not keep of a container's own files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::outside;
use crate::agent::Agent;
use crate::command::{Exec, PROBE};
use crate::deadline::Deadline;

/// What the container printed.
pub(super) const CONSOLE: &str = "console.log";
/// What is shared with the machine: the probe, and the way to the package mirror. It lies at `/run/redrill` there.
pub(super) const SHARED: &str = "shared";

/// What a fork needs and an engine does not keep: the files over which it lays its own. A machine that cannot tell them
/// any more has them made anew.
pub(super) async fn kept_files(agent: &Arc<Agent>, deadline: &Deadline) -> Option<Vec<u8>> {
    let words = ["tar", "-cf", "-", "-C", "/etc", "hosts", "hostname", "resolv.conf"];
    let output = agent.exec(&Exec::new(words), b"", deadline).await.ok()?;
    (output.status == 0).then_some(output.stdout)
}

/// Where a machine's neighbour answers, as the host sees it.
pub(super) fn outside(dir: &Path) -> PathBuf {
    dir.join(SHARED).join(outside::SOCKET)
}

/// Where a machine's probe keeps its digests, as the host sees it.
pub(super) fn digests(dir: &Path) -> PathBuf {
    dir.join(SHARED).join("digests")
}

/// Removes what a machine that has ended needs no more; its logs stay.
pub(super) fn remove_files(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir.join(SHARED));
    debug_assert!(PROBE.starts_with("/run/redrill/"));
}
