//! Small machines for unit tests.

use std::collections::BTreeMap;

use crate::files::Files;
use crate::{Capture, Digest, FileEntry, FileKind, Header, Unit};

/// Stands for the digest of a short text.
pub(crate) fn digest(content: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(content.bytes()).for_each(|(byte, of)| *byte = of);
    Digest(bytes)
}

pub(crate) fn file(path: &str, content: &str) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: content.len() as u64,
        digest: Some(digest(content)),
        target: None,
        xattrs: BTreeMap::new(),
        ctime: 0,
    }
}

pub(crate) fn service(name: &str, invocation: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        load: "loaded".to_owned(),
        enabled: "enabled".to_owned(),
        active: "active".to_owned(),
        service_type: "simple".to_owned(),
        invocation: invocation.to_owned(),
        ..Unit::default()
    }
}

/// A machine that holds these files and units.
pub(crate) fn machine(files: &[FileEntry], units: &[Unit]) -> Capture {
    Capture {
        header: Header::new("boot".to_owned(), 0),
        files: Files::new(files.to_vec()).expect("no path twice"),
        units: units.iter().map(|u| (u.name.clone(), u.clone())).collect(),
        ..Capture::default()
    }
}
