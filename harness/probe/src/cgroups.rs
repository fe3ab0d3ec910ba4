//! Control groups: which unit a process belongs to, and what the kernel holds each unit to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::found::{Root, squeeze};

const CGROUPS: &str = "/sys/fs/cgroup";
/// Each limit, and what it is where nobody set one.
const LIMITS: [(&str, &str); 12] = [
    ("cpu.idle", "0"),
    ("cpu.max", "max 100000"),
    ("cpu.weight", "100"),
    ("cpuset.cpus", ""),
    ("io.max", ""),
    ("io.weight", "default 100"),
    ("memory.high", "max"),
    ("memory.low", "0"),
    ("memory.max", "max"),
    ("memory.min", "0"),
    ("memory.swap.max", "max"),
    ("pids.max", "max"),
];
/// Endings of units that have a group of their own.
const UNITS: [&str; 4] = [".service", ".scope", ".socket", ".mount"];

/// Where a process is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Home {
    /// A unit of the system's manager, by name.
    Unit(String),
    /// A unit of the manager of this user (its number).
    UserUnit(String, u32),
    /// A login's session.
    Login,
    /// A container, or a manager's own group.
    Elsewhere,
}

/// From the path of a control group. The first unit in it counts: what lies below is its own business.
pub(crate) fn home(path: &str) -> Home {
    let words: Vec<&str> = path.split('/').collect();
    let is_unit = |word: &&&str| UNITS.iter().any(|ending| word.ends_with(ending));
    let Some(at) = words.iter().position(|word| is_unit(&word)) else { return Home::Elsewhere };
    let name = words[at];
    let manager = name.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service")?.parse().ok());
    if let Some(uid) = manager {
        return match words[at + 1..].iter().find(is_unit) {
            Some(&"init.scope") | None => Home::Elsewhere,
            Some(unit) => Home::UserUnit((*unit).to_owned(), uid),
        };
    }
    let engines = ["docker-", "libpod-", "cri-containerd-", "machine-"];
    match name {
        "init.scope" => Home::Elsewhere,
        scope if scope.ends_with(".scope") && engines.iter().any(|engine| scope.starts_with(engine)) => Home::Elsewhere,
        scope if scope.starts_with("session-") && scope.ends_with(".scope") => Home::Login,
        unit => Home::Unit(unit.to_owned()),
    }
}

/// What each unit that has a group is held to; `none` where that is nothing.
pub(crate) fn limits(root: &Root) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    walk(&root.at(CGROUPS), "", &mut found);
    found
}

fn walk(directory: &Path, inside: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{inside}/{name}");
        if name.ends_with(".slice") {
            found.insert(name, limit(&entry.path()));
            walk(&entry.path(), &path, found);
        } else if let Home::Unit(unit) = home(&path) {
            found.insert(unit, limit(&entry.path()));
        }
    }
}

fn limit(group: &Path) -> String {
    let set = |(file, none): &(&str, &str)| {
        let value = squeeze(&fs::read_to_string(group.join(file)).ok()?);
        (value != *none).then(|| format!("{file}={value}"))
    };
    let set: Vec<String> = LIMITS.iter().filter_map(set).collect();
    if set.is_empty() { "none".to_owned() } else { set.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn a_process_is_at_home_in_the_first_unit_of_its_path() {
        let unit = |name: &str| Home::Unit(name.to_owned());
        assert_eq!(home("/system.slice/app.service"), unit("app.service"));
        assert_eq!(home("/system.slice/app.service/payload.scope"), unit("app.service"));
        assert_eq!(home("/user.slice/user-0.slice/session-7.scope"), Home::Login);
        let bot = "/user.slice/user-1500.slice/user@1500.service/app.slice/bot.service";
        assert_eq!(home(bot), Home::UserUnit("bot.service".to_owned(), 1500));
        for other in ["/", "/init.scope", "/user.slice/user-0.slice/user@0.service/init.scope", "/docker-1.scope/x"] {
            assert_eq!(home(other), Home::Elsewhere, "{other}");
        }
    }

    #[test]
    fn limits_that_somebody_set_are_told() {
        let tree = Tree::new("cgroups");
        for (file, text) in [("cpu.weight", "200\n"), ("memory.max", "max\n"), ("pids.max", "70\n")] {
            tree.file(&format!("{CGROUPS}/system.slice/app.service/{file}"), text);
        }
        tree.file(&format!("{CGROUPS}/system.slice/plain.service/cpu.weight"), "100\n");
        let limits = limits(&tree.root());
        assert_eq!(limits["app.service"], "cpu.weight=200; pids.max=70");
        assert_eq!((limits["plain.service"].as_str(), limits["system.slice"].as_str()), ("none", "none"));
    }
}
