//! A cell as a container of an engine, seen from outside: what is mounted where, and the wire to the warden in it.
//!
//! The wire is a socket to which the container's first process connects before it starts anything; there is no second
//! connection. Over it the warden gets the cell and the places for what the program prints, and tells what the program
//! wanted and how it ended: none of that lies where a program in the container, its root included, could change it.
//! It is a leash too: when this end breaks, the container's first process ends, and the container with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::etc;
use crate::layout::{self, Part};
use crate::ledger::{Line, Writer};

/// Nobody but the warden looks into it.
pub const PRIVATE: &str = "/run/redrill/warden";
/// Where the warden finds the wire.
pub(crate) const WIRE: &str = "/run/redrill/warden/wire";
/// Where it finds the sockets to which connections are carried.
const LEADS: &str = "/run/redrill/warden/leads";
/// Where the `redrill` program lies.
pub const PROGRAM: &str = "/run/redrill/redrill";
/// The wire's name in a cell's place.
const SOCKET: &str = "wire.sock";

/// A file or directory of the host in the container. What is mounted below it on the host is no part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub from: PathBuf,
    /// In the container.
    pub to: PathBuf,
    /// Otherwise it is only read.
    pub writable: bool,
}

/// What a container must have to be a cell.
#[derive(Debug)]
pub struct Enclosure {
    /// One for each place.
    pub mounts: Vec<Mount>,
    /// Places in memory that everybody may write to.
    pub scratch: Vec<PathBuf>,
    /// Links in its root, and their targets.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Its host name.
    pub host_name: String,
    place: PathBuf,
    task: Task,
    listener: UnixListener,
}

/// What the warden is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) cell: Cell,
    pub(crate) words: Vec<OsString>,
    /// User and group that the program is.
    pub(crate) user: (u32, u32),
}

impl Enclosure {
    /// Of the cell that [`Cell::write`] wrote to `place`. `program` is the `redrill` binary, `user` the owner of the
    /// caller's files as the container sees them.
    pub fn open(place: &Path, program: &Path, user: (u32, u32), words: &[OsString]) -> io::Result<Self> {
        let mut cell = Cell::read(place)?;
        etc::write(&cell, user, &place.join("etc"))?;
        let (mut binds, mut scratch, mut links) = (Vec::new(), Vec::new(), Vec::new());
        for part in layout::parts(&cell, place) {
            match part {
                Part::ReadOnly(from, to) => binds.push(Mount { from, to, writable: false }),
                Part::Writable(from, to) => binds.push(Mount { from, to, writable: true }),
                Part::Link(path, target) => links.push((path, target)),
                Part::Scratch(path) => scratch.push(path),
                // Every container has them.
                Part::Processes(_) | Part::Devices(_) | Part::Covered(_) => {}
            }
        }
        binds.extend(lead_through(&mut cell));
        let listener = listen(place)?;
        for (from, to) in [(program, PROGRAM), (&place.join(SOCKET), WIRE)] {
            binds.push(Mount { from: from.to_owned(), to: to.into(), writable: false });
        }
        let mounts = with_those_below(binds, &mount_points(&std::fs::read("/proc/self/mountinfo")?));
        let (host_name, place) = (cell.host_name.clone(), place.to_owned());
        let task = Task { cell, words: words.to_vec(), user };
        Ok(Self { mounts, scratch, links, host_name, place, task, listener })
    }

    /// Waits for the warden, gives it its task and this process's standard output and error, and keeps the ledger to
    /// the program's end: returns its exit status. An error where the warden is lost before.
    pub fn serve(self) -> io::Result<u8> {
        let (wire, _) = self.listener.accept()?;
        drop(self.listener);
        let _ = std::fs::remove_file(self.place.join(SOCKET));
        self.task.send(&wire)?;
        let mut ledger = Writer::open(&self.place)?;
        for line in BufReader::new(wire).lines() {
            match serde_json::from_str(&line?)? {
                Line::Ended(status) => return Ok(status),
                line => ledger.line(&line)?,
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the container ended before the program did"))
    }
}

impl Task {
    /// With the places for what the program prints.
    fn send(&self, wire: &UnixStream) -> io::Result<()> {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let places = [stdout.as_fd(), stderr.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&places));
        rustix::net::sendmsg(wire, &[IoSlice::new(b"\n")], &mut control, SendFlags::NOSIGNAL)?;
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        (&*wire).write_all(&text)
    }

    /// What [`Task::send`] sent.
    pub(crate) fn receive(wire: &UnixStream) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        rustix::net::recvmsg(wire, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut places = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(places) => Some(places),
            _ => None,
        });
        let mut places = places.next().into_iter().flatten();
        let (Some(stdout), Some(stderr)) = (places.next(), places.next()) else {
            return Err(io::Error::other("the wire brought no places for what is printed"));
        };
        let mut text = String::new();
        BufReader::new(wire).read_line(&mut text)?;
        Ok((serde_json::from_str(&text)?, stdout, stderr))
    }
}

/// A socket's path has at most 107 bytes, a run directory may have more: by way of the open directory.
fn listen(place: &Path) -> io::Result<UnixListener> {
    let directory = File::open(place)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// Lets the cell's leads name the sockets as the warden finds them; returns what must be mounted for that.
fn lead_through(cell: &mut Cell) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for lead in &mut cell.leads {
        let (Some(directory), Some(name)) = (lead.socket.parent(), lead.socket.file_name()) else { continue };
        let known = mounts.iter().find(|mount| mount.from == directory).map(|mount| mount.to.clone());
        let to = known.unwrap_or_else(|| {
            let to = Path::new(LEADS).join(mounts.len().to_string());
            mounts.push(Mount { from: directory.to_owned(), to: to.clone(), writable: false });
            to
        });
        lead.socket = to.join(name);
    }
    mounts
}

/// The binds, and for each the file systems that are mounted below it on the host, which an engine would leave out or
/// leave writable. Of two at one place the later counts.
fn with_those_below(binds: Vec<Mount>, points: &[PathBuf]) -> Vec<Mount> {
    let mut all: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    for bind in binds {
        let below = points.iter().filter_map(|point| {
            let rest = point.strip_prefix(&bind.from).ok().filter(|rest| !rest.as_os_str().is_empty())?;
            Some(Mount { from: point.clone(), to: bind.to.join(rest), writable: bind.writable })
        });
        let below: Vec<Mount> = below.collect();
        for mount in std::iter::once(bind).chain(below) {
            all.insert(mount.to.clone(), mount);
        }
    }
    all.into_values().collect()
}

/// The places of `/proc/self/mountinfo`, whose fifth field has blanks and the like as octal numbers.
fn mount_points(text: &[u8]) -> Vec<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    fields.map(|field| PathBuf::from(OsString::from_vec(unescaped(field)))).collect()
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let number = more.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (first, number) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::tests::{cell, lead};

    fn mount(from: &str, to: &str, writable: bool) -> Mount {
        Mount { from: from.into(), to: to.into(), writable }
    }

    #[test]
    fn what_is_mounted_below_is_as_writable_as_what_it_lies_in() {
        let info =
            b"1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 / /usr/my\\040own rw - ext4 x rw\n3 1 8:1 / /usrlocal rw - e x rw\n";
        let points = mount_points(info);
        assert_eq!(points, ["/", "/usr/my own", "/usrlocal"].map(PathBuf::from));
        let all = with_those_below(vec![mount("/usr", "/usr", false), mount("/a", "/b", true)], &points);
        let below = mount("/usr/my own", "/usr/my own", false);
        assert_eq!(all, [mount("/a", "/b", true), mount("/usr", "/usr", false), below]);
    }

    #[test]
    fn of_two_at_one_place_the_later_counts() {
        let all = with_those_below(vec![mount("/a", "/x", true), mount("/b", "/x", false)], &[]);
        assert_eq!(all, [mount("/b", "/x", false)]);
    }

    #[test]
    fn leads_are_found_where_the_program_cannot_look() {
        let mut cell = cell(vec![lead("a", &[], 22), lead("b", &[], 22)]);
        cell.leads[1].socket = "/other/b".into();
        let mounts = lead_through(&mut cell);
        assert_eq!(mounts.len(), 2);
        for (lead, mount) in cell.leads.iter().zip(&mounts) {
            assert!(lead.socket.starts_with(PRIVATE) && lead.socket.starts_with(&mount.to), "{lead:?}");
        }
    }

    #[test]
    fn a_container_holds_what_the_cell_names_and_nothing_of_its_place() {
        let place = tempfile::tempdir().expect("a directory");
        let inside = place.path().join("cell");
        let mut cell = cell(Vec::new());
        let own = place.path().join("own");
        cell.writable.push(own.clone());
        cell.write(&inside).expect("written");
        let open = Enclosure::open(&inside, Path::new("/opt/redrill"), (7, 8), &["true".into()]).expect("opened");
        assert!(!open.mounts.iter().any(|mount| inside.starts_with(&mount.from)), "{:?}", open.mounts);
        let writable: Vec<_> = open.mounts.iter().filter(|mount| mount.writable).collect();
        assert_eq!(writable, [&mount(&own.display().to_string(), &own.display().to_string(), true)]);
        let passwd = std::fs::read_to_string(inside.join("etc/passwd")).expect("made");
        assert!(passwd.starts_with("redrill:x:7:8:"), "{passwd}");
    }
}
