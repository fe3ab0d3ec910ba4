//! The hosts of the production inventory, as the deploy tool itself reads them.

use std::collections::BTreeSet;

use redrill_model::{Deploy, MachineSpec};
use serde::Deserialize;
use serde_json::Value;

use super::{Controller, ControllerError};
use crate::loaded::ScenarioError;

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct InventoryHost {
    /// Its name.
    pub(crate) name: String,
    /// What the inventory says about it.
    #[serde(default)]
    data: serde_json::Map<String, Value>,
}

impl InventoryHost {
    /// Names under which the tool may look the host up: its own, and the address that the inventory gives it.
    pub(crate) fn names(&self) -> Vec<String> {
        let address = self.data.get("ssh_hostname").and_then(Value::as_str).map(str::to_owned);
        [Some(self.name.clone()), address].into_iter().flatten().collect()
    }

    /// The port in production, where it is not 22: part of the name in `known_hosts`.
    pub(crate) fn port(&self) -> Option<u64> {
        self.data.get("ssh_port").and_then(Value::as_u64)
    }
}

/// Asks the tool.
pub(super) async fn read(controller: &Controller, deploy: &Deploy) -> Result<Vec<InventoryHost>, ControllerError> {
    let inventory = deploy.inventory.display().to_string();
    let text = controller.ask(&[&inventory, "debug-inventory", "--json"]).await?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<InventoryHost>, ControllerError> {
    serde_json::from_str(text).map_err(|error| ControllerError::Program {
        what: "pyinfra debug-inventory --json".to_owned(),
        said: format!("{error} (is the pyinfra of the repo older than 3.10?)"),
    })
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
        InventoryHost { name: name.to_owned(), data: serde_json::Map::new() }
    }

    fn machines(names: &[&str]) -> Vec<MachineSpec> {
        let tables: String =
            names.iter().map(|n| format!("[[machine]]\nname = '{n}'\nimage = 'debian-13'\n")).collect();
        let head =
            "claims = ['rebuilds']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n";
        redrill_model::Scenario::parse(&format!("{head}{tables}")).expect("valid").machines
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
        let hosts = parse(text).expect("read");
        assert_eq!(hosts[0].names(), ["web.example.org", "203.0.113.7"]);
        assert_eq!(hosts[0].port(), Some(2222));
        assert!(parse("").expect_err("empty").to_string().contains("older than 3.10"));
    }
}
