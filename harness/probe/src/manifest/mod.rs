//! `manifest TARGET...`: what is in directories and databases, for a backup to be held against. Reads only.
//!
//! A target is an absolute path, `postgres:NAME`, `mariadb:NAME` or `sqlite:/path`. Databases are asked through their own
//! client programs, as their own administrators.

mod mariadb;
mod postgres;
mod sqlite;
mod tables;
mod trees;

use std::io::{self, Write};

use redrill_state::{MANIFEST_SCHEMA, Manifest};

/// Why a target could not be read; told as a gap.
type Gap = String;

pub(crate) fn write(targets: &[&str], mut out: impl Write) -> io::Result<()> {
    if targets.is_empty() {
        return Err(io::Error::other("a manifest of nothing: name a path or a database"));
    }
    let taken = crate::now() / 1_000_000_000;
    let mut manifest = Manifest { schema: MANIFEST_SCHEMA, taken, ..Manifest::default() };
    for target in targets {
        let there = match read(target, &mut manifest) {
            Ok(there) => there,
            Err(gap) => {
                manifest.gaps.push(format!("{target}: {gap}"));
                false
            }
        };
        manifest.targets.insert((*target).to_owned(), there);
    }
    serde_json::to_writer(&mut out, &manifest)?;
    out.write_all(b"\n")
}

/// Tells whether the target is there.
fn read(target: &str, manifest: &mut Manifest) -> Result<bool, Gap> {
    let tables = match target.split_once(':') {
        Some(("postgres", name)) => postgres::tables(name)?,
        Some(("mariadb", name)) => mariadb::tables(name)?,
        Some(("sqlite", path)) => sqlite::tables(path)?,
        _ if target.starts_with('/') => return trees::walk(target, manifest),
        _ => return Err("neither a path nor a database".to_owned()),
    };
    let there = tables.is_some();
    manifest.tables.extend(tables.into_iter().flatten());
    Ok(there)
}
