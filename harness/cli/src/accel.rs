//! The host's acceleration, probed once per boot of the host and QEMU version.

use std::path::Path;

use redrill_machines::host::{self, Acceleration};
use redrill_machines::process::Guard;
use serde::{Deserialize, Serialize};

use crate::output::Failure;
use crate::program;

#[derive(Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    qemu: String,
    found: Acceleration,
}

/// The remembered result of the trial, or a new one; `fresh` asks for a new one.
pub(crate) async fn acceleration(cache: &Path, fresh: bool) -> Result<Acceleration, Failure> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let qemu = host::qemu_version().await.unwrap_or_default();
    let file = cache.join("acceleration.json");
    let remembered = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = remembered.filter(|known| !fresh && known.boot_id == boot_id && known.qemu == qemu) {
        return Ok(known.found);
    }
    std::fs::create_dir_all(cache).map_err(|error| Failure::unknown("cannot use the cache directory", &error))?;
    let guard = Guard::new(program()?, cache.to_owned());
    let found = host::probe_acceleration(&guard, cache).await;
    let found = found.map_err(|error| Failure::unknown("the trial of QEMU failed", &error))?;
    let text = serde_json::to_vec(&Remembered { boot_id, qemu, found: found.clone() });
    // Not remembered means tried again: slower, not wrong.
    let _ = text.map(|text| std::fs::write(&file, text));
    Ok(found)
}
