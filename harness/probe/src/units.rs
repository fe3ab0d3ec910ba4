//! systemd units: those the manager has loaded, and the unit files that it has not.
//!
//! The manager is asked one question that it answers at once (`list-units`). The rest is read where systemd itself
//! reads and writes it, since `systemctl show` for all units and `list-unit-files` take seconds each in an emulated
//! machine: unit files in their search path (systemd.unit(5)), enablement in the symlinks that `enable` makes, and each
//! unit's invocation in `/run/systemd/units`, where the link is made anew at every start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use redrill_state::{Section, Unit};

use crate::cgroups;
use crate::found::{Found, Root};
use crate::lives;
use crate::managers::{self, Manager};
use crate::stale::{self, Service};

/// Where unit files lie, the strongest first.
const SEARCH: [&str; 10] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
];
const LIST_UNITS: [&str; 6] = ["list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager"];
const INVOCATIONS: &str = "/run/systemd/units";
/// The harness's own, which is no part of the machine.
const OWN: [&str; 2] = ["redrill-agent.service", "run-redrill.mount"];

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Units);
    let files = UnitFiles::of(root);
    let text = said(&mut found, &mut systemctl(&LIST_UNITS));
    let mut units = files.units(&text, Path::new(INVOCATIONS));
    units.retain(|name, _| !OWN.contains(&name.as_str()));
    if let Err(error) = lives::fill(&mut units, systemctl) {
        found.gap(error);
    }
    let limits = cgroups::limits(root);
    for unit in units.values_mut() {
        unit.limits = limits.get(&unit.name).cloned().unwrap_or_default();
    }
    let running = units.values().filter(|unit| unit.active == "active" && unit.since > 0);
    let services: Vec<Service<'_>> =
        running.filter(|unit| unit.name.ends_with(".service")).map(|unit| files.service(unit)).collect();
    let mut stale = stale::find(&services);
    for manager in managers::of_users(root) {
        of_user(root, &mut found, &manager, units.get(&manager.unit()));
    }
    for (name, mut unit) in units {
        unit.stale = stale.remove(&name).unwrap_or_default();
        found.add(unit);
    }
    found
}

/// The units of a user's manager, under names of their own, and the manager itself: the system's unit for it comes and
/// goes with logins elsewhere.
fn of_user(root: &Root, found: &mut Found, manager: &Manager, itself: Option<&Unit>) {
    let text = said(found, &mut manager.systemctl(&LIST_UNITS));
    let files = UnitFiles::read(&manager.search(root));
    let loaded: BTreeSet<&str> = text.lines().filter_map(listed).map(|(name, ..)| name).collect();
    let mut units = files.units(&text, &manager.invocations(root));
    // Those that every user could start, and this one does not.
    units.retain(|name, unit| loaded.contains(name.as_str()) || unit.enabled != "static");
    if let Err(error) = lives::fill(&mut units, |words| manager.systemctl(words)) {
        found.gap(error);
    }
    units.extend(itself.map(|unit| ("manager".to_owned(), unit.clone())));
    for (name, unit) in units {
        found.add(Unit { name: manager.name(&name), ..unit });
    }
}

fn systemctl(words: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(words);
    command
}

fn said(found: &mut Found, command: &mut Command) -> String {
    match managers::said(command) {
        Ok(text) if !text.is_empty() => text,
        Ok(_) => {
            found.gap("systemctl list-units: no unit at all");
            String::new()
        }
        Err(error) => {
            found.gap(error);
            String::new()
        }
    }
}

/// `NAME LOAD ACTIVE SUB DESCRIPTION`.
fn listed(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?, words.next()?))
}

/// A name that another unit mentions, and that no file makes a unit, is listed until the manager next tidies up.
fn is_unit((_, load, active): (&str, &str, &str)) -> bool {
    !(load == "not-found" && active == "inactive")
}

/// The id of a unit's current run, and when that began.
fn invocation(directory: &Path, unit: &str) -> Option<(String, i64)> {
    let link = directory.join(format!("invocation:{unit}"));
    let metadata = fs::symlink_metadata(&link).ok()?;
    let id = fs::read_link(&link).ok()?.to_string_lossy().into_owned();
    Some((id, metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()))
}

/// Everything about units that lies in files.
#[derive(Default)]
pub(crate) struct UnitFiles {
    /// By name: the strongest file.
    paths: BTreeMap<String, PathBuf>,
    /// By name of the unit: its drop-ins, in order.
    drop_ins: BTreeMap<String, Vec<PathBuf>>,
    /// Names that a link in some `.wants`, `.requires` or alias leads to.
    enabled: BTreeSet<String>,
    /// For a name that is started by a timer, socket or path: that unit.
    triggers: BTreeMap<String, String>,
}

impl UnitFiles {
    /// Those of a machine.
    pub(crate) fn of(root: &Root) -> Self {
        Self::read(&SEARCH.map(|directory| root.at(directory)))
    }

    fn read(roots: &[PathBuf]) -> Self {
        let mut files = Self::default();
        for root in roots {
            for entry in fs::read_dir(root).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if let Some(unit) = name.strip_suffix(".d") {
                    files.drop_ins.entry(unit.to_owned()).or_default().extend(configurations(&path));
                } else if name.ends_with(".wants") || name.ends_with(".requires") {
                    let links = fs::read_dir(&path).into_iter().flatten().flatten();
                    files.enabled.extend(links.map(|link| link.file_name().to_string_lossy().into_owned()));
                } else if name.contains('.') && !path.is_dir() {
                    files.alias(&path, &name);
                    files.paths.entry(name).or_insert(path);
                }
            }
        }
        files.find_triggers();
        files
    }

    /// `ALIAS -> UNIT`, made by `enable` for `Alias=`.
    fn alias(&mut self, path: &Path, name: &str) {
        let target = fs::read_link(path).ok().and_then(|to| Some(to.file_name()?.to_string_lossy().into_owned()));
        if let Some(target) = target.filter(|target| target != "null" && target != name) {
            self.enabled.insert(target);
        }
    }

    fn find_triggers(&mut self) {
        let activating =
            self.paths.keys().filter(|name| [".timer", ".socket", ".path"].iter().any(|e| name.ends_with(e)));
        self.triggers = activating.map(|name| (self.started_by(name), name.clone())).collect();
    }

    /// What a timer, socket or path starts.
    pub(crate) fn started_by(&self, name: &str) -> String {
        let text = self.path(name).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let own = setting(&text, "Unit").or_else(|| setting(&text, "Service")).map(str::to_owned);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        own.unwrap_or_else(|| format!("{stem}.service"))
    }

    /// Units that could be started: templates (`name@.service`) cannot.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.paths.keys().filter(|name| !name.contains("@."))
    }

    /// The unit's file, or that of its template.
    pub(crate) fn path(&self, name: &str) -> Option<&PathBuf> {
        self.paths.get(name).or_else(|| self.paths.get(&template(name)?))
    }

    /// The unit's file and its drop-ins, in the order in which systemd reads them.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let names = [Some(name.to_owned()), template(name)].into_iter().flatten();
        let drop_ins = names.filter_map(|name| self.drop_ins.get(&name)).flatten();
        let paths = self.path(name).into_iter().chain(drop_ins);
        paths.map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// By name: those that a manager has loaded, as it lists them, and those that it has not.
    fn units(&self, list: &str, invocations: &Path) -> BTreeMap<String, Unit> {
        let mut units: BTreeMap<String, Unit> =
            self.names().map(|name| (name.clone(), self.unit(name, "not loaded", "inactive"))).collect();
        for (name, load, active) in list.lines().filter_map(listed).filter(|listed| is_unit(*listed)) {
            // An idle unit that has a file is known to the manager at some moments and not at others.
            let load = if load == "loaded" && active == "inactive" { "not loaded" } else { load };
            units.insert(name.to_owned(), self.unit(name, load, active));
        }
        for unit in units.values_mut() {
            if let Some((invocation, since)) = invocation(invocations, &unit.name) {
                (unit.invocation, unit.since) = (invocation, since);
            }
        }
        units
    }

    fn unit(&self, name: &str, load: &str, active: &str) -> Unit {
        let path = self.path(name);
        let text = path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let service = name.ends_with(".service");
        let setting = |key| if service { setting(&text, key).unwrap_or_default().to_owned() } else { String::new() };
        Unit {
            name: name.to_owned(),
            load: load.to_owned(),
            enabled: path.map(|path| self.state(name, path, &text)).unwrap_or_default().to_owned(),
            active: active.to_owned(),
            service_type: setting("Type"),
            bus_name: setting("BusName"),
            triggered_by: self.triggers.get(name).cloned().unwrap_or_default(),
            invocation: String::new(),
            since: 0,
            fragment: path.map(|_| self.fragment(name, &text)),
            stale: Vec::new(),
            limits: String::new(),
        }
    }

    /// The files that say how a unit is started.
    fn service<'a>(&'a self, unit: &'a Unit) -> Service<'a> {
        let names = [Some(unit.name.clone()), template(&unit.name)].into_iter().flatten();
        let drop_ins = names.filter_map(|name| self.drop_ins.get(&name)).flatten();
        let files = self.path(&unit.name).into_iter().chain(drop_ins).map(PathBuf::as_path).collect();
        Service { name: &unit.name, service_type: &unit.service_type, since: unit.since, files }
    }

    /// As `systemctl is-enabled` tells it.
    fn state(&self, name: &str, path: &Path, text: &str) -> &'static str {
        let target = fs::read_link(path).unwrap_or_default();
        if target == Path::new("/dev/null") {
            "masked"
        } else if path.starts_with("/run/systemd/generator") || path.starts_with("/run/systemd/generator.late") {
            "generated"
        } else if path.starts_with("/run/systemd/transient") {
            "transient"
        } else if target.file_name().is_some_and(|target| target.to_string_lossy() != name) {
            "alias"
        } else if self.enabled.contains(name) {
            "enabled"
        } else if text.lines().any(|line| line.trim() == "[Install]") {
            "disabled"
        } else {
            "static"
        }
    }

    /// One digest for the unit file and its drop-ins.
    fn fragment(&self, name: &str, text: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes());
        let names = [Some(name.to_owned()), template(name)].into_iter().flatten();
        for path in names.filter_map(|name| self.drop_ins.get(&name)).flatten() {
            hasher.update(&fs::read(path).unwrap_or_default());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// `getty@tty1.service` is made of `getty@.service`.
fn template(name: &str) -> Option<String> {
    let (stem, rest) = name.split_once('@')?;
    Some(format!("{stem}@.{}", rest.rsplit_once('.')?.1))
}

fn configurations(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    paths
}

/// The last value of a key; systemd lets a later line win.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='))
        .map(str::trim)
        .next_back()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("redrill-units-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("etc/multi-user.target.wants")).expect("made");
            fs::create_dir_all(path.join("lib/a.service.d")).expect("made");
            Self(path)
        }

        fn file(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).expect("written");
        }

        fn read(&self) -> UnitFiles {
            UnitFiles::read(&[self.0.join("etc"), self.0.join("lib")])
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn enablement_is_read_from_links_and_install_sections() {
        let tree = Tree::new("state");
        let install = "[Service]\nType=oneshot\n[Install]\nWantedBy=multi-user.target\n";
        for name in ["lib/a.service", "lib/b.service", "lib/masked.service"] {
            tree.file(name, install);
        }
        tree.file("lib/static.service", "[Service]\n");
        tree.file("lib/t@.service", install);
        symlink("/lib/a.service", tree.0.join("etc/multi-user.target.wants/a.service")).expect("linked");
        symlink("/lib/t@.service", tree.0.join("etc/multi-user.target.wants/t@1.service")).expect("linked");
        symlink("/dev/null", tree.0.join("etc/masked.service")).expect("linked");
        symlink("b.service", tree.0.join("etc/other.service")).expect("linked");
        let files = tree.read();
        let state = |name: &str| files.unit(name, "loaded", "active").enabled;
        assert_eq!(state("a.service"), "enabled");
        assert_eq!(state("b.service"), "enabled", "by its alias");
        assert_eq!(state("other.service"), "alias");
        assert_eq!(state("static.service"), "static");
        assert_eq!(state("masked.service"), "masked");
        assert_eq!(state("t@1.service"), "enabled");
        assert_eq!(state("t@2.service"), "disabled");
        assert_eq!(state("none.service"), "");
        assert_eq!(files.unit("a.service", "loaded", "active").service_type, "oneshot");
        assert!(files.names().all(|name| name != "t@.service"));
    }

    #[test]
    fn a_changed_unit_file_or_drop_in_is_another_fragment() {
        let tree = Tree::new("fragment");
        tree.file("lib/a.service", "1");
        let digest = || tree.read().unit("a.service", "loaded", "active").fragment;
        let first = digest();
        tree.file("lib/a.service.d/x.conf", "2");
        let second = digest();
        tree.file("etc/a.service", "3");
        assert!(first != second && second != digest(), "the file in /etc beats the one in /usr/lib");
    }

    #[test]
    fn a_timer_triggers_its_service() {
        let tree = Tree::new("trigger");
        tree.file("lib/a.timer", "[Timer]\nOnCalendar=daily\n");
        tree.file("lib/b.timer", "[Timer]\nUnit=other.service\n");
        let files = tree.read();
        assert_eq!(files.unit("a.service", "loaded", "active").triggered_by, "a.timer");
        assert_eq!(files.unit("other.service", "loaded", "active").triggered_by, "b.timer");
    }

    #[test]
    fn the_invocation_is_a_link_whose_age_is_the_units() {
        let tree = Tree::new("invocation");
        symlink("abc", tree.0.join("invocation:a.service")).expect("linked");
        let (id, since) = invocation(&tree.0, "a.service").expect("found");
        assert_eq!(id, "abc");
        assert!((crate::now() - since).abs() < 60_000_000_000);
        assert_eq!(invocation(&tree.0, "b.service"), None);
        assert_eq!(listed("a.service loaded active running A service"), Some(("a.service", "loaded", "active")));
    }

    #[test]
    fn a_name_without_a_unit_is_none_and_a_running_unit_without_its_file_is_one() {
        assert!(!is_unit(("a.service", "not-found", "inactive")));
        assert!(is_unit(("a.service", "not-found", "active")), "its file was removed while it runs");
        assert!(is_unit(("a.service", "masked", "inactive")));
    }
}
