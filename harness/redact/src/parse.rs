//! Values of files that are JSON, YAML or TOML, each with the name it stands under.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deeper values are found by their lines.
const DEEPEST: usize = 64;

/// Values with their names.
pub(crate) type Named = Vec<(String, String)>;

/// The values of a document, if the text is one: JSON, several in lines, TOML, or YAML with a structure.
pub(crate) fn values(text: &str) -> Named {
    json(text).or_else(|| toml(text)).unwrap_or_else(|| yaml(text))
}

/// The values of JSON, or of JSON lines.
pub(crate) fn json(text: &str) -> Option<Named> {
    if !text.trim_start().starts_with(['{', '[', '"']) {
        return None;
    }
    let mut found = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        of_json("", &document.ok()?, &mut found);
    }
    Some(found)
}

fn of_json(name: &str, value: &serde_json::Value, found: &mut Named) {
    match value {
        serde_json::Value::Object(members) => members.iter().for_each(|(name, value)| of_json(name, value, found)),
        serde_json::Value::Array(values) => values.iter().for_each(|value| of_json(name, value, found)),
        serde_json::Value::String(text) => found.push((name.to_owned(), text.clone())),
        serde_json::Value::Number(number) => found.push((name.to_owned(), number.to_string())),
        serde_json::Value::Bool(_) | serde_json::Value::Null => {}
    }
}

fn toml(text: &str) -> Option<Named> {
    let table = text.parse::<toml::Table>().ok()?;
    let mut found = Vec::new();
    table.iter().for_each(|(name, value)| of_toml(name, value, &mut found));
    Some(found)
}

fn of_toml(name: &str, value: &toml::Value, found: &mut Named) {
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(name, value)| of_toml(name, value, found)),
        toml::Value::Array(values) => values.iter().for_each(|value| of_toml(name, value, found)),
        toml::Value::String(text) => found.push((name.to_owned(), text.clone())),
        toml::Value::Integer(number) => found.push((name.to_owned(), number.to_string())),
        toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => {}
    }
}

/// Where a walk through YAML is.
enum Level {
    List(String),
    /// With the name whose value comes next, once it is known.
    Map(Option<String>, String),
}

/// What can be read of it up to the first mistake. Scalars alone are no document: the lines say all.
fn yaml(text: &str) -> Named {
    let mut found = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, _)) = event else { break };
        match event {
            Event::SequenceStart(..) => {
                let name = name_of(&mut levels);
                levels.push(Level::List(name));
            }
            Event::MappingStart(..) => {
                let name = name_of(&mut levels);
                levels.push(Level::Map(None, name));
            }
            Event::SequenceEnd | Event::MappingEnd => drop(levels.pop()),
            Event::Scalar(value, style, ..) => match levels.last_mut() {
                Some(Level::Map(name @ None, _)) => *name = Some(value.into_owned()),
                Some(_) => found.extend(scalar(name_of(&mut levels), &value, style)),
                None => {}
            },
            Event::Alias(_) => drop(name_of(&mut levels)),
            _ => {}
        }
        if levels.len() > DEEPEST {
            break;
        }
    }
    found
}

fn scalar(name: String, value: &str, style: ScalarStyle) -> Option<(String, String)> {
    let nothing = style == ScalarStyle::Plain && ["", "~", "null", "true", "false", "yes", "no"].contains(&value);
    (!nothing).then(|| (name, value.to_owned()))
}

/// The name of the value that comes now.
fn name_of(levels: &mut [Level]) -> String {
    match levels.last_mut() {
        Some(Level::List(name)) => name.clone(),
        // A mapping as a key has the name of what it stands in.
        Some(Level::Map(key, outer)) => key.take().unwrap_or_else(|| outer.clone()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &str, expected: &[(&str, &str)]) {
        let found = values(text);
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn json_gives_every_value_with_its_name() {
        reads("{\"a\": {\"b\": \"x\"}, \"c\": [\"y\", 5, null]}", &[("b", "x"), ("c", "y"), ("c", "5")]);
        reads("{\"a\": \"x\"}\n{\"a\": \"y\"}\n", &[("a", "x"), ("a", "y")]);
    }

    #[test]
    fn toml_gives_every_value_with_its_name() {
        reads("a = 'x'\n[b]\nc = ['y', 7]\nd = '''\nm\nn'''\n", &[("a", "x"), ("c", "y"), ("c", "7"), ("d", "m\nn")]);
    }

    #[test]
    fn yaml_gives_comments_no_value_and_blocks_whole() {
        reads(
            "db:\n  pw: abc # old: x\nlist:\n  - l1\n  - {k: v}\nm: |\n  b1\n  b2\n",
            &[("pw", "abc"), ("list", "l1"), ("k", "v"), ("m", "b1\nb2\n")],
        );
        reads(
            "a: 'it''s'\nb: \"x\\ty\"\nc: >-\n  f1\n  f2\n---\nd: second\n",
            &[("a", "it's"), ("b", "x\ty"), ("c", "f1 f2"), ("d", "second")],
        );
        reads("a: &x hunter\nb: *x\nc: !vault secret\nd: yes\n", &[("a", "hunter"), ("c", "secret")]);
        reads("just a text\n", &[]);
        reads("a: good\nb: [broken\n", &[("a", "good"), ("b", "broken")]);
    }
}
