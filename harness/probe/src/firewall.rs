//! The kernel's packet filter, as `nft` and `iptables-save` print it, without counters, handles and what ages.
//!
//! Asking loads the kernel's module where it is not there yet, which would change the machine: without the module there
//! are no rules, and nobody is asked. A kernel that loads no modules has it built in, or has none.

use std::path::Path;

use redrill_state::{FirewallRule, Section};

use crate::found::{self, Found, Root, squeeze};

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Firewall);
    let filters = root.at("/sys/module/nf_tables").exists() || !root.at("/proc/modules").exists();
    let nft = found::program("nft").filter(|_| filters);
    if let Some(nft) = &nft {
        ask(&mut found, nft, &["-s", "list", "ruleset"], nft_rules);
    }
    for (program, names, family) in
        [("iptables-save", "ip_tables_names", "ip"), ("ip6tables-save", "ip6_tables_names", "ip6")]
    {
        let old = root.text(format!("/proc/net/{names}")).ok().flatten().is_some_and(|names| !names.trim().is_empty());
        // Rules that iptables keeps in nftables are in nft's list already.
        if !(old || (filters && nft.is_none())) {
            continue;
        }
        if let Some(program) = found::program(program) {
            ask(&mut found, &program, &[], |text| iptables_rules(family, text));
        } else if old {
            found.gap(format!("there are tables of iptables, and no {program}"));
        }
    }
    // Asked without a set, `ipset` would have the kernel load its module.
    if root.at("/sys/module/ip_set").exists()
        && let Some(ipset) = found::program("ipset")
    {
        ask(&mut found, &ipset, &["save", "-sorted"], ip_sets);
    }
    if found.entries.is_empty() && found.gaps.is_empty() && nft.is_none() {
        let missing = if found::program("nft").is_none() { "is not installed" } else { "was not asked" };
        found.note(format!("nft {missing}, and iptables has no tables"));
    }
    found
}

fn ask(found: &mut Found, program: &Path, args: &[&str], parse: impl Fn(&str) -> Vec<FirewallRule>) {
    match found::run(program, args) {
        Ok(text) => parse(&text).into_iter().for_each(|rule| found.add(rule)),
        Err(error) => found.gap(error),
    }
}

#[derive(Default)]
struct Rules {
    rules: Vec<FirewallRule>,
    last: String,
}

impl Rules {
    fn add(&mut self, place: &str, rule: &str) {
        let rule = FirewallRule { place: place.to_owned(), rule: rule.to_owned(), after: self.last.clone() };
        self.last.clone_from(&rule.rule);
        self.rules.push(rule);
    }
}

/// Blocks in braces, a rule on a line; only sets run over several.
fn nft_rules(text: &str) -> Vec<FirewallRule> {
    let mut rules = Rules::default();
    let mut place: Vec<String> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = squeeze(line);
        if line == "}" {
            place.pop();
            rules.last.clear();
        } else if let Some(block) = line.strip_suffix(" {").filter(|block| !block.contains('{')) {
            rules.last.clear();
            if place.is_empty() {
                rules.add("", block);
                rules.last.clear();
            }
            place.push(block.to_owned());
        } else if !line.is_empty() {
            while line.matches('{').count() > line.matches('}').count() {
                let Some(more) = lines.next() else { break };
                line = format!("{line} {}", squeeze(more));
            }
            rules.add(&place.join(" "), &line);
        }
    }
    without_what_ages(rules.rules)
}

/// Elements of a set that the kernel fills or empties by itself.
fn without_what_ages(rules: Vec<FirewallRule>) -> Vec<FirewallRule> {
    let ages = |place: &str| {
        let of_place = rules.iter().filter(|rule| rule.place == place);
        let moves = |rule: &FirewallRule| {
            rule.rule.starts_with("timeout ")
                || rule.rule.strip_prefix("flags ").is_some_and(|f| f.contains("timeout") || f.contains("dynamic"))
        };
        of_place.into_iter().any(moves)
    };
    rules.iter().filter(|rule| !(rule.rule.starts_with("elements = ") && ages(&rule.place))).cloned().collect()
}

/// `*TABLE`, `:CHAIN POLICY [COUNTERS]`, `-A CHAIN RULE`.
fn iptables_rules(family: &str, text: &str) -> Vec<FirewallRule> {
    let mut rules = Rules::default();
    let mut table = String::new();
    for line in text.lines().map(squeeze) {
        if let Some(name) = line.strip_prefix('*') {
            table = format!("{family} {name}");
            rules.last.clear();
        } else if let Some(chain) = line.strip_prefix(':') {
            let without_counters = chain.split(" [").next().unwrap_or(chain);
            rules.add(&table, without_counters);
            rules.last.clear();
        } else if line.starts_with('-') || line.starts_with('[') {
            let rule = line
                .split_once("] ")
                .map_or(line.as_str(), |(counters, rule)| if counters.starts_with('[') { rule } else { line.as_str() });
            rules.add(&table, rule);
        }
    }
    rules.rules
}

/// `create NAME TYPE OPTIONS`, `add NAME ELEMENT`. Elements of a set that forgets them are no facts.
fn ip_sets(text: &str) -> Vec<FirewallRule> {
    let name = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let forgets: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("create ") && line.contains(" timeout "))
        .filter_map(name)
        .collect();
    // The kernel picks this number for each set.
    let line = |line: &str| squeeze(line.split(" initval ").next().unwrap_or(line));
    let kept =
        text.lines().filter(|line| !(line.starts_with("add ") && name(line).is_some_and(|n| forgets.contains(&n))));
    kept.map(|text| FirewallRule { place: "ipset".to_owned(), rule: line(text), after: String::new() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nfts_rules_know_their_place_and_what_ages_is_left_out() {
        let text = "table inet filter {\n\tset banned {\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t\telements = { 1.2.3.4 timeout 1h expires 5m,\n\
                    \t\t\t     5.6.7.8 }\n\t}\n\n\tset ours {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1,\n\t\t\t 10.0.0.2 }\n\t}\n\n\
                    \tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\ttcp dport { 22, 80 } accept\n\t\tcounter drop\n\t}\n}\n";
        let seen: Vec<String> = nft_rules(text).iter().map(|rule| format!("{}: {}", rule.place, rule.rule)).collect();
        assert_eq!(
            seen,
            [
                ": table inet filter",
                "table inet filter set banned: type ipv4_addr",
                "table inet filter set banned: flags timeout",
                "table inet filter set ours: type ipv4_addr",
                "table inet filter set ours: elements = { 10.0.0.1, 10.0.0.2 }",
                "table inet filter chain input: type filter hook input priority filter; policy drop;",
                "table inet filter chain input: tcp dport { 22, 80 } accept",
                "table inet filter chain input: counter drop",
            ]
        );
        let moved =
            nft_rules(&text.replace(
                "tcp dport { 22, 80 } accept\n\t\tcounter drop",
                "counter drop\n\t\ttcp dport { 22, 80 } accept",
            ));
        assert_ne!(moved, nft_rules(text), "the order of rules is part of their meaning");
    }

    #[test]
    fn counters_of_iptables_are_no_facts() {
        let save = |packets: u32| {
            iptables_rules(
                "ip",
                &format!(
                    "# Generated at {packets}\n*filter\n:INPUT ACCEPT [{packets}:80]\n-A INPUT -p tcp -j DROP\n[{packets}:3] -A INPUT -j LOG\nCOMMIT\n"
                ),
            )
        };
        assert_eq!(save(1), save(2));
        let seen: Vec<String> = save(1).iter().map(|rule| format!("{}: {}", rule.place, rule.rule)).collect();
        assert_eq!(
            seen,
            ["ip filter: INPUT ACCEPT", "ip filter: -A INPUT -p tcp -j DROP", "ip filter: -A INPUT -j LOG"]
        );
    }
    #[test]
    fn elements_of_a_set_that_forgets_them_are_no_facts() {
        let text = "create ours hash:ip family inet hashsize 1024 initval 0x1\nadd ours 10.0.0.1\n\
                    create banned hash:ip timeout 600\nadd banned 1.2.3.4 timeout 5\n";
        let seen: Vec<String> = ip_sets(text).into_iter().map(|rule| rule.rule).collect();
        assert_eq!(
            seen,
            ["create ours hash:ip family inet hashsize 1024", "add ours 10.0.0.1", "create banned hash:ip timeout 600"]
        );
    }
}
