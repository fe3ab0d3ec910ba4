//! A walk through directories in the order of [`redrill_state::walk_order`], with little memory: of each directory on
//! the way down only the names are held, in one piece.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The names of a directory, sorted.
struct Listing {
    names: Vec<u8>,
    /// Where each name begins and ends in `names`, in order.
    places: Vec<(u32, u32)>,
    next: usize,
    /// Length of the directory's path.
    depth: usize,
}

impl Listing {
    fn read(path: &Path) -> io::Result<Self> {
        let mut listing =
            Self { names: Vec::new(), places: Vec::new(), next: 0, depth: path.as_os_str().as_bytes().len() };
        for entry in std::fs::read_dir(path)? {
            let name = entry?.file_name();
            let begin = listing.names.len();
            listing.names.extend_from_slice(name.as_bytes());
            let place = u32::try_from(begin).ok().zip(u32::try_from(listing.names.len()).ok());
            listing.places.push(place.ok_or_else(|| io::Error::other("a directory with 4 GiB of names"))?);
        }
        let names = &listing.names;
        listing.places.sort_unstable_by_key(|(begin, end)| &names[*begin as usize..*end as usize]);
        Ok(listing)
    }

    fn next(&mut self) -> Option<&[u8]> {
        let (begin, end) = *self.places.get(self.next)?;
        self.next += 1;
        self.names.get(begin as usize..end as usize)
    }
}

/// Every path below some roots, each root first.
pub(crate) struct Walk<'a> {
    roots: std::vec::IntoIter<PathBuf>,
    /// Directories that are told and not entered.
    closed: &'a BTreeSet<PathBuf>,
    path: Vec<u8>,
    open: Vec<Listing>,
    pub(crate) errors: Vec<(PathBuf, io::Error)>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(roots: Vec<PathBuf>, closed: &'a BTreeSet<PathBuf>) -> Self {
        Self { roots: roots.into_iter(), closed, path: Vec::new(), open: Vec::new(), errors: Vec::new() }
    }

    /// The next path and what it is. What vanishes on the way is not there; what cannot be read is an error.
    pub(crate) fn next(&mut self) -> Option<(&Path, Metadata)> {
        let metadata = loop {
            self.step()?;
            let path = as_path(&self.path);
            match std::fs::symlink_metadata(path) {
                Ok(metadata) => break metadata,
                Err(error) => note(&mut self.errors, path, error),
            }
        };
        let path = as_path(&self.path);
        if metadata.is_dir() && !self.closed.contains(path) {
            match Listing::read(path) {
                Ok(listing) => self.open.push(listing),
                Err(error) => note(&mut self.errors, path, error),
            }
        }
        Some((as_path(&self.path), metadata))
    }

    /// Makes `path` the next one.
    fn step(&mut self) -> Option<()> {
        while let Some(listing) = self.open.last_mut() {
            self.path.truncate(listing.depth);
            if let Some(name) = listing.next() {
                if self.path.last() != Some(&b'/') {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name);
                return Some(());
            }
            self.open.pop();
        }
        self.path = self.roots.next()?.into_os_string().into_encoded_bytes();
        Some(())
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn note(errors: &mut Vec<(PathBuf, io::Error)>, path: &Path, error: io::Error) {
    if error.kind() != io::ErrorKind::NotFound {
        errors.push((path.to_owned(), error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::walk_order;

    #[test]
    fn the_walk_is_in_order_and_does_not_enter_what_is_closed() {
        let tree = Tree::new("walk");
        for path in ["/a/b/c", "/a b", "/a-b", "/a.d/x", "/closed/x", "/new\nline", "/z"] {
            tree.file(path, "");
        }
        std::fs::write(tree.0.join(OsStr::from_bytes(b"not\xffutf8")), "").expect("written");
        tree.link("/loop", ".");
        tree.link("/self", "self");
        let closed = BTreeSet::from([tree.0.join("closed")]);
        let mut walk = Walk::new(vec![tree.0.clone()], &closed);
        let mut seen: Vec<Vec<u8>> = Vec::new();
        while let Some((path, _)) = walk.next() {
            seen.push(path.as_os_str().as_bytes().to_vec());
        }
        assert!(walk.errors.is_empty());
        assert!(seen.is_sorted_by(|a, b| walk_order(a, b).is_lt()), "{seen:?}");
        let ends: Vec<&[u8]> = seen.iter().skip(1).map(|path| &path[tree.0.as_os_str().len()..]).collect();
        let expected: [&[u8]; 12] = [
            b"/a",
            b"/a/b",
            b"/a/b/c",
            b"/a b",
            b"/a-b",
            b"/a.d",
            b"/a.d/x",
            b"/closed",
            b"/loop",
            b"/new\nline",
            b"/not\xffutf8",
            b"/self",
        ];
        assert_eq!(ends[..12], expected);
        assert_eq!(ends[12], b"/z");
    }
}
