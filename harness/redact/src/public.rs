//! What lies among keys and is public all the same, told by what it is and not by its file's name; and the names that
//! the scenario itself says.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Keys of a scenario whose values are names of things, and never secrets: what is said anywhere else is not made public
/// by it, a summary least of all.
const NAMING: [&str; 22] = [
    "acme",
    "backend",
    "ca",
    "commit",
    "from",
    "host",
    "image",
    "inventory",
    "kind",
    "limit",
    "machine",
    "mail",
    "name",
    "on",
    "path",
    "requirements",
    "script",
    "server",
    "target",
    "tool",
    "unit",
    "url",
];

/// The names in a scenario's text. A text that is no TOML has none.
pub(crate) fn names(scenario: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Ok(table) = scenario.parse::<toml::Table>() {
        table.iter().for_each(|(key, value)| collect(key, value, &mut names));
    }
    names
}

fn collect(key: &str, value: &toml::Value, names: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| collect(key, value, names)),
        toml::Value::Array(values) => values.iter().for_each(|value| collect(key, value, names)),
        toml::Value::String(text) if NAMING.contains(&key) => {
            if let Some((_, rest)) = text.split_once("://") {
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                // A URL with a password or parameters is more than a name.
                if authority.contains('@') || rest.contains('?') {
                    return;
                }
                names.extend([authority, authority.split(':').next().unwrap_or_default()].map(str::to_owned));
            }
            names.insert(text.clone());
        }
        _ => {}
    }
}

/// The base64 of the public key of OpenSSH that stands in this line, if one does.
pub(crate) fn ssh_key(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pairs = words.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(kind, blob)| is_ssh_key(kind, blob)).map(|(_, blob)| blob).next()
}

fn is_ssh_key(kind: &str, blob: &str) -> bool {
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| kind.starts_with(start));
    known
        && STANDARD.decode(blob).is_ok_and(|bytes| {
            let length = bytes.get(..4).map(|length| u32::from_be_bytes([length[0], length[1], length[2], length[3]]));
            // What it is stands in it, and nothing that is private does.
            length == u32::try_from(kind.len()).ok() && bytes[4..].starts_with(kind.as_bytes())
        })
}

/// Whether a block of PEM holds what anybody may know: by its label and by what it is.
pub(crate) fn is_public_block(label: &str, body: &str) -> bool {
    let sequence = match label {
        "CERTIFICATE"
        | "TRUSTED CERTIFICATE"
        | "X509 CERTIFICATE"
        | "PUBLIC KEY"
        | "CERTIFICATE REQUEST"
        | "NEW CERTIFICATE REQUEST"
        | "X509 CRL" => true,
        // Numbers, as in private keys: but no version before them, which is one byte long.
        "RSA PUBLIC KEY" | "DH PARAMETERS" => false,
        "PGP PUBLIC KEY BLOCK" => return pgp_public(body),
        _ => return false,
    };
    let Ok(der) = STANDARD.decode(body.split_whitespace().collect::<String>()) else { return false };
    let Some(inner) = der_sequence(&der) else { return false };
    match (sequence, inner.first()) {
        (true, first) => first == Some(&0x30),
        (false, first) => first == Some(&0x02) && inner.get(1) != Some(&1),
    }
}

/// What a sequence of DER holds, if it is one and nothing follows it.
fn der_sequence(der: &[u8]) -> Option<&[u8]> {
    let (first, length) = (der.first()?, usize::from(*der.get(1)?));
    let (head, length) = match length {
        0..=0x7f => (2, length),
        0x81..=0x84 => {
            let count = length - 0x80;
            (2 + count, der.get(2..2 + count)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
        }
        _ => return None,
    };
    (*first == 0x30 && der.len() == head.checked_add(length)?).then(|| &der[head..])
}

/// Whether the first packet is a public key: tag 6, of either format.
fn pgp_public(body: &str) -> bool {
    let packet = body.split("\n\n").last().unwrap_or(body);
    let text: String = packet.lines().filter(|line| !line.starts_with('=') && !line.contains(':')).collect();
    let first =
        STANDARD.decode(text.split_whitespace().collect::<String>()).ok().and_then(|bytes| bytes.first().copied());
    first.is_some_and(|tag| tag == 0xc6 || (tag & 0xfc) == 0x98)
}

/// A recipient of age, which anybody may know.
pub(crate) fn is_age_recipient(word: &str) -> bool {
    word.starts_with("age1") && word[4..].bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJ7xXxYQ6GQvzZ8m7Wm8m2rWm2vQvzZ8m7Wm8m2rWm2v";

    #[test]
    fn only_what_names_things_in_a_scenario_is_public() {
        let names = names(
            "summary = 'web.example.org-pw'\n[deploy]\nenv = { A = 'hunter2-hunter2' }\n[[machine]]\nname = 'web.example.org'\n\
             [[check.http]]\nurl = 'https://shop.example.org:8443/health'\nwhy = 'x-y-z-secret'\n\
             [[check.http]]\nurl = 'https://a:hunter2@b.example.org/'\n",
        );
        for name in
            ["web.example.org", "shop.example.org", "shop.example.org:8443", "https://shop.example.org:8443/health"]
        {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(super::names("no toml at all").is_empty());
    }

    #[test]
    fn a_public_key_is_one_by_what_it_says_itself() {
        assert_eq!(ssh_key(&format!("ssh-ed25519 {KEY} me@here")), Some(KEY));
        assert_eq!(ssh_key(&format!("command=\"x\" ssh-ed25519 {KEY}")), Some(KEY));
        assert_eq!(ssh_key(&format!("ssh-rsa {KEY}")), None, "another kind");
        assert_eq!(ssh_key("ssh-ed25519 aHVudGVyMi1odW50ZXIy"), None, "a password in base64");
    }

    #[test]
    fn a_block_is_public_by_its_content_too() {
        // A sequence with a sequence in it; one with a version first, as private keys have.
        assert!(is_public_block("CERTIFICATE", &STANDARD.encode([0x30, 4, 0x30, 2, 5, 0])));
        assert!(!is_public_block("CERTIFICATE", &STANDARD.encode([0x30, 4, 0x02, 1, 0, 5])));
        assert!(!is_public_block("PRIVATE KEY", &STANDARD.encode([0x30, 4, 0x30, 2, 5, 0])));
        assert!(!is_public_block("CERTIFICATE", "hunter2hunter2hunter2"), "a password is no certificate");
        assert!(is_public_block("RSA PUBLIC KEY", &STANDARD.encode([0x30, 4, 0x02, 2, 5, 0])));
        assert!(!is_public_block("RSA PUBLIC KEY", &STANDARD.encode([0x30, 3, 0x02, 1, 0])));
        assert!(is_public_block("PGP PUBLIC KEY BLOCK", "Version: 1\n\nmQENBF\n=abcd\n") || !pgp_public("x"));
        assert!(is_age_recipient("age1qyqszqgpqyqszqgp") && !is_age_recipient("age1-PW"));
    }
}
