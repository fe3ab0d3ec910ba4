//! WireGuard's tunnels. Secret keys are told as digests that only this run's key can make.

use std::fs;

use redrill_state::{Section, WireGuardPeer};

use crate::found::{self, Found, Root};
use crate::shadow::{Key, keyed};

pub(crate) fn read(root: &Root, key: &Key) -> Found {
    let mut found = Found::new(Section::WireGuard);
    // Asked without a tunnel, `wg` would have the kernel load its module.
    if !has_tunnel(root) {
        return found;
    }
    let Some(wg) = found::program("wg") else {
        found.gap("there is a WireGuard tunnel, and wg is not installed");
        return found;
    };
    match found::run(&wg, &["show", "all", "dump"]) {
        Ok(text) => text.lines().filter_map(|line| peer(line, key)).for_each(|peer| found.add(peer)),
        Err(error) => found.gap(error),
    }
    found
}

fn has_tunnel(root: &Root) -> bool {
    let links = fs::read_dir(root.at("/sys/class/net")).into_iter().flatten().flatten();
    let mut kinds = links.filter_map(|link| fs::read_to_string(link.path().join("uevent")).ok());
    kinds.any(|text| text.lines().any(|line| line == "DEVTYPE=wireguard"))
}

/// A line of `wg show all dump`: the tunnel's own end has five fields, a peer nine. Where a peer was last seen, when, and
/// how much it sent is no fact.
fn peer(line: &str, key: &Key) -> Option<WireGuardPeer> {
    let secret = |text: &str| if text == "(none)" { String::new() } else { keyed(key, text) };
    match *line.split('\t').collect::<Vec<_>>() {
        [link, private, public, port, mark] => Some(WireGuardPeer {
            link: link.to_owned(),
            peer: String::new(),
            settings: format!("public key {public} port {port} mark {mark}"),
            secret: secret(private),
        }),
        [link, public, shared, _, allowed, _, _, _, keepalive] => Some(WireGuardPeer {
            link: link.to_owned(),
            peer: public.to_owned(),
            settings: format!("allowed {allowed} keepalive {keepalive}"),
            secret: secret(shared),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_and_its_peers_are_told_without_their_secrets() {
        let own = peer("wg0\tPRIVATE\tPUBLIC\t51820\toff", &[1; 32]).expect("the own end");
        assert_eq!(own.settings, "public key PUBLIC port 51820 mark off");
        let other = |seen: &str, shared: &str| {
            peer(&format!("wg0\tPEER\t{shared}\t192.0.2.1:5\t10.9.0.2/32\t{seen}\t7\t8\toff"), &[1; 32])
                .expect("a peer")
        };
        assert_eq!(other("1", "(none)"), other("2", "(none)"));
        assert_ne!(other("1", "A"), other("1", "B"));
        let text = serde_json::to_string(&(own, other("1", "SHARED"))).expect("plain data");
        assert!(!text.contains("PRIVATE") && !text.contains("SHARED"), "{text}");
        assert_eq!(peer("nonsense", &[1; 32]), None);
    }
}
