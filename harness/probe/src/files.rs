//! Every path of the persistent file systems.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redrill_state::{FileEntry, FileKind, Record, Section, escape};

use crate::hashing::{self, Job};
use crate::mounts::Mounts;
use crate::sink::Sink;

/// Walks, hashes and writes. Paths that vanish on the way are no gap: they are not there.
pub(crate) fn write<W: Write>(sink: &mut Sink<W>, mounts: &Mounts, clock: i64) -> io::Result<()> {
    let mut walk = Walk::default();
    let walked: BTreeSet<PathBuf> = mounts.walked.iter().map(PathBuf::from).collect();
    let left_out: BTreeSet<PathBuf> = mounts.left_out.keys().map(PathBuf::from).collect();
    for point in &walked {
        walk.tree(point, &walked, &left_out);
    }
    let digests = hashing::digests(&walk.jobs, clock);
    for (mut entry, job) in walk.entries.into_iter().zip(&walk.job_of) {
        match job.map(|job| &digests[job]) {
            None => {}
            Some(Ok(digest)) => entry.digest = Some(digest.clone()),
            // It was removed since it was listed: it is not there.
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
            Some(Err(error)) => walk.gaps.push(format!("{}: {error}", entry.path)),
        }
        sink.entry(Section::Files, &Record::File(entry))?;
    }
    for gap in walk.gaps {
        sink.gap(Section::Files, gap)?;
    }
    Ok(())
}

#[derive(Default)]
struct Walk {
    entries: Vec<FileEntry>,
    /// For each entry the job that hashes it, if it has content.
    job_of: Vec<Option<usize>>,
    jobs: Vec<Job>,
    gaps: Vec<String>,
}

impl Walk {
    /// What is mounted below `root` is a tree of its own (`walked`), or recorded as a directory and not entered.
    fn tree(&mut self, root: &Path, walked: &BTreeSet<PathBuf>, left_out: &BTreeSet<PathBuf>) {
        let mut waiting = vec![root.to_owned()];
        while let Some(path) = waiting.pop() {
            if path != root && walked.contains(&path) {
                continue;
            }
            let is_directory = match std::fs::symlink_metadata(&path) {
                Ok(metadata) => self.entry(&path, &metadata),
                Err(error) => {
                    self.gap(&path, &error);
                    continue;
                }
            };
            if is_directory && !left_out.contains(&path) {
                match std::fs::read_dir(&path) {
                    Ok(list) => waiting.extend(list.filter_map(Result::ok).map(|entry| entry.path())),
                    Err(error) => self.gap(&path, &error),
                }
            }
        }
    }

    /// Records one path; tells whether it is a directory.
    fn entry(&mut self, path: &Path, metadata: &Metadata) -> bool {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Symlink,
            _ => FileKind::Special,
        };
        let ctime = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
        let target = if kind == FileKind::Symlink { std::fs::read_link(path).ok() } else { None };
        let job = (kind == FileKind::File).then(|| {
            let identity = (metadata.dev(), metadata.ino(), ctime, metadata.size());
            self.jobs.push(Job { path: path.to_owned(), identity });
            self.jobs.len() - 1
        });
        self.job_of.push(job);
        self.entries.push(FileEntry {
            path: escape(path.as_os_str().as_bytes()),
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: if kind == FileKind::File { metadata.size() } else { 0 },
            digest: None,
            target: target.map(|target| escape(target.as_os_str().as_bytes())),
            xattrs: xattrs(path),
            ctime,
        });
        kind == FileKind::Directory
    }

    fn gap(&mut self, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.gaps.push(format!("{}: {error}", escape(path.as_os_str().as_bytes())));
        }
    }
}

/// Extended attributes of the path itself, in hex. A file system without them has none.
fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = [0_u8; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let value = |name: &[u8]| {
        let mut value = vec![0_u8; 65536]; // The kernel's own limit.
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        let hex = value[..length].iter().map(|byte| format!("{byte:02x}")).collect();
        Some((escape(name), hex))
    };
    names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(root: &Path, walked: &str, left_out: &str) -> BTreeMap<String, FileEntry> {
        let mut walk = Walk::default();
        walk.tree(root, &BTreeSet::from([root.join(walked)]), &BTreeSet::from([root.join(left_out)]));
        assert_eq!(walk.gaps, [""; 0]);
        let prefix = root.display().to_string();
        walk.entries.into_iter().map(|e| (e.path.strip_prefix(&prefix).expect("below").to_owned(), e)).collect()
    }

    #[test]
    fn a_tree_is_recorded_without_what_is_mounted_in_it() {
        let root = std::env::temp_dir().join(format!("redrill-probe-{}", std::process::id()));
        std::fs::create_dir_all(root.join("mounted")).expect("temporary directory");
        std::fs::create_dir_all(root.join("own-tree/sub")).expect("temporary directory");
        std::fs::write(root.join("mounted/other"), "x").expect("file");
        std::fs::write(root.join("a"), "content").expect("file");
        std::os::unix::fs::symlink("a", root.join("link")).expect("link");
        let seen = walk(&root, "own-tree", "mounted");
        std::fs::remove_dir_all(&root).expect("cleaned up");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["", "/a", "/link", "/mounted"]);
        assert_eq!((seen["/a"].kind, seen["/a"].size), (FileKind::File, 7));
        assert_eq!(seen["/link"].target.as_deref(), Some("a"));
    }
}
