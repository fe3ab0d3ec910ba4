//! Memory and disk: asked for before anything is started, so that a full host is an answer and no mystery.

use std::path::Path;

use thiserror::Error;

/// The host has too little of something; the message ends with what can be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Shortage {
    /// Memory.
    #[error("the machines need {wanted_mib} MiB of memory, the host has {free_mib} MiB to give")]
    Memory {
        /// Asked for.
        wanted_mib: u64,
        /// There.
        free_mib: u64,
    },
    /// Disk.
    #[error("`{path}` needs {wanted_mib} MiB of free space and has {free_mib} MiB")]
    Disk {
        /// Where.
        path: String,
        /// Asked for.
        wanted_mib: u64,
        /// There.
        free_mib: u64,
    },
}

impl Shortage {
    /// What a person can do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::Memory { .. } => {
                "lower `memory-mib` in scenario.toml, or end what holds it: redrill clean".to_owned()
            }
            Self::Disk { path, .. } => {
                format!(
                    "free some: redrill image prune; redrill clean --all; or move it: see REDRILL_CACHE_DIR and REDRILL_STATE_DIR (now {path})"
                )
            }
        }
    }
}

/// Memory that can be had without swapping, in MiB: the kernel's own estimate (`MemAvailable`).
pub fn free_memory_mib() -> u64 {
    meminfo("MemAvailable:")
}

/// All memory that there is, in MiB.
pub fn total_memory_mib() -> u64 {
    meminfo("MemTotal:")
}

fn meminfo(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}

/// Space that an unprivileged program may fill, in MiB.
pub fn free_disk_mib(path: &Path) -> u64 {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    rustix::fs::statvfs(existing).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) / (1024 * 1024))
}

/// Whether this much fits below `path`.
pub fn check_disk(path: &Path, wanted_mib: u64) -> Result<(), Shortage> {
    let free_mib = free_disk_mib(path);
    if wanted_mib <= free_mib {
        Ok(())
    } else {
        Err(Shortage::Disk { path: path.display().to_string(), wanted_mib, free_mib })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_is_told_before_it_is_tried() {
        let error = Shortage::Memory { wanted_mib: 5504, free_mib: 4096 };
        assert!(error.to_string().contains("5504 MiB") && error.mend().contains("memory-mib"), "{error}");
        let error = check_disk(Path::new("/"), u64::MAX).expect_err("does not fit");
        assert!(error.mend().contains("redrill image prune"), "{error}");
        assert!(
            free_memory_mib() > 0
                && total_memory_mib() >= free_memory_mib()
                && free_disk_mib(Path::new("/nonexistent/x")) > 0
        );
    }
}
