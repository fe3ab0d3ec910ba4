//! A password hashed anew at each deploy: the hash differs, and the password need not.

/// What to say of a difference in which nothing but hashes of passwords differs.
pub(super) fn note(evidence: &[String]) -> Option<&'static str> {
    let with = |sign: char| {
        let lines = evidence.iter().filter_map(move |line| line.strip_prefix(sign));
        lines.map(without_hashes).collect::<Vec<_>>()
    };
    let (before, after) = (with('-'), with('+'));
    let in_file = !before.is_empty() && before.iter().any(|(_, hashes)| *hashes > 0) && before == after;
    (in_file || evidence.iter().any(|line| is_another_hash(line))).then_some(
        "only a password's hash differs: made with a new salt each time, the same password has another hash; a fixed salt \
         mends that",
    )
}

/// What a capture tells of an account's password: the scheme, and a digest of the hash.
fn is_another_hash(line: &str) -> bool {
    let both = line.strip_prefix("password: ").and_then(|both| both.split_once(" -> "));
    let scheme = |text: &str| text.rsplit_once(' ').map(|(scheme, _)| scheme.to_owned());
    both.is_some_and(|(before, after)| before != after && scheme(before).is_some() && scheme(before) == scheme(after))
}

/// A line with a mark in the place of each hash, by its scheme, and how many there were.
fn without_hashes(line: &str) -> (String, usize) {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "$./=,-+_".contains(letter);
    let (mut text, mut hashes) = (String::new(), 0);
    let mut rest = line;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        let end = from.find(|letter| !is_word(letter)).unwrap_or(from.len());
        let word = &from[..end];
        text.push_str(before);
        match scheme(word) {
            Some(scheme) => {
                hashes += 1;
                text.push_str(&format!("${scheme}$"));
            }
            None => text.push_str(word),
        }
        rest = &from[end..];
    }
    (text + rest, hashes)
}

/// The scheme of what `crypt` makes: `$6$salt$hash`.
fn scheme(word: &str) -> Option<&str> {
    let mut parts = word.strip_prefix('$')?.split('$');
    let scheme = parts.next().filter(|scheme| SCHEMES.contains(scheme))?;
    parts.next_back().filter(|hash| hash.len() >= SHORTEST).map(|_| scheme)
}

const SCHEMES: [&str; 11] = ["1", "5", "6", "7", "2a", "2b", "2y", "y", "gy", "apr1", "argon2id"];
/// Of a hash of any scheme.
const SHORTEST: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> bool {
        note(&lines.iter().map(ToString::to_string).collect::<Vec<_>>()).is_some()
    }

    #[test]
    fn a_hash_with_another_salt_is_told_from_another_line() {
        let hash = |salt: &str| format!("ada:$6${salt}$abcdefghijklmnopqrstuvwxyz0123456789:1");
        let (old, new) = (format!("-{}", hash("aa")), format!("+{}", hash("bb")));
        assert!(said(&["@@ -1 +1 @@", &old, &new, "trend: DIVERGES"]));
        assert!(!said(&[&old, &new, "+more"]), "something else differs too");
        assert!(!said(&[&old, &new.replace("ada", "eve")]), "another account");
        assert!(!said(&["-price: $6", "+price: $7"]) && !said(&["-a", "+a"]) && !said(&[]));
    }

    #[test]
    fn an_accounts_password_is_known_by_its_scheme() {
        assert!(said(&["password: yescrypt 11aa -> yescrypt 22bb"]));
        assert!(!said(&["password: locked -> yescrypt 22bb"]) && !said(&["password: none -> locked"]));
    }
}
