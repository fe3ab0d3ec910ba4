//! What the kernel holds of networks, as `ip` and `tc` print it: they are on every machine that redrill drills, and their
//! lines are those that administrators know.
//!
//! What a lease gave, what the kernel derives from the rest, and what ages is no fact.

use std::fs;

use redrill_state::{Address, HostName, Link, Neighbour, Queue, Route, RoutingRule, Section};

use crate::found::{self, Found, Root, squeeze};

/// Each asks a program that answers at once; together they are one thread's work.
pub(crate) const READERS: [fn(&Root) -> Found; 7] = [links, addresses, routes, rules, neighbours, queues, host_name];

/// The lines that one of the programs prints; without it there is nothing to compare.
fn lines(found: &mut Found, program: &str, args: &[&str]) -> Vec<String> {
    let Some(path) = found::program(program) else {
        found.note(format!("{program} is not installed"));
        return Vec::new();
    };
    match found::run(&path, args) {
        Ok(text) => text.lines().map(|line| squeeze(&line.replace('\\', " "))).collect(),
        Err(error) => {
            found.gap(error);
            Vec::new()
        }
    }
}

/// A kernel without IPv6 refuses to speak of it.
fn families() -> &'static [(&'static str, &'static str)] {
    let both = &[("-4", "ip"), ("-6", "ip6")];
    if fs::exists("/proc/net/if_inet6").unwrap_or(true) { both } else { &both[..1] }
}

fn links(_: &Root) -> Found {
    let mut found = Found::new(Section::Links);
    let lines = lines(&mut found, "ip", &["-o", "-details", "link", "show"]);
    lines.iter().filter_map(|line| link(line)).for_each(|link| found.add(link));
    found
}

/// `2: eth0@if3: <BROADCAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP ... link/ether ...`
fn link(line: &str) -> Option<Link> {
    let (_, rest) = line.split_once(": ")?;
    let (name, rest) = rest.split_once(": <")?;
    let (flags, rest) = rest.split_once('>')?;
    let name = name.split('@').next()?;
    if is_of_container(name) {
        return None;
    }
    // Whether somebody is at the other end is not this machine's doing.
    let own = |flag: &&str| !["LOWER_UP", "NO-CARRIER", "DORMANT"].contains(flag);
    let flags = flags.split(',').filter(own).collect::<Vec<_>>().join(",");
    let settings = without(rest, &["state", "qdisc", "link-netnsid", "group"]);
    // Of its kind all that follows is told, with timers of bridges among it.
    let (settings, kind) = settings.split_once(" promiscuity ").map_or((settings.as_str(), ""), |(of_all, details)| {
        (of_all, KINDS.into_iter().find(|kind| details.split(' ').any(|word| word == *kind)).unwrap_or_default())
    });
    Some(Link { name: name.to_owned(), flags, settings: squeeze(&format!("{settings} {kind}")) })
}

/// Kinds of links that somebody makes.
const KINDS: [&str; 12] =
    ["bond", "bridge", "dummy", "gre", "ifb", "ipvlan", "macvlan", "tun", "vlan", "vrf", "vxlan", "wireguard"];

/// An engine gives its containers interfaces with names made up anew each time.
pub(crate) fn is_of_container(name: &str) -> bool {
    name.strip_prefix("veth").is_some_and(|rest| rest.len() >= 6 && rest.chars().all(|c| c.is_ascii_hexdigit()))
}

/// The line without these words and the one that follows each.
fn without(line: &str, keys: &[&str]) -> String {
    let mut kept = Vec::new();
    let mut words = line.split(' ');
    while let Some(word) = words.next() {
        if keys.contains(&word) {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ").trim().to_owned()
}

fn addresses(_: &Root) -> Found {
    let mut found = Found::new(Section::Addresses);
    let lines = lines(&mut found, "ip", &["-o", "address", "show"]);
    lines.iter().filter_map(|line| address(line)).for_each(|address| found.add(address));
    found
}

/// `2: eth0 inet 10.0.0.2/24 brd 10.0.0.255 scope global eth0 valid_lft forever preferred_lft forever`
fn address(line: &str) -> Option<Address> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[_, link, _, address, ref rest @ ..] = words.as_slice() else { return None };
    if rest.contains(&"dynamic") || is_of_container(link) {
        return None;
    }
    let settings = without(&rest.join(" "), &["valid_lft", "preferred_lft", "proto"]);
    let settings = settings.split(' ').filter(|word| !["tentative", "optimistic", "dadfailed"].contains(word));
    let settings = settings.collect::<Vec<_>>().join(" ");
    Some(Address { link: link.to_owned(), address: address.to_owned(), settings })
}

fn routes(_: &Root) -> Found {
    let mut found = Found::new(Section::Routes);
    for (family, _) in families() {
        let lines = lines(&mut found, "ip", &["-o", family, "route", "show", "table", "all"]);
        lines.iter().filter_map(|line| route(line)).for_each(|route| found.add(Route { route }));
    }
    found
}

fn route(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let by = words.iter().position(|word| *word == "proto").and_then(|at| words.get(at + 1));
    if by.is_some_and(|by| ["kernel", "dhcp", "ra", "redirect"].contains(by)) {
        return None;
    }
    let line = without(line, &["expires", "hoplimit", "error"]);
    let kept = line.split(' ').filter(|word| !["linkdown", "dead", "cache"].contains(word));
    Some(kept.collect::<Vec<_>>().join(" "))
}

fn rules(_: &Root) -> Found {
    let mut found = Found::new(Section::RoutingRules);
    for (option, family) in families() {
        for rule in lines(&mut found, "ip", &["-o", option, "rule", "show"]) {
            found.add(RoutingRule { family: (*family).to_owned(), rule });
        }
    }
    found
}

fn neighbours(_: &Root) -> Found {
    let mut found = Found::new(Section::Neighbours);
    for args in [&["-o", "neighbour", "show", "nud", "permanent"][..], &["-o", "neighbour", "show", "proxy"]] {
        let lines = lines(&mut found, "ip", args);
        lines.iter().filter_map(|line| neighbour(line)).for_each(|neighbour| found.add(neighbour));
    }
    found
}

/// `10.0.0.9 dev eth0 lladdr 02:00:00:00:00:09 PERMANENT` or `10.0.0.9 dev eth0 proxy`
fn neighbour(line: &str) -> Option<Neighbour> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[address, "dev", link, ref rest @ ..] = words.as_slice() else { return None };
    let leads = match rest {
        ["lladdr", hardware, ..] => *hardware,
        ["proxy", ..] => "proxy",
        _ => return None,
    };
    (!is_of_container(link)).then(|| Neighbour { neighbour: format!("{address} of {link}"), leads: leads.to_owned() })
}

fn queues(_: &Root) -> Found {
    let mut found = Found::new(Section::Queues);
    let lines = lines(&mut found, "tc", &["qdisc", "show"]);
    lines.iter().filter_map(|line| queue(line)).for_each(|queue| found.add(queue));
    found
}

/// `qdisc tbf 8001: dev eth0 root refcnt 2 rate 1Mbit ...`; a handle from `8000:` on is the kernel's own choice.
fn queue(line: &str) -> Option<Queue> {
    let words: Vec<&str> = line.split(' ').collect();
    let &["qdisc", kind, handle, "dev", link, ref rest @ ..] = words.as_slice() else { return None };
    if is_of_container(link) {
        return None;
    }
    let (place, rest) = match rest {
        ["parent", parent, rest @ ..] => (format!("parent {parent}"), rest),
        [place, rest @ ..] => ((*place).to_owned(), rest),
        [] => return None,
    };
    let picked = handle.len() == 5 && handle.starts_with('8');
    let handle = if picked { "" } else { handle };
    let settings = squeeze(&format!("{kind} {handle} {}", without(&rest.join(" "), &["refcnt"])));
    Some(Queue { link: link.to_owned(), place, settings })
}

fn host_name(root: &Root) -> Found {
    let mut found = Found::new(Section::HostName);
    let text = found.text(root, "/proc/sys/kernel/hostname").unwrap_or_default();
    found.add(HostName { name: text.trim().to_owned() });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_its_own_flags_and_settings_and_not_its_neighbours() {
        let line = |flags: &str, state: &str| {
            let text = format!(
                "3: wan@if4: <{flags}> mtu 1400 qdisc fq state {state} group default qlen 9 link/ether 02:00 promiscuity 0 vlan id 5"
            );
            link(&text).expect("a link")
        };
        let up = line("BROADCAST,UP,LOWER_UP", "UP");
        assert_eq!((up.name.as_str(), up.flags.as_str()), ("wan", "BROADCAST,UP"));
        assert_eq!(up.settings, "mtu 1400 qlen 9 link/ether 02:00 vlan");
        assert_eq!(up, line("NO-CARRIER,BROADCAST,UP", "DOWN"));
        assert_eq!(link("7: veth12ab34f@if6: <UP> mtu 1500"), None);
    }

    #[test]
    fn what_a_lease_gave_or_the_kernel_derives_is_no_fact() {
        let fixed = "2: eth0 inet 10.0.0.2/24 brd 10.0.0.255 scope global eth0 valid_lft forever preferred_lft forever";
        let fixed = address(fixed).expect("an address");
        assert_eq!(
            (fixed.address.as_str(), fixed.settings.as_str()),
            ("10.0.0.2/24", "brd 10.0.0.255 scope global eth0")
        );
        assert_eq!(
            address("2: eth0 inet 10.0.0.2/24 scope global dynamic eth0 valid_lft 9sec preferred_lft 9sec"),
            None
        );
        assert_eq!(route("10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.2"), None);
        assert_eq!(route("default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.2 metric 1024"), None);
        assert_eq!(route("blackhole 10.7.0.0/24 linkdown").as_deref(), Some("blackhole 10.7.0.0/24"));
    }

    #[test]
    fn neighbours_and_queues_are_read_from_their_lines() {
        let set = neighbour("10.0.0.9 dev eth0 lladdr 02:00:00:00:00:09 PERMANENT").expect("a neighbour");
        assert_eq!((set.neighbour.as_str(), set.leads.as_str()), ("10.0.0.9 of eth0", "02:00:00:00:00:09"));
        assert_eq!(neighbour("10.0.0.9 dev eth0 proxy").expect("a neighbour").leads, "proxy");
        let line = |handle: &str| queue(&format!("qdisc tbf {handle} dev eth0 root refcnt 2 rate 1Mbit burst 5Kb"));
        assert_eq!(line("8001:"), line("8002:"), "the kernel picks these");
        assert_ne!(line("1:"), line("2:"));
        let queue = line("1:").expect("a queue");
        assert_eq!((queue.place.as_str(), queue.settings.as_str()), ("root", "tbf 1: rate 1Mbit burst 5Kb"));
    }
}
