//! Machines made by QEMU: forked from a template or booted from an image, talked to through their agent, watched by
//! their console and monitor.

mod args;
mod boot;
mod console;
mod credentials;
mod freeze;
mod initrd;
mod qmp;
mod seed;
mod start;
mod template;
mod usernet;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redrill_model::{ImageUsed, MachineSpec};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::command::{DIGESTS, Exec, Output};
use crate::deadline::{Deadline, TimedOut};
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::host::Accel;
use crate::image::{Builder, Catalog, Image, Store};
use crate::machine::{Address, Backend, Capabilities, Machine, Reach};
use crate::needs::Needs;
use crate::personal::{self, Person};
use crate::process::Guard;
use crate::progress::Progress;
use crate::ssh::ClientKey;
use crate::switch::Switch;
use boot::Making;
use start::Running;
pub use template::Templates;

/// These machines have network cards, and a relay on the network that leads to the harness.
const KIND: personal::Kind = personal::Kind { relay: args::RELAY, hardware: true };
/// How long a connection may stay unanswered before it counts as dropped, since a firewall says nothing. Even an emulated
/// kernel answers within milliseconds, and the second try of the handshake comes after one second.
const DROPPED: Duration = Duration::from_secs(3);

/// Makes machines with QEMU.
pub struct Qemu {
    means: Means,
    catalog: Catalog,
    store: Store,
    images: BTreeMap<String, Image>,
}

/// What every machine of a drill is made with.
#[derive(Clone)]
struct Means {
    guard: Guard,
    accel: Accel,
    /// QEMU's version: another one does not load what this one froze.
    version: String,
    client: ClientKey,
    templates: Templates,
    /// Boot cold, use no template.
    fresh: bool,
    tell: Progress,
    switches: Arc<Mutex<BTreeMap<String, Switch>>>,
    witnesses: Witnesses,
}

impl Means {
    /// The private network of a group, made when its first machine comes.
    fn switch(&self, group: &str) -> Switch {
        self.switches.lock().expect("no panic while it is held").entry(group.to_owned()).or_default().clone()
    }
}

/// How a drill wants its QEMU machines.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the guest's code runs.
    pub accel: Accel,
    /// QEMU's version.
    pub version: String,
    /// Boot cold instead of forking a template.
    pub fresh: bool,
}

impl Qemu {
    /// Machines that `client` may enter as root, made of the images of `catalog`.
    pub fn new(
        guard: Guard,
        options: Options,
        catalog: Catalog,
        (store, templates): (Store, Templates),
        client: ClientKey,
    ) -> Self {
        let Options { accel, version, fresh } = options;
        let tell: Progress = Arc::new(|_| ());
        let switches = Arc::default();
        let means =
            Means { guard, accel, version, client, templates, fresh, tell, switches, witnesses: Witnesses::default() };
        Self { means, catalog, store, images: BTreeMap::new() }
    }
}

/// A machine in a QEMU process.
pub struct QemuMachine {
    name: String,
    dir: PathBuf,
    boot_seconds: f64,
    login_seconds: Option<f64>,
    running: Running,
    means: Means,
    spec: MachineSpec,
    needs: Needs,
    image: Image,
    person: Person,
    credentials: Vec<PathBuf>,
    tunnels: Mutex<Vec<JoinHandle<()>>>,
}

/// A frozen machine: files in the run directory.
pub struct QemuFrozen {
    files: freeze::Files,
    spec: MachineSpec,
    needs: Needs,
    image: Image,
    person: Person,
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
        let program = self.means.guard.program().to_owned();
        let builder = Builder { store: self.store.clone(), program, mirror: None, progress };
        let mut used = Vec::new();
        for name in images {
            let failed =
                |source: Box<dyn std::error::Error + Send + Sync>| MachineError::Image { image: name.clone(), source };
            let recipe = self.catalog.get(name).map_err(|error| failed(error.into()))?;
            let image = builder.image(&recipe, false).await.map_err(|error| failed(error.into()))?;
            used.push(ImageUsed { name: name.clone(), digest: image.digest.clone() });
            self.images.insert(name.clone(), image);
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
        let image = self.images.get(spec.image.get_ref()).ok_or_else(|| MachineError::Program {
            program: "image".to_owned(),
            said: format!("`{}` has not been built", spec.image.get_ref()),
        })?;
        let making = Making { means: &self.means, image, spec, needs, dir, deadline };
        making.clean().await.map_err(|error| error.or_full("a machine", dir))
    }

    async fn freeze(&self, machine: QemuMachine, deadline: &Deadline) -> Result<QemuFrozen, MachineError> {
        machine.stop_tunnels();
        let QemuMachine { name, dir, running, spec, needs, image, person, credentials, .. } = machine;
        if !needs.freezable {
            let what = "it cannot be frozen: its memory is shared with others".to_owned();
            return Err(MachineError::Unable { machine: name, what });
        }
        let to = unused(&dir);
        let files = freeze::freeze(running, (&name, &dir), &to, deadline).await?;
        for file in credentials {
            let kept = std::fs::copy(&file, to.join(file.file_name().unwrap_or_default()));
            kept.map_err(MachineError::io("cannot keep the frozen machine"))?;
        }
        Ok(QemuFrozen { files, spec, needs, image, person })
    }

    async fn fork(
        &self,
        frozen: &QemuFrozen,
        group: &str,
        dir: &Path,
        deadline: &Deadline,
    ) -> Result<QemuMachine, MachineError> {
        let QemuFrozen { files, spec, image, person, .. } = frozen;
        let mut needs = Needs { freezable: frozen.needs.forks_freezable, ..frozen.needs.clone() };
        if let Some(seat) = &mut needs.lan {
            group.clone_into(&mut seat.group);
        }
        let making = Making { means: &self.means, image, spec, needs: &needs, dir, deadline };
        making.resume(files, person.clone()).await.map_err(|error| error.or_full("a fork", dir))
    }
}

/// Where the frozen machine is to lie: what was frozen here before may be what its disk stands on.
fn unused(dir: &Path) -> PathBuf {
    let place = |number: usize| dir.join(if number == 1 { "frozen".to_owned() } else { format!("frozen-{number}") });
    (1..).map(place).find(|place| !place.exists()).expect("numbers do not end")
}

impl Machine for QemuMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn boot_seconds(&self) -> f64 {
        self.boot_seconds
    }

    async fn exec(&self, command: &Exec, input: &[u8], deadline: &Deadline) -> Result<Output, MachineError> {
        self.while_it_lives(self.running.agent.exec(command, input, deadline)).await
    }

    async fn exec_to_file(
        &self,
        command: &Exec,
        input: &[u8],
        to: &Path,
        deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        self.while_it_lives(self.running.agent.exec_to_file(command, input, to, deadline)).await
    }

    fn lost(&self) -> Option<MachineError> {
        self.running.trouble(&self.name, &self.dir)
    }

    async fn learn(&self, deadline: &Deadline) {
        let (known, new) = (self.image.digests(), self.dir.join("digests.new"));
        if known.exists() {
            return;
        }
        let read = self.running.agent.exec_to_file(&Exec::new(["cat", DIGESTS]), b"", &new, deadline).await;
        if read.is_ok_and(|output| output.status == 0) {
            // Whole or not at all: two drills may end here at once.
            let whole = known.with_extension(std::process::id().to_string());
            let _ = std::fs::copy(&new, &whole).and_then(|_| std::fs::rename(&whole, known));
        }
        let _ = std::fs::remove_file(new);
    }

    async fn clock_offset(&self, deadline: &Deadline) -> Result<i64, MachineError> {
        self.while_it_lives(self.running.agent.clock_offset(deadline)).await
    }

    fn outside(&self, port: u16) -> Option<SocketAddr> {
        usernet::forwarded(&self.running.ports, port).map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    async fn inside(&self, host: &str, port: u16) -> Result<SocketAddr, MachineError> {
        let (address, task) = self.running.agent.tunnel(host, port).await?;
        self.tunnels.lock().expect("no panic while it is held").push(task);
        Ok(address)
    }

    fn lan_address(&self) -> Option<Ipv4Addr> {
        self.needs.lan.as_ref().map(|seat| seat.address)
    }

    /// QEMU accepts a connection to a forwarded port before the machine has said anything: only its own list of
    /// connections tells what the machine answered.
    async fn reach(&self, port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
        let address =
            self.outside(port).ok_or_else(|| MachineError::Monitor(format!("port {port} is not forwarded")))?;
        // A connection is listed under the port that it came through, not under its own.
        let through = |flow: &usernet::Flow| flow.source_port == address.port() && flow.state != "HOST_FORWARD";
        let flows = async || Ok::<_, MachineError>(usernet::flows(&self.running.monitor.human("info usernet").await?));
        let before: Vec<u32> = flows().await?.iter().filter(|flow| through(flow)).map(|flow| flow.fd).collect();
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(MachineError::io("cannot reach QEMU's forwarded port"))?;
        let began = Instant::now();
        loop {
            let flows = deadline.limit(flows()).await.map_err(|limit| self.timed_out("info usernet", limit))??;
            let ours = flows.iter().find(|flow| through(flow) && !before.contains(&flow.fd));
            let patient = began.elapsed() < DROPPED;
            match ours.map(|flow| flow.state.as_str()) {
                Some("ESTABLISHED" | "CLOSE_WAIT") => return Ok(Reach::Open),
                Some("SYN_SENT") if patient => {}
                Some("SYN_SENT") => return Ok(Reach::Closed("nobody answered".to_owned())),
                Some(_) => return Ok(Reach::Closed("refused".to_owned())),
                // QEMU may not have taken the connection yet, or be rid of it already: then we see its end.
                None => match stream.try_read(&mut [0; 1]) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && patient => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        return Err(MachineError::Monitor("it does not list a connection that was made".to_owned()));
                    }
                    _ => return Ok(Reach::Closed("refused".to_owned())),
                },
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn address(&self) -> Address {
        Address {
            host: self.name.clone(),
            port: usernet::forwarded(&self.running.ports, args::SSH).unwrap_or_default(),
            key: self.means.client.path.clone(),
            host_key: self.person.host.host_key(),
        }
    }

    fn console(&self) -> PathBuf {
        self.dir.join(args::CONSOLE)
    }

    async fn reboot(&self, deadline: &Deadline) -> Result<(), MachineError> {
        let before = self.running.answers(&self.name, &self.dir, deadline).await?;
        // The agent ends with the machine: no answer to this is the rule.
        let limit = deadline.child("the order to reboot", Duration::from_secs(10));
        let _ = self.running.agent.exec(&Exec::new(["systemctl", "reboot"]), b"", &limit).await;
        loop {
            let after = self.running.answers(&self.name, &self.dir, deadline).await?;
            if after != before {
                break;
            }
            self.running.check(&self.name, &self.dir, deadline, "the kernel of before the reboot")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.making(deadline).after_reboot(&self.running, &self.person).await
    }

    async fn attend(&self, deadline: &Deadline) {
        let Some(mut boot) = self.boot_id(deadline).await else { return std::future::pending().await };
        loop {
            tokio::time::sleep(ATTENTION).await;
            if self.boot_id(deadline).await.as_ref() == Some(&boot) {
                continue;
            }
            // Silent for a while, or another boot: the agent answers again once there is a system.
            let Ok(now) = self.running.answers(&self.name, &self.dir, deadline).await else {
                return std::future::pending().await;
            };
            if now != boot {
                boot = now;
                let _ = self.making(deadline).after_own_reboot(&self.running, &self.person).await;
            }
        }
    }

    async fn power_cut(self, deadline: &Deadline) -> Result<Self, MachineError> {
        self.stop_tunnels();
        // The processors stand still before QEMU closes the disk: what the machine had not written yet is lost, and
        // what it had is whole.
        self.running.monitor.execute("stop", serde_json::Value::Null).await?;
        let Self { dir, running, means, spec, needs, image, person, credentials, .. } = self;
        running.quit().await?;
        let making = Making { means: &means, image: &image, spec: &spec, needs: &needs, dir: &dir, deadline };
        making.again(person, credentials).await
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.stop_tunnels();
        let ended = self.running.quit().await;
        start::remove_files(&self.dir);
        ended
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.stop_tunnels();
        self.running.release().await
    }
}

/// How often somebody who waits for an answer looks whether there is still a machine.
const LOOK: Duration = Duration::from_secs(1);
/// How often a machine that somebody works in is asked for its boot, and how long it may take to say.
const ATTENTION: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(15);

impl QemuMachine {
    /// Seconds from the call that made a clean machine to the first login over SSH; of others there is none to tell.
    pub fn login_seconds(&self) -> Option<f64> {
        self.login_seconds
    }

    /// The kernel's id of its boot, if the agent tells.
    async fn boot_id(&self, deadline: &Deadline) -> Option<String> {
        let limit = deadline.child("the id of the boot", ANSWER);
        let ask = Exec::new(["cat", "/proc/sys/kernel/random/boot_id"]);
        let output = self.running.agent.exec(&ask, b"", &limit).await.ok()?;
        (output.status == 0).then(|| output.text().trim().to_owned())
    }

    fn making<'a>(&'a self, deadline: &'a Deadline) -> Making<'a> {
        let Self { means, image, spec, needs, dir, .. } = self;
        Making { means, image, spec, needs, dir, deadline }
    }

    fn timed_out(&self, command: &str, limit: TimedOut) -> MachineError {
        MachineError::TimedOut { machine: self.name.clone(), command: command.to_owned(), limit }
    }

    /// An answer, or the end of the machine: one that stands still would be waited for until the limit.
    async fn while_it_lives<T>(&self, work: impl Future<Output = Result<T, MachineError>>) -> Result<T, MachineError> {
        let lost = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if let Some(error) = self.lost() {
                    return error;
                }
            }
        };
        let error = tokio::select! {
            done = work => match done {
                Ok(done) => return Ok(done),
                Err(error) => self.running.explain(&self.name, &self.dir, error).await,
            },
            error = lost => error,
        };
        Err(error.or_full("what a machine printed", &self.dir))
    }

    fn stop_tunnels(&self) {
        let tunnels = std::mem::take(&mut *self.tunnels.lock().expect("no panic while it is held"));
        tunnels.iter().for_each(JoinHandle::abort);
    }
}
