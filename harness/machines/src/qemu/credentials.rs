//! What a machine is told at its first boot, by systemd credentials in SMBIOS strings (systemd.exec(5),
//! smbios-type-11(7)): the image stays as it is.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redrill_model::Network;

use super::args::RELAY;
use crate::machine::MachineError;
use crate::ssh::{ClientKey, write_private};

/// Points apt at the relay. The harness's own file, the same in every capture.
const APT_CONF: &str = "/etc/apt/apt.conf.d/90redrill-mirror";

/// Writes the credentials as files beside the machine's disk and returns their names.
pub(crate) fn write(
    dir: &Path,
    name: &str,
    client: &ClientKey,
    host: &ClientKey,
    network: Network,
) -> Result<Vec<String>, MachineError> {
    let mut files = format!(
        "f~ /etc/ssh/ssh_host_ed25519_key 0600 root root - {}\nf~ /etc/ssh/ssh_host_ed25519_key.pub 0644 root root - {}\n",
        STANDARD.encode(host.private()?),
        STANDARD.encode(format!("{}\n", host.public)),
    );
    if network == Network::Mirror {
        let conf = format!("Acquire::http::Proxy \"http://{RELAY}\";\nAcquire::https::Proxy \"http://{RELAY}\";\n");
        let _ = writeln!(files, "f~ {APT_CONF} 0644 root root - {}", STANDARD.encode(conf));
    }
    let credentials = [
        ("tmpfiles.extra", files),
        ("ssh.authorized_keys.root", format!("{}\n", client.public)),
        ("system.hostname", name.to_owned()),
    ];
    let mut names = Vec::new();
    for (id, content) in credentials {
        let file = format!("{id}.cred");
        let text = format!("io.systemd.credential.binary:{id}={}", STANDARD.encode(content));
        write_private(&dir.join(&file), text.as_bytes())?;
        names.push(file);
    }
    Ok(names)
}
