//! Keys that may sign in over SSH, of every account, wherever sshd is told to look for them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use redrill_state::{AuthorizedKey, Section, User};
use sha2::{Digest, Sha256};

use crate::found::{Found, Root, digest, squeeze};
use crate::{accounts, sshd};

/// Unless sshd is told otherwise.
const DEFAULT: [&str; 2] = [".ssh/authorized_keys", ".ssh/authorized_keys2"];

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::AuthorizedKeys);
    let mut patterns: BTreeSet<String> = DEFAULT.map(str::to_owned).into();
    patterns.extend(sshd::key_files(root));
    let mut seen = BTreeSet::new();
    for user in accounts::users(root).unwrap_or_default() {
        let files: BTreeSet<String> = patterns.iter().map(|pattern| expand(pattern, &user)).collect();
        for file in files {
            // Accounts that share a home (`/`, `/nonexistent`) share its keys; each may sign in by them.
            if seen.insert((user.name.clone(), file.clone())) {
                read_file(&mut found, root, &user, &file);
            }
        }
    }
    found
}

fn read_file(found: &mut Found, root: &Root, user: &User, file: &str) {
    let Some(text) = found.text(root, file) else { return };
    let owner = std::fs::metadata(root.at(file)).map(|metadata| metadata.uid()).unwrap_or_default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (user, file) = (user.name.clone(), file.to_owned());
        found.add(AuthorizedKey { user, file, owner, ..key(line) });
    }
}

/// `%h`, `%u`, `%U` and `%%`; what is relative is in the home directory.
fn expand(pattern: &str, user: &User) -> String {
    let mut path = String::new();
    let mut rest = pattern.chars();
    while let Some(character) = rest.next() {
        match (character, if character == '%' { rest.next() } else { None }) {
            ('%', Some('h')) => path.push_str(&user.home),
            ('%', Some('u')) => path.push_str(&user.name),
            ('%', Some('U')) => path.push_str(&user.uid.to_string()),
            ('%', other) => path.push(other.unwrap_or('%')),
            (other, _) => path.push(other),
        }
    }
    if path.starts_with('/') { path } else { format!("{}/{path}", user.home.trim_end_matches('/')) }
}

/// `[options] type key [comment]`, sshd(8).
fn key(line: &str) -> AuthorizedKey {
    let (options, rest) = match is_kind(line) {
        true => ("", line),
        false => line.split_at(end_of_options(line)),
    };
    let mut words = rest.trim_start().splitn(2, char::is_whitespace);
    let (kind, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim_start());
    let (blob, comment) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match STANDARD.decode(blob) {
        Ok(blob) if is_kind(kind) && !blob.is_empty() => AuthorizedKey {
            kind: kind.to_owned(),
            fingerprint: format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&blob))),
            options: options.trim().to_owned(),
            comment: squeeze(comment),
            ..AuthorizedKey::default()
        },
        _ => AuthorizedKey { kind: "unreadable".to_owned(), fingerprint: digest(line), ..AuthorizedKey::default() },
    }
}

fn is_kind(text: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| text.starts_with(start))
}

/// Options end at the first blank that is in no quotes.
fn end_of_options(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in line.char_indices() {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return at,
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEWtYCkbFAhC6kOSPDfs8TMBR4NZqVdBCsWkqHKT4Zq9";

    #[test]
    fn options_and_comment_are_told_from_the_key() {
        let plain = key(&format!("{KEY} ada@laptop"));
        assert_eq!(
            (plain.kind.as_str(), plain.comment.as_str(), plain.options.as_str()),
            ("ssh-ed25519", "ada@laptop", "")
        );
        assert!(plain.fingerprint.starts_with("SHA256:") && plain.fingerprint.len() == 50, "{}", plain.fingerprint);
        let options = r#"restrict,command="echo \"a b\" # no",from="10.0.0.0/8""#;
        let forced = key(&format!("{options} {KEY}"));
        assert_eq!((forced.options.as_str(), forced.fingerprint), (options, plain.fingerprint));
        assert_eq!(key("not a key").kind, "unreadable");
        assert_eq!(key("ssh-ed25519 !!!").kind, "unreadable");
    }

    #[test]
    fn keys_are_found_wherever_sshd_looks() {
        let tree = Tree::new("keys");
        tree.file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n");
        tree.file("/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n");
        tree.file("/etc/ssh/sshd_config.d/a.conf", "AuthorizedKeysFile /etc/ssh/keys/%u .ssh/authorized_keys\n");
        tree.file("/root/.ssh/authorized_keys", format!("# mine\n{KEY} r\n"));
        tree.file("/etc/ssh/keys/ada", format!("{KEY} a\n{KEY} a\n"));
        let found = read(&tree.root());
        assert!(found.gaps.is_empty());
        let seen = found.entries.iter().map(|record| match record {
            Record::AuthorizedKey(key) => (key.user.as_str(), key.file.as_str(), key.comment.as_str()),
            _ => panic!("another section"),
        });
        let seen: Vec<_> = seen.collect();
        let twice = ("ada", "/etc/ssh/keys/ada", "a");
        assert_eq!(seen, [("root", "/root/.ssh/authorized_keys", "r"), twice, twice]);
    }
}
