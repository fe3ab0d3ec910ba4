//! Machines that are containers with systemd as their first process, made by a container engine from the same images.
//!
//! What they cannot do, being processes of the host's kernel, is in their [`Capabilities`].

mod enclose;
mod engine;
mod files;
mod lan;
mod machine;
mod means;
mod outside;
mod sealed;
mod start;
mod sweep;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redrill_model::{ImageSource, ImageUsed, MachineSpec, Network};

use crate::blueprint::Blueprint;
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::image::{Catalog, Recipe, Store};
use crate::lock;
use crate::machine::{Backend, Capabilities, Machine};
use crate::needs::Needs;
use crate::prepared::Prepared;
use crate::process::Guard;
use crate::progress::Progress;
use crate::ssh::ClientKey;
pub use enclose::enclose;
pub(crate) use enclose::{is_making, is_rootless};
use engine::Engine;
pub use machine::ContainerMachine;
use means::{ContainerMeans, KEEP, Reaper};
use start::ContainerMaking;
pub use sweep::left;
pub use sweep::{Copy, engine_socket, engine_version, forget_copies, forget_sandboxes};
pub(crate) use sweep::{ENGINE, remove_all, remove_what_comes};

/// The longest that an engine is waited for when a drill ends.
const FINISH: Duration = Duration::from_secs(30);
/// How often to look whether kept machines still run.
const KEPT: Duration = Duration::from_secs(20);

/// Makes machines with a container engine.
pub struct Containers {
    means: ContainerMeans,
    images: Prepared,
}

impl Containers {
    /// Machines that `client` may enter as root, made of the images of `catalog`. An error if no engine answers.
    pub async fn new(
        guard: Guard,
        run: PathBuf,
        catalog: Catalog,
        store: Store,
        client: ClientKey,
    ) -> Result<Self, MachineError> {
        let engine = Engine::connect().await?;
        std::fs::write(run.join(sweep::ENGINE), engine_socket().display().to_string())
            .map_err(MachineError::io("cannot write the run directory"))?;
        let reaper = Arc::new(tokio::sync::Mutex::new(Some(Reaper::start(&guard, &run)?)));
        let (frozen, networks, lans, witnesses) = Default::default();
        let making = Arc::default();
        let images = Prepared::new(catalog, store, guard.program().to_owned());
        let means = ContainerMeans { guard, engine, client, run, frozen, networks, lans, reaper, making, witnesses };
        Ok(Self { means, images })
    }
}

/// An image from elsewhere is a disk with a bootloader and a kernel, for which a container has no use. `Err` says so.
pub fn usable(recipe: &Recipe) -> Result<(), String> {
    match recipe.source {
        ImageSource::Recipe(_) => Ok(()),
        ImageSource::Elsewhere(_) => Err(format!(
            "`{}` is a disk from elsewhere, which boots itself: containers are made of images with a recipe",
            recipe.name
        )),
    }
}

/// `redrill reap RUN`: leads ports of the host to machines, until whoever holds our standard input is gone, then removes
/// what the run made. A run that keeps its machines says so first: then their ports stay, and the run's place in the
/// budget is held, for as long as they run.
pub fn reap(run: &Path, place: Option<&Path>) {
    let _held = place.and_then(lock::hold);
    let last = outside::take_orders(std::io::stdin().lock(), std::io::stdout().lock());
    if last != KEEP.trim_ascii_end() {
        // An engine that does not answer, or is still making something, is asked again by the next sweep.
        let _ = sweep::remove_what_comes(run);
        return;
    }
    // `redrill clean` ends us with the machines; somebody else may end them too.
    while sweep::running(run) > 0 {
        std::thread::sleep(KEPT);
    }
}

/// A container's file system; processes and memory are gone.
pub struct FrozenContainer {
    name: String,
    tag: String,
    blueprint: Blueprint,
    kept: Option<Vec<u8>>,
    engine: Engine,
}

impl Drop for FrozenContainer {
    fn drop(&mut self) {
        let (engine, image) = (self.engine.clone(), format!("{}:{}", self.name, self.tag));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.forget(&image).await });
        }
    }
}

impl Backend for Containers {
    type Machine = ContainerMachine;
    type Frozen = FrozenContainer;

    fn capabilities(&self) -> Capabilities {
        Capabilities { memory_fork: false, own_kernel: false }
    }

    fn witnesses(&self) -> Witnesses {
        self.means.witnesses.clone()
    }

    async fn finish(&self) {
        // The sweep asks again for what an engine makes that takes longer.
        let _ = tokio::time::timeout(FINISH, self.means.making.write()).await;
    }

    async fn prepare(&mut self, images: &[String], progress: Progress) -> Result<Vec<ImageUsed>, MachineError> {
        let mut used = Vec::new();
        for name in images {
            let image = self.images.prepare(name, usable, &progress).await?;
            progress("importing into the container engine, unless it is there");
            self.means.engine.import(image).await?;
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
    ) -> Result<ContainerMachine, MachineError> {
        let image = self.images.get(spec.image.get_ref())?;
        let (name, tag) = sweep::copy_of(&image.manifest.name, &image.digest);
        let made = async {
            let blueprint = &Blueprint::new(spec, needs, image, dir).await?;
            let making =
                ContainerMaking { means: &self.means, from: (&name, &tag), blueprint, kept: None, dir, deadline };
            making.run(true).await
        };
        made.await.map_err(|error| error.or_full("a machine", dir))
    }

    async fn freeze(&self, machine: ContainerMachine, deadline: &Deadline) -> Result<FrozenContainer, MachineError> {
        let kept = match machine.blueprint.needs.network {
            // There the engine's own file names the new address.
            Network::Open => None,
            _ => files::kept_files(&machine.agent, deadline).await,
        };
        let number = self.means.frozen.fetch_add(1, Ordering::Relaxed);
        let (name, tag) = ("redrill-frozen".to_owned(), format!("{}-{number}", self.means.name("stage")));
        let tag = tag.trim_start_matches("redrill-").to_owned();
        let (engine, run) = (self.means.engine.clone(), self.means.run.clone());
        let (id, image, named) = (machine.container.id().to_owned(), name.clone(), tag.to_owned());
        self.means.to_the_end(async move { engine.commit(&id, &image, &named, &run).await }).await?;
        let blueprint = machine.blueprint.clone();
        machine.destroy().await?;
        Ok(FrozenContainer { name, tag, blueprint, kept, engine: self.means.engine.clone() })
    }

    async fn fork(
        &self,
        frozen: &FrozenContainer,
        group: &str,
        dir: &Path,
        deadline: &Deadline,
    ) -> Result<ContainerMachine, MachineError> {
        let blueprint = &frozen.blueprint.fork(group);
        let (from, kept) = ((frozen.name.as_str(), frozen.tag.as_str()), frozen.kept.as_deref());
        let making = ContainerMaking { means: &self.means, from, blueprint, kept, dir, deadline };
        making.run(false).await
    }
}
