//! Which file systems persist, and so belong to the machine's state.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Mount points, told apart.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    /// To be walked.
    pub(crate) walked: Vec<String>,
    /// Not to be entered, with the reason.
    pub(crate) left_out: BTreeMap<String, String>,
}

/// Kinds of file systems that live in memory or are windows into the kernel.
const VIRTUAL: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// In a container it is a directory of the host.
const OWN: &str = "/run/redrill";

/// A mount on which somebody may write what belongs to the machine's state, or what only lives in memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) point: String,
    /// All of its file system is there: else the rest of it may be the host's.
    pub(crate) whole: bool,
}

/// Those on which writers are watched.
pub(crate) fn watched() -> io::Result<Vec<Watched>> {
    Ok(watched_of(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

fn watched_of(text: &str) -> Vec<Watched> {
    let mut seen = BTreeSet::new();
    let mounts = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let (&[_, _, device, root, point, ..], kind) = (left.as_slice(), right.split(' ').next()?) else { return None };
        let is_ours = !VIRTUAL.contains(&kind) || ["tmpfs", "ramfs"].contains(&kind);
        let watched = Watched { point: unescape(point), whole: root == "/" };
        (is_ours && watched.point != OWN && seen.insert((device.to_owned(), root.to_owned()))).then_some(watched)
    });
    mounts.collect()
}

/// Reads the kernel's list of mounts.
pub(crate) fn read() -> io::Result<Mounts> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

/// Format: proc(5), `/proc/pid/mountinfo`.
fn parse(text: &str) -> Mounts {
    let mut mounts = Mounts::default();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let (&[_, _, device, root, point, ..], Some(kind)) = (left.as_slice(), right.split(' ').next()) else {
            continue;
        };
        let point = unescape(point);
        if point == OWN {
            mounts.left_out.insert(point, "the harness's own".to_owned());
        } else if VIRTUAL.contains(&kind) && point != "/" {
            mounts.left_out.insert(point, format!("{kind} does not persist"));
        } else if !seen.insert((device.to_owned(), root.to_owned())) {
            mounts.left_out.insert(point, "the same directory is mounted elsewhere".to_owned());
        } else {
            // Over an automount lies what it mounted.
            mounts.left_out.remove(&point);
            mounts.walked.push(point);
        }
    }
    mounts
}

/// The kernel writes blanks and backslashes in mount points as three octal digits.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::{Watched, parse, watched_of};

    const MOUNTINFO: &str = "\
        22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw\n\
        24 22 0:22 / /run rw,nosuid - tmpfs tmpfs rw\n\
        25 22 254:16 / /srv/my\\040data rw - xfs /dev/vdb rw\n\
        26 22 254:0 /var/lib /mnt/bind rw - ext4 /dev/vda rw\n\
        27 22 254:16 / /again rw - xfs /dev/vdb rw\n\
        28 24 8:1 /runs/1/shared /run/redrill rw - ext4 /dev/sda1 rw\n";

    #[test]
    fn only_persistent_file_systems_are_walked_and_each_once() {
        let mounts = parse(MOUNTINFO);
        assert_eq!(mounts.walked, ["/", "/srv/my data", "/mnt/bind"]);
        assert_eq!(mounts.left_out["/proc"], "proc does not persist");
        assert_eq!(mounts.left_out["/run/redrill"], "the harness's own");
        assert_eq!(mounts.left_out["/again"], "the same directory is mounted elsewhere");
    }

    #[test]
    fn what_lives_in_memory_is_watched_too_and_a_part_of_another_file_system_as_a_mount() {
        let watched = watched_of(MOUNTINFO);
        let mount = |point: &str, whole| Watched { point: point.to_owned(), whole };
        assert_eq!(
            watched,
            [mount("/", true), mount("/run", true), mount("/srv/my data", true), mount("/mnt/bind", false)]
        );
    }
}
