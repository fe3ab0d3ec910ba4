//! The hosts of the production inventory, as the deploy tool itself reads them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use redrill_model::{InputError, MachineSpec, Tool, is_host_name};
use serde::Deserialize;
use serde_json::Value;

use super::{Controller, ControllerError};
use crate::deploy::tools;
use crate::scenario_error::ScenarioError;

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
        let address = self.address().map(str::to_owned);
        // Both become words of an `ssh_config`: a pattern there would lead other hosts to this machine. What is computed
        // only in the deploy (`{{ .. }}`) is no address yet.
        let address = address.filter(|address| *address != self.name && is_address(address));
        [Some(self.name.clone()), address].into_iter().flatten().collect()
    }

    /// Its names and its addresses, as a program finds them that reads no configuration of SSH.
    pub(crate) fn known_as(&self) -> (Vec<String>, Vec<IpAddr>) {
        let (addresses, names): (Vec<_>, Vec<_>) =
            self.names().into_iter().partition(|name| internet_address(name).is_some());
        (names, addresses.iter().filter_map(|text| internet_address(text)).collect())
    }

    /// Everything that the inventory calls it, addresses that stand in any of its variables included.
    pub(crate) fn everything(&self) -> (Vec<String>, Vec<IpAddr>) {
        let (names, mut addresses) = self.known_as();
        collect_addresses(&Value::Object(self.data.clone()), &mut addresses);
        (names, addresses)
    }

    /// The address in production, if the inventory gives one.
    fn address(&self) -> Option<&str> {
        let said = |key: &str| self.data.get(key).and_then(Value::as_str);
        ["ssh_hostname", "ansible_host", "ansible_ssh_host"].into_iter().find_map(said)
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

/// An address of the internet, with or without the brackets of IPv6 and the length of a network.
fn internet_address(text: &str) -> Option<IpAddr> {
    let bare = text.split('/').next().unwrap_or(text).trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok()
}

/// Every address in a value that is no loopback, no mask and no group.
fn collect_addresses(value: &Value, into: &mut Vec<IpAddr>) {
    match value {
        Value::String(text) => {
            let plain = |found: &IpAddr| !found.is_loopback() && !found.is_unspecified() && !found.is_multicast();
            into.extend(internet_address(text).filter(plain).filter(|found| !found.to_string().starts_with("255.")));
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
            if !controller.servers().join(&inventory).is_file() {
                let message = format!("the inventory `{inventory}` is no file");
                let error = ScenarioError::mismatch(message, "a file with a host a line: a script has no other");
                return Err(error.into());
            }
            let bytes = redrill_sandbox::read_back(controller.servers(), Path::new(&inventory));
            let bytes = bytes.map_err(ControllerError::io("cannot read the inventory"))?;
            Ok((from_file(&inventory, &bytes)?, Vec::new()))
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

fn is_address(text: &str) -> bool {
    is_host_name(text) || text.parse::<IpAddr>().is_ok()
}

/// Names of hosts become names of files and words of configurations; addresses stand beside them.
fn sound(hosts: &[InventoryHost], inventory: &Path) -> Result<(), ScenarioError> {
    let expected = "letters, digits, `.`, `-` and `_`, as a machine's name";
    let wrong = |what: String| ScenarioError::mismatch(format!("{}: {what}", inventory.display()), expected);
    for host in hosts {
        let name = host.name.escape_debug();
        if !is_host_name(&host.name) {
            return Err(wrong(format!("the inventory's host `{name}` has no name that a machine can have")));
        }
        let odd = |address: &&str| !is_address(address) && !address.contains("{{");
        if let Some(address) = host.address().filter(odd) {
            return Err(wrong(format!("the inventory's host `{name}` has the address `{}`", address.escape_debug())));
        }
    }
    Ok(())
}

/// Of the hosts, those to deploy to, and what a reader must know of the others.
pub(super) fn limited(
    hosts: Vec<InventoryHost>,
    limit: &[String],
    inventory: &Path,
) -> Result<(Vec<InventoryHost>, Option<String>), ScenarioError> {
    if limit.is_empty() {
        sound(&hosts, inventory)?;
        return Ok((hosts, None));
    }
    let known: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    if let Some(unknown) = limit.iter().find(|name| !known.contains(name)) {
        let message = format!("`{unknown}` is no host of the inventory");
        return Err(ScenarioError::mismatch(message, format!("one of `{}`", known.join("`, `"))));
    }
    let (kept, left): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| limit.contains(&host.name));
    sound(&kept, inventory)?;
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

/// A plain list; `inventory` is its name in the repo.
fn from_file(inventory: &str, bytes: &[u8]) -> Result<Vec<InventoryHost>, ScenarioError> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let invalid = |span: Range<usize>, message: String, expected: &str| {
        let error = InputError { span, message, expected: Some(expected.to_owned()) };
        ScenarioError::Invalid { path: inventory.into(), text: text.clone(), error }
    };
    if let Err(error) = std::str::from_utf8(bytes) {
        let at = error.valid_up_to();
        return Err(invalid(at..at + 1, "this is no UTF-8".to_owned(), "a host a line"));
    }
    from_lines(&text).map_err(|(span, name)| {
        let message = format!("`{}` is no name of a host", name.escape_debug());
        invalid(span, message, "letters, digits, `.`, `-` and `_`")
    })
}

/// A host a line; `#` begins a comment. Else the place and the text of what is no host.
fn from_lines(text: &str) -> Result<Vec<InventoryHost>, (Range<usize>, String)> {
    let (mut hosts, mut offset) = (Vec::new(), 0);
    for raw in text.split_inclusive('\n') {
        let line = raw.split('#').next().unwrap_or_default();
        if let Some(word) = line.split_whitespace().next() {
            let at = offset + line.find(word).unwrap_or_default();
            if !is_host_name(word) {
                return Err((at..at + word.len(), word.to_owned()));
            }
            hosts.push(InventoryHost::plain(word));
        }
        offset += raw.len();
    }
    Ok(hosts)
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
        let (hosts, remark) = limited(all(), &["b".to_owned()], Path::new("i")).expect("known");
        assert_eq!((names(&hosts), remark.as_deref()), (vec!["b".to_owned()], Some("not looked at: a")));
        assert_eq!(limited(all(), &[], Path::new("i")).expect("no limit").0.len(), 2);
        let unknown = limited(all(), &["c".to_owned()], Path::new("i")).expect_err("unknown").to_string();
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
        let hosts = from_lines("# ours\nweb.example.org  # front\n\ndb root\n").expect("read");
        assert_eq!(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["web.example.org", "db"]);
    }

    /// What no machine is called, and no file, and no word of an `ssh_config` may be.
    const ODD: [&str; 13] = [
        "../../etc",
        "a/b",
        "*",
        "?",
        "!web",
        "-oProxyCommand=x",
        "a\0b",
        "a\u{1b}[2J",
        "a,b",
        "[web]",
        "é",
        "$(x)",
        "@local",
    ];

    #[test]
    fn a_host_that_has_no_name_is_told_with_its_place_in_a_plain_list() {
        for odd in ODD {
            let text = format!("web\n  {odd} # x\n");
            let error = from_file("hosts", text.as_bytes()).expect_err("no name");
            let ScenarioError::Invalid { path, text, error } = error else { panic!("{error}") };
            let position = error.position(&text);
            assert_eq!((path.as_path(), position.line, position.column), (Path::new("hosts"), 2, 3), "{odd:?}");
            assert!(error.message.ends_with("is no name of a host") && !error.message.contains(char::is_control));
        }
        let error = from_file("hosts", b"web\nd\xffb\n").expect_err("no text");
        let ScenarioError::Invalid { text, error, .. } = error else { panic!("{error}") };
        assert_eq!((error.position(&text).line, error.position(&text).column), (2, 2));
    }

    #[test]
    fn a_host_or_an_address_that_is_none_is_told_with_its_inventory() {
        let with_address = |address: &str| {
            let data = serde_json::json!([{"name": "web", "data": {"ansible_host": address}}]);
            from_pyinfra(&data.to_string()).expect("read")
        };
        let inventory = Path::new("inventory/hosts.yml");
        for odd in ODD.into_iter().chain(["", "a b", "a\nHost *", "web\tx"]) {
            let error = limited(vec![host(odd)], &[], inventory).expect_err(odd).to_string();
            assert!(error.starts_with("inventory/hosts.yml: the inventory's host `"), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
            let error = limited(with_address(odd), &[], inventory).expect_err(odd).to_string();
            assert!(error.contains("`web` has the address `"), "{error}");
            assert_eq!(with_address(odd)[0].names(), ["web"], "it never becomes a word of a configuration");
        }
        for fine in ["203.0.113.7", "2001:db8::7", "db.example.org", "{{ lookup('x') }}"] {
            assert!(limited(with_address(fine), &[], inventory).is_ok(), "{fine}");
        }
        let limit = ["web".to_owned()];
        assert!(limited(vec![host("@local"), host("web")], &limit, inventory).is_ok(), "what is left out may be odd");
    }
}
