//! The difference of two captures.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::capture::Capture;
use crate::entries::{Facts, FileEntry};
use crate::files::{Files, walk_order};
use crate::sections::{Record, Section};

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        })
    }
}

/// One attribute that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Such as `mode` or `content`.
    pub attribute: &'static str,
    /// As text; empty where it did not exist.
    pub before: String,
    /// As text; empty where it does not exist.
    pub after: String,
}

/// One entry that differs between two captures.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Where.
    pub section: Section,
    /// Path, name or address.
    pub subject: String,
    /// How.
    pub kind: ChangeKind,
    /// The attributes that differ; all of them for what was added or removed.
    pub differences: Vec<Difference>,
}

impl Change {
    /// Whether nothing but these attributes differs.
    pub fn only(&self, attributes: &[&str]) -> bool {
        self.kind == ChangeKind::Changed && self.differences.iter().all(|d| attributes.contains(&d.attribute))
    }
}

/// All that differs, in the order of sections and names. ctime, mtime and inode numbers are no differences, and which
/// run of a unit it is (`invocation`) is judged on its own.
pub fn diff(before: &Capture, after: &Capture) -> Vec<Change> {
    let mut changes = Vec::new();
    files(&before.files, &after.files, &mut changes);
    section(Section::Packages, &before.packages, &after.packages, &mut changes);
    section(Section::Users, &before.users, &after.users, &mut changes);
    section(Section::Groups, &before.groups, &after.groups, &mut changes);
    section(Section::Units, &before.units, &after.units, &mut changes);
    section(Section::Sockets, &before.sockets, &after.sockets, &mut changes);
    let none: BTreeMap<String, Record> = BTreeMap::new();
    for other in Section::ALL {
        let (old, new) = (before.settings.get(other), after.settings.get(other));
        section(*other, old.unwrap_or(&none), new.unwrap_or(&none), &mut changes);
    }
    changes
}

/// Walks both lists side by side: they are in the same order.
fn files(before: &Files, after: &Files, changes: &mut Vec<Change>) {
    let (mut old, mut new) = (before.values().peekable(), after.values().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => walk_order(old.path.as_bytes(), new.path.as_bytes()),
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        let (kind, file): (ChangeKind, &FileEntry) = match (old, new) {
            (Some(old), Some(new)) if old.same(new) => continue,
            (Some(_), Some(new)) => (ChangeKind::Changed, new),
            (Some(old), None) => (ChangeKind::Removed, old),
            (None, Some(new)) => (ChangeKind::Added, new),
            (None, None) => return,
        };
        let (section, subject) = (Section::Files, file.path.clone());
        changes.push(Change { section, subject, kind, differences: differences(old, new) });
    }
}

/// Counts the changes of each section that has any, in words: `3 added, 1 changed`.
pub fn counts(changes: &[Change]) -> BTreeMap<Section, String> {
    let mut by_section: BTreeMap<Section, BTreeMap<ChangeKind, usize>> = BTreeMap::new();
    for change in changes {
        *by_section.entry(change.section).or_default().entry(change.kind).or_default() += 1;
    }
    let words = |kinds: BTreeMap<ChangeKind, usize>| {
        kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    };
    by_section.into_iter().map(|(section, kinds)| (section, words(kinds))).collect()
}

fn section<T: Facts>(
    section: Section,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    changes: &mut Vec<Change>,
) {
    let mut push = |subject: &str, kind, old: Option<&T>, new: Option<&T>| {
        let differences = differences(old, new);
        if kind != ChangeKind::Changed || !differences.is_empty() {
            changes.push(Change { section, subject: subject.to_owned(), kind, differences });
        }
    };
    for (subject, old) in before {
        match after.get(subject) {
            None => push(subject, ChangeKind::Removed, Some(old), None),
            Some(new) => push(subject, ChangeKind::Changed, Some(old), Some(new)),
        }
    }
    for (subject, new) in after.iter().filter(|(subject, _)| !before.contains_key(*subject)) {
        push(subject, ChangeKind::Added, None, Some(new));
    }
}

/// Facts that are not read each time; where one side lacks them there is nothing to compare.
const WHERE_READ: [&str; 3] = ["rows", "values", "limits"];

fn differences<T: Facts>(old: Option<&T>, new: Option<&T>) -> Vec<Difference> {
    let mut attributes: BTreeMap<&'static str, (String, String)> = BTreeMap::new();
    for (attribute, value) in old.map(Facts::facts).unwrap_or_default() {
        attributes.entry(attribute).or_default().0 = value;
    }
    for (attribute, value) in new.map(Facts::facts).unwrap_or_default() {
        attributes.entry(attribute).or_default().1 = value;
    }
    let both = old.is_some() && new.is_some();
    let unread = |attribute: &str, before: &str, after: &str| {
        both && WHERE_READ.contains(&attribute) && (before.is_empty() || after.is_empty())
    };
    attributes
        .into_iter()
        .filter(|(attribute, (before, after))| before != after && !unread(attribute, before, after))
        .map(|(attribute, (before, after))| Difference { attribute, before, after })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{digest, file, machine, service};

    #[test]
    fn every_compared_attribute_of_a_file_is_a_difference() {
        let base = file("/a", "1");
        let change = |edit: fn(&mut crate::FileEntry)| {
            let mut other = base.clone();
            edit(&mut other);
            let changes = diff(&machine(std::slice::from_ref(&base), &[]), &machine(&[other], &[]));
            changes.iter().flat_map(|c| c.differences.iter().map(|d| d.attribute)).collect::<Vec<_>>()
        };
        assert_eq!(change(|f| f.digest = Some(digest("2"))), ["content"]);
        assert_eq!(change(|f| f.size = 9), ["size"]);
        assert_eq!(change(|f| f.kind = crate::FileKind::Special), ["content", "size", "type"]);
        assert_eq!(change(|f| f.mode = 0o4755), ["mode"]);
        assert_eq!(change(|f| f.uid = 1), ["uid"]);
        assert_eq!(change(|f| f.gid = 1), ["gid"]);
        assert_eq!(change(|f| f.target = Some("/b".into())), ["target"]);
        assert_eq!(change(|f| drop(f.xattrs.insert("security.capability".into(), "01".into()))), ["xattrs"]);
        assert_eq!(change(|f| f.ctime = 7), [""; 0], "a rewrite with equal content is no difference");
    }

    #[test]
    fn added_and_removed_entries_are_told_apart_and_counted() {
        let before = machine(&[file("/gone", "1"), file("/same", "1")], &[service("a.service", "1")]);
        let after = machine(&[file("/new", "1"), file("/same", "1")], &[service("a.service", "2")]);
        let changes = diff(&before, &after);
        let seen: Vec<_> = changes.iter().map(|c| (c.subject.as_str(), c.kind)).collect();
        assert_eq!(seen, [("/gone", ChangeKind::Removed), ("/new", ChangeKind::Added)]);
        assert_eq!(counts(&changes)[&Section::Files], "1 added, 1 removed");
    }
}
