//! Kernel settings that a file declares, with the value that the kernel has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use redrill_state::{Section, Sysctl};

use crate::found::{Found, Root, squeeze};
use crate::sshd::fits;

/// The strongest first: a file hides those of its name in weaker directories.
const DIRECTORIES: [&str; 4] = ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"];
const VALUES: &str = "/proc/sys";

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Sysctl);
    let mut declared: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut files = by_name(root, &mut found, &DIRECTORIES);
    // procps reads it last of all; systemd only through a link in the directory.
    files.push(root.at("/etc/sysctl.conf"));
    for path in files {
        let Some(text) = found.text_at(root, &path) else { continue };
        for (key, value) in text.lines().filter_map(assignment) {
            for key in expand(root, &key) {
                declared.insert(key, (value.clone(), root.inside(&path)));
            }
        }
    }
    for (key, (declared, file)) in declared {
        let running = running(root, &mut found, &key);
        found.add(Sysctl { key, declared, file, running });
    }
    found
}

/// `*.conf` of these directories in the order of their names.
pub(crate) fn by_name(root: &Root, found: &mut Found, directories: &[&str]) -> Vec<PathBuf> {
    let mut files: BTreeMap<_, PathBuf> = BTreeMap::new();
    for directory in directories {
        for path in found.list(root, directory) {
            if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|e| e == "conf")) {
                files.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    files.into_values().collect()
}

/// `key = value`, sysctl.d(5); the name with dots.
fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    Some((dotted(key.trim().trim_start_matches('-').trim()), squeeze(value)))
}

/// Either separator may come first; the other is then part of a name (`net/ipv4/conf/eth0.1/forwarding`).
fn dotted(key: &str) -> String {
    let slash_first = key.find(['.', '/']).is_some_and(|at| key[at..].starts_with('/'));
    if slash_first {
        key.chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect()
    } else {
        key.to_owned()
    }
}

fn path_of(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect()
}

/// `net.ipv4.conf.*.rp_filter` stands for every interface.
fn expand(root: &Root, key: &str) -> Vec<String> {
    if !key.contains(['*', '?']) {
        return vec![key.to_owned()];
    }
    let mut paths = vec![PathBuf::new()];
    for part in path_of(key).split('/') {
        let below = |path: &PathBuf| match part.contains(['*', '?']) {
            false => vec![path.join(part)],
            true => {
                let list = fs::read_dir(root.at(Path::new(VALUES).join(path))).into_iter().flatten().flatten();
                let names = list.map(|entry| entry.file_name().to_string_lossy().into_owned());
                names.filter(|name| fits(part, name)).map(|name| path.join(name)).collect()
            }
        };
        paths = paths.iter().flat_map(below).collect();
    }
    let there = paths.into_iter().filter(|path| root.at(Path::new(VALUES).join(path)).exists());
    // The rule of names, the other way round.
    there.map(|path| path_of(&path.to_string_lossy())).collect()
}

fn running(root: &Root, found: &mut Found, key: &str) -> String {
    let path = Path::new(VALUES).join(path_of(key));
    match fs::read_to_string(root.at(&path)) {
        Ok(text) => squeeze(&text),
        // The kernel, or this container, has no such setting; some can only be written.
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            String::new()
        }
        Err(error) => {
            found.gap(format!("{}: {error}", path.display()));
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    #[test]
    fn the_winning_file_and_the_running_value_are_told() {
        let tree = Tree::new("sysctl");
        tree.file("/usr/lib/sysctl.d/10-a.conf", "kernel.x = 1\nnet.ipv4.conf.*.f = 2\n# kernel.no=1\n");
        tree.file("/usr/lib/sysctl.d/50-b.conf", "kernel.x=9\n");
        tree.file("/etc/sysctl.d/50-b.conf", "-kernel/x =  3 4\nnet/ipv4/conf/eth0.1/g=5\nkernel.gone=1\n");
        tree.file("/proc/sys/kernel/x", "3\t4\n");
        tree.file("/proc/sys/net/ipv4/conf/all/f", "0\n");
        tree.file("/proc/sys/net/ipv4/conf/eth0.1/g", "5\n");
        let found = read(&tree.root());
        let seen: Vec<String> = found
            .entries
            .iter()
            .map(|record| match record {
                Record::Sysctl(s) => format!("{} {}: {} ({})", s.file, s.key, s.declared, s.running),
                _ => panic!("another section"),
            })
            .collect();
        assert_eq!(
            seen,
            [
                "/etc/sysctl.d/50-b.conf kernel.gone: 1 ()",
                "/etc/sysctl.d/50-b.conf kernel.x: 3 4 (3 4)",
                "/usr/lib/sysctl.d/10-a.conf net.ipv4.conf.all.f: 2 (0)",
                "/etc/sysctl.d/50-b.conf net.ipv4.conf.eth0/1.g: 5 (5)",
            ]
        );
        assert!(found.gaps.is_empty());
    }
}
