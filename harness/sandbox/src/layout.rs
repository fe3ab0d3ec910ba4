//! The file system of a sealed program: what is mounted where, as the arguments of bubblewrap.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::absent::Tree;
use crate::cell::{Cell, USER, USER_ID};
use crate::etc;

/// Directories of programs, which are links into `/usr` on most hosts.
const PROGRAMS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What the kernel tells in `/proc` of the whole host: whose keys it holds, its memory, its timers.
const COVERED: [&str; 6] =
    ["/proc/keys", "/proc/key-users", "/proc/kcore", "/proc/kmsg", "/proc/timer_list", "/proc/sched_debug"];

/// How large what lies in memory may become: a deploy that fills it fails, and not the host.
const SCRATCH: &str = "2147483648";

/// One place of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    ReadOnly(PathBuf, PathBuf),
    Writable(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    /// In memory, gone with the program.
    Scratch(PathBuf),
    Processes(PathBuf),
    Devices(PathBuf),
    /// Nothing, in the place of a file of the kernel's.
    Covered(PathBuf),
}

impl Part {
    /// Where it comes to lie in the tree of places.
    fn mark(&self, tree: &mut Tree) {
        match self {
            Self::ReadOnly(from, to) if from.is_dir() => tree.directory(to),
            Self::ReadOnly(_, to) => tree.file(to),
            Self::Writable(_, path) | Self::Scratch(path) | Self::Processes(path) | Self::Devices(path) => {
                tree.directory(path);
            }
            Self::Link(path, target) => tree.link(path, target),
            Self::Covered(_) => {}
        }
    }

    /// The arguments; links are part of a tree that has them.
    fn words(&self, place: &Path, rooted: bool) -> Vec<OsString> {
        if let Self::Processes(path) = self {
            return processes(path);
        }
        let words: &[&dyn AsRef<std::ffi::OsStr>] = match self {
            Self::ReadOnly(from, to) => &[&"--ro-bind", from, to],
            Self::Writable(from, to) => &[&"--bind", from, to],
            Self::Link(..) if rooted => &[],
            Self::Link(path, target) => &[&"--symlink", target, path],
            Self::Scratch(path) => &[&"--perms", &"1777", &"--size", &SCRATCH, &"--tmpfs", path],
            Self::Processes(_) => &[],
            Self::Devices(path) => return devices(path, place),
            Self::Covered(path) => &[&"--ro-bind", &"/dev/null", path],
        };
        words.iter().map(|word| word.as_ref().to_owned()).collect()
    }
}

/// Devices that every program needs. They are the host's own: where the caller is root their modes are the program's to
/// change, unless what it sees is mounted read-only, which hinders nobody from writing to a device.
pub(crate) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Where the warden has mounted them so, in a cell's place.
pub(crate) const DEVICES_PLACE: &str = "devices";

fn devices(path: &Path, place: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--dev".into(), path.into()];
    words.extend(["--perms", "1777", "--size", SCRATCH, "--tmpfs"].map(OsString::from));
    words.push(path.join("shm").into());
    for name in DEVICES {
        words.push("--dev-bind".into());
        words.extend([place.join(DEVICES_PLACE).join(name).into(), path.join(name).into()]);
    }
    words
}

/// What of `/proc` is the whole kernel's, and not a process's. Where the caller is root its files are the program's to
/// write, capabilities or not: `kernel.core_pattern` names a program that runs as root on the host. bubblewrap covers
/// only directories that are writable themselves.
const KERNEL: [&str; 8] = ["acpi", "bus", "fs", "irq", "mtrr", "pressure", "scsi", "sys"];

fn processes(path: &Path) -> Vec<OsString> {
    let kernel =
        KERNEL.iter().flat_map(|name| ["--ro-bind-try".into(), Path::new("/proc").join(name), path.join(name)]);
    [PathBuf::from("--proc"), path.to_owned()].into_iter().chain(kernel).map(PathBuf::into_os_string).collect()
}

/// Everything that is mounted, in order: what comes later lies upon what came before.
pub(crate) fn parts(cell: &Cell, place: &Path) -> Vec<Part> {
    let same = |path: &Path| Part::ReadOnly(path.to_owned(), path.to_owned());
    let mut parts = vec![same(Path::new("/usr"))];
    for directory in PROGRAMS.map(Path::new) {
        match std::fs::read_link(directory) {
            Ok(target) => parts.push(Part::Link(directory.to_owned(), target)),
            Err(_) => parts.extend(directory.is_dir().then(|| same(directory))),
        }
    }
    parts.extend(etc::SHARED.iter().map(Path::new).filter(|path| path.exists()).map(same));
    for (name, _) in etc::files(cell, USER) {
        parts.push(Part::ReadOnly(place.join("etc").join(name), Path::new("/etc").join(name)));
    }
    parts.extend([Part::Processes("/proc".into()), Part::Devices("/dev".into())]);
    parts.extend(COVERED.iter().map(Path::new).filter(|path| path.exists()).map(|path| Part::Covered(path.into())));
    parts.extend(["/tmp", "/var/tmp"].map(|path| Part::Scratch(path.into())));
    parts.extend(cell.read_only.iter().map(|path| same(path)));
    parts.extend(cell.writable.iter().map(|path| Part::Writable(path.clone(), path.clone())));
    parts.extend(cell.moved_writable.iter().cloned().map(|(from, to)| Part::Writable(from, to)));
    parts.extend(cell.moved.iter().cloned().map(|(from, to)| Part::ReadOnly(from, to)));
    parts
}

/// The places at which something is mounted.
pub(crate) fn tree(cell: &Cell, place: &Path) -> Tree {
    let mut tree = Tree::new();
    parts(cell, place).iter().for_each(|part| part.mark(&mut tree));
    tree.directory(Path::new("/run"));
    tree
}

/// The arguments up to the program; `filter` is the open descriptor of the system call filter, `root` where the tree of
/// places is mounted, if it is.
pub(crate) fn arguments(cell: &Cell, place: &Path, root: Option<&Path>, filter: i32) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add =
        |parts: &[&dyn AsRef<std::ffi::OsStr>]| words.extend(parts.iter().map(|part| part.as_ref().to_owned()));
    for namespace in ["--unshare-user", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--unshare-cgroup-try"] {
        add(&[&namespace]);
    }
    // In one of its own it would be root again: of mounts, of another network that nobody watches, of the host's cgroups.
    add(&[&"--disable-userns"]);
    let user = USER_ID.to_string();
    add(&[&"--uid", &user, &"--gid", &user, &"--cap-drop", &"ALL", &"--die-with-parent", &"--new-session"]);
    add(&[&"--hostname", &cell.host_name, &"--seccomp", &filter.to_string()]);
    if let Some(root) = root {
        add(&[&"--ro-bind", &root, &"/"]);
    }
    words.extend(parts(cell, place).iter().flat_map(|part| part.words(place, root.is_some())));
    let mut add =
        |parts: &[&dyn AsRef<std::ffi::OsStr>]| words.extend(parts.iter().map(|part| part.as_ref().to_owned()));
    add(&[&"--remount-ro", &"/", &"--clearenv"]);
    for (name, value) in &cell.environment {
        add(&[&"--setenv", name, value]);
    }
    add(&[&"--chdir", &cell.directory]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::tests::cell;

    #[test]
    fn nothing_of_the_host_is_mounted_but_programs_and_what_the_cell_names() {
        let mut cell = cell(Vec::new());
        cell.writable = vec!["/runs/x/servers".into()];
        cell.environment.insert("A".to_owned(), "b c".to_owned());
        let words = arguments(&cell, Path::new("/place"), None, 9);
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut binds = words.windows(3).filter(|words| ["--bind", "--ro-bind"].contains(&words[0].as_str()));
        let allowed = |from: &str| {
            let system = ["/usr", "/bin", "/sbin", "/lib", "/place/etc/", "/runs/x/servers"];
            let kernels = from == "/dev/null";
            kernels || system.iter().any(|start| from.starts_with(start)) || etc::SHARED.contains(&from)
        };
        assert!(binds.all(|words| allowed(&words[1])), "{words:?}");
        assert!(words.windows(3).any(|words| words == ["--bind", "/runs/x/servers", "/runs/x/servers"]));
        assert!(words.windows(3).any(|words| words == ["--setenv", "A", "b c"]));
        let rooted = arguments(&cell, Path::new("/place"), Some(Path::new("/place/root")), 9);
        assert!(rooted.windows(3).any(|words| words == ["--ro-bind", "/place/root", "/"]));
        assert!(!rooted.contains(&OsString::from("--symlink")), "the tree has them");
    }
}
