//! Reads a text by its lines: what of them is secret, whatever the text is.

use std::sync::LazyLock;

use regex::Regex;

use crate::collect::{How, KeySecrets};
use crate::{pairs, public, words};

/// `host:port:database:user:password`.
static PGPASS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:[^:\\]|\\.)*:(?:\d+|\*):(?:[^:\\]|\\.)*:(?:[^:\\]|\\.)*:(.+)$").expect("a constant")
});

/// Every line of a text. Of `data` only what looks like a secret, or has a name that says so.
pub(crate) fn text(secrets: &mut KeySecrets, text: &str, data: bool, depth: usize) {
    let mut block: Option<(&str, Vec<&str>)> = None;
    for line in text.lines().map(str::trim) {
        let begins = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        match (begins, block.take()) {
            (Some(label), unfinished) => {
                unfinished.into_iter().for_each(|block| pem(secrets, block));
                block = Some((label, Vec::new()));
            }
            (None, Some(whole)) if line.starts_with("-----END ") => pem(secrets, whole),
            (None, Some((label, mut body))) => {
                body.push(line);
                block = Some((label, body));
            }
            (None, None) => self::line(secrets, line, data, depth),
        }
    }
    block.into_iter().for_each(|block| pem(secrets, block));
}

/// Whether all of a text is a public key or certificates.
pub(crate) fn is_public(text: &str) -> bool {
    let mut secrets = KeySecrets::default();
    self::text(&mut secrets, text, false, 0);
    !secrets.published.is_empty() && secrets.values.is_empty()
}

/// A block of PEM or age, line by line, and what it says in base64.
fn pem(secrets: &mut KeySecrets, (label, body): (&str, Vec<&str>)) {
    let text = body.join("\n");
    if public::is_public_block(label, &text) {
        return secrets.publish(&text);
    }
    body.iter().filter(|line| !line.contains(": ")).for_each(|line| secrets.add(line, "", How::Encoded));
    let joined: String = body.into_iter().filter(|line| !line.contains(':') && !line.starts_with('=')).collect();
    if joined.len() <= 16 * 1024 {
        secrets.value("", &joined, 1);
    }
}

fn line(secrets: &mut KeySecrets, line: &str, data: bool, depth: usize) {
    if let Some(key) = public::ssh_key(line) {
        secrets.publish(key);
        // Its options may hold a command with a secret; what follows the key is a name.
        let options = line.split(key).next().unwrap_or_default();
        return words(secrets, options, depth);
    }
    if is_comment(line) {
        return comment(secrets, line, depth);
    }
    let pairs = pairs::of_line(line);
    if !data || pairs.iter().any(|pair| words::is_secret_name(&pair.name)) {
        // Whoever knows the value knows the line: what is left of it is a name.
        let how = if pairs.is_empty() { How::Encoded } else { How::Plain };
        secrets.add(line, "", how);
        if let Some(rest) = line.strip_prefix('#') {
            secrets.add(rest, "", How::Encoded);
            pairs::of_line(rest).iter().for_each(|pair| values(secrets, pair, depth));
        }
        pairs.iter().for_each(|pair| values(secrets, pair, depth));
        pairs::in_quotes(line).iter().for_each(|value| secrets.value("", value, depth + 1));
        item(secrets, line, depth);
    }
    if let Some(password) = PGPASS.captures(line).and_then(|found| found.get(1)) {
        let password = password.as_str();
        secrets.value("password", password, depth + 1);
        secrets.value("password", &password.replace("\\:", ":").replace("\\\\", "\\"), depth + 1);
    }
    pairs::of_connection(line).iter().for_each(|password| secrets.value("password", password, depth + 1));
    words(secrets, line, depth);
}

/// `- value`, as lists of YAML and Markdown have it.
fn item(secrets: &mut KeySecrets, line: &str, depth: usize) {
    if let Some(value) = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")) {
        secrets.value("", value, depth + 1);
        value.find(" #").into_iter().for_each(|at| secrets.value("", &value[..at], depth + 1));
    } else if depth == 0 && !line.contains(char::is_whitespace) {
        // A secret alone on its line: what it says in base64 is one too.
        secrets.value("", line, depth + 1);
    }
}

fn values(secrets: &mut KeySecrets, pair: &pairs::Pair, depth: usize) {
    pair.values.iter().for_each(|value| secrets.value(&pair.name, value, depth + 1));
}

/// A `#` without a space behind it may be the first letter of a password.
fn is_comment(line: &str) -> bool {
    ["# ", "#\t", "#!", "##", "// ", "; ", "-- ", "<!--", "%% ", "/* "].iter().any(|start| line.starts_with(start))
        || line == "#"
}

/// Comments tell what a public key is, and now and then the last password.
fn comment(secrets: &mut KeySecrets, line: &str, depth: usize) {
    let said = line.trim_start_matches(|c: char| !c.is_alphanumeric());
    if said.to_ascii_lowercase().starts_with("public key") {
        return;
    }
    let secret = |pair: &&pairs::Pair| words::is_secret_name(&pair.name) && !pair.name.contains(' ');
    pairs::of_line(said).iter().filter(secret).for_each(|pair| values(secrets, pair, depth));
    words(secrets, said, depth);
}

/// Words that look like secrets, those that a word before them announces, and fields between colons.
pub(crate) fn words(secrets: &mut KeySecrets, line: &str, depth: usize) {
    let mut announced = false;
    for word in line.split_whitespace() {
        let bare = word.trim_matches(|c: char| "\"'`,;()<>[]{}".contains(c));
        let bare = bare.strip_suffix(['.', ':']).unwrap_or(bare);
        let filler = ["is", "=", ":", "was", "the", "=>", "to", "identified"].contains(&word);
        if announced && !filler && !words::announces(word) {
            secrets.add(bare, "", How::Encoded);
            secrets.add(word, "", How::Encoded);
        }
        if words::looks_secret(bare) && !public::is_age_recipient(bare) {
            secrets.add(bare, "", How::Encoded);
        }
        announced = words::announces(word) || (announced && filler);
        parts(secrets, bare, depth);
    }
}

/// `name=value` and `a:b:c` within a word.
fn parts(secrets: &mut KeySecrets, word: &str, depth: usize) {
    if word.contains("://") || depth > 4 {
        return;
    }
    if let Some((name, value)) = word.split_once('=')
        && (words::is_secret_name(name) || words::looks_secret(value))
    {
        let value = value.trim_matches(['"', '\'']);
        secrets.add(value, name, How::Encoded);
    }
    for field in word.split(':').skip(1).filter(|field| words::looks_secret(field)) {
        secrets.add(field, "", How::Encoded);
    }
}
