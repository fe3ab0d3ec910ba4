//! The files that were written, each known by the descriptor that leads to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use redrill_state::{Became, Written};

use super::before::Before;
use super::{By, Who, path_of, shown};

/// Descriptors that are held; of further files only the path of that moment is known.
const HELD: usize = 30_000;
/// No deploy writes more, and what is told lies in memory.
const MOST: usize = 100_000;

/// Device and number.
type Inode = (u64, u64);

#[derive(Debug)]
struct Entry {
    fd: Option<OwnedFd>,
    /// Where it was when it was last written.
    path: PathBuf,
    by: BTreeMap<By, Deed>,
}

#[derive(Debug)]
struct Deed {
    program: PathBuf,
    last: i64,
    /// Nanoseconds since the boot.
    began: i64,
    modified: bool,
}

/// Every file that somebody wrote.
#[derive(Debug, Default)]
pub(crate) struct Files {
    entries: HashMap<Inode, Entry>,
    held: usize,
    lost: usize,
}

impl Files {
    /// `modified`: bytes were written, or else a file that may have been written was closed.
    pub(crate) fn wrote(&mut self, fd: BorrowedFd<'_>, who: Who, modified: bool) {
        let Ok(stat) = rustix::fs::fstat(fd) else { return };
        if !self.entries.contains_key(&(stat.st_dev, stat.st_ino)) {
            if self.entries.len() >= MOST {
                self.lost += 1;
                return;
            }
            let copy = (self.held < HELD).then(|| fd.try_clone_to_owned().ok()).flatten();
            self.held += usize::from(copy.is_some());
            let entry = Entry { fd: copy, path: PathBuf::new(), by: BTreeMap::new() };
            self.entries.insert((stat.st_dev, stat.st_ino), entry);
        }
        let Some(entry) = self.entries.get_mut(&(stat.st_dev, stat.st_ino)) else { return };
        entry.path = path_of(fd);
        // Nothing else tells that a file was emptied.
        let modified = modified || stat.st_size == 0;
        let deed =
            entry.by.entry(who.by).or_insert(Deed { program: PathBuf::new(), last: 0, began: 0, modified: false });
        deed.last = crate::now();
        deed.modified |= modified;
        (deed.program, deed.began) = (who.program, who.began);
    }

    /// What became of each, at the end; `boot` in nanoseconds since 1970. A file of which only a name is left that leads nowhere was a step on the way.
    pub(crate) fn end(&self, before: &Before, boot: i64) -> Vec<Written> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for entry in self.entries.values() {
            let path = entry.path_now();
            let became = before.became(&path);
            for (by, deed) in &entry.by {
                let Some(writer) = by.writer() else { continue };
                let written = Written {
                    path: shown(&path),
                    by: writer,
                    program: shown(&deed.program),
                    last: deed.last,
                    began: boot + deed.began,
                    modified: deed.modified,
                    became,
                };
                // Two files that had one name after each other.
                if seen.insert((written.path.clone(), by.clone())) || became != Became::Gone {
                    all.push(written);
                }
            }
        }
        all.sort_by(|a, b| (&a.path, &a.by).cmp(&(&b.path, &b.by)));
        all
    }

    pub(crate) fn missed(&self) -> Option<String> {
        (self.lost > 0).then(|| format!("of {} writes it was not kept whose they were", self.lost))
    }
}

impl Entry {
    /// Where it is now; where it was if it is gone.
    fn path_now(&self) -> PathBuf {
        let Some(fd) = &self.fd else { return plain(&self.path) };
        match rustix::fs::fstat(fd) {
            Ok(stat) if stat.st_nlink > 0 => plain(&path_of(fd.as_fd())),
            _ => plain(&self.path),
        }
    }
}

/// The kernel says so of a path that leads nowhere any more.
fn plain(path: &Path) -> PathBuf {
    if fs::symlink_metadata(path).is_ok() {
        return path.to_owned();
    }
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    text.map_or_else(|| path.to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use redrill_state::Writer;

    use super::*;

    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn dir(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("redrill-written-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("made");
        Dir(path)
    }

    fn who(by: By) -> Who {
        Who { by, program: PathBuf::from("/bin/tee"), began: 0 }
    }

    #[test]
    fn a_file_is_told_by_the_name_that_it_has_in_the_end() {
        let dir = dir("renamed");
        let (new, end) = (dir.0.join("new"), dir.0.join("app.conf"));
        fs::write(&new, "x").expect("written");
        let mut files = Files::default();
        files.wrote(File::open(&new).expect("opened").as_fd(), who(By::Deploy), true);
        fs::rename(&new, &end).expect("renamed");
        let told = files.end(&Before::default(), 0);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].path.as_str(), &told[0].by), (end.to_str().expect("text"), &Writer::Deploy));
    }

    #[test]
    fn each_writer_is_told_and_the_harness_is_not() {
        let dir = dir("writers");
        let path = dir.0.join("log");
        fs::write(&path, "x").expect("written");
        let mut files = Files::default();
        let file = File::open(&path).expect("opened");
        files.wrote(file.as_fd(), who(By::Unit("app.service".to_owned())), true);
        files.wrote(file.as_fd(), who(By::Deploy), false);
        files.wrote(file.as_fd(), who(By::Harness), true);
        let told = files.end(&Before::default(), 0);
        let seen: Vec<(&Writer, bool)> = told.iter().map(|written| (&written.by, written.modified)).collect();
        assert_eq!(seen, [(&Writer::Deploy, false), (&Writer::Unit("app.service".to_owned()), true)]);
    }

    #[test]
    fn a_file_that_was_emptied_was_modified_though_nobody_wrote_a_byte() {
        let dir = dir("emptied");
        let path = dir.0.join("audit.log");
        File::create(&path).expect("made");
        let mut files = Files::default();
        files.wrote(File::open(&path).expect("opened").as_fd(), who(By::Deploy), false);
        assert!(files.end(&Before::default(), 0)[0].modified);
    }
}
