//! What is told of each path, in the order of the walk.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use redrill_state::{Exposure, FileEntry, FileKind, Same, Section, class_of};

use super::{Pending, Seen, Told, shown};
use crate::hashing::{self, Content, Unread, in_parallel};
use crate::known::{Kept, Past};
use crate::sink::Sink;

/// A file that changed this shortly before the capture may change again within the same tick of the clock, without a
/// new ctime: its digest is used once and not kept.
const RACY: i64 = 2_000_000_000;
/// Where applications keep their databases, and how SQLite's begin.
const DATA: [&str; 8] = ["/var/lib/", "/srv/", "/opt/", "/home/", "/var/log/", "/var/cache/", "/root/", "/usr/local/"];
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Databases of SQLite looked into at most.
const DATABASES: usize = 64;

pub(super) struct Writer<'a, W: Write> {
    pub(super) sink: &'a mut Sink<W>,
    pub(super) kept: Kept<BufWriter<File>>,
    clock: i64,
    pub(super) databases: Vec<PathBuf>,
    /// How many paths without escapes were told.
    told: u64,
    /// Paths that are as the base has them, one after another: the first, the last, and their places in the base.
    stretch: Option<(PathBuf, PathBuf, RangeInclusive<u64>)>,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(super) fn new(sink: &'a mut Sink<W>, kept: Kept<BufWriter<File>>, clock: i64) -> Self {
        Self { sink, kept, clock, databases: Vec::new(), told: 0, stretch: None }
    }

    pub(super) fn write(&mut self, piece: Vec<Pending>) -> io::Result<()> {
        let reads = |pending: &Pending| {
            pending.seen.kind == FileKind::File && matches!(pending.told, Told::Whole { known: None, .. })
        };
        let unknown: Vec<&Path> =
            piece.iter().filter(|pending| reads(pending)).map(|pending| pending.path.as_path()).collect();
        let mut read = in_parallel(&unknown, |path| hashing::read(path)).into_iter();
        let read: Vec<_> = piece.iter().map(|pending| if reads(pending) { read.next() } else { None }).collect();
        for (Pending { path, seen, told }, read) in piece.into_iter().zip(read) {
            match told {
                Told::AsBefore(past) => self.as_before(path, seen, past)?,
                Told::Whole { target, xattrs, known } => {
                    let entry = FileEntry { target, xattrs, digest: known, ..seen.entry(shown(&path)) };
                    self.whole(path, seen, entry, read)?;
                }
            }
        }
        Ok(())
    }

    fn as_before(&mut self, path: PathBuf, seen: Seen, past: Past) -> io::Result<()> {
        self.told += 1;
        self.kept.keep(path.as_os_str().as_bytes(), seen.stamp, Past { place: self.told, ..past });
        self.look_at(&path, seen)?;
        match &mut self.stretch {
            Some((_, last, places)) if *places.end() + 1 == past.place => {
                (*last, *places) = (path, *places.start()..=past.place);
            }
            _ => {
                self.end_stretch()?;
                self.stretch = Some((path.clone(), path, past.place..=past.place));
            }
        }
        Ok(())
    }

    /// Tells the stretch, if there is one.
    pub(super) fn end_stretch(&mut self) -> io::Result<()> {
        let Some((from, to, places)) = self.stretch.take() else { return Ok(()) };
        let count = usize::try_from(places.end() - places.start() + 1).map_err(io::Error::other)?;
        self.sink.same(Same { from: shown(&from), to: shown(&to), count })
    }

    pub(super) fn whole(
        &mut self,
        path: PathBuf,
        mut seen: Seen,
        mut entry: FileEntry,
        read: Option<Result<Content, Unread>>,
    ) -> io::Result<()> {
        match read {
            None => {}
            Some(Ok(content)) => {
                // What a class leaves out need not hold still: a log that is being written to.
                if !content.still && class_of(&entry.path).is_none() {
                    let said = format!("{}: it was written to while it was read, twice", entry.path);
                    self.sink.gap(Section::Files, said)?;
                }
                seen = Seen::of(&content.metadata);
                let FileEntry { path, target, xattrs, .. } = entry;
                entry = FileEntry { target, xattrs, digest: Some(content.digest), ..seen.entry(path) };
            }
            Some(Err(Unread::Gone)) => return Ok(()),
            Some(Err(Unread::Failed(error))) => {
                self.sink.gap(Section::Files, format!("{}: {error}", entry.path))?;
            }
        }
        self.end_stretch()?;
        let plain = entry.path.as_bytes() == path.as_os_str().as_bytes();
        self.told += u64::from(plain);
        let lacks = entry.kind == FileKind::File && entry.digest.is_none();
        if !lacks && seen.stamp.ctime < self.clock - RACY {
            let past = Past { digest: entry.digest, place: if plain { self.told } else { 0 } };
            self.kept.keep(path.as_os_str().as_bytes(), seen.stamp, past);
        }
        self.look_at(&path, seen)?;
        self.sink.entry(entry)
    }

    /// What else a file may be.
    fn look_at(&mut self, path: &Path, seen: Seen) -> io::Result<()> {
        if seen.kind == FileKind::File && self.databases.len() < DATABASES && is_database(path, seen.stamp.size) {
            self.databases.push(path.to_owned());
        }
        match exposure(path, seen) {
            Some(exposure) => self.sink.entry(exposure),
            None => Ok(()),
        }
    }
}

/// Rights that the file gives away, if it does.
fn exposure(path: &Path, seen: Seen) -> Option<Exposure> {
    let is = |kind| seen.kind == kind;
    let has = |bits: u32| seen.mode & bits == bits;
    let kinds = [
        ("set-uid", is(FileKind::File) && has(0o4000)),
        ("set-gid", is(FileKind::File) && has(0o2000)),
        // In a sticky directory everybody may write, and nobody touch what is another's.
        ("world-writable", has(0o002) && !is(FileKind::Symlink) && !(is(FileKind::Directory) && has(0o1000))),
    ];
    let kinds: Vec<&str> = kinds.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    (!kinds.is_empty()).then(|| Exposure {
        path: shown(path),
        kind: kinds.join(" "),
        mode: format!("{:04o}", seen.mode),
        uid: seen.uid,
        gid: seen.gid,
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
