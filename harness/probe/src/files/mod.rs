//! Every path of the persistent file systems.
//!
//! Nothing is held but the piece that is being worked on: a million files take no more memory than ten thousand.

mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redrill_state::{Digest, FileEntry, FileKind, Header, Section, escape};

use crate::hashing::stamp;
use crate::known::{Kept, Known, Name, Past, Stamp};
use crate::mounts::Mounts;
use crate::sink::Sink;
use crate::walk::Walk;
use writer::Writer;

/// Paths worked on at once.
const PIECE: usize = 1024;
/// The file section of a capture that is being made.
pub(crate) struct Files {
    roots: Vec<PathBuf>,
    closed: BTreeSet<PathBuf>,
    known: Known<BufReader<File>>,
    list: PathBuf,
    /// The list that this capture leaves.
    name: Name,
    /// Whether the reader has the capture that left the list which is there.
    builds: bool,
    clock: i64,
}

impl Files {
    /// `list` has what is known, and then what this capture found. `bases` are lists whose captures the reader has.
    pub(crate) fn new(mounts: &Mounts, list: &Path, bases: &[String], clock: i64) -> io::Result<Self> {
        let (roots, known) = (roots(mounts), Known::open(list));
        let there = known.name().is_some_and(|name| bases.contains(&name.to_string()));
        // With several roots a walk is not in the order that stretches are told in.
        let builds = there && roots.len() == 1;
        let closed = mounts.left_out.keys().map(PathBuf::from).collect();
        Ok(Self { roots, closed, known, list: list.to_owned(), name: Name::new()?, builds, clock })
    }

    /// Tells the reader which list this capture leaves, and which it builds on.
    pub(crate) fn announce(&self, header: &mut Header) {
        header.list = self.name.to_string();
        let base = self.known.name().filter(|_| self.builds);
        header.base = base.map(|name| name.to_string()).unwrap_or_default();
    }

    /// Walks, hashes and writes; returns the databases of SQLite that it met. Paths that vanish on the way are no gap:
    /// they are not there.
    pub(crate) fn write<W: Write>(self, sink: &mut Sink<W>) -> io::Result<Vec<PathBuf>> {
        let Self { roots, closed, mut known, list, name, builds, clock } = self;
        let mut walk = Walk::new(roots, &closed);
        let mut writer = Writer::new(sink, Kept::create(&list, name), clock);
        let mut piece = Vec::with_capacity(PIECE);
        while let Some((path, metadata)) = walk.next() {
            match pending(path, &metadata, &mut known, builds) {
                Ok(pending) => piece.push(pending),
                Err(error) => writer.sink.gap(Section::Files, format!("{}: {error}", shown(path)))?,
            }
            if piece.len() == PIECE {
                writer.write(std::mem::replace(&mut piece, Vec::with_capacity(PIECE)))?;
            }
        }
        writer.write(piece)?;
        writer.end_stretch()?;
        for (path, error) in &walk.errors {
            writer.sink.gap(Section::Files, format!("{}: {error}", shown(path)))?;
        }
        writer.kept.finish();
        Ok(writer.databases)
    }
}

/// Where walks begin: what is mounted below a directory that is walked is met on the way.
fn roots(mounts: &Mounts) -> Vec<PathBuf> {
    let around = |point: &str| {
        let points = mounts.walked.iter().chain(mounts.left_out.keys());
        let outer = points.filter(|outer| outer.as_str() != point && Path::new(point).starts_with(outer.as_str()));
        outer.max_by_key(|outer| outer.len())
    };
    let begins = |point: &&String| around(point).is_none_or(|outer| mounts.left_out.contains_key(outer));
    let roots: BTreeSet<PathBuf> = mounts.walked.iter().filter(begins).map(PathBuf::from).collect();
    roots.into_iter().collect()
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// One path on its way to the sink.
struct Pending {
    path: PathBuf,
    seen: Seen,
    told: Told,
}

/// What the file system says of a path without being asked twice.
#[derive(Clone, Copy)]
struct Seen {
    kind: FileKind,
    mode: u32,
    uid: u32,
    gid: u32,
    stamp: Stamp,
}

/// How much of it must be told.
enum Told {
    /// It is as the base has it.
    AsBefore(Past),
    /// All; content that is known need not be read.
    Whole { target: Option<Box<str>>, xattrs: BTreeMap<String, String>, known: Option<Digest> },
}

fn pending(path: &Path, metadata: &Metadata, known: &mut Known<impl Read>, builds: bool) -> io::Result<Pending> {
    let seen = Seen::of(metadata);
    let past = known.past(path.as_os_str().as_bytes(), seen.stamp);
    let told = match past {
        Some(past) if builds && past.place > 0 => Told::AsBefore(past),
        _ => Told::Whole {
            target: target(path, seen.kind),
            xattrs: xattrs(path)?,
            known: past.and_then(|past| past.digest).filter(|_| seen.kind == FileKind::File),
        },
    };
    Ok(Pending { path: path.to_owned(), seen, told })
}

fn target(path: &Path, kind: FileKind) -> Option<Box<str>> {
    let target = (kind == FileKind::Symlink).then(|| std::fs::read_link(path).ok()).flatten();
    target.map(|target| shown(&target).into_boxed_str())
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Symlink,
            _ => FileKind::Special,
        };
        let mode = metadata.mode() & 0o7777;
        Self { kind, mode, uid: metadata.uid(), gid: metadata.gid(), stamp: stamp(metadata) }
    }

    fn entry(self, path: String) -> FileEntry {
        FileEntry {
            path,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: if self.kind == FileKind::File { self.stamp.size } else { 0 },
            digest: None,
            target: None,
            xattrs: BTreeMap::new(),
            ctime: self.stamp.ctime,
        }
    }
}

/// Extended attributes of the path itself, in hex. A file system without them has none.
pub(crate) fn xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
    use rustix::io::Errno;
    let mut names = [0_u8; 4096];
    let (mut longer, names) = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => (Vec::new(), &names[..length]),
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(BTreeMap::new()),
        Err(Errno::RANGE) => (vec![0; 65536], &names[..0]), // The kernel's own limit.
        Err(error) => return Err(error.into()),
    };
    let names = match longer.is_empty() {
        true => names,
        false => {
            let length = rustix::fs::llistxattr(path, &mut longer[..])?;
            &longer[..length]
        }
    };
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65536]; // The kernel's own limit.
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                found.insert(escape(name), value[..length].iter().map(|byte| format!("{byte:02x}")).collect());
            }
            Err(Errno::NODATA | Errno::NOENT) => {} // Removed since it was listed.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use crate::hashing::{self, Content};
    use redrill_state::{Capture, Reader};
    use std::os::unix::fs::PermissionsExt;

    /// The lines of a capture of the tree, with paths as if it were the root.
    fn written(tree: &Tree, left_out: &str, clock: i64, base: Option<&str>) -> String {
        let mut bytes = Vec::new();
        let root = tree.0.join("root").display().to_string();
        let mounts = Mounts {
            walked: vec![root.clone(), format!("{root}/own")],
            left_out: BTreeMap::from([(format!("{root}{left_out}"), "virtual".to_owned())]),
        };
        let bases: Vec<String> = base.into_iter().map(str::to_owned).collect();
        let files = Files::new(&mounts, &tree.0.join("digests"), &bases, clock).expect("names");
        let (mut sink, mut header) = (Sink::new(&mut bytes), Header::new(String::new(), clock));
        files.announce(&mut header);
        sink.header(header).expect("written");
        files.write(&mut sink).expect("written");
        sink.end().expect("written");
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("whole");
        text.replace(&root, "")
    }

    fn capture(tree: &Tree, left_out: &str, clock: i64) -> Capture {
        let mut reader = Reader::default();
        written(tree, left_out, clock, None).lines().for_each(|line| reader.line(line).expect("a record"));
        reader.finish().expect("whole")
    }

    /// The same by one who has this capture.
    fn capture_on(base: &Capture, tree: &Tree) -> (Capture, String) {
        let (mut reader, lines) = (Reader::default(), written(tree, "/none", LATER, Some(&base.header.list)));
        for line in lines.lines() {
            reader.line(line).expect("a record");
            if reader.builds_on() == Some(&base.header.list) {
                reader.base(base.files.clone());
            }
        }
        (reader.finish().expect("whole"), lines)
    }

    const LATER: i64 = i64::MAX;

    #[test]
    fn a_tree_is_recorded_without_what_is_closed_in_it() {
        let tree = Tree::new("files");
        tree.file("/root/mounted/other", "x");
        tree.file("/root/own/sub/x", "y");
        tree.file("/root/a", "content");
        tree.link("/root/link", "a");
        let seen = capture(&tree, "/mounted", LATER);
        assert!(seen.gaps.is_empty());
        let paths: Vec<&str> = seen.files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["", "/a", "/link", "/mounted", "/own", "/own/sub", "/own/sub/x"]);
        assert_eq!((seen.files["/a"].kind, seen.files["/a"].size), (FileKind::File, 7));
        assert_eq!(seen.files["/link"].target.as_deref(), Some("a"));
    }

    #[test]
    fn odd_names_pipes_and_loops_are_told_apart_and_do_not_stop_it() {
        use std::ffi::OsStr;
        let tree = Tree::new("odd");
        let path = tree.file("/root/plain", "1");
        for name in [&b"not\xffutf8"[..], b"not\xfeutf8", b"new\nline", b"back\\slash", b"\\xff", b" "] {
            std::fs::copy(&path, path.with_file_name(OsStr::from_bytes(name))).expect("copied");
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let pipe = path.with_file_name("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        tree.link("/root/loop/a", "../loop");
        tree.link("/root/loop/self", "self");
        let seen = capture(&tree, "/none", LATER);
        assert!(seen.gaps.is_empty(), "{:?}", seen.gaps);
        for path in ["/not\\xffutf8", "/not\\xfeutf8", "/new\\x0aline", "/back\\x5cslash", "/\\x5cxff", "/ "] {
            assert_eq!(seen.files[path].digest, seen.files["/plain"].digest, "{path}");
        }
        assert_eq!(seen.files["/pipe"].kind, FileKind::Special);
        assert_eq!(seen.files["/loop/a"].target.as_deref(), Some("../loop"));
        assert_eq!(seen.files.get("/loop/a/a"), None);
    }

    #[test]
    fn only_what_has_another_stamp_is_read_again() {
        let tree = Tree::new("again");
        let path = tree.file("/root/a", "1");
        tree.file("/root/b", "2");
        let first = capture(&tree, "/none", LATER);
        // Content that no stamp betrays: only a digest that was kept can still be the first one.
        let list = tree.0.join("digests");
        let kept = std::fs::read(&list).expect("kept");
        let digest = first.files["/a"].digest.expect("a file").0;
        let at = kept.windows(32).position(|bytes| bytes == digest).expect("in the list");
        let mut forged = kept.clone();
        forged[at] ^= 1;
        std::fs::write(&list, &forged).expect("written");
        assert_ne!(capture(&tree, "/none", LATER).files["/a"].digest, first.files["/a"].digest, "it was not read");
        std::fs::write(&list, &forged).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a new ctime");
        let again = capture(&tree, "/none", LATER);
        assert_eq!(again.files["/a"].digest, first.files["/a"].digest, "it was read again");
        assert_eq!(again.files["/b"].digest, first.files["/b"].digest);
    }

    #[test]
    fn what_is_as_the_base_has_it_is_told_in_stretches_and_the_rest_in_full() {
        let tree = Tree::new("stretches");
        for path in ["/root/a/1", "/root/a/2", "/root/a/2\\", "/root/a/3", "/root/b", "/root/c", "/root/d/1"] {
            tree.file(path, path);
        }
        tree.link("/root/link", "a");
        let su = tree.file("/root/su", "x");
        std::fs::set_permissions(su, std::fs::Permissions::from_mode(0o4755)).expect("set");
        let first = capture(&tree, "/none", LATER);
        let (second, lines) = capture_on(&first, &tree);
        assert_eq!((&second.files, &second.settings), (&first.files, &first.settings), "nothing has changed");
        let stretches: Vec<&str> = lines.lines().filter(|line| line.contains("\"same\"")).collect();
        assert_eq!(stretches.len(), 2, "the name with an escape lies between: {stretches:?}");
        assert_eq!(lines.matches("\"file\":{").count(), 1, "{lines}");
        // New, gone, changed, another mode: in a directory each, so that what lies around them is as before.
        tree.file("/root/d/0", "new");
        std::fs::remove_file(tree.0.join("root/b")).expect("removed");
        tree.file("/root/a/2", "changed");
        std::fs::set_permissions(tree.0.join("root/c"), std::fs::Permissions::from_mode(0o600)).expect("set");
        let (third, lines) = capture_on(&second, &tree);
        let whole = capture(&tree, "/none", LATER);
        assert_eq!((&third.files, &third.settings), (&whole.files, &whole.settings));
        assert!(lines.contains("\"same\"") && !lines.contains("\"/d/1\",\"kind\""), "{lines}");
        // Another list than the reader has: nothing is taken for known.
        let stranger = written(&tree, "/none", LATER, Some("00000000000000000000000000000000"));
        assert!(!stranger.contains("\"same\"") && !stranger.contains("\"base\""), "{stranger}");
    }

    #[test]
    fn several_roots_are_told_in_full() {
        let tree = Tree::new("roots");
        let [left, right] = ["left", "right"].map(|name| tree.0.join(name).display().to_string());
        tree.file("/left/a", "1");
        tree.file("/right/b", "1");
        let mounts = Mounts { walked: vec![left, right], ..Mounts::default() };
        let list = tree.0.join("list");
        let name = Name::new().expect("random");
        assert!(Kept::create(&list, name).finish());
        let files = Files::new(&mounts, &list, &[name.to_string()], LATER).expect("names");
        let mut header = Header::default();
        files.announce(&mut header);
        assert_eq!(header.base, "");
    }

    #[test]
    fn a_file_that_does_not_hold_still_is_a_gap_unless_it_may_change_all_the_time() {
        let tree = Tree::new("restless-gap");
        let content = tree.file("/content", "x");
        let gaps = |path: &str| {
            let mut bytes = Vec::new();
            let mut sink = Sink::new(&mut bytes);
            sink.header(Header::new(String::new(), 0)).expect("written");
            let kept = Kept::create(&tree.0.join("list"), Name::new().expect("random"));
            let mut writer = Writer::new(&mut sink, kept, LATER);
            let seen = Seen::of(&content.metadata().expect("there"));
            let read = Content { still: false, ..hashing::read(&content).expect("readable") };
            writer.whole(content.clone(), seen, seen.entry(path.to_owned()), Some(Ok(read))).expect("written");
            let mut reader = Reader::default();
            sink.end().expect("written");
            let mut text = String::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("whole");
            text.lines().for_each(|line| reader.line(line).expect("a record"));
            reader.finish().expect("whole").gaps.len()
        };
        assert_eq!((gaps("/etc/app.conf"), gaps("/var/log/syslog")), (1, 0));
    }

    #[test]
    fn what_changed_just_now_is_not_kept() {
        let tree = Tree::new("racy");
        tree.file("/root/a", "1");
        let seen = capture(&tree, "/none", crate::now());
        let digest = seen.files["/a"].digest.expect("a file").0;
        let kept = std::fs::read(tree.0.join("digests")).expect("a list");
        assert!(!kept.windows(32).any(|bytes| bytes == digest));
    }

    #[test]
    fn a_capture_needs_no_space_for_its_list() {
        let tree = Tree::new("full");
        tree.file("/root/a", "1");
        std::fs::create_dir(tree.0.join("digests.new")).expect("in the way");
        assert!(capture(&tree, "/none", LATER).files["/a"].digest.is_some());
    }

    #[test]
    fn rights_that_are_given_away_are_a_section_of_their_own() {
        let tree = Tree::new("exposed");
        for (path, mode) in [("/root/su", 0o4755), ("/root/open", 0o666), ("/root/sg", 0o2755), ("/root/plain", 0o644)]
        {
            let path = tree.file(path, "x");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
        }
        for (name, mode) in [("root/tmp", 0o1777), ("root/drop", 0o777)] {
            std::fs::create_dir(tree.0.join(name)).expect("made");
            std::fs::set_permissions(tree.0.join(name), std::fs::Permissions::from_mode(mode)).expect("set");
        }
        tree.link("/root/link", "plain");
        let seen = capture(&tree, "/none", LATER);
        let exposed: Vec<&String> = seen.settings[&Section::Exposed].keys().collect();
        assert_eq!(exposed, ["/drop", "/open", "/sg", "/su"]);
    }

    #[test]
    fn mounts_below_what_is_left_out_are_walked_on_their_own() {
        let mounts = Mounts {
            walked: ["/", "/srv", "/run/disk", "/run/disk/sub"].map(str::to_owned).to_vec(),
            left_out: BTreeMap::from([("/run".to_owned(), String::new())]),
        };
        assert_eq!(roots(&mounts), ["/", "/run/disk"].map(PathBuf::from));
    }
}
