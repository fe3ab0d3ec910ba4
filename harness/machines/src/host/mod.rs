//! What this host has and can do: found out by trying, never by looking at names.

mod accel;
mod resources;
mod tools;

pub use accel::{Accel, Acceleration, Trial, probe_acceleration};
pub use resources::{Shortage, check_disk, free_disk_mib, free_memory_mib, total_memory_mib};
pub use tools::{HostTool, PEBBLE, find_tools, pebble, qemu_version, search_path};
