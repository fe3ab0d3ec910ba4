//! The hosts of the production inventory, as the deploy tool itself reads them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use redrill_model::{MachineSpec, Tool};
use serde::Deserialize;
use serde_json::Value;

use super::{Controller, ControllerError};
use crate::loaded::ScenarioError;
use crate::tools;

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct InventoryHost {
    /// Its name.
    pub(crate) name: String,
    /// What the inventory says about it.
    #[serde(default)]
    data: serde_json::Map<String, Value>,
    /// Groups that it is in, those that hold its groups included.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
}

impl InventoryHost {
    fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), data: serde_json::Map::new(), groups: Vec::new() }
    }

    /// Names under which the tool may look the host up: its own, and the address that the inventory gives it.
    pub(crate) fn names(&self) -> Vec<String> {
        let said = |key: &str| self.data.get(key).and_then(Value::as_str).map(str::to_owned);
        let address = ["ssh_hostname", "ansible_host", "ansible_ssh_host"].into_iter().find_map(said);
        let address = address.filter(|address| *address != self.name && !address.contains(['{', ' ', '\n']));
        [Some(self.name.clone()), address].into_iter().flatten().collect()
    }

    /// Its names and its addresses, as a program finds them that reads no configuration of SSH.
    pub(crate) fn known_as(&self) -> (Vec<String>, Vec<IpAddr>) {
        let (addresses, names): (Vec<_>, Vec<_>) = self.names().into_iter().partition(|name| address(name).is_some());
        (names, addresses.iter().filter_map(|text| address(text)).collect())
    }

    /// Everything that the inventory calls it, addresses that stand in any of its variables included.
    pub(crate) fn everything(&self) -> (Vec<String>, Vec<IpAddr>) {
        let (names, mut addresses) = self.known_as();
        collect_addresses(&Value::Object(self.data.clone()), &mut addresses);
        (names, addresses)
    }

    /// The port in production, where it is not 22: part of the name in `known_hosts`.
    pub(crate) fn port(&self) -> Option<u64> {
        let said = |key: &str| {
            let value = self.data.get(key)?;
            value.as_u64().or_else(|| value.as_str()?.parse().ok())
        };
        ["ssh_port", "ansible_port", "ansible_ssh_port"].into_iter().find_map(said)
    }

    /// Whether the inventory says this about it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.data.contains_key(key)
    }

    /// How Ansible reaches it, where that is not by SSH.
    fn other_connection(&self) -> Option<&str> {
        let named = self.data.get("ansible_connection").and_then(Value::as_str)?;
        (!matches!(named.trim_start_matches("ansible.builtin."), "ssh" | "smart")).then_some(named)
    }
}

/// An address, with or without the brackets of IPv6 and the length of a network.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.split('/').next().unwrap_or(text).trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok()
}

/// Every address in a value that is no loopback, no mask and no group.
fn collect_addresses(value: &Value, into: &mut Vec<IpAddr>) {
    match value {
        Value::String(text) => {
            let plain = |found: &IpAddr| !found.is_loopback() && !found.is_unspecified() && !found.is_multicast();
            into.extend(address(text).filter(plain).filter(|found| !found.to_string().starts_with("255.")));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_addresses(value, into)),
        Value::Object(values) => values.values().for_each(|value| collect_addresses(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What our helper in pyinfra writes.
const FILE: &str = "inventory.json";

/// Asks the tool, or reads the file. Also what a reader must know of the hosts.
pub(super) async fn read(
    controller: &Controller,
    machines: &[MachineSpec],
) -> Result<(Vec<InventoryHost>, Vec<String>), ControllerError> {
    let inventory = controller.found.inventory.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    match controller.found.tool {
        Tool::Pyinfra => {
            // `debug-inventory --json` came with 3.10 only: our helper writes it for every version.
            let mut command = tools::pyinfra_command(controller);
            command.env("REDRILL_INVENTORY", controller.told().join(FILE)).args([&inventory, "debug-inventory"]);
            controller.ask(command, "pyinfra debug-inventory").await?;
            let text = redrill_sandbox::read_back(&controller.told(), Path::new(FILE));
            let text = text.map_err(ControllerError::io("pyinfra told no inventory"))?;
            Ok((from_pyinfra(&String::from_utf8_lossy(&text))?, Vec::new()))
        }
        Tool::Ansible => {
            let mut command = tools::ansible_command(controller, "ansible-inventory");
            command.args(["--list", "--inventory", &inventory]);
            let text = controller.ask(command, "ansible-inventory --list").await?;
            Ok(on_ssh(from_ansible(&text)?)?)
        }
        Tool::Shell if inventory.is_empty() => {
            Ok((machines.iter().map(|machine| InventoryHost::plain(&machine.name)).collect(), Vec::new()))
        }
        Tool::Shell => {
            let text = redrill_sandbox::read_back(controller.servers(), Path::new(&inventory));
            let text = text.map_err(ControllerError::io("cannot read the inventory"))?;
            Ok((from_lines(&String::from_utf8_lossy(&text)), Vec::new()))
        }
    }
}

fn from_pyinfra(text: &str) -> Result<Vec<InventoryHost>, ControllerError> {
    serde_json::from_str(text).map_err(unreadable("pyinfra debug-inventory"))
}

fn unreadable(what: &str) -> impl FnOnce(serde_json::Error) -> ControllerError {
    let what = what.to_owned();
    move |error| ControllerError::Program { what, said: format!("what it told cannot be read: {error}") }
}

/// `ansible-inventory --list`: groups with their hosts, and under `_meta` the variables of those that have some.
fn from_ansible(text: &str) -> Result<Vec<InventoryHost>, ControllerError> {
    let groups: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(unreadable("ansible-inventory --list"))?;
    let variables = |name: &str| groups.get("_meta")?.get("hostvars")?.get(name)?.as_object().cloned();
    let hosts = groups.values().filter_map(|group| group.get("hosts")?.as_array()).flatten();
    let names: BTreeSet<&str> = hosts.filter_map(Value::as_str).collect();
    let host = |name: &str| InventoryHost {
        name: name.to_owned(),
        data: variables(name).unwrap_or_default(),
        groups: groups.keys().filter(|group| holds(&groups, group, name, 0)).cloned().collect(),
    };
    Ok(names.into_iter().map(host).collect())
}

/// Deeper nesting is a circle.
const DEEPEST: usize = 20;

fn holds(groups: &serde_json::Map<String, Value>, group: &str, host: &str, depth: usize) -> bool {
    let names = |key: &str| {
        let list = groups.get(group).and_then(|group| group.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
    };
    let below = |child: &&str| holds(groups, child, host, depth + 1);
    names("hosts").contains(&host) || (depth < DEEPEST && names("children").iter().any(below))
}

/// Of the hosts, those to deploy to, and what a reader must know of the others.
pub(super) fn limited(
    hosts: Vec<InventoryHost>,
    limit: &[String],
) -> Result<(Vec<InventoryHost>, Option<String>), ScenarioError> {
    if limit.is_empty() {
        return Ok((hosts, None));
    }
    let known: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    if let Some(unknown) = limit.iter().find(|name| !known.contains(name)) {
        let message = format!("`{unknown}` is no host of the inventory");
        return Err(ScenarioError::mismatch(message, format!("one of `{}`", known.join("`, `"))));
    }
    let (kept, left): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| limit.contains(&host.name));
    let left: Vec<String> = left.into_iter().map(|host| host.name).collect();
    let remark = (!left.is_empty()).then(|| format!("not looked at: {}", left.join(", ")));
    Ok((kept, remark))
}

/// The hosts that are machines. `localhost` is the controller; any other host that Ansible would not reach by SSH would
/// be deployed to for real.
fn on_ssh(hosts: Vec<InventoryHost>) -> Result<(Vec<InventoryHost>, Vec<String>), ScenarioError> {
    let (local, hosts): (Vec<_>, Vec<_>) =
        hosts.into_iter().partition(|host| matches!(host.name.as_str(), "localhost" | "127.0.0.1" | "::1"));
    if let Some((host, connection)) = hosts.iter().find_map(|host| Some((host, host.other_connection()?))) {
        let message = format!("the inventory's host `{}` has ansible_connection `{connection}`", host.name);
        return Err(ScenarioError::mismatch(message, "`ssh`: nothing else leads to a machine of the drill"));
    }
    let remark = |host: &InventoryHost| format!("the inventory's `{}` is the controller, not a machine", host.name);
    let remarks = local.iter().map(remark).collect();
    Ok((hosts, remarks))
}

/// A host a line; `#` begins a comment.
fn from_lines(text: &str) -> Vec<InventoryHost> {
    let words = text.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next());
    words.map(InventoryHost::plain).collect()
}

/// Every host needs a machine, before anything boots; every machine needs a host, or nothing would be deployed to it.
pub(super) fn compare(hosts: &[InventoryHost], machines: &[MachineSpec]) -> Result<(), ScenarioError> {
    let hosts: BTreeSet<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    let machines: BTreeSet<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
    if hosts.is_empty() {
        return Err(ScenarioError::mismatch("the inventory has no hosts", "at least one host with a machine"));
    }
    if let Some(host) = hosts.difference(&machines).next() {
        let message = format!("the inventory's host `{host}` has no machine: nothing may be deployed to the real one");
        return Err(ScenarioError::mismatch(message, format!("[[machine]] with name = \"{host}\" in scenario.toml")));
    }
    if let Some(machine) = machines.difference(&hosts).next() {
        let known: Vec<&str> = hosts.iter().copied().collect();
        let message = format!("machine `{machine}` is no host of the inventory: nothing would be deployed to it");
        return Err(ScenarioError::mismatch(message, format!("one of `{}`", known.join("`, `"))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> InventoryHost {
        InventoryHost::plain(name)
    }

    fn machines(names: &[&str]) -> Vec<MachineSpec> {
        let tables: String =
            names.iter().map(|n| format!("[[machine]]\nname = '{n}'\nimage = 'debian-13'\n")).collect();
        let head =
            "claims = ['rebuilds']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n";
        redrill_model::Scenario::parse(&format!("{head}{tables}")).expect("valid").machines
    }

    #[test]
    fn a_limit_leaves_hosts_out_and_says_so() {
        let all = || vec![host("a"), host("b")];
        let names = |hosts: &[InventoryHost]| hosts.iter().map(|host| host.name.clone()).collect::<Vec<_>>();
        let (hosts, remark) = limited(all(), &["b".to_owned()]).expect("known");
        assert_eq!((names(&hosts), remark.as_deref()), (vec!["b".to_owned()], Some("not looked at: a")));
        assert_eq!(limited(all(), &[]).expect("no limit").0.len(), 2);
        let unknown = limited(all(), &["c".to_owned()]).expect_err("unknown").to_string();
        assert!(unknown.contains("`c` is no host"), "{unknown}");
    }

    #[test]
    fn groups_hold_what_their_children_hold() {
        let text = r#"{"all": {"children": ["web", "db"]}, "web": {"hosts": ["a"]}, "db": {"hosts": ["b"]}, "_meta": {"hostvars": {}}}"#;
        let hosts = from_ansible(text).expect("read");
        assert_eq!(hosts[0].groups, ["all", "web"]);
        assert_eq!(hosts[1].groups, ["all", "db"]);
    }

    #[test]
    fn hosts_and_machines_must_match_both_ways() {
        assert!(compare(&[host("a"), host("b")], &machines(&["b", "a"])).is_ok());
        let missing = compare(&[host("a"), host("db")], &machines(&["a"])).expect_err("no machine").to_string();
        assert!(missing.contains("`db` has no machine"), "{missing}");
        let idle = compare(&[host("a")], &machines(&["a", "x"])).expect_err("no host").to_string();
        assert!(idle.contains("`x` is no host"), "{idle}");
        assert!(compare(&[], &machines(&["a"])).expect_err("empty").to_string().contains("no hosts"));
    }

    #[test]
    fn the_tools_own_list_is_read() {
        // Printed by pyinfra 3.10.0.
        let text = r#"[{"name": "web.example.org", "groups": ["web_servers"], "data": {"ssh_user": "root", "ssh_hostname": "203.0.113.7", "ssh_port": 2222}}]"#;
        let hosts = from_pyinfra(text).expect("read");
        assert_eq!(hosts[0].names(), ["web.example.org", "203.0.113.7"]);
        assert_eq!(hosts[0].port(), Some(2222));
        assert!(from_pyinfra("").is_err() && from_pyinfra(&text[..40]).is_err(), "what is cut is no inventory");
    }

    #[test]
    fn ansibles_list_is_read_with_hosts_that_have_no_variables() {
        // Printed by ansible-core 2.19.
        let text = r#"{"_meta": {"hostvars": {"web": {"ansible_host": "203.0.113.7", "ansible_port": "2222"}}, "profile": "x"},
            "all": {"children": ["ungrouped", "servers"]}, "servers": {"hosts": ["web", "db"]}}"#;
        let hosts = from_ansible(text).expect("read");
        assert_eq!(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["db", "web"]);
        assert_eq!((hosts[1].names(), hosts[1].port()), (vec!["web".to_owned(), "203.0.113.7".to_owned()], Some(2222)));
        assert!(from_ansible("").is_err());
    }

    #[test]
    fn only_localhost_may_be_no_machine() {
        let list = |name: &str, connection: &str| {
            let text = format!(
                r#"{{"_meta": {{"hostvars": {{"{name}": {{"ansible_connection": "{connection}"}}}}}}, "a": {{"hosts": ["{name}", "web"]}}}}"#
            );
            on_ssh(from_ansible(&text).expect("read"))
        };
        let (hosts, remarks) = list("localhost", "local").expect("fine");
        assert_eq!((hosts.len(), remarks.len()), (1, 1));
        assert_eq!(list("db", "ssh").expect("fine").0.len(), 2);
        let refused = list("db", "local").expect_err("it would deploy to this host").to_string();
        assert!(refused.contains("`db` has ansible_connection `local`"), "{refused}");
    }

    #[test]
    fn a_plain_list_of_hosts_is_read() {
        let hosts = from_lines("# ours\nweb.example.org  # front\n\ndb root\n");
        assert_eq!(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["web.example.org", "db"]);
    }
}
