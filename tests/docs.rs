//! What people read: snippets parse, links lead somewhere, files that are named exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use redrill_model::{ImageSource, Scenario, image_schema, scenario_schema};
use redrill_tests::{program, root};
use serde_json::Value;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `directory`, but for what builds leave.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.is_dir() {
            true if [".git", "target"].contains(&name.as_str()) => {}
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// README, ARCHITECTURE and the book.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("tests/README.md")];
    pages.extend(files(&root.join("docs")).into_iter().filter(|path| path.extension().is_some_and(|end| end == "md")));
    pages
}

/// A fenced block of a page.
struct Block {
    /// What stands behind the fence.
    kind: String,
    /// Where the fence is.
    line: usize,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(kind), false) => blocks.push(Block { kind: kind.to_owned(), line: number + 1, text: String::new() }),
            (None, true) => {
                let Block { text, .. } = blocks.last_mut().expect("an open block");
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
        open ^= line.starts_with("```");
    }
    blocks
}

/// A page without its blocks.
fn prose(text: &str) -> String {
    let mut open = false;
    let outside = |line: &&str| {
        let fence = line.starts_with("```");
        open ^= fence;
        !open && !fence
    };
    text.lines().filter(outside).collect::<Vec<_>>().join("\n")
}

/// A part of a scenario, made whole by the least that it lacks.
fn whole(fragment: &str) -> String {
    let written: toml::Table = fragment.parse().unwrap_or_else(|error| panic!("{error}\n{fragment}"));
    let machine = written.get("machine").and_then(|list| list.get(0)?.get("name")?.as_str());
    let machine = machine.unwrap_or("web.example.org");
    let mut text = format!("{fragment}\n");
    for (key, lacking) in [
        ("servers", "[servers]\npath = 'servers'\n".to_owned()),
        ("machine", format!("[[machine]]\nname = '{machine}'\nimage = 'debian-13'\n")),
        ("check", format!("[[check.tcp]]\nname = 'ssh'\nwhy = 'w'\nport = 22\nmachine = '{machine}'\n")),
    ] {
        if !written.contains_key(key) {
            text.push_str(&lacking);
        }
    }
    text
}

#[test]
fn every_toml_snippet_is_read_as_a_drill_reads_it() {
    let (scenario, image) = (scenario_schema(), image_schema());
    let mut seen = 0;
    for page in pages() {
        for Block { kind, line, text } in
            blocks(&read(&page)).into_iter().filter(|block| block.kind.starts_with("toml"))
        {
            let place = format!("{}:{line}", page.display());
            let (text, schema) = match kind.as_str() {
                "toml" => (text, &scenario),
                "toml,fragment" => (whole(&text), &scenario),
                "toml,image" => (text, &image),
                other => panic!("{place}: a block is `toml`, `toml,fragment` or `toml,image`, not `{other}`"),
            };
            let error = match kind.as_str() {
                "toml,image" => ImageSource::parse(&text).err(),
                _ => Scenario::parse(&text).err(),
            };
            assert!(error.is_none(), "{place}: {error:?}\n{text}");
            fits(schema, schema, &value(&text), &place);
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} snippets were found");
}

/// A document of TOML as JSON, dates as text.
fn value(text: &str) -> Value {
    fn plain(value: toml::Value) -> Value {
        match value {
            toml::Value::Datetime(date) => date.to_string().into(),
            toml::Value::Array(list) => list.into_iter().map(plain).collect(),
            toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, plain(value))).collect(),
            other => serde_json::to_value(other).expect("plain data"),
        }
    }
    plain(toml::Value::Table(text.parse().expect("TOML")))
}

/// Holds a value against a schema, as far as ours go: types, keys, words, references.
fn fits(root: &Value, schema: &Value, value: &Value, place: &str) {
    for other in schema["allOf"].as_array().into_iter().flatten() {
        fits(root, other, value, place);
    }
    if let Some(pointer) = schema["$ref"].as_str() {
        let target = root.pointer(pointer.trim_start_matches('#')).expect("a definition");
        fits(root, target, value, place);
    }
    if let Some(words) = schema["oneOf"].as_array().filter(|words| words[0].get("const").is_some()) {
        assert!(words.iter().any(|word| word["const"] == *value), "{place}: {value} is none of {words:?}");
    }
    let kind = match value {
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::Array(_) => "array",
        _ => "object",
    };
    assert!(schema["type"].is_null() || schema["type"] == kind, "{place}: {value} is not of {schema}");
    for item in value.as_array().into_iter().flatten() {
        fits(root, &schema["items"], item, place);
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().expect("a key")).is_some(), "{place}: {required} is missing");
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => panic!("{place}: the schema has no `{key}`"),
            (Value::Null, other) => fits(root, other, inner, place),
            (known, _) => fits(root, known, inner, place),
        }
    }
}

#[test]
fn what_is_shipped_fits_the_schemas() {
    let (scenario, image) = (scenario_schema(), image_schema());
    let mut seen = 0;
    for path in files(&root().join("scenarios")).into_iter().chain(files(&root().join("images"))) {
        let schema = match path.file_name().and_then(|name| name.to_str()) {
            Some("scenario.toml") => &scenario,
            Some("image.toml") => &image,
            _ => continue,
        };
        fits(schema, schema, &value(&read(&path)), &path.display().to_string());
        seen += 1;
    }
    assert!(seen > 8, "only {seen} files were found");
}

/// Where the links of a text lead.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

/// The anchors of a page, as git hosts and mdBook make them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| {
        let kept = heading.trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    let text = prose(text);
    text.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut seen = 0;
    for page in pages() {
        let text = prose(&read(&page));
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().expect("a directory").join(path),
            };
            assert!(target.exists(), "{} links to `{link}`, which is not there", page.display());
            let known = anchor.is_empty() || anchors(&read(&target)).contains(anchor);
            assert!(known, "{} links to `{link}`, and there is no such heading", page.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} links were found");
}

#[test]
fn every_page_is_in_the_summary() {
    let docs = root().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    let listed: BTreeSet<PathBuf> = links(&summary).into_iter().map(|link| docs.join(link)).collect();
    let there = files(&docs).into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    let there: BTreeSet<PathBuf> = there.filter(|path| !path.ends_with("SUMMARY.md")).collect();
    assert_eq!(listed, there);
}

#[test]
fn files_that_the_architecture_names_exist() {
    let root = root();
    let there: Vec<String> = files(&root)
        .iter()
        .map(|path| format!("/{}", path.strip_prefix(&root).expect("below the root").display()))
        .collect();
    let text = read(&root.join("ARCHITECTURE.md")) + &read(&root.join("docs/explanation/inside.md"));
    let words = text.split(|c: char| c.is_whitespace() || "`(),;|".contains(c)).map(|word| word.trim_end_matches('.'));
    let mut seen = 0;
    for word in words.filter(|word| !word.contains(['*', ':', '<'])) {
        let is_file = [".rs", ".py", ".md"].iter().any(|end| word.ends_with(end) && word.len() > end.len());
        let is_directory = word.ends_with('/') && (word.contains("/src/") || word.starts_with("harness/"));
        let known = match (is_file, is_directory) {
            (true, _) => there.iter().any(|path| path.ends_with(&format!("/{word}"))),
            (_, true) => there.iter().any(|path| path.contains(&format!("/{word}"))),
            _ => continue,
        };
        assert!(known, "the map or what explains it names `{word}`, which is not there");
        seen += 1;
    }
    assert!(seen > 60, "only {seen} names were found");
}

#[test]
fn the_map_is_short() {
    let lines = read(&root().join("ARCHITECTURE.md")).lines().count();
    assert!(lines <= 280, "ARCHITECTURE.md has {lines} lines: what explains goes to docs/explanation/inside.md");
}

#[test]
fn the_readme_is_short_and_keeps_what_ci_calls() {
    let text = read(&root().join("README.md"));
    let lines = text.lines().count();
    assert!(lines <= 130, "README.md has {lines} lines");
    for command in ["ci/drill scenarios/web", "ci/test"] {
        let there =
            blocks(&text).iter().any(|block| block.kind == "sh" && block.text.lines().any(|l| l.starts_with(command)));
        assert!(there, "README.md lacks the command `{command}`");
    }
}

#[test]
fn commands_in_the_documents_are_commands_of_redrill() {
    let mut commands = BTreeSet::new();
    for page in pages() {
        for Block { text, .. } in blocks(&read(&page)).into_iter().filter(|block| block.kind == "sh") {
            let words = text.lines().filter_map(|line| line.strip_prefix("redrill ")?.split_whitespace().next());
            commands.extend(words.map(str::to_owned));
        }
    }
    assert!(commands.len() > 6, "{commands:?}");
    for command in commands {
        let help = Command::new(program()).args([&command, "--help"]).output().expect("it starts");
        assert!(help.status.success(), "`redrill {command}` is not a command");
    }
}

#[test]
fn editors_and_shells_get_what_they_read() {
    let stdout = |args: &[&str]| {
        let ran = Command::new(program()).args(args).output().expect("it starts");
        assert!(ran.status.success(), "{args:?}");
        String::from_utf8(ran.stdout).expect("text")
    };
    for (of, key) in [("scenario", "machine"), ("image", "packages"), ("report", "claims")] {
        let schema: Value = serde_json::from_str(&stdout(&["schema", of])).expect("JSON");
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
        assert!(schema["properties"][key]["type"] == "array", "{of}: {schema}");
    }
    for shell in ["bash", "fish", "zsh"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("idempotence") && script.contains("keep-on-failure"), "{shell}");
        assert!(!script.contains("warden"), "{shell}: what redrill calls itself is not for people");
    }
}
