//! Takes secrets out of every text that leaves the harness, by value: whatever stands in the keys must not stand in a
//! log, an event or a report.

use std::collections::BTreeSet;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};

/// What stands in a text where a secret stood.
const MARK: &str = "[redacted]";
/// Shorter values would hit half of all words.
const SHORTEST: usize = 8;
/// A key file larger than this is data, and no secret to be searched for.
const LARGEST: u64 = 1024 * 1024;

/// Knows the secrets of one drill.
#[derive(Debug)]
pub struct Redactor {
    search: AhoCorasick,
    values: usize,
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new(&BTreeSet::new())
    }
}

impl Redactor {
    /// Every secret below the directory of the keys. What also stands in `public` (the scenario's own text: host
    /// names, paths) is none: blanking it out would spoil every report.
    pub fn from_keys(directory: &Path, public: &str) -> Self {
        let mut values = BTreeSet::new();
        collect(directory, &mut values);
        values.retain(|value| !public.contains(value.as_str()));
        Self::new(&values)
    }

    fn new(values: &BTreeSet<String>) -> Self {
        // Its own limits (billions of bytes of patterns) are out of reach: keys are small.
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(values);
        Self { search: search.expect("few and short patterns"), values: values.len() }
    }

    /// How many values it looks for.
    pub fn values(&self) -> usize {
        self.values
    }

    /// The text without secrets.
    pub fn clean(&self, text: &str) -> String {
        if self.values == 0 {
            return text.to_owned();
        }
        self.search.replace_all(text, &vec![MARK; self.values])
    }

    /// Whether a secret stands in the text.
    pub fn finds(&self, text: &str) -> bool {
        self.search.is_match(text)
    }
}

fn collect(directory: &Path, values: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        // What is published anyway is no secret, and would blank out half of a report.
        let public = [".pub", ".md"].iter().any(|end| name.ends_with(end)) || name == ".git";
        if path.is_dir() && !public {
            collect(&path, values);
        } else if !public
            && entry.metadata().is_ok_and(|file| file.len() <= LARGEST)
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            values.extend(secrets(&text));
        }
    }
}

/// The lines of a key, and the values of `name = value`, `name: value` and the like.
fn secrets(text: &str) -> Vec<String> {
    let mut certificate = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----") {
            certificate = line.contains("BEGIN CERTIFICATE") || (certificate && !line.contains("END CERTIFICATE"));
            continue;
        }
        if certificate || line.starts_with('#') {
            continue;
        }
        let value = line.split_once(['=', ':']).map(|(_, value)| value.trim().trim_matches(['"', '\'']));
        found
            .extend([Some(line), value].into_iter().flatten().filter(|text| text.len() >= SHORTEST).map(str::to_owned));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_wherever_they_stand() {
        let text = "# a comment, no secret\nadmin_password = \"correct horse\"\ntoken: s3cr3t-token\nshort=abc\n\
                    -----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n\
                    -----BEGIN CERTIFICATE-----\nMIIBpublicpublicpublic\n-----END CERTIFICATE-----\n";
        let redactor = Redactor::new(&secrets(text).into_iter().collect());
        assert_eq!(redactor.clean("login with correct horse!"), "login with [redacted]!");
        assert_eq!(redactor.clean("curl -H s3cr3t-token MIGHAgEAMBMGByqGSM49"), "curl -H [redacted] [redacted]");
        assert_eq!(redactor.clean("MIIBpublicpublicpublic abc"), "MIIBpublicpublicpublic abc");
        assert!(redactor.finds("x correct horse x") && !redactor.finds("a comment, no secret"));
    }

    #[test]
    fn what_the_scenario_says_itself_is_no_secret() {
        let keys = std::env::temp_dir().join(format!("redrill-redact-{}", std::process::id()));
        std::fs::create_dir_all(&keys).expect("made");
        std::fs::write(keys.join("hosts.ini"), "host = web.example.org\ntoken = s3cr3t-token\n").expect("written");
        let redactor = Redactor::from_keys(&keys, "[[machine]]\nname = 'web.example.org'");
        std::fs::remove_dir_all(&keys).expect("cleaned up");
        assert_eq!(redactor.clean("web.example.org s3cr3t-token"), "web.example.org [redacted]");
    }

    #[test]
    fn without_keys_nothing_is_changed() {
        assert_eq!(Redactor::default().clean("plain"), "plain");
    }
}
