//! The controller's SSH: every inventory host leads to its machine. Other hosts need no rule: the sandbox has no way to
//! them, and writes down what was tried.
//!
//! The way is a `ProxyCommand`, since it binds whatever port or address the inventory names: pyinfra looks a host up by
//! the inventory's `ssh_hostname`, and the inventory's port beats the configuration's, but the socket is the proxy's. A
//! client that reads no configuration is led there by the sandbox itself, by address.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use redrill_machines::Address;

use super::{ControllerError, InventoryHost, ways};

/// The key that every machine admits, below `.ssh`, by the name that clients look for.
pub(super) const KEY: &str = "id_ed25519";

/// Writes `config`, `known_hosts` and the client's key below `home/.ssh`.
pub(super) fn write(
    home: &Path,
    hosts: &[InventoryHost],
    addresses: &[Address],
    redrill: &Path,
) -> Result<(), ControllerError> {
    let failed = || ControllerError::io("cannot write the controller's SSH configuration");
    let ssh = home.join(".ssh");
    std::fs::create_dir_all(&ssh).map_err(failed())?;
    let (config, known) = texts(hosts, addresses, redrill, &ssh);
    if let Some(address) = addresses.first() {
        let key = ssh.join(KEY);
        let _ = std::fs::remove_file(&key); // A read-only file of an earlier connection, if any.
        std::fs::copy(&address.key, &key).map_err(failed())?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).map_err(failed())?;
    }
    for (name, text) in [("config", config), ("known_hosts", known)] {
        let file = ssh.join(name);
        let _ = std::fs::remove_file(&file); // A deploy may have put a link there.
        std::fs::write(&file, text).map_err(failed())?;
    }
    Ok(())
}

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
