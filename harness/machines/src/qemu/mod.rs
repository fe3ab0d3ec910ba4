//! Machines made by QEMU: forked from a template or booted from an image, talked to through their agent, watched by
//! their console and monitor.

mod args;
mod boot;
mod console;
mod credentials;
mod freeze;
mod frozen_files;
mod initrd;
mod machine;
mod means;
mod qmp;
mod seed;
mod start;
mod template;
mod usernet;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use redrill_model::{ImageUsed, MachineSpec};

use crate::blueprint::Blueprint;
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::host::Accel;
use crate::image::{Catalog, Store};
use crate::machine::{Backend, Capabilities};
use crate::needs::Needs;
use crate::prepared::Prepared;
use crate::process::Guard;
use crate::progress::Progress;
use crate::ssh::ClientKey;
use boot::QemuMaking;
use frozen_files::FrozenFiles;
pub use machine::QemuMachine;
use means::QemuMeans;
pub use template::Templates;

/// Makes machines with QEMU.
pub struct Qemu {
    means: QemuMeans,
    images: Prepared,
}

/// How a drill wants its QEMU machines.
#[derive(Debug, Clone)]
pub struct QemuOptions {
    /// How the guest's code runs.
    pub accel: Accel,
    /// QEMU's version.
    pub version: String,
    /// Boot cold instead of forking a template.
    pub fresh: bool,
}

/// Where what machines are made of is found.
pub struct Stock {
    /// Of images by name.
    pub catalog: Catalog,
    /// Images that were made before.
    pub images: Store,
    /// Machines that were frozen before.
    pub templates: Templates,
}

impl Qemu {
    /// Machines that `client` may enter as root, made of what is found in `sources`.
    pub fn new(guard: Guard, options: QemuOptions, sources: Stock, client: ClientKey) -> Self {
        let QemuOptions { accel, version, fresh } = options;
        let Stock { catalog, images, templates } = sources;
        let tell: Progress = Arc::new(|_| ());
        let switches = Arc::default();
        let images = Prepared::new(catalog, images, guard.program().to_owned());
        let means = QemuMeans {
            guard,
            accel,
            version,
            client,
            templates,
            fresh,
            tell,
            switches,
            witnesses: Witnesses::default(),
        };
        Self { means, images }
    }
}

/// A frozen machine: files in the run directory.
pub struct QemuFrozen {
    files: FrozenFiles,
    blueprint: Blueprint,
}

impl Backend for Qemu {
    type Machine = QemuMachine;
    type Frozen = QemuFrozen;

    fn capabilities(&self) -> Capabilities {
        Capabilities { memory_fork: true, own_kernel: true }
    }

    fn witnesses(&self) -> Witnesses {
        self.means.witnesses.clone()
    }

    async fn prepare(&mut self, images: &[String], progress: Progress) -> Result<Vec<ImageUsed>, MachineError> {
        self.means.tell = Arc::clone(&progress);
        let mut used = Vec::new();
        for name in images {
            let image = self.images.prepare(name, |_| Ok(()), &progress).await?;
            used.push(ImageUsed { name: name.clone(), digest: image.digest.clone() });
        }
        Ok(used)
    }

    async fn boot(
        &self,
        spec: &MachineSpec,
        needs: &Needs,
        dir: &Path,
        deadline: &Deadline,
    ) -> Result<QemuMachine, MachineError> {
        let called = Instant::now();
        let image = self.images.get(spec.image.get_ref())?;
        let made = async {
            let blueprint = Blueprint::new(spec, needs, image, dir).await?;
            let making = QemuMaking { means: &self.means, blueprint: &blueprint, dir, deadline };
            making.clean(called).await
        };
        made.await.map_err(|error| error.or_full("a machine", dir))
    }

    async fn freeze(&self, machine: QemuMachine, deadline: &Deadline) -> Result<QemuFrozen, MachineError> {
        machine.core.leave();
        let QemuMachine { core, running, blueprint, credentials, .. } = machine;
        let (name, dir) = (core.address.host.clone(), core.dir.clone());
        drop(core);
        if !blueprint.needs.freezable {
            let what = "it cannot be frozen: its memory is shared with others".to_owned();
            return Err(MachineError::Unable { machine: name, what });
        }
        let to = unused(&dir);
        let files = freeze::freeze(running, (&name, &dir), &to, deadline).await?;
        for file in credentials {
            let kept = std::fs::copy(&file, to.join(file.file_name().unwrap_or_default()));
            kept.map_err(MachineError::io("cannot keep the frozen machine"))?;
        }
        Ok(QemuFrozen { files, blueprint })
    }

    async fn fork(
        &self,
        frozen: &QemuFrozen,
        group: &str,
        dir: &Path,
        deadline: &Deadline,
    ) -> Result<QemuMachine, MachineError> {
        let blueprint = frozen.blueprint.fork(group);
        let making = QemuMaking { means: &self.means, blueprint: &blueprint, dir, deadline };
        making.resume(&frozen.files).await.map_err(|error| error.or_full("a fork", dir))
    }
}

/// Where the frozen machine is to lie: what was frozen here before may be what its disk stands on.
fn unused(dir: &Path) -> PathBuf {
    let place = |number: usize| dir.join(if number == 1 { "frozen".to_owned() } else { format!("frozen-{number}") });
    (1..).map(place).find(|place| !place.exists()).expect("numbers do not end")
}
