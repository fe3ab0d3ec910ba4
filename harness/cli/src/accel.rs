//! The host's acceleration, probed once per boot of the host and QEMU version.

use std::path::Path;

use redrill_machines::host::{self, Acceleration};
use redrill_machines::process::Guard;

use crate::output::Failure;
use crate::program;

/// The remembered result of the trial, or a new one; `fresh` asks for a new one.
pub(crate) async fn acceleration(cache: &Path, fresh: bool) -> Result<Acceleration, Failure> {
    let qemu = host::qemu_version().await.unwrap_or_default();
    if let Some(known) = Acceleration::remembered(cache, Some(&qemu)).filter(|_| !fresh) {
        return Ok(known);
    }
    std::fs::create_dir_all(cache).map_err(|error| Failure::unknown("cannot use the cache directory", &error))?;
    let guard = Guard::new(program()?, cache.to_owned());
    let found = host::probe_acceleration(&guard, cache).await;
    let found = found.map_err(|error| Failure::unknown("the trial of QEMU failed", &error))?;
    found.remember(cache, &qemu);
    Ok(found)
}
