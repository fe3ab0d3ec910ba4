//! The controller's `~/.ssh`: every inventory host leads to its machine, every other host is refused.
//!
//! The way is a `ProxyCommand`, since it binds whatever port or address the inventory names: pyinfra looks a host up by
//! the inventory's `ssh_hostname`, and the inventory's port beats the configuration's, but the socket is the proxy's.

use std::fmt::Write;
use std::path::Path;

use redrill_machines::Address;

use super::{ControllerError, InventoryHost};

/// Writes `config` and `known_hosts` below `home/.ssh`.
pub(super) fn write(
    home: &Path,
    hosts: &[InventoryHost],
    addresses: &[Address],
    ways: &Ways<'_>,
) -> Result<(), ControllerError> {
    let ssh = home.join(".ssh");
    std::fs::create_dir_all(&ssh).map_err(ControllerError::io("cannot make the controller's home"))?;
    let (config, known) = texts(hosts, addresses, ways, &ssh.join("known_hosts"));
    std::fs::write(ssh.join("config"), config).map_err(ControllerError::io("cannot write ssh_config"))?;
    std::fs::write(ssh.join("known_hosts"), known).map_err(ControllerError::io("cannot write known_hosts"))
}

/// Programs that lead to machines, or nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways<'a> {
    /// The `redrill` binary: `redrill relay ADDRESS`, `redrill refuse HOST`.
    pub(super) redrill: &'a Path,
    /// A script that notes the host and then does the same: `SCRIPT HOST ADDRESS`.
    pub(super) noting: Option<&'a Path>,
}

fn texts(hosts: &[InventoryHost], addresses: &[Address], ways: &Ways<'_>, known_hosts: &Path) -> (String, String) {
    let (mut config, mut known) = (String::new(), String::new());
    let redrill = ways.redrill.display();
    for host in hosts {
        let Some(address) = addresses.iter().find(|address| address.host == host.name) else { continue };
        let names = host.names();
        let way = match ways.noting {
            Some(script) => format!("'{}' {}", script.display(), host.name),
            None => format!("'{redrill}' relay"),
        };
        // OpenSSH looks the host key up by the alias, whatever address and port the inventory names; paramiko by these.
        let _ = write!(
            config,
            "Host {}\n  ProxyCommand {way} 127.0.0.1:{}\n  User root\n  IdentityFile {}\n  UserKnownHostsFile {}\n  \
             HostKeyAlias {}\n  StrictHostKeyChecking yes\n  BatchMode yes\n  LogLevel ERROR\n\n",
            names.join(" "),
            address.port,
            address.key.display(),
            known_hosts.display(),
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
    let _ = write!(config, "Host *\n  ProxyCommand '{redrill}' refuse %h\n");
    (config, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hosts_lead_to_machines_and_all_others_nowhere() {
        let text = r#"[{"name": "web", "data": {"ssh_hostname": "203.0.113.7", "ssh_port": 2222}}, {"name": "db"}]"#;
        let hosts: Vec<InventoryHost> = serde_json::from_str(text).expect("hosts");
        let address = |host: &str, port| Address {
            host: host.to_owned(),
            port,
            key: "/run/client.key".into(),
            host_key: format!("ssh-ed25519 {host}"),
        };
        let addresses = [address("db", 40002), address("web", 40001)];
        let ways = Ways { redrill: Path::new("/bin/redrill"), noting: None };
        let (config, known) = texts(&hosts, &addresses, &ways, Path::new("/h/known_hosts"));
        assert!(
            config.starts_with("Host web 203.0.113.7\n  ProxyCommand '/bin/redrill' relay 127.0.0.1:40001\n"),
            "{config}"
        );
        assert!(config.ends_with("Host *\n  ProxyCommand '/bin/redrill' refuse %h\n"), "{config}");
        assert!(config.contains("HostKeyAlias web\n"), "{config}");
        assert_eq!(
            known,
            "[web]:2222 ssh-ed25519 web\n[203.0.113.7]:2222 ssh-ed25519 web\nweb ssh-ed25519 web\ndb ssh-ed25519 db\n"
        );
        let noting = Ways { noting: Some(Path::new("/t/contact")), ..ways };
        let (config, _) = texts(&hosts, &addresses, &noting, Path::new("/h/known_hosts"));
        assert!(config.contains("ProxyCommand '/t/contact' db 127.0.0.1:40002\n"), "{config}");
    }
}
