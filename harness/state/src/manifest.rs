//! A manifest: what a backup must bring back. It is written where the data lives, when the backup is made, and compared
//! whole with what a restore left.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the manifest's form.
pub const MANIFEST_SCHEMA: u32 = 1;

/// What was found in a list of targets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: u32,
    /// The clock of the machine, in seconds since 1970.
    pub taken: i64,
    /// Each target that was asked for, and whether it is there.
    pub targets: BTreeMap<String, bool>,
    /// Everything below the targets that are paths, by absolute path, escaped as in captures.
    pub paths: BTreeMap<String, Leaf>,
    /// The tables of the targets that are databases, by `DATABASE.TABLE`.
    pub tables: BTreeMap<String, Table>,
    /// What could not be read, and why: a manifest with gaps proves nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
}

/// One path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// `file`, `directory`, `symlink` or `special`.
    pub kind: String,
    /// Bytes of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// BLAKE3 of its content, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `USER:GROUP`, by name: numbers differ between machines.
    pub owner: String,
    /// Permission bits, in octal.
    pub mode: String,
    /// When the content last changed, in seconds since 1970. Tells the age of data, and is not compared.
    pub mtime: i64,
}

/// One table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Rows.
    pub rows: u64,
    /// The highest primary key, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<String>,
    /// BLAKE3 of columns, indexes and constraints, in hex.
    pub schema: String,
    /// The newest moment in any of its columns of dates and times, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<i64>,
}

/// One thing that is not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// Path or table.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// It is there, and the manifest does not know it: no loss.
    pub extra: bool,
}

impl Manifest {
    /// Regular files, and their bytes.
    pub fn files(&self) -> (u64, u64) {
        let sizes = self.paths.values().filter_map(|leaf| leaf.size);
        sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }

    /// When the newest record was written: in tables, or else in files.
    pub fn newest(&self) -> Option<i64> {
        let tables = self.tables.values().filter_map(|table| table.newest).max();
        let files = self.paths.values().filter(|leaf| leaf.kind == "file").map(|leaf| leaf.mtime).max();
        tables.or(files)
    }

    /// What data it holds, but for the paths and tables of which `deployed` is true: nothing of it in an empty target.
    pub fn data(&self, deployed: impl Fn(&str) -> bool) -> Vec<String> {
        let files = self.paths.iter().filter(|(path, leaf)| leaf.kind != "directory" && !deployed(path));
        let tables = self.tables.iter().filter(|(name, table)| table.rows > 0 && !deployed(name));
        files
            .map(|(path, _)| path.clone())
            .chain(tables.map(|(name, table)| format!("{name} ({} rows)", table.rows)))
            .collect()
    }

    /// All in which `found` differs from this, but for subjects of which `ephemeral` is true.
    pub fn compare(&self, found: &Self, ephemeral: impl Fn(&str) -> bool) -> Vec<Disagreement> {
        let mut all = Vec::new();
        let mut tell = |subject: &str, what: String, extra| {
            if !ephemeral(subject) {
                all.push(Disagreement { subject: subject.to_owned(), what, extra });
            }
        };
        for (path, wanted) in &self.paths {
            match found.paths.get(path) {
                None => tell(path, "is missing".to_owned(), false),
                Some(leaf) => leaf_differs(wanted, leaf).into_iter().for_each(|what| tell(path, what, false)),
            }
        }
        for (name, wanted) in &self.tables {
            match found.tables.get(name) {
                None => tell(name, format!("is missing, with {} rows", wanted.rows), false),
                Some(table) => table_differs(wanted, table).into_iter().for_each(|what| tell(name, what, false)),
            }
        }
        for path in found.paths.keys().filter(|path| !self.paths.contains_key(*path)) {
            tell(path, "is not in the manifest".to_owned(), true);
        }
        for name in found.tables.keys().filter(|name| !self.tables.contains_key(*name)) {
            tell(name, "is not in the manifest".to_owned(), true);
        }
        all
    }
}

fn leaf_differs(wanted: &Leaf, found: &Leaf) -> Option<String> {
    let content = |leaf: &Leaf| match (&leaf.digest, &leaf.target) {
        (Some(digest), _) => format!("{} bytes, {}", leaf.size.unwrap_or_default(), &digest[..12.min(digest.len())]),
        (None, Some(target)) => format!("-> {target}"),
        (None, None) => String::new(),
    };
    let mut what = Vec::new();
    let mut differs = |name: &str, wanted: String, found: String| {
        if wanted != found {
            what.push(format!("{name} is {found}, and was {wanted}"));
        }
    };
    differs("type", wanted.kind.clone(), found.kind.clone());
    differs("content", content(wanted), content(found));
    differs("owner", wanted.owner.clone(), found.owner.clone());
    differs("mode", wanted.mode.clone(), found.mode.clone());
    (!what.is_empty()).then(|| what.join("; "))
}

fn table_differs(wanted: &Table, found: &Table) -> Option<String> {
    let key = |table: &Table| table.highest.clone().unwrap_or_else(|| "none".to_owned());
    let mut what = Vec::new();
    if wanted.rows != found.rows {
        what.push(format!("{} rows, and had {}", found.rows, wanted.rows));
    }
    if wanted.highest != found.highest {
        what.push(format!("its highest key is {}, and was {}", key(found), key(wanted)));
    }
    if wanted.schema != found.schema {
        what.push("its columns, indexes or constraints are others".to_owned());
    }
    (!what.is_empty()).then(|| what.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(digest: &str, size: u64) -> Leaf {
        Leaf {
            kind: "file".into(),
            size: Some(size),
            digest: Some(digest.into()),
            owner: "notes:notes".into(),
            mode: "0640".into(),
            ..Leaf::default()
        }
    }

    fn manifest() -> Manifest {
        let table = Table { rows: 12, highest: Some("12".into()), schema: "s".into(), newest: Some(5) };
        let mut manifest = Manifest { schema: MANIFEST_SCHEMA, ..Manifest::default() };
        manifest.paths.insert("/d/a".into(), file("one", 3));
        manifest.tables.insert("notes.documents".into(), table);
        manifest
    }

    fn told(edit: impl Fn(&mut Manifest)) -> Vec<String> {
        let mut found = manifest();
        edit(&mut found);
        let all = manifest().compare(&found, |path| path.starts_with("/d/cache"));
        all.into_iter().map(|d| format!("{}{} {}", if d.extra { "+ " } else { "" }, d.subject, d.what)).collect()
    }

    #[test]
    fn a_manifest_is_compared_whole() {
        assert_eq!(told(|_| {}), [""; 0]);
        assert_eq!(told(|m| drop(m.paths.remove("/d/a"))), ["/d/a is missing"]);
        assert_eq!(told(|m| m.tables.clear()), ["notes.documents is missing, with 12 rows"]);
        let edit = |edit: fn(&mut Leaf)| told(|m| edit(m.paths.get_mut("/d/a").expect("there")));
        assert_eq!(edit(|leaf| leaf.size = Some(1)), ["/d/a content is 1 bytes, one, and was 3 bytes, one"]);
        assert_eq!(
            edit(|leaf| leaf.digest = Some("two".into())),
            ["/d/a content is 3 bytes, two, and was 3 bytes, one"]
        );
        assert_eq!(edit(|leaf| leaf.owner = "root:root".into()), ["/d/a owner is root:root, and was notes:notes"]);
        assert_eq!(edit(|leaf| leaf.mode = "0666".into()), ["/d/a mode is 0666, and was 0640"]);
        assert_eq!(edit(|leaf| leaf.mtime = 99), [""; 0], "a restore may set times");
        let edit = |edit: fn(&mut Table)| told(|m| edit(m.tables.get_mut("notes.documents").expect("there")));
        assert_eq!(edit(|table| table.rows = 0), ["notes.documents 0 rows, and had 12"]);
        assert_eq!(edit(|table| table.highest = None), ["notes.documents its highest key is none, and was 12"]);
        assert_eq!(edit(|table| table.schema = "t".into()).len(), 1);
    }

    #[test]
    fn what_is_more_is_told_apart_and_what_is_ephemeral_is_left_out() {
        assert_eq!(told(|m| drop(m.paths.insert("/d/b".into(), file("x", 1)))), ["+ /d/b is not in the manifest"]);
        assert_eq!(told(|m| drop(m.paths.insert("/d/cache/b".into(), file("x", 1)))), [""; 0]);
    }

    #[test]
    fn directories_and_empty_tables_are_no_data() {
        let mut found = Manifest::default();
        found.paths.insert("/d".into(), Leaf { kind: "directory".into(), ..Leaf::default() });
        found.tables.insert("notes.documents".into(), Table::default());
        assert_eq!(found.data(|_| false), [""; 0]);
        assert_eq!(manifest().data(|_| false), ["/d/a", "notes.documents (12 rows)"]);
        assert_eq!(manifest().data(|subject| subject == "/d/a"), ["notes.documents (12 rows)"]);
        assert_eq!((manifest().files(), manifest().rows(), manifest().newest()), ((1, 3), 12, Some(5)));
    }
}
