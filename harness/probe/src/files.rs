//! Every path of the persistent file systems.
//!
//! Nothing is held but the piece that is being worked on: a million files take no more memory than ten thousand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redrill_state::{Digest, Exposure, FileEntry, FileKind, Section, class_of, escape};

use crate::hashing::{self, Content, Unread, in_parallel, stamp};
use crate::known::{Kept, Known, Stamp};
use crate::mounts::Mounts;
use crate::sink::Sink;
use crate::walk::Walk;

/// A file that changed this shortly before the capture may change again within the same tick of the clock, without a
/// new ctime: its digest is used once and not kept.
const RACY: i64 = 2_000_000_000;
/// Paths worked on at once.
const PIECE: usize = 1024;
/// Where applications keep their databases, and how SQLite's begin.
const DATA: [&str; 4] = ["/var/lib/", "/srv/", "/opt/", "/home/"];
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Databases of SQLite looked into at most.
const DATABASES: usize = 64;

/// One path on its way to the sink.
struct Pending {
    path: PathBuf,
    stamp: Stamp,
    entry: FileEntry,
    known: Option<Digest>,
}

/// Walks, hashes and writes; returns the databases of SQLite that it met. `list` has the digests that are known, and
/// then those of this capture. Paths that vanish on the way are no gap: they are not there.
pub(crate) fn write<W: Write>(
    sink: &mut Sink<W>,
    mounts: &Mounts,
    list: &Path,
    clock: i64,
) -> io::Result<Vec<PathBuf>> {
    let closed: BTreeSet<PathBuf> = mounts.left_out.keys().map(PathBuf::from).collect();
    let mut walk = Walk::new(roots(mounts), &closed);
    let mut writer = Writer { sink, kept: Kept::create(list), clock, databases: Vec::new() };
    let mut known = Known::open(list);
    let mut piece = Vec::with_capacity(PIECE);
    while let Some((path, metadata)) = walk.next() {
        let pending = pending(path, &metadata, &mut known);
        match pending {
            Ok(pending) => piece.push(pending),
            Err(error) => writer.sink.gap(Section::Files, format!("{}: {error}", shown(path)))?,
        }
        if piece.len() == PIECE {
            writer.write(std::mem::take(&mut piece))?;
        }
    }
    writer.write(piece)?;
    for (path, error) in &walk.errors {
        writer.sink.gap(Section::Files, format!("{}: {error}", shown(path)))?;
    }
    writer.kept.finish();
    Ok(writer.databases)
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

fn pending(path: &Path, metadata: &Metadata, known: &mut Known<impl Read>) -> io::Result<Pending> {
    let mut entry = FileEntry {
        path: shown(path),
        kind: kind(metadata),
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        digest: None,
        target: None,
        xattrs: xattrs(path)?,
        ctime: 0,
    };
    describe(&mut entry, metadata);
    if entry.kind == FileKind::Symlink {
        entry.target = std::fs::read_link(path).ok().map(|target| shown(&target).into_boxed_str());
    }
    let stamp = stamp(metadata);
    let known = (entry.kind == FileKind::File).then(|| known.digest(path.as_os_str().as_bytes(), stamp)).flatten();
    Ok(Pending { path: path.to_owned(), stamp, entry, known })
}

fn kind(metadata: &Metadata) -> FileKind {
    match metadata.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Special,
    }
}

fn describe(entry: &mut FileEntry, metadata: &Metadata) {
    entry.mode = metadata.mode() & 0o7777;
    (entry.uid, entry.gid) = (metadata.uid(), metadata.gid());
    entry.size = if entry.kind == FileKind::File { metadata.size() } else { 0 };
    entry.ctime = stamp(metadata).ctime;
}

struct Writer<'a, W: Write> {
    sink: &'a mut Sink<W>,
    kept: Kept<std::io::BufWriter<File>>,
    clock: i64,
    databases: Vec<PathBuf>,
}

impl<W: Write> Writer<'_, W> {
    fn write(&mut self, piece: Vec<Pending>) -> io::Result<()> {
        let unknown: Vec<&Path> = piece
            .iter()
            .filter(|pending| pending.entry.kind == FileKind::File && pending.known.is_none())
            .map(|pending| pending.path.as_path())
            .collect();
        let mut read = in_parallel(&unknown, |path| hashing::read(path)).into_iter();
        let read: Vec<_> = piece
            .iter()
            .map(|pending| match (pending.entry.kind, pending.known) {
                (FileKind::File, None) => read.next(),
                _ => None,
            })
            .collect();
        for (pending, read) in piece.into_iter().zip(read) {
            self.one(pending, read)?;
        }
        Ok(())
    }

    fn one(&mut self, pending: Pending, read: Option<Result<Content, Unread>>) -> io::Result<()> {
        let Pending { path, stamp: mut seen, mut entry, known } = pending;
        let content = match read {
            None => None,
            Some(Ok(content)) => Some(content),
            Some(Err(Unread::Gone)) => return Ok(()),
            Some(Err(Unread::Failed(error))) => {
                self.sink.gap(Section::Files, format!("{}: {error}", entry.path))?;
                None
            }
        };
        // What a class leaves out need not hold still: a log that is being written to.
        if content.as_ref().is_some_and(|content| !content.still) && class_of(&entry.path).is_none() {
            self.sink.gap(Section::Files, format!("{}: it was written to while it was read, twice", entry.path))?;
        }
        let digest = known.or(content.as_ref().map(|content| content.digest));
        if let Some(content) = &content {
            describe(&mut entry, &content.metadata);
            seen = stamp(&content.metadata);
        }
        entry.digest = digest;
        if let Some(digest) = digest.filter(|_| seen.ctime < self.clock - RACY) {
            self.kept.keep(path.as_os_str().as_bytes(), seen, &digest);
        }
        if entry.kind == FileKind::File && self.databases.len() < DATABASES && is_database(&path, entry.size) {
            self.databases.push(path);
        }
        if let Some(exposure) = exposure(&entry) {
            self.sink.entry(exposure)?;
        }
        self.sink.entry(entry)
    }
}

/// Rights that the file gives away, if it does.
fn exposure(entry: &FileEntry) -> Option<Exposure> {
    let is = |kind| entry.kind == kind;
    let has = |bits: u32| entry.mode & bits == bits;
    let kinds = [
        ("set-uid", is(FileKind::File) && has(0o4000)),
        ("set-gid", is(FileKind::File) && has(0o2000)),
        // In a sticky directory everybody may write, and nobody touch what is another's.
        ("world-writable", has(0o002) && !is(FileKind::Symlink) && !(is(FileKind::Directory) && has(0o1000))),
    ];
    let kinds: Vec<&str> = kinds.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    (!kinds.is_empty()).then(|| Exposure {
        path: entry.path.clone(),
        kind: kinds.join(" "),
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
    })
}

/// SQLite's pages have a size of 512 or a multiple: few other files of a server do, so that few are opened.
fn is_database(path: &Path, size: u64) -> bool {
    let mut magic = [0; SQLITE.len()];
    size > 0
        && size.is_multiple_of(512)
        && DATA.iter().any(|data| path.starts_with(data))
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == SQLITE
}

/// Extended attributes of the path itself, in hex. A file system without them has none.
fn xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
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
    use redrill_state::{Capture, Reader};
    use std::os::unix::fs::PermissionsExt;

    /// A capture of the tree, with paths as if it were the root.
    fn capture(tree: &Tree, left_out: &str, clock: i64) -> Capture {
        let mut bytes = Vec::new();
        let mut sink = Sink::new(&mut bytes);
        sink.header(redrill_state::Header::new(String::new(), clock)).expect("written");
        let root = tree.0.join("root").display().to_string();
        let mounts = Mounts {
            walked: vec![root.clone(), format!("{root}/own")],
            left_out: BTreeMap::from([(format!("{root}{left_out}"), "virtual".to_owned())]),
        };
        write(&mut sink, &mounts, &tree.0.join("digests"), clock).expect("written");
        sink.end().expect("written");
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("whole");
        let mut reader = Reader::default();
        text.replace(&root, "").lines().for_each(|line| reader.line(line).expect("a record"));
        reader.finish().expect("whole")
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
    fn a_file_that_does_not_hold_still_is_a_gap_unless_it_may_change_all_the_time() {
        let tree = Tree::new("restless-gap");
        let content = tree.file("/content", "x");
        let gaps = |path: &str| {
            let mut bytes = Vec::new();
            let mut sink = Sink::new(&mut bytes);
            sink.header(redrill_state::Header::new(String::new(), 0)).expect("written");
            let kept = Kept::create(&tree.0.join("list"));
            let mut writer = Writer { sink: &mut sink, kept, clock: LATER, databases: Vec::new() };
            let metadata = content.metadata().expect("there");
            let mut pending = pending(&content, &metadata, &mut Known::new(None::<&[u8]>)).expect("readable");
            pending.entry.path = path.to_owned();
            let content = Content { still: false, ..hashing::read(&content).expect("readable") };
            writer.one(pending, Some(Ok(content))).expect("written");
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
