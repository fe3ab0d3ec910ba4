//! The file section in memory: a million entries must fit beside a million others.

use std::cmp::Ordering;
use std::ops::Index;

use crate::entries::FileEntry;

/// Files by path, in the order of a walk: a directory before what is in it, names by their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Sorted by [`walk_order`], no path twice.
    entries: Vec<FileEntry>,
}

/// The order of a walk: as text, but `/` before every other character.
pub fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    match a.iter().zip(b).position(|(a, b)| a != b) {
        None => a.len().cmp(&b.len()),
        Some(at) => match (a[at], b[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (a, b) => a.cmp(&b),
        },
    }
}

impl Files {
    /// Sorts what was read; an error is the path that came twice.
    pub(crate) fn new(mut entries: Vec<FileEntry>) -> Result<Self, String> {
        let order = |a: &FileEntry, b: &FileEntry| walk_order(a.path.as_bytes(), b.path.as_bytes());
        // The probe walks in this order; only names with escapes may stand elsewhere.
        if !entries.is_sorted_by(|a, b| order(a, b) == Ordering::Less) {
            entries.sort_by(order);
        }
        match entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            Some(pair) => Err(pair[0].path.clone()),
            None => Ok(Self { entries }),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of a path.
    pub fn get(&self, path: &str) -> Option<&FileEntry> {
        let found = self.entries.binary_search_by(|entry| walk_order(entry.path.as_bytes(), path.as_bytes()));
        found.ok().and_then(|at| self.entries.get(at))
    }

    /// From this path on, in order; nothing without it.
    pub(crate) fn starting_at(&self, path: &str) -> std::slice::Iter<'_, FileEntry> {
        let found = self.entries.binary_search_by(|entry| walk_order(entry.path.as_bytes(), path.as_bytes()));
        found.ok().and_then(|at| self.entries.get(at..)).unwrap_or_default().iter()
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &FileEntry)> {
        self.entries.iter().map(|entry| (&entry.path, entry))
    }

    /// All, in order.
    pub fn values(&self) -> std::slice::Iter<'_, FileEntry> {
        self.entries.iter()
    }

    /// All, in order; their paths must stay as they are.
    #[cfg(test)]
    pub(crate) fn values_mut(&mut self) -> std::slice::IterMut<'_, FileEntry> {
        self.entries.iter_mut()
    }
}

/// For those who make up machines: a path that comes twice is a mistake of theirs.
impl FromIterator<FileEntry> for Files {
    fn from_iter<I: IntoIterator<Item = FileEntry>>(entries: I) -> Self {
        Self::new(entries.into_iter().collect()).expect("no path comes twice")
    }
}

impl Index<&str> for Files {
    type Output = FileEntry;

    fn index(&self, path: &str) -> &FileEntry {
        self.get(path).expect("the path is in the capture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::file;

    #[test]
    fn a_directory_comes_before_what_is_in_it_and_both_before_longer_names() {
        let paths = ["/", "/a", "/a/b", "/a/b/c", "/a b", "/a-b", "/a.d", "/b"];
        let mut mixed: Vec<FileEntry> = paths.iter().rev().map(|path| file(path, "1")).collect();
        mixed.swap(0, 3);
        let files = Files::new(mixed).expect("no path twice");
        assert_eq!(files.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), paths);
        for path in paths {
            assert_eq!(files.get(path).map(|file| file.path.as_str()), Some(path));
        }
        assert_eq!(files.get("/c"), None);
    }
}
