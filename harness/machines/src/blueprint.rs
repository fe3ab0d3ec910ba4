//! What a machine with an agent was made of, and its forks are made of again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use redrill_model::MachineSpec;

use crate::agent::Agent;
use crate::error::MachineError;
use crate::image::Image;
use crate::machine_core::{Address, MachineCore};
use crate::needs::Needs;
use crate::personal::Person;
use crate::ssh::ClientKey;

/// All that is known of a machine before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) spec: MachineSpec,
    pub(crate) needs: Needs,
    pub(crate) image: Image,
    pub(crate) person: Person,
}

impl Blueprint {
    /// Of a machine that nobody knows yet; its host key lies in `dir`.
    pub(crate) async fn new(
        spec: &MachineSpec,
        needs: &Needs,
        image: &Image,
        dir: &Path,
    ) -> Result<Self, MachineError> {
        let person = Person::make(dir).await?;
        Ok(Self { spec: spec.clone(), needs: needs.clone(), image: image.clone(), person })
    }

    /// Of a fork in the private network of `group`, with the same identity.
    pub(crate) fn fork(&self, group: &str) -> Self {
        let mut fork = self.clone();
        fork.needs.freezable = fork.needs.forks_freezable;
        if let Some(seat) = &mut fork.needs.lan {
            group.clone_into(&mut seat.group);
        }
        fork
    }

    /// The machine, once it runs in `dir`, its agent answers, and `ports` lead into it.
    pub(crate) fn core(
        &self,
        (dir, console): (&Path, &str),
        client: &ClientKey,
        ports: BTreeMap<u16, SocketAddr>,
        agent: &Arc<Agent>,
    ) -> MachineCore {
        let address = Address {
            host: self.spec.name.clone(),
            port: ports.get(&crate::ssh::PORT).map(SocketAddr::port).unwrap_or_default(),
            key: client.path.clone(),
            host_key: self.person.host.host_key(),
        };
        MachineCore {
            dir: dir.to_owned(),
            boot_seconds: 0.0,
            address,
            ports,
            lan_address: self.needs.lan.as_ref().map(|seat| seat.address),
            console: dir.join(console),
            commands: Box::new(Arc::clone(agent)),
            dies_silently: false,
            tasks: Mutex::default(),
        }
    }
}
