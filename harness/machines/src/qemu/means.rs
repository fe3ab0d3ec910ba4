//! What every machine of a drill is made with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::args;
use super::template::Templates;
use crate::evidence::Witnesses;
use crate::host::Accel;
use crate::personal;
use crate::process::Guard;
use crate::progress::Progress;
use crate::ssh::ClientKey;
use crate::switch::Switch;

/// These machines have network cards, and a relay on the network that leads to the harness.
pub(super) const WIRING: personal::Wiring = personal::Wiring { relay: args::RELAY, hardware: true };

/// Clones share what they hold.
#[derive(Clone)]
pub(super) struct QemuMeans {
    pub(super) guard: Guard,
    pub(super) accel: Accel,
    /// QEMU's version: another one does not load what this one froze.
    pub(super) version: String,
    pub(super) client: ClientKey,
    pub(super) templates: Templates,
    /// Boot cold, use no template.
    pub(super) fresh: bool,
    pub(super) tell: Progress,
    pub(super) switches: Arc<Mutex<BTreeMap<String, Switch>>>,
    pub(super) witnesses: Witnesses,
}

impl QemuMeans {
    /// The private network of a group, made when its first machine comes.
    pub(super) fn switch(&self, group: &str) -> Switch {
        self.switches.lock().expect("no panic while it is held").entry(group.to_owned()).or_default().clone()
    }
}
