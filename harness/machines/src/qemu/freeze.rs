//! Freezes a machine to files and makes machines that go on from them.
//!
//! Guest memory lies in a file that QEMU maps shared, so that freezing writes only the state of the devices
//! (`x-ignore-shared`): 0.05 s instead of 3.6 s for all of memory. A fork maps the file privately: pages that it writes
//! to are copied, all others are shared with every other fork.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::args::{MEMORY, Memory, OVERLAY};
use super::frozen_files::{FrozenFiles, STATE};
use super::start::{self, Running};
use crate::deadline::{Deadline, TimedOut};
use crate::error::MachineError;
use crate::image::Format;

/// Between two looks at a migration that takes 50 ms.
const PAUSE: Duration = Duration::from_millis(5);

/// Stops the machine in `dir`, writes its state, ends the process and moves all of it to `to`.
pub(super) async fn freeze(
    running: Running,
    (name, dir): (&str, &Path),
    to: &Path,
    deadline: &Deadline,
) -> Result<FrozenFiles, MachineError> {
    let limited = |limit: TimedOut| MachineError::Monitor(format!("while freezing: {limit}"));
    let written = deadline.limit(write_state(&running)).await.map_err(limited)?;
    if let Err(error) = written {
        let error = running.explain(name, dir, error).await.or_full("a frozen machine", dir);
        // QEMU 10 tells of an input/output error, whatever it was.
        let full = matches!(error, MachineError::Monitor(_)) && start::is_full(dir);
        return Err(if full { start::full(dir, "a frozen machine") } else { error });
    }
    running.quit().await?;
    let moved = || {
        std::fs::create_dir_all(to)?;
        FrozenFiles::ALL.iter().try_for_each(|name| std::fs::rename(dir.join(name), to.join(name)))
    };
    moved().map_err(MachineError::io("cannot keep the frozen machine"))?;
    Ok(FrozenFiles(to.to_owned()))
}

async fn write_state(running: &Running) -> Result<(), MachineError> {
    let monitor = &running.monitor;
    monitor.execute("stop", Value::Null).await?;
    capabilities(running).await?;
    // Relative to QEMU's working directory: no path of ours can hold anything that the address would take for its own.
    monitor.execute("migrate", json!({ "uri": format!("file:{STATE}") })).await?;
    loop {
        let answer = monitor.execute("query-migrate", Value::Null).await?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let why = answer["error-desc"].as_str().unwrap_or("QEMU does not say why");
                return Err(MachineError::Monitor(format!("the machine could not be frozen: {why}")));
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn capabilities(running: &Running) -> Result<(), MachineError> {
    let set = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
    running.monitor.execute("migrate-set-capabilities", set).await.map(drop)
}

/// Lays out disk and memory of a fork in `dir`. A fork that will be frozen itself gets a copy of the memory.
pub(super) async fn lay_out(files: &FrozenFiles, dir: &Path, freezable: bool) -> Result<Memory, MachineError> {
    let overlay = dir.join(OVERLAY);
    let disk = files.0.join(OVERLAY);
    let disk = (disk.as_path(), Format::Qcow2);
    if !freezable {
        start::make_overlay(disk, &overlay, None).await?;
        return Ok(Memory::Private(files.memory()));
    }
    let own = dir.join(MEMORY);
    let mut copy = Command::new("cp");
    copy.args(["--reflink=auto", "--sparse=auto"]).arg(files.memory()).arg(&own);
    let (disk, memory) = tokio::join!(start::make_overlay(disk, &overlay, None), start::run(copy, "cp"));
    disk.and(memory)?;
    Ok(Memory::Shared(own))
}

/// Loads the state into a QEMU that waits for it, and lets the machine run.
pub(super) async fn thaw(running: &Running, files: &FrozenFiles, deadline: &Deadline) -> Result<(), MachineError> {
    let limited = |limit: TimedOut| MachineError::Monitor(format!("while thawing: {limit}"));
    deadline.limit(load_state(running, files)).await.map_err(limited)?
}

async fn load_state(running: &Running, files: &FrozenFiles) -> Result<(), MachineError> {
    capabilities(running).await?;
    let uri = format!("file:{}", files.0.join(STATE).display());
    running.monitor.execute("migrate-incoming", json!({ "uri": uri })).await?;
    loop {
        let answer = running.monitor.execute("query-migrate", Value::Null).await?;
        match answer["status"].as_str() {
            Some("completed") => break,
            Some("failed" | "cancelled") => {
                let why = answer["error-desc"].as_str().unwrap_or("QEMU does not say why");
                return Err(MachineError::Monitor(format!("the frozen machine could not be loaded: {why}")));
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    running.monitor.execute("cont", Value::Null).await.map(drop)
}
