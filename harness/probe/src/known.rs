//! What is known from the last capture, or from the image's first: the digest of each file, and which paths are still
//! what they were.
//!
//! Neither content nor owner, mode or attributes can change without a new ctime, which no program can set: path, inode,
//! ctime and size tell that all of it still holds. The device is not among them, so that what was learnt in one machine serves every other of its
//! image; that two file systems agree in the other four and not in content, nobody has seen.
//!
//! Both the list and the walk are in the same order, so that they are read side by side and neither is held in memory.

use std::cmp::Ordering;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use redrill_state::{Digest, walk_order};

/// Inode, ctime and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) ctime: i64,
    pub(crate) size: u64,
}

/// In memory and gone after a reboot: a list that could be older than the disk would be worse than none.
pub(crate) const LIST: &str = "/run/redrill/digests";
const MAGIC: &[u8] = b"redrill digests 3\n";
/// Longer names than this are no paths.
const LONGEST: usize = 1 << 20;

/// Names a list, and with it the capture that left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name([u8; 16]);

impl Name {
    pub(crate) fn new() -> io::Result<Self> {
        let mut name = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut name)?;
        Ok(Self(name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What the last capture knew of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    /// Of a regular file.
    pub(crate) digest: Option<Digest>,
    /// Its place among those whose names need no escape, from 1; 0 for one that does.
    pub(crate) place: u64,
}

/// Reads a list as the walk goes along it.
pub(crate) struct Known<R> {
    from: Option<R>,
    name: Option<Name>,
    path: Vec<u8>,
    entry: Option<(Stamp, Past)>,
}

impl Known<BufReader<File>> {
    pub(crate) fn open(list: &Path) -> Self {
        Self::new(File::open(list).map(|file| BufReader::with_capacity(256 * 1024, file)).ok())
    }
}

impl<R: Read> Known<R> {
    pub(crate) fn new(mut from: Option<R>) -> Self {
        let (mut magic, mut name) = ([0; MAGIC.len()], [0; 16]);
        let name = from.as_mut().and_then(|from| {
            // Another form is no list.
            let ours = from.read_exact(&mut magic).is_ok() && magic == MAGIC && from.read_exact(&mut name).is_ok();
            ours.then_some(Name(name))
        });
        let mut known = Self { from: from.filter(|_| name.is_some()), name, path: Vec::new(), entry: None };
        known.advance();
        known
    }

    /// Which list it is, if there is one.
    pub(crate) fn name(&self) -> Option<Name> {
        self.name
    }

    /// What is known of this path, if it is as it was. Paths must come in the order of a walk.
    pub(crate) fn past(&mut self, path: &[u8], stamp: Stamp) -> Option<Past> {
        loop {
            let (known, past) = self.entry?;
            match walk_order(&self.path, path) {
                Ordering::Less => self.advance(),
                Ordering::Equal => return (known == stamp).then_some(past),
                Ordering::Greater => return None,
            }
        }
    }

    /// To the next entry; a damaged list ends there.
    fn advance(&mut self) {
        self.entry = self.from.as_mut().and_then(|from| read_entry(from, &mut self.path).ok());
        if self.entry.is_none() {
            self.from = None;
        }
    }
}

fn read_entry(from: &mut impl Read, path: &mut Vec<u8>) -> io::Result<(Stamp, Past)> {
    let damaged = || io::Error::other("damaged");
    let shared = usize::try_from(read_number(from)?).ok().filter(|shared| *shared <= path.len()).ok_or_else(damaged)?;
    let own = usize::try_from(read_number(from)?).ok().filter(|own| *own <= LONGEST).ok_or_else(damaged)?;
    path.truncate(shared);
    path.resize(shared + own, 0);
    from.read_exact(&mut path[shared..])?;
    let (inode, size) = (read_number(from)?, read_number(from)?);
    let mut ctime = [0; 8];
    from.read_exact(&mut ctime)?;
    let place = read_number(from)?;
    // The lowest bit says whether a digest follows.
    let digest = match place & 1 {
        0 => None,
        _ => {
            let mut digest = [0; 32];
            from.read_exact(&mut digest)?;
            Some(Digest(digest))
        }
    };
    Ok((Stamp { inode, ctime: i64::from_le_bytes(ctime), size }, Past { digest, place: place >> 1 }))
}

/// Seven bits to a byte, the lowest first; the eighth says that more come.
fn read_number(from: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(number);
        }
    }
    Err(io::Error::other("damaged"))
}

fn write_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Writes the list for the next capture. Where it cannot be written there will be none: the next capture is slower then,
/// and as good.
pub(crate) struct Kept<W> {
    to: Option<W>,
    last: Vec<u8>,
    entry: Vec<u8>,
    /// Being written, and what it is to be called.
    names: Option<(PathBuf, PathBuf)>,
}

impl Kept<BufWriter<File>> {
    pub(crate) fn create(list: &Path, name: Name) -> Self {
        let new = list.with_extension("new");
        let made = list.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(&new));
        let mut kept = Self::new(made.map(|file| BufWriter::with_capacity(256 * 1024, file)).ok(), name);
        kept.names = Some((new, list.to_owned()));
        kept
    }
}

impl<W: Write> Kept<W> {
    pub(crate) fn new(to: Option<W>, name: Name) -> Self {
        let mut kept = Self { to, last: Vec::new(), entry: Vec::new(), names: None };
        kept.write(MAGIC);
        kept.write(&name.0);
        kept
    }

    /// Paths must come in the order of a walk.
    pub(crate) fn keep(&mut self, path: &[u8], stamp: Stamp, past: Past) {
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        let mut entry = std::mem::take(&mut self.entry);
        entry.clear();
        write_number(&mut entry, shared as u64);
        write_number(&mut entry, (path.len() - shared) as u64);
        entry.extend_from_slice(&path[shared..]);
        write_number(&mut entry, stamp.inode);
        write_number(&mut entry, stamp.size);
        entry.extend_from_slice(&stamp.ctime.to_le_bytes());
        write_number(&mut entry, past.place << 1 | u64::from(past.digest.is_some()));
        entry.extend(past.digest.iter().flat_map(|digest| digest.0));
        self.write(&entry);
        self.entry = entry;
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.to.as_mut().is_some_and(|to| to.write_all(bytes).is_err()) {
            self.to = None; // A full disk: half a list is none.
        }
    }

    /// Readers find the old list or the new one, never half of it. Tells whether there is a new one.
    pub(crate) fn finish(mut self) -> bool {
        let whole = self.to.as_mut().is_some_and(|to| to.flush().is_ok());
        match &self.names {
            Some((new, list)) if whole => fs::rename(new, list).is_ok(),
            Some((new, _)) => {
                let _ = fs::remove_file(new); // It may never have been made.
                false
            }
            None => whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { inode: 300, ctime: -5, size: 1 << 40 };
    const NAME: Name = Name([7; 16]);

    fn list(paths: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut kept = Kept::new(Some(&mut bytes), NAME);
        for (number, path) in paths.iter().enumerate() {
            kept.keep(path, STAMP, past(number as u8));
        }
        assert!(kept.finish());
        bytes
    }

    /// Every second one is no regular file.
    fn past(number: u8) -> Past {
        let digest = number.is_multiple_of(2).then_some(Digest([number; 32]));
        Past { digest, place: u64::from(number) * 100 }
    }

    #[test]
    fn a_list_reads_back_along_a_walk() {
        let bytes = list(&[b"/a", b"/a/b", b"/a/bc", b"/a-b\xff\n", b"/z"]);
        let mut known = Known::new(Some(bytes.as_slice()));
        assert_eq!(known.name(), Some(NAME));
        assert_eq!(known.past(b"/a", STAMP), Some(past(0)));
        assert_eq!(known.past(b"/a/a", STAMP), None, "a new file");
        assert_eq!(known.past(b"/a/bc", Stamp { ctime: 0, ..STAMP }), None, "a changed file");
        assert_eq!(known.past(b"/a-b\xff\n", STAMP), Some(past(3)));
        assert_eq!(known.past(b"/z", STAMP), Some(past(4)));
        assert_eq!(known.past(b"/zz", STAMP), None);
    }

    #[test]
    fn every_part_of_a_stamp_counts() {
        let bytes = list(&[b"/a"]);
        for other in [Stamp { inode: 1, ..STAMP }, Stamp { ctime: 1, ..STAMP }, Stamp { size: 1, ..STAMP }] {
            assert_eq!(Known::new(Some(bytes.as_slice())).past(b"/a", other), None);
        }
    }

    #[test]
    fn a_damaged_list_or_one_of_another_form_is_used_as_far_as_it_goes() {
        let bytes = list(&[b"/a", b"/b"]);
        let mut cut = Known::new(Some(&bytes[..bytes.len() - 1]));
        assert_eq!((cut.past(b"/a", STAMP), cut.past(b"/b", STAMP)), (Some(past(0)), None));
        assert_eq!(
            Known::new(Some(b"redrill digests 2\nand more than sixteen bytes".as_slice())).past(b"/a", STAMP),
            None
        );
        let mut wild = MAGIC.to_vec();
        wild.extend([0xff; 80]);
        assert_eq!(Known::new(Some(wild.as_slice())).past(b"/a", STAMP), None);
    }

    #[test]
    fn a_full_disk_costs_the_list_and_nothing_else() {
        // It takes every byte and then has no space for it.
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
        let mut kept = Kept::new(Some(BufWriter::with_capacity(16, full)), NAME);
        kept.keep(b"/a", STAMP, past(0));
        kept.keep(b"/b", STAMP, past(0));
        assert!(!kept.finish());
        let mut nowhere = Kept::create(Path::new("/proc/none/digests"), NAME);
        nowhere.keep(b"/a", STAMP, past(0));
        assert!(!nowhere.finish());
    }
}
