//! Places that no comparison of captures covers, or in which files change by themselves: how they were before a deploy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use redrill_state::Became;

use crate::walk::Walk;

/// Logs, temporary files, and what lives in memory.
const PLACES: [&str; 5] = ["/var/log", "/tmp", "/var/tmp", "/run", "/dev/shm"];
/// In there nobody but the system writes, or nobody else's business.
const CLOSED: [&str; 9] = [
    "/var/log/journal",
    "/run/log",
    "/run/systemd",
    "/run/udev",
    "/run/dbus",
    "/run/motd.dynamic",
    "/run/sudo",
    "/run/user",
    "/run/redrill",
];
/// Of a larger file only this much is compared, with its size.
const LARGEST: u64 = 16 << 20;
/// Of all files.
const MOST_BYTES: u64 = 256 << 20;
const MOST: usize = 20_000;

/// A file's size, and a digest of so many of its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Was {
    size: u64,
    looked: u64,
    digest: blake3::Hash,
}

/// What was in these places.
#[derive(Debug, Default)]
pub(crate) struct Before {
    files: BTreeMap<PathBuf, Was>,
    places: Vec<PathBuf>,
    closed: BTreeSet<PathBuf>,
}

impl Before {
    /// Looks at them. `own` is where this look's result will lie.
    pub(crate) fn look(own: &Path) -> Self {
        let closed = CLOSED.iter().map(PathBuf::from).chain([own.to_owned()]).collect();
        Self::of(PLACES.iter().map(PathBuf::from).filter(|place| place.is_dir()).collect(), closed)
    }

    fn of(places: Vec<PathBuf>, closed: BTreeSet<PathBuf>) -> Self {
        let (mut files, mut bytes) = (BTreeMap::new(), 0);
        let mut walk = Walk::new(places.clone(), &closed);
        while let Some((path, metadata)) = walk.next() {
            if !metadata.is_file() || files.len() >= MOST {
                continue;
            }
            let most = LARGEST.min(metadata.len()).min(MOST_BYTES.saturating_sub(bytes));
            bytes += most;
            if let Ok(digest) = digest(path, most) {
                files.insert(path.to_owned(), Was { size: metadata.len(), looked: most, digest });
            }
        }
        Self { files, places, closed }
    }

    /// What became of a file that somebody wrote.
    pub(crate) fn became(&self, path: &Path) -> Became {
        let now = fs::symlink_metadata(path).ok();
        let is_followed = self.places.iter().any(|place| path.starts_with(place))
            && !self.closed.iter().any(|closed| path.starts_with(closed));
        match (self.files.get(path), now) {
            (_, None) => Became::Gone,
            (None, Some(_)) if is_followed && self.files.len() < MOST => Became::New,
            (None, Some(_)) => Became::NotFollowed,
            (Some(was), Some(now)) => {
                let as_before = now.len() >= was.size && digest(path, was.looked).is_ok_and(|new| new == was.digest);
                match (as_before, now.len() == was.size) {
                    (true, true) => Became::Same,
                    (true, false) => Became::Appended,
                    (false, _) => Became::Changed,
                }
            }
        }
    }
}

fn digest(path: &Path, most: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut File::open(path)?.take(most), &mut hasher)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn what_grows_is_told_from_what_is_written_anew() {
        let tree = Tree::new("before");
        for path in ["/log/app.log", "/log/audit.log", "/log/state", "/log/gone", "/closed/x"] {
            tree.file(path, "one\ntwo\n");
        }
        let at = |path: &str| tree.0.join(path);
        let before = Before::of(vec![at("log"), at("closed")], [at("closed")].into());
        tree.file("/log/app.log", "one\ntwo\nthree\n");
        tree.file("/log/audit.log", "");
        fs::remove_file(at("log/gone")).expect("removed");
        tree.file("/log/new", "");
        tree.file("/elsewhere", "");
        let became = |path: &str| before.became(&at(path));
        assert_eq!(became("log/app.log"), Became::Appended);
        assert_eq!(became("log/audit.log"), Became::Changed);
        assert_eq!(became("log/state"), Became::Same);
        assert_eq!(became("log/gone"), Became::Gone);
        assert_eq!(became("log/new"), Became::New);
        assert_eq!((became("elsewhere"), became("closed/x")), (Became::NotFollowed, Became::NotFollowed));
        tree.file("/log/state", "One\ntwo\nthree\n");
        assert_eq!(became("log/state"), Became::Changed, "longer, and with another beginning");
    }
}
