//! The paths of a manifest.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redrill_state::{Leaf, Manifest, escape};

use super::Gap;
use crate::hashing::{self, Unread};

/// Everything at and below `root`; tells whether there is anything.
pub(super) fn walk(root: &str, manifest: &mut Manifest) -> Result<bool, Gap> {
    let root = PathBuf::from(root);
    if std::fs::symlink_metadata(&root).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(false);
    }
    let names = Names { users: numbered("/etc/passwd"), groups: numbered("/etc/group") };
    let mut waiting = vec![root];
    while let Some(path) = waiting.pop() {
        match leaf(&path, &names) {
            Ok(leaf) => {
                if leaf.kind == "directory" {
                    match std::fs::read_dir(&path) {
                        Ok(list) => waiting.extend(list.filter_map(Result::ok).map(|entry| entry.path())),
                        Err(error) => manifest.gaps.push(format!("{}: {error}", path.display())),
                    }
                }
                manifest.paths.insert(escape(path.as_os_str().as_bytes()), leaf);
            }
            // It was removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => manifest.gaps.push(format!("{}: {error}", path.display())),
        }
    }
    Ok(true)
}

struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

fn leaf(path: &Path, names: &Names) -> io::Result<Leaf> {
    let metadata = std::fs::symlink_metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_file() => "file",
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "symlink",
        _ => "special",
    };
    let name = |names: &HashMap<u32, String>, number: u32| names.get(&number).cloned().unwrap_or(number.to_string());
    let target = if kind == "symlink" { Some(std::fs::read_link(path)?) } else { None };
    Ok(Leaf {
        kind: kind.to_owned(),
        size: (kind == "file").then_some(metadata.len()),
        digest: if kind == "file" { Some(digest(path)?) } else { None },
        target: target.map(|target| escape(target.as_os_str().as_bytes())),
        owner: format!("{}:{}", name(&names.users, metadata.uid()), name(&names.groups, metadata.gid())),
        mode: format!("{:04o}", metadata.mode() & 0o7777),
        mtime: metadata.mtime(),
    })
}

/// Content of a file that holds still: one that does not is no backup's.
fn digest(path: &Path) -> io::Result<String> {
    match hashing::read(path) {
        Ok(content) if content.still => Ok(content.digest.to_string()),
        Ok(_) => Err(io::Error::other("it is written to while it is read")),
        Err(Unread::Gone) => Err(io::ErrorKind::NotFound.into()),
        Err(Unread::Failed(error)) => Err(error),
    }
}

/// Names by number, from a file like passwd(5): no look-ups.
fn numbered(file: &str) -> HashMap<u32, String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_told_with_content_and_owner() {
        let root = std::env::temp_dir().join(format!("redrill-manifest-{}", std::process::id()));
        std::fs::create_dir_all(root.join("sub")).expect("directory");
        std::fs::write(root.join("sub/a"), "content").expect("file");
        std::os::unix::fs::symlink("a", root.join("sub/link")).expect("link");
        let mut manifest = Manifest::default();
        let text = root.display().to_string();
        let there = walk(&text, &mut manifest);
        std::fs::remove_dir_all(&root).expect("cleaned up");
        assert_eq!(there, Ok(true));
        let leaf = |path: &str| manifest.paths[&format!("{text}{path}")].clone();
        assert_eq!(leaf("/sub/a").size, Some(7));
        assert_eq!(leaf("/sub/a").digest, Some(blake3::hash(b"content").to_hex().to_string()));
        assert!(leaf("/sub/a").owner.contains(':'));
        assert_eq!((leaf("/sub").kind.as_str(), leaf("/sub/link").target.as_deref()), ("directory", Some("a")));
        assert_eq!((manifest.paths.len(), manifest.gaps.len()), (4, 0));
    }

    #[test]
    fn what_is_not_there_is_no_gap() {
        let mut manifest = Manifest::default();
        assert_eq!(walk("/nonexistent/redrill", &mut manifest), Ok(false));
        assert_eq!(manifest, Manifest::default());
    }
}
