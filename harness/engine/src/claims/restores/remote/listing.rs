//! What a backup host says that a repository holds: names, sizes and times, without a byte of content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A repository as its host lists it. Every path is relative, and has no `..` in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) entries: BTreeMap<PathBuf, Entry>,
}

/// One thing in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory(Attributes),
    File { size: u64, attributes: Attributes },
    Link(PathBuf),
}

/// What a host may tell of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permissions; a rest-server tells none.
    pub(crate) mode: Option<u32>,
    /// Seconds since 1970; a rest-server tells none.
    pub(crate) modified: Option<u32>,
}

impl Listing {
    /// Files with their sizes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File { size, .. } => Some((path.as_path(), *size)),
            Entry::Directory(_) | Entry::Link(_) => None,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files().map(|(_, size)| size).sum()
    }

    /// Whether there is anything at or below a path that begins so.
    pub(crate) fn has_file(&self, start: &str) -> bool {
        self.files().any(|(path, _)| path.as_os_str().as_encoded_bytes().starts_with(start.as_bytes()))
    }

    /// BLAKE3 over every name with its kind, size and time, in hex. Times of directories are left out: a tool that only
    /// looks for a lock may change them.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (path, entry) in &self.entries {
            hasher.update(path.as_os_str().as_encoded_bytes());
            match entry {
                Entry::Directory(_) => hasher.update(&[0, b'd']),
                Entry::File { size, attributes } => {
                    hasher.update(&[0, b'f']);
                    hasher.update(&size.to_le_bytes());
                    hasher.update(&attributes.modified.unwrap_or_default().to_le_bytes())
                }
                Entry::Link(to) => {
                    hasher.update(&[0, b'l']);
                    hasher.update(to.as_os_str().as_encoded_bytes())
                }
            };
            hasher.update(&[0]);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// In words, how `later` differs.
    pub(crate) fn difference(&self, later: &Self) -> String {
        let count = |of: &Self, other: &Self, differs: fn(Option<&Entry>, &Entry) -> bool| {
            of.entries.iter().filter(|(path, entry)| differs(other.entries.get(*path), entry)).count()
        };
        let gone = count(self, later, |other, _| other.is_none());
        let new = count(later, self, |other, _| other.is_none());
        let changed = count(self, later, |other, entry| other.is_some_and(|other| other != entry));
        format!("{new} entries are new, {gone} are gone, {changed} are others")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, modified: u32) -> Entry {
        Entry::File { size, attributes: Attributes { mode: Some(0o600), modified: Some(modified) } }
    }

    fn listing(entries: &[(&str, Entry)]) -> Listing {
        Listing { entries: entries.iter().map(|(path, entry)| (PathBuf::from(path), entry.clone())).collect() }
    }

    #[test]
    fn another_listing_has_another_digest() {
        let one = listing(&[("config", file(1, 5)), ("locks", Entry::Directory(Attributes::default()))]);
        for other in [
            listing(&[("config", file(2, 5)), ("locks", Entry::Directory(Attributes::default()))]),
            listing(&[("config", file(1, 6)), ("locks", Entry::Directory(Attributes::default()))]),
            listing(&[("config", file(1, 5)), ("locks", Entry::Link("config".into()))]),
            listing(&[("config", file(1, 5))]),
            listing(&[("config", file(1, 5)), ("locks", Entry::Directory(Attributes::default())), ("x", file(0, 0))]),
        ] {
            assert_ne!(one.digest(), other.digest(), "{other:?}");
        }
        assert_eq!(one.digest(), one.clone().digest());
        let later = listing(&[("config", file(3, 5)), ("x", file(0, 0))]);
        assert_eq!(one.difference(&later), "1 entries are new, 1 are gone, 1 are others");
    }

    #[test]
    fn a_lock_is_a_file_below_locks() {
        let with = |name| listing(&[("locks", Entry::Directory(Attributes::default())), (name, file(1, 1))]);
        assert!(with("locks/0a").has_file("locks/") && !with("data/0a").has_file("locks/"));
        assert!(with("lock.exclusive/host").has_file("lock."));
    }
}
