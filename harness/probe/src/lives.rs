//! Which run of its life a unit is in, where no link tells it: systemd makes one for each service, and none for sockets,
//! timers, paths and mounts. `systemctl show` for all units takes seconds in an emulated machine, so that only these
//! are asked about.

use std::collections::BTreeMap;
use std::process::Command;

use redrill_state::Unit;

use crate::managers;
use crate::stale::boot;

/// Kinds of units whose life is asked for.
const ASKED: [&str; 5] = [".socket", ".timer", ".path", ".mount", ".swap"];
/// Mounts that come with the system or with a login, a container or a service.
const PASSING: [&str; 6] = ["proc-", "sys-", "dev-", "run-credentials-", "run-docker-", "var-lib-docker-"];
const SHOW: [&str; 2] = ["show", "--property=Id,InvocationID,ActiveEnterTimestampMonotonic"];

/// Fills in the run of the units that are active and have none yet. `systemctl` is the manager's own.
pub(crate) fn fill(
    units: &mut BTreeMap<String, Unit>,
    systemctl: impl FnOnce(&[&str]) -> Command,
) -> Result<(), String> {
    let names: Vec<String> = units.values().filter(|unit| is_asked(unit)).map(|unit| unit.name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut words = SHOW.to_vec();
    words.push("--");
    words.extend(names.iter().map(String::as_str));
    for (name, invocation, since) in lives(&managers::said(&mut systemctl(&words))?, boot()) {
        if let Some(unit) = units.get_mut(&name) {
            (unit.invocation, unit.since) = (invocation, since);
        }
    }
    Ok(())
}

fn is_asked(unit: &Unit) -> bool {
    let (name, is) = (&unit.name, |ending: &&str| unit.name.ends_with(*ending));
    unit.active == "active"
        && unit.invocation.is_empty()
        && ASKED.iter().any(is)
        && !PASSING.iter().any(|passing| name.starts_with(passing))
}

/// Paragraphs of `KEY=VALUE`: name, run, and when that became active.
fn lives(text: &str, boot: i64) -> Vec<(String, String, i64)> {
    let paragraph = |paragraph: &str| {
        let value = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let since =
            value("ActiveEnterTimestampMonotonic").and_then(|value| value.parse::<i64>().ok()).unwrap_or_default();
        Some((value("Id")?.to_owned(), value("InvocationID")?.to_owned(), boot + since * 1000))
    };
    text.split("\n\n").filter_map(paragraph).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_of_a_timer_or_socket_is_what_systemd_says() {
        let text = "Id=a.timer\nInvocationID=abc\nActiveEnterTimestampMonotonic=7\n\nId=b.socket\nInvocationID=\n";
        let seen = lives(text, 1000);
        assert_eq!(seen, [("a.timer".into(), "abc".into(), 8000), ("b.socket".into(), String::new(), 1000)]);
    }

    #[test]
    fn only_active_units_without_a_link_are_asked_about() {
        let unit = |name: &str, active: &str, invocation: &str| Unit {
            name: name.to_owned(),
            active: active.to_owned(),
            invocation: invocation.to_owned(),
            ..Unit::default()
        };
        assert!(is_asked(&unit("a.timer", "active", "")) && is_asked(&unit("srv-x.mount", "active", "")));
        for (name, active, invocation) in [
            ("a.timer", "inactive", ""),
            ("a.service", "active", ""),
            ("b.mount", "active", "abc"),
            ("proc-fs.mount", "active", ""),
        ] {
            assert!(!is_asked(&unit(name, active, invocation)), "{name}");
        }
    }
}
