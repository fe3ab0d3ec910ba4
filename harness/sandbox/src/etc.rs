//! The `/etc` of a sealed program: what it must have, made here, and what of the host's is no secret and no identity.

use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::cell::Cell;

/// Files of the host that say what software is installed, and not whose machine it is.
pub(crate) const SHARED: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
];

/// Where the warden answers questions for names.
pub(crate) const RESOLVER: [u8; 4] = [127, 0, 0, 53];

/// Names and texts of what is made, for a program that is this user and group.
pub(crate) fn files(cell: &Cell, (user_id, group_id): (u32, u32)) -> Vec<(&'static str, String)> {
    let Cell { user, host_name, machine_id, home, .. } = cell;
    let mut hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {host_name}\n");
    for (name, addresses) in cell.names() {
        for address in addresses {
            let _ = writeln!(hosts, "{address} {name}");
        }
    }
    let [a, b, c, d] = RESOLVER;
    let mut files = vec![
        (
            "passwd",
            format!(
                "{user}:x:{user_id}:{group_id}:{user}:{}:/bin/sh\nroot:x:0:0:root:/root:/usr/sbin/nologin\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
                home.display()
            ),
        ),
        ("group", format!("{user}:x:{group_id}:\nroot:x:0:\nnogroup:x:65534:\n")),
        ("hosts", hosts),
        ("hostname", format!("{host_name}\n")),
        ("machine-id", format!("{machine_id}\n")),
        ("resolv.conf", format!("nameserver {a}.{b}.{c}.{d}\noptions timeout:2 attempts:1\n")),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned(),
        ),
        ("timezone", "Etc/UTC\n".to_owned()),
    ];
    if let Some((config, known_hosts)) = &cell.ssh {
        files.push(("ssh/ssh_config", config.clone()));
        files.push(("ssh/ssh_known_hosts", known_hosts.clone()));
    }
    files
}

/// Writes them below `to`.
pub(crate) fn write(cell: &Cell, user: (u32, u32), to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to.join("ssh"))?;
    files(cell, user).into_iter().try_for_each(|(name, text)| std::fs::write(to.join(name), text))
}
