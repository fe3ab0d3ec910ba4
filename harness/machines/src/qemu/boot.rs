//! From an image to a clean machine of its own: by a fork of its template, or by a cold boot.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::args::{self, Boot, MEMORY, Memory, OVERLAY};
use super::freeze;
use super::frozen_files::FrozenFiles;
use super::machine::QemuMachine;
use super::means::{QemuMeans, WIRING};
use super::start::{QemuStart, Running, make_disk};
use super::template::{self, FoundTemplate, TemplateKind};
use super::{credentials, initrd, seed};
use crate::blueprint::Blueprint;
use crate::command::{DIGESTS, Exec, PROBE};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::machine_core::MachineCore;
use crate::needs::Needs;
use crate::personal::{self, Person};

use crate::ssh;

/// A fork answers within a second, or its memory is not what its kernel believes.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// The machine signs in to itself, with a key that does not outlive the script. systemd keeps the user's manager for ten
/// seconds afterwards; to start it takes an emulated machine three.
const SIGN_IN: &str = r#"key=/run/redrill/key keys=/root/.ssh/authorized_keys
test -s $keys && exit
test -e /root/.ssh || { mkdir -m 700 /root/.ssh; made=yes; }
ssh-keygen -q -t ed25519 -N '' -f $key && cp $key.pub $keys
ssh -F none -i $key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1 true
rm -rf $key $key.pub ${made:+/root/.ssh}
test -n "$made" || : > $keys
"#;

/// A clean machine in the making.
pub(super) struct QemuMaking<'a> {
    pub(super) means: &'a QemuMeans,
    pub(super) blueprint: &'a Blueprint,
    pub(super) dir: &'a Path,
    pub(super) deadline: &'a Deadline,
}

/// A machine that runs, is at rest, and is nobody yet.
struct Base {
    running: Running,
    credentials: Vec<PathBuf>,
}

impl QemuMaking<'_> {
    /// Up to a login over SSH; it took from when it was `called` for.
    pub(super) async fn clean(&self, called: Instant) -> Result<QemuMachine, MachineError> {
        let template = if self.means.fresh { None } else { Some(self.template().await?) };
        let began = Instant::now();
        let base = match &template {
            Some(files) => self.fork(files, &template::credentials(files)).await?,
            None => self.cold(self.blueprint.needs.freezable).await?,
        };
        let boot_seconds = began.elapsed().as_secs_f64();
        let identity = self.blueprint.person.whole(WIRING, self.name(), &self.means.client, &self.blueprint.needs)?;
        let tell = async |identity| personal::tell(&base.running.agent, self.name(), identity, self.deadline).await;
        let become_one = async {
            tell(identity).await?;
            self.admit(&base.running).await?;
            let login_seconds = called.elapsed().as_secs_f64();
            // Side by side with the login both take as long as one after the other.
            tell(Person::later()).await?;
            Ok(login_seconds)
        };
        let login_seconds = self.witnessed(become_one).await?;
        Ok(QemuMachine { login_seconds: Some(login_seconds), ..self.machine(base, boot_seconds) })
    }

    /// Goes on where a frozen machine stopped.
    pub(super) async fn resume(&self, files: &FrozenFiles) -> Result<QemuMachine, MachineError> {
        let began = Instant::now();
        let base = self.fork(files, &template::credentials(files)).await?;
        let boot_seconds = began.elapsed().as_secs_f64();
        self.tell_again(&base.running).await?;
        self.configure_ssh(&base.running)?;
        Ok(self.machine(base, boot_seconds))
    }

    /// Boots from the machine's own disk, as after a power cut.
    pub(super) async fn again(&self, credentials: Vec<PathBuf>) -> Result<QemuMachine, MachineError> {
        let began = Instant::now();
        let base = self.boot_disk(self.blueprint.needs.freezable, credentials).await?;
        let boot_seconds = began.elapsed().as_secs_f64();
        self.after_reboot(&base.running).await?;
        Ok(self.machine(base, boot_seconds))
    }

    /// What a machine that booted anew has to be told, up to a login over SSH.
    pub(super) async fn after_reboot(&self, running: &Running) -> Result<(), MachineError> {
        self.settle(running).await?;
        self.tell_again(running).await?;
        self.admit(running).await
    }

    /// What a machine of before is told that goes on or booted anew; nothing is waited for but the network.
    pub(super) async fn tell_again(&self, running: &Running) -> Result<(), MachineError> {
        let again = self.blueprint.person.again(WIRING, &self.blueprint.needs);
        personal::tell(&running.agent, self.name(), again, self.deadline).await
    }

    fn name(&self) -> &str {
        &self.blueprint.spec.name
    }

    fn machine(&self, base: Base, boot_seconds: f64) -> QemuMachine {
        let (running, client) = (base.running, &self.means.client);
        let core = self.blueprint.core((self.dir, args::CONSOLE), client, running.ports.clone(), &running.agent);
        QemuMachine {
            // A kernel that gave up leaves QEMU, and so the agent's port, as they are.
            core: MachineCore { boot_seconds, dies_silently: true, ..core },
            login_seconds: None,
            running,
            means: self.means.clone(),
            blueprint: self.blueprint.clone(),
            credentials: base.credentials,
        }
    }

    /// From the cache, or made.
    async fn template(&self) -> Result<FrozenFiles, MachineError> {
        let kind =
            TemplateKind::of((self.means.accel, &self.means.version), &self.blueprint.image, &self.blueprint.spec);
        match self.means.templates.find(&kind) {
            FoundTemplate::Whole(files) => return Ok(files),
            FoundTemplate::Damaged(why) => (self.means.tell)(&format!(
                "the template of `{}` is damaged: {why}",
                self.blueprint.image.manifest.name
            )),
            FoundTemplate::OfAnotherQemu(version) => {
                let (image, ours) = (&self.blueprint.image.manifest.name, &self.means.version);
                let text = format!("the template of `{image}` was made by QEMU {version}, and this is {ours}");
                (self.means.tell)(&text)
            }
            FoundTemplate::None => {}
        }
        let (templates, wanted) = (self.means.templates.clone(), kind.clone());
        (self.means.tell)(&format!("booting `{}` once, to fork it from now on", self.blueprint.image.manifest.name));
        let lock = tokio::task::spawn_blocking(move || templates.lock(&wanted)).await;
        let cannot = || MachineError::io("cannot use the cache of templates");
        let _lock = lock.map_err(std::io::Error::other).and_then(|lock| lock).map_err(cannot())?;
        // Another drill may have made it while we waited.
        if let FoundTemplate::Whole(files) = self.means.templates.find(&kind) {
            return Ok(files);
        }
        if crate::host::check_disk(self.dir, self.blueprint.spec.memory_mib).is_err() {
            let (place, image) = (self.dir.display().to_string(), &self.blueprint.image.manifest.name);
            let what = format!("the template of `{image}`, which may need {} MiB", self.blueprint.spec.memory_mib);
            return Err(MachineError::DiskFull { place, what });
        }
        // It is nobody, and hears nobody.
        let needs = Needs { lease: args::TEMPLATE, network: self.blueprint.needs.network, ..Needs::default() };
        let nobody = Blueprint { needs, ..self.blueprint.clone() };
        let base = QemuMaking { blueprint: &nobody, ..*self }.cold(true).await?;
        self.bring_to_rest(&base.running).await?;
        let frozen =
            freeze::freeze(base.running, (self.name(), self.dir), &self.dir.join("template"), self.deadline).await?;
        let (templates, credentials) = (self.means.templates.clone(), base.credentials);
        (self.means.tell)("writing the template to the cache");
        let kept = tokio::task::spawn_blocking(move || {
            let kept = templates.adopt(&frozen, &kind, &credentials);
            frozen.remove();
            kept
        });
        let kept = kept.await.map_err(std::io::Error::other).and_then(|kept| kept).map_err(cannot());
        kept.map_err(|error| error.or_full("a template", self.means.templates.directory()))
    }

    /// The last things before a template is frozen: the content of the disk becomes known, its timers stand still, and
    /// somebody has signed in, so that those who do so in its forks find their service manager running.
    async fn bring_to_rest(&self, running: &Running) -> Result<(), MachineError> {
        let capture = Exec::new(["sh", "-c", &format!("{PROBE} capture > /dev/null")]);
        let still = Exec::new([PROBE, "still"]);
        // Without sshd there is nobody to sign in to: that is told when the machine itself is to be entered.
        let sign_in = Exec::new(["sh", "-c", &format!("{SIGN_IN}true")]);
        for command in [capture, sign_in, still] {
            let output = running.agent.exec(&command, b"", self.deadline).await?;
            if output.status != 0 {
                return Err(MachineError::Program { program: command.0.join(" "), said: output.stderr });
            }
        }
        Ok(())
    }

    async fn cold(&self, shared: bool) -> Result<Base, MachineError> {
        let _ = std::fs::remove_file(self.dir.join(OVERLAY));
        make_disk(&self.blueprint.image, &self.dir.join(OVERLAY)).await?;
        if self.blueprint.image.manifest.origin.is_some() {
            let base = self.boot_disk(shared, Vec::new()).await?;
            self.first_boot(&base.running).await?;
            return Ok(base);
        }
        let credentials = credentials::write(self.dir).await?;
        self.boot_disk(shared, credentials).await
    }

    async fn boot_disk(&self, shared: bool, credentials: Vec<PathBuf>) -> Result<Base, MachineError> {
        let memory = self.dir.join(MEMORY);
        let _ = std::fs::remove_file(&memory);
        let memory = if shared { Memory::Shared(memory) } else { Memory::Own };
        let running = self.start(memory, &credentials, false).await?;
        let ready = async {
            running.answers(self.name(), self.dir, self.deadline).await?;
            self.settle(&running).await
        };
        self.witnessed(ready).await?;
        Ok(Base { running, credentials })
    }

    async fn fork(&self, files: &FrozenFiles, credentials: &[PathBuf]) -> Result<Base, MachineError> {
        let memory = freeze::lay_out(files, self.dir, self.blueprint.needs.freezable).await?;
        let running = self.start(memory, credentials, true).await?;
        freeze::thaw(&running, files, self.deadline).await?;
        let limit = self.deadline.child("the first answer of a fork", FIRST_ANSWER);
        self.witnessed(running.answers(self.name(), self.dir, &limit)).await?;
        Ok(Base { running, credentials: credentials.to_vec() })
    }

    /// Of a machine that fails evidence is taken, for as long as there is one.
    async fn witnessed<T>(&self, work: impl Future<Output = Result<T, MachineError>>) -> Result<T, MachineError> {
        let done = work.await;
        if done.is_err() {
            self.means.witnesses.take_in(self.dir).await;
        }
        done
    }

    /// Whether cloud-init is content with what it did; the boot that it belongs to is over.
    async fn first_boot(&self, running: &Running) -> Result<(), MachineError> {
        let ask = Exec::new(["cloud-init", "status", "--wait", "--format", "json"]);
        let output = running.agent.exec(&ask, b"", self.deadline).await?;
        let said = if output.stdout.is_empty() { output.stderr.clone() } else { output.text() };
        match seed::judge(&said) {
            Ok(complaints) => {
                let name = &self.blueprint.image.manifest.name;
                complaints.iter().for_each(|said| (self.means.tell)(&format!("cloud-init in `{name}`: {said}")));
                Ok(())
            }
            Err(said) => Err(MachineError::FirstBoot { machine: self.name().to_owned(), said }),
        }
    }

    async fn start(&self, memory: Memory, credentials: &[PathBuf], incoming: bool) -> Result<Running, MachineError> {
        let boot = match self.blueprint.image.manifest.origin {
            Some(_) => Boot::Disk { seed: seed::disk(&self.blueprint.image)? },
            None => Boot::Kernel {
                kernel: self.blueprint.image.kernel(),
                initrd: initrd::with_agent(&self.blueprint.image)?,
            },
        };
        let start = QemuStart { blueprint: self.blueprint, dir: self.dir, boot, memory, credentials, incoming };
        start.run(self.means, self.deadline).await
    }

    /// Waits until systemd has no more jobs: a deploy into a machine that is still booting races with it. A failed unit
    /// of the image is no reason to stop; the captures show it.
    async fn settle(&self, running: &Running) -> Result<(), MachineError> {
        let digests = std::fs::read(self.blueprint.image.digests());
        let steps = async {
            if let Ok(digests) = digests {
                // Without them the first capture is slower, and as good.
                let take = Exec::new(["sh", "-c", &format!("cat > {DIGESTS}")]);
                running.agent.exec(&take, &digests, self.deadline).await?;
            }
            running.agent.exec(&Exec::new(["systemctl", "is-system-running", "--wait"]), b"", self.deadline).await?;
            if self.blueprint.image.manifest.origin.is_some() {
                // Where it fails networkd is not in the machine's way.
                running.agent.exec(&Exec::new(["sh", "-c", seed::RELOAD]), b"", self.deadline).await?;
            }
            Ok(())
        };
        let watch = async {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                if let Err(error) =
                    running.check(self.name(), self.dir, self.deadline, "an agent, but no end of the boot")
                {
                    return error;
                }
            }
        };
        tokio::select! {
            done = steps => done,
            error = watch => Err(error),
        }
    }

    fn configure_ssh(&self, running: &Running) -> Result<u16, MachineError> {
        let port = running
            .ports
            .get(&ssh::PORT)
            .map(SocketAddr::port)
            .ok_or_else(|| MachineError::Monitor("QEMU forwards no port to SSH".to_owned()))?;
        let key = &self.means.client.path;
        ssh::configure(self.dir, self.name(), port, key, &self.blueprint.person.host.host_key())?;
        Ok(port)
    }

    /// Waits for a login over SSH: the way that the deploy tool will take.
    async fn admit(&self, running: &Running) -> Result<(), MachineError> {
        let port = self.configure_ssh(running)?;
        let name = self.name();
        // QEMU asks a machine that has no address yet again only after seconds.
        let online = Exec::new([PROBE, "online", &args::address(self.blueprint.needs.lease), &ssh::PORT.to_string()]);
        let online = running.agent.exec(&online, b"", self.deadline).await?.status == 0;
        if online && ssh::login(&self.means.guard, self.dir, name, self.deadline).await.is_ok() {
            return Ok(());
        }
        // Who never comes online, or is busy with beginning anew, is asked until the limit, and that is told.
        let check = |last_seen: &str| running.check(name, self.dir, self.deadline, last_seen);
        ssh::admit(&self.means.guard, self.dir, name, port, self.deadline, check).await
    }
}
