//! The root of a sealed file system: it holds the places at which others are mounted, and sees what else is looked for.
//!
//! A path that is not there costs one question to the warden; all others are answered by what is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEntry, Request, Session, SessionACL,
};
use rustix::mount::MountFlags;

use crate::ledger::{Attempt, Protocol, Writer};
use crate::watch::now;

/// What is there stays as it is.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// What is not there may come to be there.
const FOR_A_WHILE: Duration = Duration::from_secs(60);

/// What programs of the system look for each time they start, and do without: no wish of the repo's.
const LOOKED_FOR: &[&str] = &[
    "/etc/bash.bashrc",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/gss",
    "/etc/host.conf",
    "/etc/inputrc",
    "/etc/krb5.conf",
    "/etc/locale.alias",
    "/etc/pip.conf",
    "/etc/profile",
    "/etc/selinux",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/ssh/ssh_config",
    "/etc/ssh/ssh_config.d",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ssh/ssh_known_hosts2",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/run/mount",
    "/run/nscd",
    "/run/systemd",
    "/sys",
    "/var/lib/sss",
];

/// Where a system keeps its own. What everybody may read there and its packages brought, many programs look at.
const SYSTEM: [&str; 5] = ["/etc", "/run", "/var", "/boot", "/.dockerenv"];
/// The same, made by the system itself.
const STATE: [&str; 7] =
    ["/.dockerenv", "/etc/apt", "/etc/dpkg", "/etc/iproute2", "/etc/mtab", "/var/lib/dbus", "/var/lib/dpkg"];
/// Which package brought which file, on Debian.
const LISTS: &str = "/var/lib/dpkg/info";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory(BTreeMap<OsString, u64>),
    File,
    Link(PathBuf),
}

/// The places of a sealed file system, by number; the first is the root.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    nodes: Vec<(PathBuf, Node)>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![(PathBuf::from("/"), Node::Directory(BTreeMap::new()))] }
    }

    pub(crate) fn directory(&mut self, path: &Path) {
        self.add(path, Node::Directory(BTreeMap::new()));
    }

    pub(crate) fn file(&mut self, path: &Path) {
        self.add(path, Node::File);
    }

    pub(crate) fn link(&mut self, path: &Path, target: &Path) {
        self.add(path, Node::Link(target.to_owned()));
    }

    /// What lies above is made where it is missing; what is there already stays.
    fn add(&mut self, path: &Path, node: Node) {
        let mut above = 0;
        let parts: Vec<&OsStr> = path.iter().skip(1).collect();
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            let next = self.nodes.len() as u64;
            let Node::Directory(children) = &mut self.nodes[above].1 else { return };
            let here = *children.entry((*part).to_owned()).or_insert(next);
            if here == next {
                let path = self.nodes[above].0.join(part);
                let node = if last { node.clone() } else { Node::Directory(BTreeMap::new()) };
                self.nodes.push((path, node));
            }
            above = usize::try_from(here).unwrap_or(0);
        }
    }

    fn get(&self, inode: INodeNo) -> Option<&(PathBuf, Node)> {
        self.nodes.get(usize::try_from(inode.0.checked_sub(1)?).ok()?)
    }

    fn attributes(&self, number: u64) -> Option<FileAttr> {
        let (_, node) = self.nodes.get(usize::try_from(number).ok()?)?;
        let (kind, perm, size) = match node {
            Node::Directory(_) => (FileType::Directory, 0o755, 0),
            Node::File => (FileType::RegularFile, 0o444, 0),
            Node::Link(target) => (FileType::Symlink, 0o777, target.as_os_str().len() as u64),
        };
        let epoch = UNIX_EPOCH;
        Some(FileAttr {
            ino: INodeNo(number + 1),
            size,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// Serves a [`Tree`], and writes down what else is looked for and is there on the host.
struct Absent {
    tree: Tree,
    /// Where it is mounted.
    place: PathBuf,
    remote: Vec<PathBuf>,
    told: Mutex<BTreeSet<PathBuf>>,
    ledger: Arc<Mutex<Writer>>,
}

impl Absent {
    /// Something asked for `path`, or for what lies below it: that is told if it is there on the host. Whether nothing
    /// below it can ever be worth telling.
    fn missed(&self, path: &Path, process: u32) -> bool {
        // What the host has not, nobody could have read there.
        let nothing = is_looked_for(&without_link(path)) || !self.host_has(path);
        if !nothing {
            self.tell(path, process);
        }
        nothing
    }

    fn tell(&self, path: &Path, process: u32) {
        let whole = asked_for(process, path);
        let path = &without_link(whole.as_deref().unwrap_or(path));
        if is_looked_for(path) || !self.host_has(path) {
            return;
        }
        if !self.told.lock().expect("no panic while it is held").insert(path.to_owned()) {
            return;
        }
        let protocol = if is_systems(path) { Protocol::SystemFile } else { Protocol::File };
        let name = Some(path.to_string_lossy().into_owned());
        let attempt = Attempt { time: now(), protocol, address: None, port: 0, name };
        // A ledger that cannot be written has no end, and whoever reads it knows.
        let _ = self.ledger.lock().expect("no panic while it is held").attempt(attempt);
    }

    /// Whether the host has it. What lies in this very file system is not asked for, which would wait for ourselves; what
    /// lies in one of a network is taken to be there, since to ask would be to go there.
    fn host_has(&self, path: &Path) -> bool {
        if path.starts_with(&self.place) {
            return false;
        }
        self.remote.iter().any(|mount| path.starts_with(mount)) || std::fs::symlink_metadata(path).is_ok()
    }
}

/// `/var/run` is `/run`, on every host of today.
fn without_link(path: &Path) -> PathBuf {
    let parts: PathBuf = path.iter().collect();
    match parts.strip_prefix("/var/run") {
        Ok(rest) if rest.as_os_str().is_empty() => "/run".into(),
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => parts,
    }
}

/// A file or directory of the system that everybody may read, and no operator wrote.
fn is_systems(path: &Path) -> bool {
    let system = SYSTEM.iter().any(|known| path.starts_with(known));
    let open = |about: std::fs::Metadata| (about.is_file() || about.is_dir()) && about.mode() & 0o004 != 0;
    let known = || STATE.iter().any(|known| path.starts_with(known)) || is_packaged(path);
    system && std::fs::metadata(path).is_ok_and(open) && known()
}

/// Whether a package brought it. Where nobody knows, it passes for that.
fn is_packaged(path: &Path) -> bool {
    let Ok(lists) = std::fs::read_dir(LISTS) else { return true };
    let lists =
        lists.flatten().map(|entry| entry.path()).filter(|list| list.extension().is_some_and(|end| end == "list"));
    let path = path.to_string_lossy();
    lists.filter_map(|list| std::fs::read_to_string(list).ok()).any(|list| list.lines().any(|line| line == path))
}

/// Mounts that answer by a network, or by another program.
fn remote_mounts() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let far = ["autofs", "nfs", "cifs", "smb", "ceph", "9p", "fuse", "afs"].iter().any(|far| kind.starts_with(far));
        far.then(|| place.split(' ').nth(4).map(PathBuf::from)).flatten()
    };
    text.lines().filter_map(mount).collect()
}

fn is_looked_for(path: &Path) -> bool {
    LOOKED_FOR.iter().any(|known| path.starts_with(known)) || path.to_string_lossy().starts_with("/etc/python")
}

/// Longer than any path.
const LONGEST: usize = 4096;
/// A path is among the first arguments of every call that takes one.
const ARGUMENTS: usize = 3;

/// The whole path that a process is asking for, of which `start` is not there: read from the call that waits for us.
/// Nothing, where the kernel does not let us.
fn asked_for(process: u32, start: &Path) -> Option<PathBuf> {
    let call = std::fs::read_to_string(format!("/proc/{process}/syscall")).ok()?;
    let memory = std::fs::File::open(format!("/proc/{process}/mem")).ok()?;
    let pointers = call.split(' ').skip(1).take(ARGUMENTS);
    let pointers = pointers.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let start = start.to_str()?;
    pointers.filter(|pointer| *pointer > 0xffff).find_map(|pointer| {
        let mut text = vec![0; LONGEST];
        let length = FileExt::read_at(&memory, &mut text, pointer).ok()?;
        // The address of a socket begins with its family.
        [0, 2].into_iter().find_map(|at| {
            let path = text.get(at..length)?.split(|byte| *byte == 0).next()?;
            let path = std::str::from_utf8(path).ok()?;
            (path == start || path.strip_prefix(start)?.starts_with('/')).then(|| PathBuf::from(path))
        })
    })
}

impl Filesystem for Absent {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Every start of a program goes by the link to its loader. A kernel that keeps no links asks each time.
        let _ = config.add_capabilities(InitFlags::FUSE_CACHE_SYMLINKS);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some((path, Node::Directory(children))) = self.tree.get(parent) else { return reply.error(Errno::ENOENT) };
        match children.get(name).and_then(|number| self.tree.attributes(*number)) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => {
                let nothing = self.missed(&path.join(name), request.pid());
                // The kernel remembers an entry without a number as one that is not there: programs ask for some of these
                // each time they start.
                match self.tree.attributes(0).filter(|_| nothing) {
                    Some(root) => {
                        reply.entry(&FOR_A_WHILE, &FileAttr { ino: INodeNo(0), ..root }, Generation(0));
                    }
                    None => reply.error(Errno::ENOENT),
                }
            }
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match inode.0.checked_sub(1).and_then(|number| self.tree.attributes(number)) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.tree.get(inode) {
            Some((_, Node::Link(target))) => reply.data(target.as_os_str().as_encoded_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some((_, Node::Directory(children))) = self.tree.get(inode) else { return reply.error(Errno::ENOTDIR) };
        let entries = children.iter().filter_map(|(name, number)| Some((name, self.tree.attributes(*number)?)));
        for (at, (name, attributes)) in entries.enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(attributes.ino, at as u64 + 1, attributes.kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// Whether this user may see which files a sealed program looks for.
pub fn can_see_files() -> io::Result<()> {
    device().map(drop)
}

fn device() -> io::Result<std::fs::File> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse")
}

/// Mounts `tree` at `place`, for as long as this process lives. An error where this host or this user has no FUSE.
pub(crate) fn mount(tree: Tree, place: &Path, ledger: &Arc<Mutex<Writer>>) -> io::Result<()> {
    std::fs::create_dir_all(place)?;
    let remote = remote_mounts(); // Before ours is one of them.
    let device = device()?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&device);
    let options = std::ffi::CString::new(format!("fd={number},rootmode=40000,user_id=0,group_id=0"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount("redrill", place, "fuse", flags, Some(options.as_c_str()))?;
    let place = place.to_owned();
    let absent = Absent { tree, place, remote, told: Mutex::default(), ledger: Arc::clone(ledger) };
    let session = Session::from_fd(absent, device.into(), SessionACL::All, fuser::Config::default())?;
    // It ends with the process; the mount goes with the process's namespace.
    std::mem::forget(session.spawn()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_hold_what_lies_above_them_and_the_first_word_counts() {
        let mut tree = Tree::new();
        tree.directory(Path::new("/home/ann/runs/x"));
        tree.file(Path::new("/etc/passwd"));
        tree.link(Path::new("/bin"), Path::new("usr/bin"));
        tree.directory(Path::new("/etc/passwd/never"));
        tree.file(Path::new("/home/ann"));
        let paths: Vec<String> = tree.nodes.iter().map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(
            paths,
            ["/", "/home", "/home/ann", "/home/ann/runs", "/home/ann/runs/x", "/etc", "/etc/passwd", "/bin"]
        );
        assert!(matches!(tree.nodes[2].1, Node::Directory(_)));
        assert_eq!(tree.attributes(7).expect("there").kind, FileType::Symlink);
        assert!(tree.attributes(8).is_none() && tree.get(INodeNo(0)).is_none());
    }
}
