//! Entries of what the kernel holds in memory alone: links, addresses, routes, queues, tunnels, the host's name; what
//! systemd's managers give to every unit; and which of the kernel's settings follow others.

use serde::{Deserialize, Serialize};

use crate::diff::{Change, ChangeKind};
use crate::entries::Facts;
use crate::sections::Section;
use crate::settings::entry;

/// Why a setting that is new or gone is left out.
pub(crate) const WITH_ITS_OWNER: &str = "a kernel setting that comes and goes with a module or an interface";
/// Why a setting of one interface is left out.
pub(crate) const FOLLOWS: &str = "a kernel setting of an interface that follows the one for all";

/// Why a change of a kernel setting is told by another one of `changes`, if it is.
pub(crate) fn explained(change: &Change, changes: &[Change]) -> Option<&'static str> {
    if change.section != Section::Sysctl {
        return None;
    }
    if change.kind != ChangeKind::Changed {
        let declared = change.differences.iter().any(|d| d.attribute == "file");
        return (!declared).then_some(WITH_ITS_OWNER);
    }
    let (family, interface, key) = of_interface(&change.subject)?;
    let leads =
        |subject: String| changes.iter().any(|other| other.section == Section::Sysctl && other.subject == subject);
    let all = leads(format!("net.{family}.conf.all.{key}")) && interface != "all";
    // The kernel has two names for this one.
    (all || (key == "forwarding" && leads("net.ipv4.ip_forward".to_owned()))).then_some(FOLLOWS)
}

/// Family, interface and setting of `net.ipv4.conf.eth0.rp_filter`.
fn of_interface(subject: &str) -> Option<(&str, &str, &str)> {
    let (family, rest) = subject.strip_prefix("net.")?.split_once(".conf.")?;
    let (interface, key) = rest.rsplit_once('.')?;
    Some((family, interface, key))
}

entry! {
    /// A network interface.
    Link {
        /// Its name.
        name: String,
        /// Its flags, such as `UP`.
        flags: String,
        /// Largest packet, master, kind and all else that `ip link` tells.
        settings: String,
    }
    name: |it| it.name.clone();
    source: |_it| None;
    compared: flags "flags", settings "settings";
}

entry! {
    /// An address of an interface that no lease gave.
    Address {
        /// The interface.
        link: String,
        /// The address and how many bits of it name the network.
        address: String,
        /// Scope, label and flags.
        settings: String,
    }
    name: |it| format!("{} of {}", it.address, it.link);
    source: |_it| None;
    compared: settings "settings";
}

entry! {
    /// A route of any table but the kernel's own list of its addresses.
    Route {
        /// As `ip route` prints it.
        route: String,
    }
    name: |it| it.route.clone();
    source: |_it| None;
    compared: ;
}

entry! {
    /// A rule that picks the table of routes.
    RoutingRule {
        /// `ip` or `ip6`.
        family: String,
        /// As `ip rule` prints it, its priority first.
        rule: String,
    }
    name: |it| format!("{} {}", it.family, it.rule);
    source: |_it| None;
    compared: ;
}

entry! {
    /// A neighbour whose hardware address somebody set.
    Neighbour {
        /// Address and interface.
        neighbour: String,
        /// The hardware address, or `proxy`.
        leads: String,
    }
    name: |it| it.neighbour.clone();
    source: |_it| None;
    compared: leads "hardware address";
}

entry! {
    /// How packets that leave an interface wait for their turn.
    Queue {
        /// The interface.
        link: String,
        /// Where in its tree.
        place: String,
        /// Kind and options.
        settings: String,
    }
    name: |it| format!("{} of {}", it.place, it.link);
    source: |_it| None;
    compared: settings "settings";
}

entry! {
    /// A peer of a WireGuard tunnel, or the tunnel's own end.
    WireGuardPeer {
        /// The interface.
        link: String,
        /// The peer's public key; empty for the tunnel's own end.
        peer: String,
        /// What may come from it; of the own end the port and the mark.
        settings: String,
        /// Digest of the secret key that only this run's key can make.
        secret: String,
    }
    name: |it| if it.peer.is_empty() { it.link.clone() } else { format!("{} of {}", it.peer, it.link) };
    source: |_it| None;
    compared: settings "settings", secret "secret key";
}

entry! {
    /// The name that the kernel gives out.
    HostName {
        /// It.
        name: String,
    }
    name: |_it| "host name".to_owned();
    source: |_it| None;
    compared: name "name";
}

entry! {
    /// A variable that a manager gives to all that it starts.
    ManagerVariable {
        /// Whose manager; empty for the system's.
        manager: String,
        /// Its name.
        name: String,
        /// Digest of its value that only this run's key can make.
        value: String,
    }
    name: |it| if it.manager.is_empty() { it.name.clone() } else { format!("{} of {}", it.name, it.manager) };
    source: |_it| None;
    compared: value "value";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Difference;

    fn setting(subject: &str, kind: ChangeKind, attribute: &'static str) -> Change {
        let differences = vec![Difference { attribute, before: "0".into(), after: "1".into() }];
        Change { section: Section::Sysctl, subject: subject.to_owned(), kind, differences }
    }

    #[test]
    fn one_setting_for_all_interfaces_is_one_change() {
        let subjects = ["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv4.conf.eth0.forwarding"];
        let changes = subjects.map(|subject| setting(subject, ChangeKind::Changed, "running"));
        let seen = changes.each_ref().map(|change| explained(change, &changes));
        assert_eq!(seen, [None, Some(FOLLOWS), Some(FOLLOWS)]);
        assert_eq!(explained(&changes[2], &changes[2..]), None, "it alone was changed");
        let changes = [("all", None), ("eth0", Some(FOLLOWS))].map(|(interface, expected)| {
            (setting(&format!("net.ipv6.conf.{interface}.accept_ra"), ChangeKind::Changed, "running"), expected)
        });
        let all: Vec<Change> = changes.iter().map(|(change, _)| change.clone()).collect();
        for (change, expected) in changes {
            assert_eq!(explained(&change, &all), expected, "{}", change.subject);
        }
    }

    #[test]
    fn a_setting_that_a_file_declares_is_a_change_when_it_comes() {
        let new = |attribute| setting("net.ipv4.conf.wg0.mtu", ChangeKind::Added, attribute);
        assert_eq!(explained(&new("running"), &[]), Some(WITH_ITS_OWNER));
        assert_eq!(explained(&new("file"), &[]), None);
    }
}
