//! JSON Schemas of what people write and of what a drill reports, drawn from the types that read and write them.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::recipe::ImageFile;
use crate::report::Report;
use crate::scenario::ScenarioFile;

/// The schema of `scenario.toml`.
pub fn scenario_schema() -> Value {
    written::<ScenarioFile>("scenario.toml of redrill")
}

/// The schema of `image.toml`.
pub fn image_schema() -> Value {
    written::<ImageFile>("image.toml of redrill")
}

/// The schema of `report.json`.
pub fn report_schema() -> Value {
    titled(
        SchemaSettings::draft07().for_serialize().into_generator().into_root_schema_for::<Report>(),
        "report.json of redrill",
    )
}

/// Words of which a report is made: claims, verdicts, stages, kinds.
pub fn report_words() -> BTreeSet<String> {
    let (mut words, schema) = (BTreeSet::new(), report_schema());
    gather_words(&schema, &mut words);
    words
}

fn gather_words(schema: &Value, words: &mut BTreeSet<String>) {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    match schema {
        Value::Object(map) => {
            words.extend(map.get("const").and_then(word));
            words.extend(map.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(word));
            map.values().for_each(|inner| gather_words(inner, words));
        }
        Value::Array(all) => all.iter().for_each(|inner| gather_words(inner, words)),
        _ => {}
    }
}

/// Draft 7 is what editors of TOML understand.
fn written<T: JsonSchema>(title: &str) -> Value {
    let mut schema = titled(SchemaSettings::draft07().into_generator().into_root_schema_for::<T>(), title);
    without_null(&mut schema);
    schema
}

fn titled(mut schema: Schema, title: &str) -> Value {
    schema.insert("title".to_owned(), title.into());
    let mut schema = schema.to_value();
    on_one_line(&mut schema);
    schema
}

/// What may be absent may not be `null` here: TOML has none.
fn without_null(schema: &mut Value) {
    if let Value::Object(map) = schema {
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|one| one != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                map.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(any)) = map.get_mut("anyOf") {
            any.retain(|one| one.get("type").is_none_or(|kind| kind != "null"));
            if any.len() == 1
                && let Some(only) = map.remove("anyOf")
            {
                map.insert("allOf".to_owned(), only);
            }
        }
    }
    children(schema, without_null);
}

/// Descriptions are comments of the source, which are broken to its width.
fn on_one_line(schema: &mut Value) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    children(schema, on_one_line);
}

fn children(schema: &mut Value, each: fn(&mut Value)) {
    match schema {
        Value::Object(map) => map.values_mut().for_each(each),
        Value::Array(list) => list.iter_mut().for_each(each),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Claim;
    use crate::recipe::ImageSource;
    use crate::scenario::Scenario;

    /// Every table of a schema of what people write.
    fn tables(schema: &Value) -> Vec<&Value> {
        let definitions = schema["definitions"].as_object().into_iter().flat_map(|map| map.values());
        definitions.chain([schema]).filter(|table| table.get("properties").is_some()).collect()
    }

    fn is_table(schema: &Value, key: &Value) -> bool {
        let of =
            |one: &Value| one.get("$ref").and_then(Value::as_str).map(|name| name.trim_start_matches('#').to_owned());
        let target = of(key).or_else(|| of(&key["allOf"][0])).or_else(|| of(&key["items"]));
        target.is_some_and(|pointer| schema.pointer(&pointer).is_some_and(|table| table.get("properties").is_some()))
    }

    #[test]
    fn words_of_a_report_are_those_of_its_claims_stages_and_verdicts() {
        let words = report_words();
        let claims = Claim::ALL.map(|claim| claim.name().to_owned());
        assert!(claims.iter().all(|claim| words.contains(claim)), "{words:?}");
        assert!(
            ["check-again", "UNPROVEN", "not-run", "warning"].iter().all(|word| words.contains(*word)),
            "{words:?}"
        );
    }

    #[test]
    fn what_the_reader_refuses_as_out_of_bounds_the_schema_refuses_too() {
        let schema = scenario_schema();
        let key = |table: &str, key: &str| match table {
            "" => schema["properties"][key].clone(),
            table => schema["definitions"][table]["properties"][key].clone(),
        };
        assert_eq!(
            (key("", "claims")["minItems"].as_u64(), &key("", "claims")["uniqueItems"]),
            (Some(1), &true.into())
        );
        let refused = |line: &str| Scenario::parse(&LEAST.replace("image = ", &format!("{line}, image = "))).is_err();
        for (name, least, most) in [("memory-mib", 256, None), ("cpus", 1, Some(255))] {
            let bounds = key("MachineFile", name);
            assert_eq!((bounds["minimum"].as_u64(), bounds["maximum"].as_u64()), (Some(least), most), "{name}");
            assert!(refused(&format!("{name} = {}", least - 1)) && !refused(&format!("{name} = {least}")), "{name}");
            assert!(most.is_none_or(|most| refused(&format!("{name} = {}", most + 1))), "{name}");
        }
    }

    #[test]
    fn every_key_is_described_and_has_an_example() {
        for schema in [scenario_schema(), image_schema()] {
            for table in tables(&schema) {
                assert_eq!(table["additionalProperties"], false, "unknown keys are mistakes: {table}");
                for (name, key) in table["properties"].as_object().expect("keys") {
                    let text = key["description"].as_str().unwrap_or_default();
                    assert!(text.ends_with('.'), "`{name}` lacks a sentence: {text}");
                    let example = key["examples"].is_array() || is_table(&schema, key);
                    assert!(example, "`{name}` lacks an example");
                }
            }
        }
    }

    /// A table of each kind that has defaults, with the keys that it needs.
    const LEAST: &str = "
        servers = {path = 's'}
        keys = {path = 'k'}
        machine = [{name = 'web', image = 'debian-13'}]
        [check]
        http = [{name = 'a', why = 'w', url = 'https://web/', status = 200}]
        tcp = [{name = 'b', why = 'w', port = 1}]
        unit = [{name = 'c', why = 'w', unit = 'x.service', active = true}]
        command = [{name = 'd', why = 'w', run = ['true']}]
        file = [{name = 'e', why = 'w', path = '/f', type = 'file'}]
        [[backup]]
        name = 'b'
        kind = 'script'
        restore = ['r']
        into = ['/x']
        job = {run = ['j']}
        seed = {run = ['s']}
        oracle = {min-files = 1}
    ";

    /// A table of `document` that this definition describes.
    fn place<'a>(document: &'a mut toml::Table, definition: &str) -> Option<&'a mut toml::Table> {
        let path: &[&str] = match definition {
            "Scenario" => &[],
            "ServersFile" => &["servers"],
            "KeysFile" => &["keys"],
            "DeployFile" => &["deploy"],
            "MachineFile" => &["machine"],
            "NeedsFile" => &["needs"],
            "NetworkFile" => &["network"],
            "LimitsFile" => &["limits"],
            "HttpFile" => &["check", "http"],
            "TcpFile" => &["check", "tcp"],
            "FileFile" => &["check", "file"],
            "UnitFile" => &["check", "unit"],
            "CommandFile" => &["check", "command"],
            "BackupFile" => &["backup"],
            "RunFile" => &["backup", "seed"],
            "JobFile" => &["backup", "job"],
            "OracleFile" => &["backup", "oracle"],
            _ => return None,
        };
        path.iter().try_fold(document, |table, key| {
            let entry = table.entry(*key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match entry {
                toml::Value::Table(table) => Some(table),
                toml::Value::Array(list) => list.first_mut().and_then(toml::Value::as_table_mut),
                _ => None,
            }
        })
    }

    #[test]
    fn a_default_is_what_an_absent_key_means() {
        let schema = scenario_schema();
        let least: toml::Table = LEAST.parse().expect("TOML");
        let parsed = |document: &toml::Table| {
            Scenario::parse(&document.to_string()).unwrap_or_else(|error| panic!("{error}: {document}"))
        };
        let mut seen = 0;
        let definitions = schema["definitions"].as_object().expect("definitions");
        let root = "Scenario".to_owned();
        for (name, table) in definitions.iter().chain([(&root, &schema)]) {
            for (key, of) in table.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let Some(default) = of.get("default") else { continue };
                let mut document = least.clone();
                let place = place(&mut document, name).unwrap_or_else(|| panic!("`{key}` of {name} is not tried"));
                place.insert(key.clone(), serde_json::from_value(default.clone()).expect("a value of TOML"));
                assert_eq!(parsed(&document), parsed(&least), "`{key}` of {name}: {default}");
                seen += 1;
            }
        }
        assert!(seen > 30, "only {seen} defaults were tried");
    }

    /// A document with every key, made of the schema's examples.
    fn full(schema: &Value, table: &Value) -> toml::Table {
        let mut document = toml::Table::new();
        for (name, key) in table["properties"].as_object().expect("keys") {
            let follow = |one: &Value| one["$ref"].as_str().and_then(|at| schema.pointer(at.trim_start_matches('#')));
            let value = match key["examples"].get(0) {
                Some(example) if key["format"] == "date" => {
                    toml::Value::Datetime(example.as_str().expect("a date").parse().expect("a date"))
                }
                Some(example) => serde_json::from_value(example.clone()).expect("a value of TOML"),
                None if key["items"].is_object() => {
                    let table = follow(&key["items"]).expect("a table");
                    toml::Value::Array(vec![toml::Value::Table(full(schema, table))])
                }
                None => toml::Value::Table(full(schema, follow(&key["allOf"][0]).expect("a table"))),
            };
            document.insert(name.clone(), value);
        }
        document
    }

    #[test]
    fn examples_are_of_the_type_that_is_read() {
        let schema = scenario_schema();
        let text = full(&schema, &schema).to_string();
        if let Err(error) = toml::from_str::<ScenarioFile>(&text) {
            panic!("{error}\n{text}");
        }
        let schema = image_schema();
        let text = full(&schema, &schema).to_string();
        if let Err(error) = toml::from_str::<ImageFile>(&text) {
            panic!("{error}\n{text}");
        }
        assert!(ImageSource::parse(&text).is_err(), "a recipe and a URL exclude each other");
    }
}
