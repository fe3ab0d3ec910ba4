//! Sockets that wait for somebody: TCP in state LISTEN, UDP without a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use redrill_state::{Section, Socket};

use crate::found::{Found, Root};

const TABLES: [(&str, &str); 4] = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];

/// The harness's own forwarder, which is no part of the machine.
const OWN: &str = "probe";

pub(crate) fn read(_: &Root) -> Found {
    let mut found = Found::new(Section::Sockets);
    let processes = processes();
    let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut lowest = ports.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let lowest = lowest.next().unwrap_or(32768);
    let mut seen = BTreeSet::new();
    for (protocol, state) in TABLES {
        let path = format!("/proc/net/{protocol}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6 has no such table, and no such sockets.
            Err(error) if error.kind() == io::ErrorKind::NotFound && protocol.ends_with('6') => continue,
            Err(error) => {
                found.gap(format!("{path}: {error}"));
                continue;
            }
        };
        for (address, inode) in listening(&text, state) {
            let process = processes.get(&inode).cloned().unwrap_or_default();
            if process == OWN {
                continue;
            }
            let ephemeral = protocol.starts_with("udp") && address.port() >= lowest;
            let socket = Socket { protocol: protocol.to_owned(), address: address.to_string(), process, ephemeral };
            // Several processes may share an address (SO_REUSEPORT): one entry.
            if seen.insert((protocol, address)) {
                found.add(socket);
            }
        }
    }
    found
}

/// Address and inode of each socket in this state. Format: proc_pid_net(5).
pub(crate) fn listening(table: &str, state: &str) -> Vec<(SocketAddr, u64)> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = words.get(1)?.split_once(':')?;
        let address = SocketAddr::new(ip_address(ip)?, u16::from_str_radix(port, 16).ok()?);
        (*words.get(3)? == state).then_some((address, words.get(9)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

/// The kernel prints each word of an address in the host's byte order.
fn ip_address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|at| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    let bytes = words?.concat();
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The name of a process for each socket's inode.
fn processes() -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                // systemd holds the sockets it activates beside the service: the service's name says more.
                let held = inode.parse().map(|inode| names.entry(inode).or_insert_with(|| name.trim().to_owned()));
                if let Ok(held) = held
                    && held == "systemd"
                {
                    name.trim().clone_into(held);
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_wait_are_listed() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0\n\
             1: 0F02000A:0016 0202000A:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 1002 1 0\n\
             2: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 1003 1 0\n";
        let seen: Vec<_> = listening(table, "0A").into_iter().map(|(a, inode)| (a.to_string(), inode)).collect();
        assert_eq!(seen, [("0.0.0.0:22".to_owned(), 1001), ("127.0.0.1:8000".to_owned(), 1003)]);
        assert_eq!(ip_address("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(ip_address("zz"), None);
    }
}
