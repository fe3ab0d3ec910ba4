//! The keys of `scenario.toml` and `image.toml`, table by table, drawn from their JSON Schema.

use std::collections::BTreeSet;
use std::fmt::Write;

use redrill_model::{image_schema, scenario_schema};
use serde_json::{Map, Value};

use super::{cell, head};

/// The order in which the tables of a scenario are told; others follow.
const ORDER: [&str; 12] = [
    "servers",
    "keys",
    "deploy",
    "machine",
    "check",
    "backup",
    "ephemeral",
    "network",
    "limits",
    "needs",
    "resume",
    "waiver",
];

pub(super) fn scenario() -> String {
    let text = "Every key of `scenario.toml`. A scenario is a directory that holds one; paths are relative to it where the \
        table says so. A key that is not listed here is an error, with file, line and column. `redrill schema scenario` prints \
        the same as JSON Schema.\n\nDurations are text with a unit: `\"90s\"`, `\"10m\"`, `\"1h 30m\"`. Sizes end in `-mib`.";
    let mut page = Page::new(
        scenario_schema(),
        head("scenario.toml", "the types that read it (`harness/model/src/scenario`)", text),
    );
    page.table("Top level", "", &[], &page.schema.clone());
    page.out
}

pub(super) fn image() -> String {
    let text = "Every key of `images/NAME/image.toml`. It is either a recipe (`suite`, `packages`, `disk-mib`) or names a \
        published image (`url` and one checksum). [Images](../guide/images.md) has examples; `redrill schema image` prints the \
        same as JSON Schema.";
    let mut page =
        Page::new(image_schema(), head("image.toml", "the type that reads it (`harness/model/src/recipe.rs`)", text));
    page.table("Keys", "", &[], &page.schema.clone());
    page.out
}

struct Page {
    schema: Value,
    out: String,
    /// Lists of words that were explained already.
    explained: BTreeSet<String>,
}

/// What a key's value is.
enum KeyKind {
    /// A table of its own, once or many times.
    Table { of: Value, many: bool },
    /// Anything else, in words, with the definition that explains its words.
    Value { words: String, explains: Option<String> },
}

impl Page {
    fn new(schema: Value, out: String) -> Self {
        Self { schema, out, explained: BTreeSet::new() }
    }

    /// Writes a table: what it is, its keys, what their words mean, the tables in it.
    fn table(&mut self, title: &str, text: &str, path: &[&str], table: &Value) {
        let keys = table["properties"].as_object().cloned().unwrap_or_default();
        let required: Vec<&str> =
            table["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (mut rows, mut inner, mut explain) = (String::new(), Vec::new(), Vec::new());
        for (key, of) in in_order(&keys, &required) {
            match self.kind(of) {
                KeyKind::Table { of: table, many } => inner.push((key.clone(), of.clone(), table, many)),
                KeyKind::Value { words, explains } => {
                    rows.push_str(&row(key, of, &words, required.contains(&key.as_str())));
                    explain.extend(explains.map(|definition| (key.clone(), definition)));
                }
            }
        }
        let _ = write!(self.out, "\n## {title}\n");
        if !text.is_empty() {
            let _ = write!(self.out, "\n{text}\n");
        }
        if !rows.is_empty() {
            let _ = write!(self.out, "\n| key | type | default | meaning | example |\n|---|---|---|---|---|\n{rows}");
        }
        for (key, definition) in explain {
            self.words(&key, &definition);
        }
        inner.sort_by_key(|(key, ..)| ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len()));
        for (key, of, table, many) in inner {
            let whole = [path, &[key.as_str()]].concat();
            let dotted = whole.join(".");
            let title = if many { format!("`[[{dotted}]]`") } else { format!("`[{dotted}]`") };
            let text = of["description"].as_str().unwrap_or_default().to_owned();
            self.table(&title, &text, &whole, &table);
        }
    }

    fn kind(&self, of: &Value) -> KeyKind {
        if let Some(name) = reference(of).or_else(|| reference(&of["allOf"][0])) {
            let definition = &self.schema["definitions"][name];
            return match definition {
                table if table["properties"].is_object() => KeyKind::Table { of: table.clone(), many: false },
                _ if name == "Duration" => KeyKind::Value { words: "duration".to_owned(), explains: None },
                words => KeyKind::Value { words: one_of(words), explains: Some(name.to_owned()) },
            };
        }
        let words = |words: &str| KeyKind::Value { words: words.to_owned(), explains: None };
        match of["type"].as_str() {
            Some("array") => match self.kind(&of["items"]) {
                KeyKind::Table { of, .. } => KeyKind::Table { of, many: true },
                KeyKind::Value { words, explains } => KeyKind::Value { words: format!("list of {words}"), explains },
            },
            Some("object") if of["additionalProperties"].is_object() => match self.kind(&of["additionalProperties"]) {
                KeyKind::Value { words: value, .. } => match of["propertyNames"]["enum"].as_array() {
                    Some(names) => words(&format!("table of {value} by {}", listed(names))),
                    None => words(&format!("table of {value}")),
                },
                KeyKind::Table { .. } => words("table"),
            },
            Some("object") => words("table of values"),
            Some("string") if of["format"] == "date" => words("date"),
            Some("string") => words("text"),
            Some("boolean") => words("`true` or `false`"),
            Some(other) => words(other),
            None => words("value"),
        }
    }

    /// Explains the words that a key may have, once on a page.
    fn words(&mut self, key: &str, definition: &str) {
        let list = self.schema["definitions"][definition]["oneOf"].as_array().cloned().unwrap_or_default();
        if list.is_empty() || !self.explained.insert(definition.to_owned()) {
            return;
        }
        let _ = write!(self.out, "\nValues of `{key}`:\n\n");
        for word in list {
            let (name, text) = (&word["const"], word["description"].as_str().unwrap_or_default());
            let _ = writeln!(self.out, "- `{}`: {text}", name.as_str().unwrap_or_default());
        }
    }
}

fn row(key: &str, of: &Value, words: &str, required: bool) -> String {
    let default = match (required, of.get("default")) {
        (true, _) => "**required**".to_owned(),
        (false, Some(value)) => code(&toml(value)),
        (false, None) => String::new(),
    };
    let text = of["description"].as_str().unwrap_or_default();
    let example = match &of["examples"][0] {
        Value::Null => String::new(),
        Value::String(date) if of["format"] == "date" => code(&format!("{key} = {date}")),
        value => code(&format!("{key} = {}", toml(value))),
    };
    format!("| `{key}` | {} | {default} | {} | {example} |\n", cell(words), cell(text))
}

fn reference(of: &Value) -> Option<&str> {
    of["$ref"].as_str()?.strip_prefix("#/definitions/")
}

/// Keys that are required first, the others by name.
fn in_order<'a>(keys: &'a Map<String, Value>, required: &[&str]) -> Vec<(&'a String, &'a Value)> {
    let mut keys: Vec<_> = keys.iter().collect();
    keys.sort_by_key(|(key, _)| (required.iter().position(|one| one == key).unwrap_or(required.len()), key.as_str()));
    keys
}

/// The words that a definition allows.
fn one_of(definition: &Value) -> String {
    let documented = definition["oneOf"].as_array().into_iter().flatten().map(|one| one["const"].clone());
    let plain = definition["enum"].as_array().into_iter().flatten().cloned();
    listed(&documented.chain(plain).collect::<Vec<_>>())
}

fn listed(words: &[Value]) -> String {
    let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {} ``", cell(text)) } else { format!("`{}`", cell(text)) }
}

/// A value as it is written in TOML, on one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let bare = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            let key = |key: &String| if bare(key) { key.clone() } else { format!("\"{key}\"") };
            let pair = |(name, value): (&String, &Value)| format!("{} = {}", key(name), toml(value));
            format!("{{ {} }}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
