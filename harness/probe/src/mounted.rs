//! What is mounted, what `/etc/fstab` says should be, and swap.

use redrill_state::{Fstab, Mount, Section, Swap};

use crate::found::{Found, Root, digest};
use crate::mounts::unescape;

/// Mount points that come and go with logins, services and containers, and the harness's own.
const PASSING: [&str; 9] = [
    "/run/redrill",
    "/run/user/",
    "/run/credentials/",
    "/run/docker/",
    "/run/netns/",
    "/run/containers/",
    "/var/lib/docker/",
    "/var/lib/containers/",
    "/run/systemd/unit-root",
];
/// Systems that the kernel mounts when somebody looks.
const ON_DEMAND: [&str; 3] = ["autofs", "binfmt_misc", "rpc_pipefs"];
/// Options that are the engine's business, or no two mounts have the same.
const NO_FACT: [&str; 7] = ["lowerdir=", "upperdir=", "workdir=", "fd=", "pipe_ino=", "pgrp=", "inode64"];
/// Options that may hold a secret.
const SECRET: [&str; 4] = ["password=", "pass=", "username=", "credentials="];

pub(crate) fn mounts(root: &Root) -> Found {
    let mut found = Found::new(Section::Mounts);
    match root.text("/proc/self/mountinfo") {
        Ok(Some(text)) => text.lines().filter_map(mount).for_each(|mount| found.add(mount)),
        Ok(None) => found.gap("/proc/self/mountinfo: not there"),
        Err(error) => found.gap(format!("/proc/self/mountinfo: {error}")),
    }
    found
}

/// Format: proc_pid_mountinfo(5).
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
    let (&[_, _, _, directory, point, own, ..], &[kind, source, of_all]) = (left.as_slice(), right.as_slice()) else {
        return None;
    };
    let point = unescape(point);
    let passing = PASSING.iter().any(|passing| point.starts_with(passing));
    if passing || ON_DEMAND.contains(&kind) {
        return None;
    }
    let bound =
        if directory == "/" || kind == "overlay" { String::new() } else { format!("[{}]", unescape(directory)) };
    Some(Mount {
        point,
        source: format!("{}{bound}", unescape(source)),
        kind: kind.to_owned(),
        options: options(&format!("{own},{of_all}")),
    })
}

/// Sorted, each once, without what is no fact; secrets as digests.
fn options(text: &str) -> String {
    let fact = |option: &&str| !NO_FACT.iter().any(|start| option.starts_with(start));
    let shown = |option: &str| match SECRET.iter().find(|start| option.starts_with(**start)) {
        Some(start) => format!("{start}[{}]", &digest(option)[..12]),
        None => option.to_owned(),
    };
    let mut options: Vec<String> = text.split(',').filter(fact).map(shown).collect();
    options.sort();
    options.dedup();
    options.join(",")
}

pub(crate) fn fstab(root: &Root) -> Found {
    let mut found = Found::new(Section::Fstab);
    let text = found.text(root, "/etc/fstab").unwrap_or_default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        found.add(Fstab {
            source: unescape(word(0)),
            point: unescape(word(1)),
            kind: word(2).to_owned(),
            options: options(word(3)),
            passes: words.iter().skip(4).copied().collect::<Vec<_>>().join(" "),
        });
    }
    found
}

pub(crate) fn swap(root: &Root) -> Found {
    let mut found = Found::new(Section::Swap);
    let text = found.text(root, "/proc/swaps").unwrap_or_default();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // How much of it is used is no fact.
            &[path, kind, size, _, priority] => found.add(Swap {
                path: unescape(path),
                kind: kind.to_owned(),
                size: size.to_owned(),
                priority: priority.to_owned(),
            }),
            _ => found.gap(format!("/proc/swaps: `{line}`")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn mounts_of_logins_and_engines_are_no_facts() {
        let root = mount("22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro").expect("a mount");
        assert_eq!((root.point.as_str(), root.options.as_str()), ("/", "errors=remount-ro,relatime,rw"));
        let bound = mount("26 22 254:0 /var/lib /mnt/my\\040bind ro - ext4 /dev/vda rw").expect("a mount");
        assert_eq!((bound.point.as_str(), bound.source.as_str()), ("/mnt/my bind", "/dev/vda[/var/lib]"));
        let overlay = mount("1 0 0:9 / / rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c").expect("a mount");
        assert_eq!((overlay.source.as_str(), overlay.options.as_str()), ("overlay", "rw"));
        let shared = mount("1 0 0:9 / /srv rw - cifs //nas/x rw,password=hunter2").expect("a mount");
        assert!(!shared.options.contains("hunter2") && shared.options.contains("password=["), "{}", shared.options);
        for passing in
            ["/run/user/0", "/run/redrill", "/run/credentials/x.service", "/var/lib/docker/overlay2/x/merged"]
        {
            assert_eq!(mount(&format!("24 22 0:22 / {passing} rw - tmpfs tmpfs rw")), None);
        }
        assert_eq!(mount("24 22 0:22 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw,fd=38,pgrp=1"), None);
    }

    #[test]
    fn every_line_of_fstab_and_every_swap_is_an_entry() {
        let tree = Tree::new("mounted");
        tree.file(
            "/etc/fstab",
            "# x\nUUID=1 / ext4 noatime,errors=remount-ro 0 1\n/swap none swap sw\n/swap none swap sw\n",
        );
        tree.file("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/swap file\t1024 7 -2\n");
        assert_eq!(fstab(&tree.root()).entries.len(), 3);
        let swaps = swap(&tree.root());
        assert_eq!((swaps.entries.len(), swaps.gaps.len()), (1, 0));
        tree.file("/proc/swaps", "Filename\nbroken\n");
        assert_eq!(swap(&tree.root()).gaps.len(), 1);
    }
}
