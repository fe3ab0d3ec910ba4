//! Secrets in JSON: taken out of values and of names that are data, never out of the structure.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::redactor::{Redactor, Style};

/// Fields in which redrill says one of its own words, or of a capture's: such a word is never a secret there, not even
/// in part.
const WORDS: [&str; 22] = [
    "claim", "code", "covers", "during", "event", "fault", "host", "kind", "of", "outcome", "pass", "profile",
    "section", "severity", "stage", "state", "status", "tool", "trend", "unit", "verdict", "within",
];

/// Names of members in what redrill writes: report, events, captures. All other names are data.
static NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "acceleration active addressed after alternative answers apt-key apt-source apt_key apt_source \
     arguments authorized-key authorized_key backup became before between boot_id boot_seconds captures \
     caught certificates challenges_verified changed checked claims commit compared condition container \
     control copies cron-job cron_job database-object database_object declared deploys digest during \
     enabled entries estimate evidence exposure failed fetched_bytes findings firewall-rule firewall_rule \
     fragment fstab generator group groups header hidden_error holds image issued kernel-module \
     kernel_module killed_by left_out locale-setting locale_setting losses machine machines messages \
     mutants newest number operation operations optional options oracles outcome package phases points \
     progress reason recipients recovery remarks remote repeat report repository restored restores \
     run_dir scenario schema seconds section sender severity shadow slowness socket source sshd-option \
     sshd_option stages started status subject sudo-rule sudo_rule suggestion summary sysctl target \
     time-zone time_zone tools unchanged uncommitted unknown verdict version waived walked"
        .split(' ')
        .collect()
});

impl Redactor {
    /// Takes secrets out of every text of a document, and out of every name of a member that redrill does not give
    /// itself. Lists of texts are read as lines are: what is broken over two of them is found.
    pub fn clean_json(&self, value: &mut Value) {
        self.clean_json_with(value, Style::Mark);
    }

    /// The same, with something else in the place of secrets. Tells whether anything was changed.
    pub fn clean_json_with(&self, value: &mut Value, style: Style<'_>) -> bool {
        self.walk("", value, style)
    }

    /// Whether a secret stands where [`Redactor::clean_json`] would take it out.
    pub fn finds_in_json(&self, value: &Value) -> bool {
        self.walk("", &mut value.clone(), Style::Mark)
    }

    /// A line of JSON, such as of a capture: without its secrets, if it has any. A line that is no JSON is taken as text.
    pub fn clean_json_line(&self, line: &str, style: Style<'_>) -> Option<String> {
        // The forms that are looked for are those of JSON too, but for what is broken over lines within a text.
        if !line.contains("\\n") && !line.contains("\\r") && !line.contains("\\u") && !self.finds(line) {
            return None;
        }
        match serde_json::from_str::<Value>(line) {
            Ok(mut value) => self.clean_json_with(&mut value, style).then(|| value.to_string()),
            Err(_) => self.finds(line).then(|| self.clean_with(line, style)),
        }
    }

    /// A text in whatever form it is: a document of JSON, lines of JSON, or text.
    pub fn clean_document(&self, text: &str) -> String {
        if let Ok(mut value) = serde_json::from_str::<Value>(text) {
            return if self.clean_json_with(&mut value, Style::Mark) {
                format!("{value:#}\n")
            } else {
                text.to_owned()
            };
        }
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        if serde_json::from_str::<Value>(first).is_err() {
            return self.clean(text);
        }
        let clean = |line: &str| self.clean_json_line(line, Style::Mark).unwrap_or_else(|| line.to_owned());
        text.lines().map(|line| clean(line) + "\n").collect()
    }

    fn walk(&self, name: &str, value: &mut Value, style: Style<'_>) -> bool {
        match value {
            Value::String(text) if WORDS.contains(&name) && self.is_fixed(name, text) => false,
            Value::String(text) => match self.changed(text.as_bytes(), style) {
                Some(clean) => {
                    *text = String::from_utf8_lossy(&clean).into_owned();
                    true
                }
                None => false,
            },
            Value::Array(values) => {
                let broken = self.lines(values, style);
                values.iter_mut().fold(broken, |changed, value| self.walk(name, value, style) || changed)
            }
            Value::Object(members) => self.members(members, style),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Whether a field says one of redrill's words. Codes are capital letters, whatever they say.
    fn is_fixed(&self, name: &str, text: &str) -> bool {
        let code = |c: char| c.is_ascii_uppercase() || c == '_';
        self.is_own(text) || (name == "code" && !text.is_empty() && text.chars().all(code))
    }

    /// A list of nothing but texts, as one.
    fn lines(&self, values: &mut [Value], style: Style<'_>) -> bool {
        let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
        let Some(texts) = texts.filter(|texts| texts.len() > 1) else { return false };
        let joined = texts.join("\n");
        let Some(clean) = self.changed(joined.as_bytes(), style) else { return false };
        let clean = String::from_utf8_lossy(&clean).into_owned();
        let counts: Vec<usize> = texts.iter().map(|text| text.matches('\n').count() + 1).collect();
        let mut lines = clean.split('\n');
        for (value, count) in values.iter_mut().zip(counts) {
            let lines: Vec<&str> = lines.by_ref().take(count).collect();
            *value = Value::String(lines.join("\n"));
        }
        true
    }

    fn members(&self, members: &mut Map<String, Value>, style: Style<'_>) -> bool {
        let mut changed = false;
        for (name, value) in members.iter_mut() {
            changed |= self.walk(name, value, style);
        }
        let secret = |name: &&String| !NAMES.contains(name.as_str()) && self.finds(name.as_bytes());
        if members.keys().any(|name| secret(&name)) {
            let all = std::mem::take(members);
            for (name, value) in all {
                let clean = if secret(&&name) { self.clean_with(&name, style) } else { name };
                members.insert(free(members, clean), value);
            }
            changed = true;
        }
        changed
    }
}

/// A name that no other member has: two secrets must not become one member.
fn free(members: &Map<String, Value>, name: String) -> String {
    if !members.contains_key(&name) {
        return name;
    }
    let other = (2..).map(|number| format!("{name} ({number})")).find(|name| !members.contains_key(name));
    other.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        let all = secrets.iter().fold(Redactor::builder(), |builder, secret| builder.value(secret));
        all.build().expect("no patterns")
    }

    #[test]
    fn values_are_cleaned_and_the_structure_stays() {
        let redactor = redactor(&["findings", "idempo", "k7Qp2z", "summary"]);
        let mut report = json!({
            "claims": [{"claim": "idempotent", "findings": [{"code": "REAL_CHANGE", "summary": "wrote k7Qp2z"}]}],
            "tools": {"k7Qp2z": "1", "x-k7Qp2z": 7},
            "note": "the summary of idempo",
        });
        assert!(redactor.finds_in_json(&report));
        redactor.clean_json(&mut report);
        let expected = json!({
            "claims": [{"claim": "idempotent", "findings": [{"code": "REAL_CHANGE", "summary": "wrote [redacted]"}]}],
            "tools": {"[redacted]": "1", "x-[redacted]": 7},
            "note": "the summary of [redacted]",
        });
        assert_eq!(report, expected);
        assert!(!redactor.finds_in_json(&report));
    }

    #[test]
    fn a_word_that_the_caller_calls_its_own_stays_in_the_structure_alone() {
        let own = Redactor::builder().own(["frobnicates".to_owned()]);
        let redactor = own.value("frobnicate").build().expect("no patterns");
        let mut report = json!({"claim": "frobnicates", "note": "frobnicates"});
        redactor.clean_json(&mut report);
        assert_eq!(report, json!({"claim": "frobnicates", "note": "[redacted]s"}));
    }

    #[test]
    fn what_is_broken_over_texts_of_a_list_is_found() {
        let redactor = redactor(&["splitPW-Aa11bb22cc33dd44"]);
        let mut lines = json!(["one splitPW-Aa11", "bb22cc33dd44 two\nthree", "four"]);
        redactor.clean_json(&mut lines);
        assert_eq!(lines, json!(["one [redacted]", " two\nthree", "four"]));
    }

    #[test]
    fn a_text_is_cleaned_as_what_it_is() {
        let redactor = redactor(&["k7Qp2z\"x", "unchange"]);
        let clean = |text: &str| redactor.clean_document(text);
        assert_eq!(clean("{\"a\":\"k7Qp2z\\\"x\"}"), "{\n  \"a\": \"[redacted]\"\n}\n");
        assert_eq!(
            clean("{\"outcome\":\"unchanged\"}\n{\"b\":\"k7Qp2z\\\"x\"}\ncut k7Qp2z\"x"),
            "{\"outcome\":\"unchanged\"}\n{\"b\":\"[redacted]\"}\ncut [redacted]\n"
        );
        assert_eq!(clean("a k7Qp2\nz\"x b"), "a [redacted]\n b");
        assert_eq!(clean("{\"a\": 1}"), "{\"a\": 1}");
    }

    #[test]
    fn names_that_become_the_same_stay_two() {
        let redactor = redactor(&["k7Qp2z-one", "k7Qp2z-two"]);
        let mut map = json!({"k7Qp2z-one": 1, "k7Qp2z-two": 2});
        redactor.clean_json(&mut map);
        assert_eq!(map, json!({"[redacted]": 1, "[redacted] (2)": 2}));
        let mut map = json!({"k7Qp2z-one": 1, "k7Qp2z-two": 2});
        assert!(redactor.clean_json_with(&mut map, Style::Keyed(&[7; 32])));
        assert!(map.as_object().expect("one").keys().all(|name| name.starts_with("[redacted:")), "{map}");
    }
}
