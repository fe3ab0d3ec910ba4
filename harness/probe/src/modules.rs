//! Kernel modules: those that files want loaded at boot, and whether they are; those that are loaded.

use std::collections::BTreeSet;

use redrill_state::{KernelModule, Record, Section};

use crate::found::{Found, Root};
use crate::sysctl::by_name;

const DIRECTORIES: [&str; 4] =
    ["/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d"];

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Modules);
    let mut files = by_name(root, &mut found, &DIRECTORIES);
    files.push(root.at("/etc/modules"));
    let built_in = built_in(root);
    let mut seen = BTreeSet::new();
    for path in files {
        let Some(text) = found.text_at(root, &path) else { continue };
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        for name in names.filter_map(|line| line.split_whitespace().next()) {
            let (name, file) = (name.replace('-', "_"), root.inside(&path));
            let loaded = match root.at(format!("/sys/module/{name}")).exists() {
                _ if built_in.contains(&name) => "built in",
                true => "yes",
                false => "no",
            };
            // `/etc/modules-load.d/modules.conf` is a link to `/etc/modules`.
            if seen.insert((name.clone(), std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone()))) {
                found.add(KernelModule { name, file, loaded: loaded.to_owned() });
            }
        }
    }
    loaded(root, &mut found);
    found
}

/// What is loaded and not wanted by a file. How often it is in use is no fact; in a container they are its host's.
fn loaded(root: &Root, found: &mut Found) {
    if root.is_container() {
        return;
    }
    let wanted: BTreeSet<String> = found.entries.iter().filter_map(name_of).collect();
    let text = found.text(root, "/proc/modules").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !wanted.contains(*name));
    for name in names {
        found.add(KernelModule { name: name.to_owned(), loaded: "yes".to_owned(), ..KernelModule::default() });
    }
}

fn name_of(record: &Record) -> Option<String> {
    match record {
        Record::KernelModule(module) => Some(module.name.clone()),
        _ => None,
    }
}

fn built_in(root: &Root) -> BTreeSet<String> {
    let release = root.text("/proc/sys/kernel/osrelease").ok().flatten().unwrap_or_default();
    let list = root.text(format!("/lib/modules/{}/modules.builtin", release.trim())).ok().flatten().unwrap_or_default();
    let name = |line: &str| {
        let file = line.rsplit('/').next().unwrap_or(line);
        file.split(".ko").next().unwrap_or(file).replace('-', "_")
    };
    list.lines().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn wanted_modules_are_loaded_or_not() {
        let tree = Tree::new("modules");
        tree.file("/etc/modules", "# at boot\nbr-netfilter\nnone\next4 option=1\n");
        tree.link("/etc/modules-load.d/modules.conf", "../modules");
        tree.file("/sys/module/br_netfilter/refcnt", "1");
        tree.file("/proc/sys/kernel/osrelease", "6.12\n");
        tree.file("/lib/modules/6.12/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
        tree.file("/proc/modules", "br_netfilter 1 0 - Live 0x0\nloop 32768 2 - Live 0x0\n");
        let found = read(&tree.root());
        let seen: Vec<(String, String)> = found
            .entries
            .into_iter()
            .map(|record| match record {
                Record::KernelModule(module) => (module.name, module.loaded),
                _ => panic!("another section"),
            })
            .collect();
        let seen: Vec<(&str, &str)> = seen.iter().map(|(name, loaded)| (name.as_str(), loaded.as_str())).collect();
        assert_eq!(seen, [("br_netfilter", "yes"), ("none", "no"), ("ext4", "built in"), ("loop", "yes")]);
    }
}
