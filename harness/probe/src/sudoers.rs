//! sudo's rules in the order in which it reads them: includes followed, skipped files skipped, continued lines joined.

use std::path::{Path, PathBuf};

use redrill_state::{Section, SudoRule};

use crate::found::{Found, Root, squeeze};

const MAIN: &str = "/etc/sudoers";
/// sudo's own limit.
const DEPTH: usize = 128;

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Sudoers);
    if !root.at(MAIN).exists() {
        found.note("sudo is not installed");
        return found;
    }
    let mut reader = Reader { root, found: &mut found, last: String::new() };
    reader.file(Path::new(MAIN), 0);
    found
}

struct Reader<'a> {
    root: &'a Root,
    found: &'a mut Found,
    last: String,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, depth: usize) {
        if depth > DEPTH {
            self.found.gap(format!("{}: too many levels of includes", path.display()));
            return;
        }
        let Some(text) = self.found.text(self.root, path) else { return };
        for line in joined(&text) {
            match included(&line) {
                Some((directory, target)) => {
                    // `%h` is the host's short name.
                    let target = target.replace("%h", short_name(self.root).as_str());
                    let target = path.parent().unwrap_or(Path::new("/")).join(target);
                    if directory { self.directory(&target, depth) } else { self.file(&target, depth + 1) }
                }
                None => self.rule(line, path),
            }
        }
    }

    /// In the order of names, without those that end in `~` or have a dot, as sudoers(5) says.
    fn directory(&mut self, directory: &Path, depth: usize) {
        let skipped = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.ends_with('~') || name.contains('.')
        };
        let paths = self.found.list(self.root, directory);
        for path in paths.into_iter().filter(|path| !skipped(path) && path.is_file()) {
            let name = path.file_name().unwrap_or_default();
            self.file(&directory.join(name), depth + 1);
        }
    }

    fn rule(&mut self, line: String, path: &Path) {
        let rule = SudoRule { rule: line.clone(), file: path.display().to_string(), after: self.last.clone() };
        self.last = line;
        self.found.add(rule);
    }
}

fn short_name(root: &Root) -> String {
    let name = root.text("/etc/hostname").ok().flatten().unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

/// Lines without comments, those that end in a backslash joined with the next.
fn joined(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(|line| squeeze(without_comment(line)));
    lines.filter(|line| !line.is_empty()).collect()
}

/// `#` begins a comment unless it begins `#include`, a user's number, or is in quotes or escaped.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        let rest = &line[at + character.len_utf8()..];
        match character {
            '"' if before != '\\' => quoted = !quoted,
            '#' if quoted || before == '\\' => {}
            '#' if line[..at].trim().is_empty() && rest.starts_with("include") => {}
            '#' if rest.starts_with(|next: char| next.is_ascii_digit()) && !before.is_alphanumeric() => {}
            '#' => return &line[..at],
            _ => {}
        }
        before = character;
    }
    line
}

/// What a line includes: whether a directory, and its path.
fn included(line: &str) -> Option<(bool, String)> {
    let rest = line.strip_prefix(['@', '#'])?.strip_prefix("include")?;
    let (directory, rest) = rest.strip_prefix("dir").map_or((false, rest), |rest| (true, rest));
    let path = rest.strip_prefix(' ')?.trim_matches('"').replace("\\ ", " ");
    Some((directory, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    #[test]
    fn rules_come_in_sudos_order_and_skipped_files_do_not() {
        let tree = Tree::new("sudoers");
        tree.file(
            MAIN,
            "# comment\nDefaults\tenv_reset # why\nroot ALL=(ALL:ALL) \\\n  ALL\n#1000 ALL=(ALL) ALL\n\
             @includedir /etc/sudoers.d\n#include local\n",
        );
        tree.file("/etc/sudoers.d/b", "ada ALL=(ALL) NOPASSWD: ALL\n");
        tree.file("/etc/sudoers.d/a", "%adm ALL=(root) /bin/x \"#\"\n");
        tree.file("/etc/sudoers.d/c~", "old ALL=ALL\n");
        tree.file("/etc/sudoers.d/d.bak", "old ALL=ALL\n");
        tree.file("/etc/local", "@include /etc/sudoers\nlast ALL=ALL\n");
        let found = read(&tree.root());
        let rules: Vec<&SudoRule> = found
            .entries
            .iter()
            .map(|record| match record {
                Record::SudoRule(rule) => rule,
                _ => panic!("another section"),
            })
            .collect();
        let seen: Vec<&str> = rules.iter().map(|rule| rule.rule.as_str()).take(5).collect();
        assert_eq!(
            seen,
            [
                "Defaults env_reset",
                "root ALL=(ALL:ALL) ALL",
                "#1000 ALL=(ALL) ALL",
                "%adm ALL=(root) /bin/x \"#\"",
                "ada ALL=(ALL) NOPASSWD: ALL"
            ]
        );
        assert_eq!((rules[4].file.as_str(), rules[4].after.as_str()), ("/etc/sudoers.d/b", seen[3]));
        assert!(rules.iter().all(|rule| !rule.rule.starts_with("old")));
        assert!(found.gaps.iter().any(|gap| gap.reason.contains("too many levels")), "a loop of includes ends");
    }
}
