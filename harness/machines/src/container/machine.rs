//! A machine in a container.

use std::sync::{Arc, Mutex};

use redrill_model::Network;
use testcontainers::{ContainerAsync, GenericImage};
use tokio::net::TcpStream;

use super::engine::Gone;
use super::means::ContainerMeans;
use super::{files, outside};
use crate::agent::Agent;
use crate::blueprint::Blueprint;
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::image;
use crate::machine::{DROPPED, Machine, Reach};
use crate::machine_core::MachineCore;
use crate::plain;

/// Of a list of digests, the longest that is believed: of a Debian it is some 2 MiB.
const LARGEST_LIST: u64 = 256 << 20;

/// A machine in a container.
pub struct ContainerMachine {
    pub(super) core: MachineCore,
    pub(super) container: ContainerAsync<GenericImage>,
    pub(super) agent: Arc<Agent>,
    pub(super) means: ContainerMeans,
    pub(super) blueprint: Blueprint,
    /// Why it ended, once it has.
    pub(super) ended: Arc<Mutex<Option<Gone>>>,
}

impl Machine for ContainerMachine {
    fn core(&self) -> &MachineCore {
        &self.core
    }

    fn lost(&self) -> Option<MachineError> {
        let gone = self.ended.lock().expect("no panic while it is held").clone();
        gone.map(|gone| gone.error(self.name()))
    }

    /// What the probe left beside itself, for the next container of this image: they share the layer that the engine
    /// unpacked. Where an engine copies it instead (storage driver `vfs`), inodes and times are others each time, and
    /// the list is of no use and no harm.
    async fn learn(&self, _deadline: &Deadline) {
        let (left, known) = (files::digests(&self.core.dir), self.blueprint.image.container_digests());
        image::keep_digests(&known, |to| plain::read(&left, LARGEST_LIST).and_then(|list| std::fs::write(to, list)));
    }

    /// A forwarded port accepts every connection, and closes it when the machine refuses: what a server that says nothing
    /// and one that is not there have in common. So the machine's own address is tried, from a neighbour: in a network of
    /// the engine that is the host.
    async fn reach(&self, port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
        if self.blueprint.needs.network != Network::Open {
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
                return Err(MachineError::Io { what: format!("port {port} of `{}`", self.name()), source: error });
            }
            Err(_) if deadline.passed() => {
                let (machine, command) = (self.name().to_owned(), format!("connect {port}"));
                return Err(MachineError::TimedOut { machine, command, limit: deadline.error() });
            }
            Err(_) => Reach::Closed("nobody answered".to_owned()),
        })
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.core.leave();
        self.means.engine.logs(self.container.id(), &self.core.console).await;
        let removed = self.means.engine.remove(self.container.id()).await;
        files::remove_files(&self.core.dir);
        // testcontainers would ask once more when it is dropped: there is nothing left to remove.
        std::mem::forget(self.container);
        removed
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.core.leave();
        if let Some(reaper) = self.means.reaper.lock().await.take() {
            reaper.keep().await?;
        }
        std::mem::forget(self.container);
        Ok(())
    }
}

impl ContainerMachine {
    async fn reach_sealed(&self, port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
        let socket = files::outside(&self.core.dir);
        let asked = tokio::task::spawn_blocking(move || outside::ask(&socket, port).map(|(_, word)| word));
        let failed = || MachineError::io(format!("port {port} of `{}`", self.name()));
        let word = deadline.limit(asked).await.map_err(|limit| MachineError::TimedOut {
            machine: self.name().to_owned(),
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
}
