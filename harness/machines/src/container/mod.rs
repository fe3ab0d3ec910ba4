//! Machines that are containers with systemd as their first process, made by a container engine from the same images.
//!
//! What they cannot do, being processes of the host's kernel, is in their [`Capabilities`].

mod enclose;
mod engine;
mod lan;
mod outside;
mod sealed;
mod start;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redrill_model::{ImageSource, ImageUsed, MachineSpec, Network};
use testcontainers::{ContainerAsync, GenericImage};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::command::{Exec, Output};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::image::{Builder, Catalog, Image, Recipe, Store};
use crate::lock;
use crate::machine::{Address, Backend, Capabilities, Machine, Reach};
use crate::needs::Needs;
use crate::personal::{self, Person};
use crate::plain;
use crate::process::{Guard, RUN_VARIABLE};
use crate::progress::Progress;
use crate::ssh::ClientKey;
pub use enclose::enclose;
pub(crate) use enclose::{is_making, is_rootless};
use engine::{Engine, Gone};
use lan::Lans;
use start::Making;
pub use sweep::left;
pub use sweep::{Copy, engine_socket, engine_version, forget_copies, forget_sandboxes};
pub(crate) use sweep::{ENGINE, remove_all, remove_what_comes};

/// What these machines are told differs little: their only network card is the engine's business.
const KIND: personal::Kind = personal::Kind { relay: "127.0.0.1:3128", hardware: false };
/// The longest that an engine is waited for when a drill ends.
const FINISH: Duration = Duration::from_secs(30);
/// How often to look whether kept machines still run.
const KEPT: Duration = Duration::from_secs(20);
/// Told to the reaper: stay when the harness goes.
const KEEP: &[u8] = b"k\n";
/// How long the engine may take to tell of an end.
const TOLD: Duration = Duration::from_secs(2);
/// Of a list of digests, the longest that is believed: of a Debian it is some 2 MiB.
const LARGEST_LIST: u64 = 256 << 20;
/// How long a connection may stay unanswered before it counts as dropped.
const DROPPED: Duration = Duration::from_secs(3);

/// Makes machines with a container engine.
pub struct Containers {
    means: Means,
    catalog: Catalog,
    store: Store,
    images: BTreeMap<String, (Image, String, String)>,
}

/// Outlives us if we are killed, and then removes what we made. Ports of the host lead through it to machines, since it
/// also stays with those that are kept.
struct Reaper {
    process: Child,
    /// What it waits at.
    leash: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reaper {
    /// A port of loopback that leads to `port` of the machine whose neighbour listens at `socket`.
    async fn forward(&mut self, socket: &Path, port: u16) -> std::io::Result<u16> {
        self.leash.write_all(&outside::order(socket, port)).await?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).await?;
        answer.trim().parse().map_err(|_| std::io::Error::other(format!("no port to listen on: {}", answer.trim())))
    }
}

/// What every machine of a drill is made with.
#[derive(Clone)]
struct Means {
    guard: Guard,
    engine: Engine,
    client: ClientKey,
    run: PathBuf,
    frozen: Arc<AtomicU32>,
    /// Those that there are: an engine makes a second one of the same name.
    networks: Arc<tokio::sync::Mutex<BTreeSet<String>>>,
    lans: Lans,
    reaper: Arc<tokio::sync::Mutex<Option<Reaper>>>,
    /// Held by whatever the engine is making.
    making: Arc<RwLock<()>>,
    witnesses: Witnesses,
}

impl Means {
    /// The open network of a group, made when its first machine comes.
    async fn network(&self, group: &str) -> Result<String, MachineError> {
        let (mut networks, name) = (self.networks.lock().await, self.name(group));
        if !networks.contains(&name) {
            let (engine, own, run) = (self.engine.clone(), name.clone(), self.run.clone());
            self.to_the_end(async move { engine.network(&own, &run).await }).await?;
            networks.insert(name.clone());
        }
        Ok(name)
    }

    /// What the engine is asked to make goes on though nobody waits for it any more, and must be there to be removed.
    async fn to_the_end<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let making = Arc::clone(&self.making).read_owned().await;
        let done = tokio::spawn(async move { (work.await, drop(making)).0 }).await;
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Ports of the host's loopback that lead to these of the machine whose neighbour listens at `socket`.
    async fn forward(&self, socket: &Path, ports: &[u16]) -> Result<HashMap<u16, u16>, MachineError> {
        let mut reaper = self.reaper.lock().await;
        let gone = || MachineError::Monitor("the reaper is gone".to_owned());
        let reaper = reaper.as_mut().ok_or_else(gone)?;
        let mut all = HashMap::new();
        for port in ports {
            let here = reaper.forward(socket, *port).await;
            all.insert(*port, here.map_err(MachineError::io(format!("cannot lead to port {port} of a machine")))?);
        }
        Ok(all)
    }

    /// A name that no other run has.
    fn name(&self, what: &str) -> String {
        let run = self.run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("redrill-{}-{run}-{what}", &blake3::hash(self.run.as_os_str().as_encoded_bytes()).to_hex()[..8])
    }
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
        let reaper = Arc::new(tokio::sync::Mutex::new(Some(reaper(&guard, &run)?)));
        let (frozen, networks, lans, witnesses) = Default::default();
        let making = Arc::default();
        let means = Means { guard, engine, client, run, frozen, networks, lans, reaper, making, witnesses };
        Ok(Self { means, catalog, store, images: BTreeMap::new() })
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

/// The engine's containers are no children of ours: a process that waits for our end removes them.
fn reaper(guard: &Guard, run: &Path) -> Result<Reaper, MachineError> {
    let mut command = Command::new(guard.program());
    command.arg("reap");
    if let Some(place) = guard.place() {
        command.arg("--place").arg(place);
    }
    command.arg(run).env(RUN_VARIABLE, run).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let failed = |source| MachineError::Spawn { program: "redrill reap".to_owned(), source };
    let mut process = command.spawn().map_err(failed)?;
    let (Some(leash), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
        return Err(failed(std::io::Error::other("it has no pipes")));
    };
    Ok(Reaper { process, leash, answers: BufReader::new(answers) })
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

/// A machine in a container.
pub struct ContainerMachine {
    name: String,
    dir: PathBuf,
    boot_seconds: f64,
    container: ContainerAsync<GenericImage>,
    agent: Arc<Agent>,
    ports: HashMap<u16, u16>,
    means: Means,
    spec: MachineSpec,
    needs: Needs,
    image: Image,
    person: Person,
    /// Why it ended, once it has.
    ended: Arc<Mutex<Option<Gone>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A container's file system; processes and memory are gone.
pub struct FrozenContainer {
    name: String,
    tag: String,
    spec: MachineSpec,
    needs: Needs,
    kept: Option<Vec<u8>>,
    image: Image,
    person: Person,
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
        let program = self.means.guard.program().to_owned();
        let builder = Builder { store: self.store.clone(), program, mirror: None, progress: Arc::clone(&progress) };
        let mut used = Vec::new();
        for name in images {
            let failed =
                |source: Box<dyn std::error::Error + Send + Sync>| MachineError::Image { image: name.clone(), source };
            let recipe = self.catalog.get(name).map_err(|error| failed(error.into()))?;
            usable(&recipe).map_err(|why| failed(why.into()))?;
            let image = builder.image(&recipe, false).await.map_err(|error| failed(error.into()))?;
            progress("importing into the container engine, unless it is there");
            let (repository, tag) = self.means.engine.import(&image).await?;
            used.push(ImageUsed { name: name.clone(), digest: image.digest.clone() });
            self.images.insert(name.clone(), (image, repository, tag));
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
        let (image, name, tag) = self.images.get(spec.image.get_ref()).ok_or_else(|| MachineError::Program {
            program: "image".to_owned(),
            said: format!("`{}` has not been built", spec.image.get_ref()),
        })?;
        let making = Making { means: &self.means, image, from: (name, tag), spec, needs, kept: None, dir, deadline };
        let made = async { making.run(Person::make(dir).await?, true).await };
        made.await.map_err(|error| error.or_full("a machine", dir))
    }

    async fn freeze(&self, machine: ContainerMachine, deadline: &Deadline) -> Result<FrozenContainer, MachineError> {
        let kept = match machine.needs.network {
            // There the engine's own file names the new address.
            Network::Open => None,
            _ => start::kept_files(&machine.agent, deadline).await,
        };
        let number = self.means.frozen.fetch_add(1, Ordering::Relaxed);
        let (name, tag) = ("redrill-frozen".to_owned(), format!("{}-{number}", self.means.name("stage")));
        let tag = tag.trim_start_matches("redrill-").to_owned();
        let (engine, run) = (self.means.engine.clone(), self.means.run.clone());
        let (id, image, named) = (machine.container.id().to_owned(), name.clone(), tag.to_owned());
        self.means.to_the_end(async move { engine.commit(&id, &image, &named, &run).await }).await?;
        let (spec, needs) = (machine.spec.clone(), machine.needs.clone());
        let (image, person) = (machine.image.clone(), machine.person.clone());
        machine.destroy().await?;
        Ok(FrozenContainer { name, tag, spec, needs, kept, image, person, engine: self.means.engine.clone() })
    }

    async fn fork(
        &self,
        frozen: &FrozenContainer,
        group: &str,
        dir: &Path,
        deadline: &Deadline,
    ) -> Result<ContainerMachine, MachineError> {
        let FrozenContainer { name, tag, spec, image, person, .. } = frozen;
        let mut needs = frozen.needs.clone();
        if let Some(seat) = &mut needs.lan {
            group.clone_into(&mut seat.group);
        }
        let (from, kept, needs) = ((name.as_str(), tag.as_str()), frozen.kept.as_deref(), &needs);
        let making = Making { means: &self.means, image, from, spec, needs, kept, dir, deadline };
        making.run(person.clone(), false).await
    }
}

impl Machine for ContainerMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn boot_seconds(&self) -> f64 {
        self.boot_seconds
    }

    async fn exec(&self, command: &Exec, input: &[u8], deadline: &Deadline) -> Result<Output, MachineError> {
        match self.agent.exec(command, input, deadline).await {
            Err(error) => Err(self.explain(error).await),
            output => output,
        }
    }

    async fn exec_to_file(
        &self,
        command: &Exec,
        input: &[u8],
        to: &Path,
        deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        match self.agent.exec_to_file(command, input, to, deadline).await {
            Err(error) => Err(self.explain(error).await),
            output => output,
        }
    }

    fn lost(&self) -> Option<MachineError> {
        let gone = self.ended.lock().expect("no panic while it is held").clone();
        gone.map(|gone| gone.error(&self.name))
    }

    /// What the probe left beside itself, for the next container of this image: they share the layer that the engine
    /// unpacked. Where an engine copies it instead (storage driver `vfs`), inodes and times are others each time, and
    /// the list is of no use and no harm.
    async fn learn(&self, _deadline: &Deadline) {
        let (left, known) = (start::digests(&self.dir), self.image.container_digests());
        // Whole or not at all: two drills may end here at once.
        let whole = known.with_extension(std::process::id().to_string());
        let copied = plain::read(&left, LARGEST_LIST).and_then(|list| std::fs::write(&whole, list));
        let _ = copied.and_then(|()| std::fs::rename(&whole, known));
    }

    async fn clock_offset(&self, deadline: &Deadline) -> Result<i64, MachineError> {
        match self.agent.clock_offset(deadline).await {
            Err(error) => Err(self.explain(error).await),
            offset => offset,
        }
    }

    fn outside(&self, port: u16) -> Option<SocketAddr> {
        self.ports.get(&port).map(|port| SocketAddr::from(([127, 0, 0, 1], *port)))
    }

    async fn inside(&self, host: &str, port: u16) -> Result<SocketAddr, MachineError> {
        let (address, task) = self.agent.tunnel(host, port).await?;
        self.tasks.lock().expect("no panic while it is held").push(task);
        Ok(address)
    }

    fn lan_address(&self) -> Option<Ipv4Addr> {
        self.needs.lan.as_ref().map(|seat| seat.address)
    }

    /// A forwarded port accepts every connection, and closes it when the machine refuses: what a server that says nothing
    /// and one that is not there have in common. So the machine's own address is tried, from a neighbour: in a network of
    /// the engine that is the host.
    async fn reach(&self, port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
        if self.needs.network != Network::Open {
            return self.reach_sealed(port, deadline).await;
        }
        let address = self.means.engine.address(self.container.id()).await?;
        let limit = deadline.child("a connection", DROPPED);
        let connected = tokio::time::timeout(DROPPED.min(limit.left()), TcpStream::connect((address, port))).await;
        Ok(match connected {
            Ok(Ok(_)) => Reach::Open,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Reach::Closed("refused".to_owned())
            }
            Ok(Err(error)) => {
                return Err(MachineError::Io { what: format!("port {port} of `{}`", self.name), source: error });
            }
            Err(_) if deadline.passed() => {
                let (machine, command) = (self.name.clone(), format!("connect {port}"));
                return Err(MachineError::TimedOut { machine, command, limit: deadline.error() });
            }
            Err(_) => Reach::Closed("nobody answered".to_owned()),
        })
    }

    fn address(&self) -> Address {
        Address {
            host: self.name.clone(),
            port: self.ports.get(&22).copied().unwrap_or_default(),
            key: self.means.client.path.clone(),
            host_key: self.person.host.host_key(),
        }
    }

    fn console(&self) -> PathBuf {
        self.dir.join(start::CONSOLE)
    }

    async fn reboot(&self, _deadline: &Deadline) -> Result<(), MachineError> {
        Err(self.unable("a container has no kernel of its own to reboot"))
    }

    /// A container that ends by itself does not come back.
    async fn attend(&self, _deadline: &Deadline) {
        std::future::pending().await
    }

    async fn power_cut(self, _deadline: &Deadline) -> Result<Self, MachineError> {
        Err(self.unable("a container's files are the host's: a power cut of its own would lose nothing"))
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.leave();
        self.means.engine.logs(self.container.id(), &self.dir.join(start::CONSOLE)).await;
        let removed = self.means.engine.remove(self.container.id()).await;
        start::remove_files(&self.dir);
        // testcontainers would ask once more when it is dropped: there is nothing left to remove.
        std::mem::forget(self.container);
        removed
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.leave();
        if let Some(mut reaper) = self.means.reaper.lock().await.take() {
            reaper.leash.write_all(KEEP).await.map_err(MachineError::io("cannot let the containers go"))?;
            // It stays with them, and would be killed when it is dropped.
            std::mem::forget(reaper.process);
        }
        std::mem::forget(self.container);
        Ok(())
    }
}

impl ContainerMachine {
    async fn reach_sealed(&self, port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
        let socket = start::outside(&self.dir);
        let asked = tokio::task::spawn_blocking(move || outside::ask(&socket, port).map(|(_, word)| word));
        let failed = || MachineError::io(format!("port {port} of `{}`", self.name));
        let word = deadline.limit(asked).await.map_err(|limit| MachineError::TimedOut {
            machine: self.name.clone(),
            command: format!("connect {port}"),
            limit,
        })?;
        match word.map_err(|error| failed()(error.into()))?.map_err(failed())?.as_str() {
            "open" => Ok(Reach::Open),
            "refused" => Ok(Reach::Closed("refused".to_owned())),
            "silent" => Ok(Reach::Closed("nobody answered".to_owned())),
            other => Err(failed()(std::io::Error::other(other.to_owned()))),
        }
    }

    fn unable(&self, what: &str) -> MachineError {
        MachineError::Unable { machine: self.name.clone(), what: what.to_owned() }
    }

    /// Why the way in broke. The end of a container or an engine is told on another connection, a moment later.
    async fn explain(&self, error: MachineError) -> MachineError {
        let began = Instant::now();
        while matches!(error, MachineError::Lost { .. }) && self.lost().is_none() && began.elapsed() < TOLD {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.lost().unwrap_or_else(|| error.or_full("what a machine printed", &self.dir))
    }

    fn leave(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().expect("no panic while it is held"));
        tasks.iter().for_each(JoinHandle::abort);
    }
}
