//! A machine in a QEMU process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::boot::QemuMaking;
use super::means::QemuMeans;
use super::start::{self, Running};
use super::usernet;
use crate::blueprint::Blueprint;
use crate::command::{DIGESTS, Exec};
use crate::deadline::{Deadline, TimedOut};
use crate::error::MachineError;
use crate::image;
use crate::machine::{DROPPED, Machine, Reach};
use crate::machine_core::MachineCore;

/// How often a machine that somebody works in is asked for its boot, and how long it may take to say.
const ATTENTION: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(15);

/// A machine in a QEMU process.
pub struct QemuMachine {
    pub(super) core: MachineCore,
    pub(super) login_seconds: Option<f64>,
    pub(super) running: Running,
    pub(super) means: QemuMeans,
    pub(super) blueprint: Blueprint,
    pub(super) credentials: Vec<PathBuf>,
}

impl Machine for QemuMachine {
    fn core(&self) -> &MachineCore {
        &self.core
    }

    fn lost(&self) -> Option<MachineError> {
        self.running.trouble(self.name(), &self.core.dir)
    }

    async fn learn(&self, deadline: &Deadline) {
        let (known, new) = (self.blueprint.image.digests(), self.core.dir.join("digests.new"));
        if known.exists() {
            return;
        }
        let read = self.running.agent.exec_to_file(&Exec::new(["cat", DIGESTS]), b"", &new, deadline).await;
        if read.is_ok_and(|output| output.status == 0) {
            image::keep_digests(&known, |to| std::fs::copy(&new, to).map(drop));
        }
        let _ = std::fs::remove_file(new);
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

    async fn reboot(&self, deadline: &Deadline) -> Result<(), MachineError> {
        let before = self.running.answers(self.name(), &self.core.dir, deadline).await?;
        // The agent ends with the machine: no answer to this is the rule.
        let limit = deadline.child("the order to reboot", Duration::from_secs(10));
        let _ = self.running.agent.exec(&Exec::new(["systemctl", "reboot"]), b"", &limit).await;
        loop {
            let after = self.running.answers(self.name(), &self.core.dir, deadline).await?;
            if after != before {
                break;
            }
            self.running.check(self.name(), &self.core.dir, deadline, "the kernel of before the reboot")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.making(deadline).after_reboot(&self.running).await
    }

    async fn attend(&self, deadline: &Deadline) {
        let Some(mut boot) = self.boot_id(deadline).await else { return std::future::pending().await };
        loop {
            tokio::time::sleep(ATTENTION).await;
            if self.boot_id(deadline).await.as_ref() == Some(&boot) {
                continue;
            }
            // Silent for a while, or another boot: the agent answers again once there is a system.
            let Ok(now) = self.running.answers(self.name(), &self.core.dir, deadline).await else {
                return std::future::pending().await;
            };
            if now != boot {
                boot = now;
                let _ = self.making(deadline).tell_again(&self.running).await;
            }
        }
    }

    async fn power_cut(self, deadline: &Deadline) -> Result<Self, MachineError> {
        self.core.leave();
        // The processors stand still before QEMU closes the disk: what the machine had not written yet is lost, and
        // what it had is whole.
        self.running.monitor.execute("stop", serde_json::Value::Null).await?;
        let Self { core, running, means, blueprint, credentials, .. } = self;
        let dir = core.dir.clone();
        // It holds the agent: nobody shall ask that for evidence any more.
        drop(core);
        running.quit().await?;
        let making = QemuMaking { means: &means, blueprint: &blueprint, dir: &dir, deadline };
        making.again(credentials).await
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.core.leave();
        let ended = self.running.quit().await;
        start::remove_files(&self.core.dir);
        ended
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.core.leave();
        self.running.release().await
    }
}

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

    fn making<'a>(&'a self, deadline: &'a Deadline) -> QemuMaking<'a> {
        QemuMaking { means: &self.means, blueprint: &self.blueprint, dir: &self.core.dir, deadline }
    }

    fn timed_out(&self, command: &str, limit: TimedOut) -> MachineError {
        MachineError::TimedOut { machine: self.name().to_owned(), command: command.to_owned(), limit }
    }
}
