//! Passwords: whether there is one, and a digest of its hash that only this run can make. A hash itself never leaves
//! the machine, and two digests of other runs tell nobody whether a password is still the same.

use redrill_state::{Section, Shadow};

use crate::found::{Found, Root};

/// The key of this run's digests.
pub(crate) type Key = [u8; 32];

pub(crate) fn read(root: &Root, key: &Key) -> Found {
    let mut found = Found::new(Section::Shadow);
    let Some(text) = found.text(root, "/etc/shadow") else {
        if found.gaps.is_empty() {
            found.note("there is no /etc/shadow");
        }
        return found;
    };
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match entry(line, key) {
            Some(entry) if !found.entries.iter().any(|old| is(old, &entry.name)) => found.add(entry),
            _ => found.gap(format!("/etc/shadow:{}: no entry, or a second one of this name", number + 1)),
        }
    }
    found
}

fn is(record: &redrill_state::Record, name: &str) -> bool {
    matches!(record, redrill_state::Record::Shadow(shadow) if shadow.name == name)
}

/// Format: shadow(5).
fn entry(line: &str, key: &Key) -> Option<Shadow> {
    let fields: Vec<&str> = line.split(':').collect();
    let &[name, hash, changed, least, most, warn, inactive, expires, _] = fields.as_slice() else { return None };
    Some(Shadow {
        name: name.to_owned(),
        password: password(hash, key),
        changed: changed.to_owned(),
        least: least.to_owned(),
        most: most.to_owned(),
        warn: warn.to_owned(),
        inactive: inactive.to_owned(),
        expires: expires.to_owned(),
    })
}

fn password(hash: &str, key: &Key) -> String {
    let open = hash.trim_start_matches('!');
    let locked = if open.len() < hash.len() { "locked " } else { "" };
    if hash.is_empty() {
        return "none".to_owned();
    }
    if open.is_empty() || open == "*" {
        return "locked".to_owned();
    }
    // `$y$...`: the scheme is worth knowing and no secret.
    let scheme = open.split('$').nth(1).filter(|_| open.starts_with('$')).unwrap_or("other");
    format!("{locked}{scheme} {}", keyed(key, open))
}

/// Of something that is secret or may be.
pub(crate) fn keyed(key: &Key, secret: impl AsRef<[u8]>) -> String {
    blake3::keyed_hash(key, secret.as_ref()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn a_hash_is_told_by_a_digest_that_only_this_key_makes() {
        let hash = "$y$j9T$salt$hashhashhash";
        let line = format!("ada:{hash}:20000:0:99999:7:::");
        let one = entry(&line, &[1; 32]).expect("an entry");
        assert_eq!(one, entry(&line, &[1; 32]).expect("an entry"), "captures of a run compare");
        assert_ne!(one.password, entry(&line, &[2; 32]).expect("an entry").password);
        assert!(one.password.starts_with("y ") && !one.password.contains("hashhash"), "{}", one.password);
        assert_ne!(one.password, entry(&line.replace("salt", "pepper"), &[1; 32]).expect("an entry").password);
        assert_eq!((one.changed.as_str(), one.most.as_str()), ("20000", "99999"));
    }

    #[test]
    fn locked_and_missing_passwords_are_told_apart() {
        let of = |hash: &str| password(hash, &[1; 32]);
        assert_eq!(
            (of(""), of("*"), of("!"), of("!*")),
            ("none".into(), "locked".into(), "locked".into(), "locked".into())
        );
        assert_eq!(of("!$6$x$y"), format!("locked {}", of("$6$x$y")));
    }

    #[test]
    fn a_broken_line_is_a_gap() {
        let tree = Tree::new("shadow");
        tree.file("/etc/shadow", "root:*:1:0:9:7:::\nbroken\nroot:!:1:0:9:7:::\n");
        let found = read(&tree.root(), &[1; 32]);
        assert_eq!((found.entries.len(), found.gaps.len()), (1, 2));
    }
}
