//! Makes a clean machine a machine of its own: after a boot, and after a fork of a template.

use std::path::Path;
use std::sync::Arc;

use redrill_model::Network;
use redrill_wire::{Identity, Lan, PlacedFile};

use crate::acme::Acme;
use crate::agent::{Agent, nanoseconds_now};
use crate::command::{Exec, PROBE};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::needs::{Needs, Seat};
use crate::random;
use crate::ssh::ClientKey;
use crate::stand_in;

/// Points apt at the relay. The harness's own file, the same in every capture.
const APT_CONF: &str = "/etc/apt/apt.conf.d/90redrill-mirror";

/// Where Debian looks for certificates to trust beside its own. The harness's own files, the same in every capture.
const TRUSTED: &str = "/usr/local/share/ca-certificates";

/// How the machines of a backend are connected, as far as their identity depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wiring {
    /// Where the package mirror's relay answers inside a machine.
    pub(crate) relay: &'static str,
    /// Its network card is its own, and gets an address of its own.
    pub(crate) hardware: bool,
}

/// What stays the same for as long as the machine lives, forks and reboots included.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) host: ClientKey,
    mac: String,
    lan_mac: String,
}

impl Person {
    /// A new one; its host key lies in `dir`.
    pub(crate) async fn make(dir: &Path) -> Result<Self, MachineError> {
        let path = dir.join("host.key");
        let _ = std::fs::remove_file(&path);
        let (mac, lan_mac) = (random::hardware_address(), random::hardware_address());
        Ok(Self { host: ClientKey::make(path).await?, mac, lan_mac })
    }

    /// Everything that no two machines share.
    pub(crate) fn whole(
        &self,
        wiring: Wiring,
        name: &str,
        client: &ClientKey,
        needs: &Needs,
    ) -> Result<Identity, MachineError> {
        let file =
            |path: &str, mode, content: String| PlacedFile { path: path.to_owned(), mode, content: Some(content) };
        let mut files = vec![
            file("/root/.ssh/authorized_keys", 0o600, format!("{}\n", client.public)),
            file("/etc/ssh/ssh_host_ed25519_key", 0o600, self.host.private()?),
            file("/etc/ssh/ssh_host_ed25519_key.pub", 0o644, format!("{}\n", self.host.public)),
        ];
        if needs.network == Network::Mirror {
            let conf = ["http", "https"]
                .map(|scheme| format!("Acquire::{scheme}::Proxy \"http://{}\";\n", wiring.relay))
                .concat();
            files.push(file(APT_CONF, 0o644, conf));
        }
        let certificates = needs.acme.iter().flat_map(Acme::trusted);
        let certificates: Vec<PlacedFile> =
            certificates.map(|(name, pem)| file(&format!("{TRUSTED}/redrill-{name}.crt"), 0o644, pem)).collect();
        let trust = certificates.iter().map(|file| file.path.clone()).collect();
        files.extend(certificates);
        Ok(Identity {
            hostname: Some(name.to_owned()),
            machine_id: Some(random::hex()),
            files,
            hang_up: vec!["/run/sshd.pid".to_owned()],
            // Once: afterwards the file is the deploy's, which may write it.
            leads: stand_in::leads(needs),
            trust,
            ..self.again(wiring, needs)
        })
    }

    /// What may come after the rest, while others already use the machine.
    pub(crate) fn later() -> Identity {
        // The journal lies in a directory that is named after the machine.
        Identity { restart: vec!["systemd-journald.service".to_owned()], timers: true, ..Identity::default() }
    }

    /// What a fork of a running machine, or one after a reboot, has to be told anew.
    pub(crate) fn again(&self, wiring: Wiring, needs: &Needs) -> Identity {
        let lan = |seat: &Seat| Lan {
            mac: wiring.hardware.then(|| self.lan_mac.clone()),
            address: seat.address,
            hosts: seat.hosts.clone(),
        };
        let clock = Some(nanoseconds_now());
        // A network card that is reset has its first address again.
        let mac = wiring.hardware.then(|| self.mac.clone());
        Identity {
            mac,
            clock,
            seed: random::hex() + &random::hex(),
            lan: needs.lan.as_ref().map(lan),
            ..Identity::default()
        }
    }
}

/// Tells the machine who it is; the time, where it is told, is that of this moment.
pub(crate) async fn tell(
    agent: &Arc<Agent>,
    machine: &str,
    mut identity: Identity,
    deadline: &Deadline,
) -> Result<(), MachineError> {
    identity.clock = identity.clock.map(|_| nanoseconds_now());
    let text = serde_json::to_vec(&identity).map_err(|error| MachineError::Monitor(error.to_string()))?;
    let output = agent.exec(&Exec::new([PROBE, "identity"]), &text, deadline).await?;
    if output.status == 0 {
        return Ok(());
    }
    let said = format!("`{machine}` could not be made a machine of its own: {}", output.stderr.trim());
    Err(MachineError::Program { program: "redrill-probe identity".to_owned(), said })
}
