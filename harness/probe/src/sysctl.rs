//! Kernel settings: what files declare, and the value that the kernel has, of all that can be read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redrill_state::{Section, Sysctl};

use crate::found::{Found, Root, squeeze};
use crate::network::is_of_container as is_container_link;
use crate::sshd::fits;

/// The strongest first: a file hides those of its name in weaker directories.
const DIRECTORIES: [&str; 4] = ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"];
const VALUES: &str = "/proc/sys";
/// What a container has for itself.
const OWN: [&str; 6] = ["fs/mqueue/", "kernel/domainname", "kernel/msg", "kernel/sem", "kernel/shm", "net/"];
/// What counts, is made up anew at each look, or is moved by the kernel itself; and secrets. The host's name is told on
/// its own. Some of these do something when they are read.
const MOVES: [&str; 20] = [
    "fs/aio-nr",
    "fs/binfmt_misc",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "kernel/cad_pid",
    "kernel/hostname",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random",
    "kernel/tainted",
    "net/ipv4/route/flush",
    "net/ipv4/tcp_fastopen_key",
    "net/ipv6/conf/*/stable_secret",
    "net/ipv6/route/flush",
    "net/netfilter/nf_conntrack_count",
    "vm/stat_refresh",
];

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
    let undeclared = values(root).into_iter().filter(|(key, _)| !declared.contains_key(key)).collect::<Vec<_>>();
    for (key, (declared, file)) in declared {
        let running = running(root, &mut found, &key);
        found.add(Sysctl { key, declared, file, running });
    }
    for (key, running) in undeclared {
        found.add(Sysctl { key, running, ..Sysctl::default() });
    }
    found
}

/// What the kernel has, by name. In a container only what is its own: the rest is its host's, which others change.
fn values(root: &Root) -> Vec<(String, String)> {
    let mut values = Vec::new();
    let own = root.is_container().then_some(OWN);
    walk(root, "", own.as_ref().map(<[&str; 6]>::as_slice), &mut values);
    values
}

fn walk(root: &Root, inside: &str, own: Option<&[&str]>, values: &mut Vec<(String, String)>) {
    for path in root.list(Path::new(VALUES).join(inside)).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let inside = if inside.is_empty() { name.to_string() } else { format!("{inside}/{name}") };
        let foreign = own.is_some_and(|own| !own.iter().any(|own| inside.starts_with(own) || own.starts_with(&inside)));
        if foreign || is_container_link(&name) || MOVES.iter().any(|moves| fits(moves, &inside)) {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            walk(root, &inside, own, values);
        } else if metadata.permissions().mode() & 0o444 != 0
            && let Ok(text) = fs::read_to_string(&path)
        {
            values.push((path_of(&inside), squeeze(&text)));
        }
    }
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
