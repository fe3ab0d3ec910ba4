//! Small machines for unit tests.

use std::collections::BTreeMap;

use crate::{Capture, FileEntry, FileKind, Header, Unit};

pub(crate) fn file(path: &str, content: &str) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: content.len() as u64,
        digest: Some(content.to_owned()),
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
        files: files.iter().map(|f| (f.path.clone(), f.clone())).collect(),
        units: units.iter().map(|u| (u.name.clone(), u.clone())).collect(),
        ..Capture::default()
    }
}
