//! The controller's SSH: every inventory host leads to its machine. Other hosts need no rule: the sandbox has no way to
//! them, and writes down what was tried.
//!
//! The way is a `ProxyCommand`, since it binds whatever port or address the inventory names: pyinfra looks a host up by
//! the inventory's `ssh_hostname`, and the inventory's port beats the configuration's, but the socket is the proxy's. A
//! client that reads no configuration is led there by the sandbox itself, by address.

use std::fmt::Write;
use std::path::Path;

use redrill_machines::Address;

use super::{ControllerError, InventoryHost, ways};

/// The key that every machine admits, below `.ssh`, by the name that clients look for.
pub(super) const KEY: &str = "id_ed25519";

/// Writes `config`, `known_hosts` and the client's key below `home/.ssh`, which programs find `inside`.
pub(super) fn write(
    (home, inside): (&Path, &Path),
    hosts: &[InventoryHost],
    addresses: &[Address],
    redrill: &Path,
) -> Result<(), ControllerError> {
    let (config, known) = texts(hosts, addresses, redrill, &inside.join(SSH));
    let mut files = vec![("config", config.into_bytes()), ("known_hosts", known.into_bytes())];
    if let Some(address) = addresses.first() {
        let key = std::fs::read(&address.key).map_err(ControllerError::io("cannot read the run's key"))?;
        files.push((KEY, key));
    }
    // A deploy may have put links there that lead to the user's own.
    let written = files.iter().try_for_each(|(name, content)| redrill_sandbox::write_anew(home, SSH, name, content));
    written.map_err(ControllerError::io("cannot write the controller's SSH configuration"))
}

/// Where clients look, below a home.
const SSH: &str = ".ssh";

/// Configuration and known hosts, for a home whose `.ssh` this is.
pub(super) fn texts(hosts: &[InventoryHost], addresses: &[Address], redrill: &Path, ssh: &Path) -> (String, String) {
    let (mut config, mut known) = (String::new(), String::new());
    for host in hosts {
        let Some(address) = addresses.iter().find(|address| address.host == host.name) else { continue };
        let names = host.names();
        // OpenSSH looks the host key up by the alias, whatever address and port the inventory names; paramiko by these.
        let _ = write!(
            config,
            "Host {}\n  ProxyCommand '{}' relay {}\n  User root\n  IdentityFile {}\n  UserKnownHostsFile {}\n  \
             HostKeyAlias {}\n  StrictHostKeyChecking yes\n  BatchMode yes\n  LogLevel ERROR\n\n",
            names.join(" "),
            redrill.display(),
            ways::inside(&host.name).display(),
            ssh.join(KEY).display(),
            ssh.join("known_hosts").display(),
            host.name,
        );
        let port = host.port().filter(|port| *port != 22);
        let with_port = |name: &String| port.map_or(name.clone(), |port| format!("[{name}]:{port}"));
        let mut keys: Vec<String> = names.iter().map(with_port).collect();
        keys.extend(port.map(|_| host.name.clone()));
        for name in keys {
            let _ = writeln!(known, "{name} {}", address.host_key);
        }
    }
    (config, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hosts_lead_to_machines() {
        let text = r#"[{"name": "web", "data": {"ssh_hostname": "203.0.113.7", "ssh_port": 2222}}, {"name": "db"}]"#;
        let hosts: Vec<InventoryHost> = serde_json::from_str(text).expect("hosts");
        let address = |host: &str, port| Address {
            host: host.to_owned(),
            port,
            key: "/run/client.key".into(),
            host_key: format!("ssh-ed25519 {host}"),
        };
        let addresses = [address("db", 40002), address("web", 40001)];
        let (config, known) = texts(&hosts, &addresses, Path::new("/bin/redrill"), Path::new("/h/.ssh"));
        let way = ways::inside("web").display().to_string();
        assert!(
            config.starts_with(&format!("Host web 203.0.113.7\n  ProxyCommand '/bin/redrill' relay {way}\n")),
            "{config}"
        );
        assert!(
            config.contains("HostKeyAlias web\n") && config.contains("IdentityFile /h/.ssh/id_ed25519\n"),
            "{config}"
        );
        assert_eq!(
            known,
            "[web]:2222 ssh-ed25519 web\n[203.0.113.7]:2222 ssh-ed25519 web\nweb ssh-ed25519 web\ndb ssh-ed25519 db\n"
        );
    }
}
