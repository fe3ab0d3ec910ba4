//! Poetry's own tables of dependencies, as requirements that pip reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Value;

use super::line::{normal, requirement};
use super::place;

/// Requirements by name: a version, a table, or a list of tables.
type Table = BTreeMap<String, Value>;

/// `[tool.poetry]`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Poetry {
    dependencies: Table,
    group: BTreeMap<String, PoetryGroup>,
    dev_dependencies: Table,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PoetryGroup {
    dependencies: Table,
}

impl Poetry {
    /// What is always installed.
    pub(super) fn main(&self) -> Vec<String> {
        lines(self.dependencies.iter().filter(|(_, value)| !is_optional(value)))
    }

    /// What is installed on request: optional dependencies, which extras name, and groups.
    pub(super) fn groups(&self) -> Vec<Vec<String>> {
        let optional = lines(self.dependencies.iter().filter(|(_, value)| is_optional(value)));
        let groups = self.group.values().map(|group| lines(group.dependencies.iter()));
        [optional].into_iter().chain(groups).chain([lines(self.dev_dependencies.iter())]).collect()
    }

    /// All tables of dependencies.
    pub(super) fn tables(&self) -> Vec<&Table> {
        let groups = self.group.values().map(|group| &group.dependencies);
        [&self.dependencies, &self.dev_dependencies].into_iter().chain(groups).collect()
    }
}

fn is_optional(value: &Value) -> bool {
    value.get("optional").and_then(Value::as_bool) == Some(true)
}

/// Requirements of a table; Python itself is none.
fn lines<'a>(table: impl Iterator<Item = (&'a String, &'a Value)>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in table.filter(|(name, _)| normal(name) != "python") {
        match value.as_array() {
            Some(several) => lines.extend(several.iter().map(|value| one(name, value))),
            None => lines.push(one(name, value)),
        }
    }
    lines
}

fn one(name: &str, value: &Value) -> String {
    let extras = value.get("extras").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let extras = extras.collect::<Vec<_>>().join(",");
    let version = value.as_str().or_else(|| value.get("version").and_then(Value::as_str)).unwrap_or("*");
    let rest = place(value).map_or_else(|| versions(version).join(","), |place| format!(" @ {place}"));
    requirement(name, &extras, &rest, &marker(value))
}

/// Where it is installed: what is for other systems would fail here.
fn marker(value: &Value) -> String {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let platform = text("platform").map(|platform| format!("sys_platform == '{platform}'"));
    let python = text("python").into_iter().flat_map(versions).map(|version| of_python(&version));
    let written = text("markers").map(|markers| format!("({markers})"));
    written.into_iter().chain(platform).chain(python).collect::<Vec<_>>().join(" and ")
}

fn of_python(version: &str) -> String {
    let number = version.trim_start_matches(['=', '<', '>', '~', '!']);
    let operator = version.strip_suffix(number).unwrap_or_default();
    let name = if number.split('.').count() > 2 { "python_full_version" } else { "python_version" };
    format!("{name} {operator} '{number}'")
}

/// Versions that all hold, as pip has them; none for alternatives (`||`), which only a lock decides.
fn versions(text: &str) -> Vec<String> {
    if text.contains('|') {
        return Vec::new();
    }
    let mut parts: Vec<String> = Vec::new();
    for word in text.split([',', ' ']).filter(|word| !word.is_empty()) {
        match parts.last_mut().filter(|last| last.ends_with(['=', '<', '>', '~', '!', '^'])) {
            Some(operator) => operator.push_str(word),
            None => parts.push(word.to_owned()),
        }
    }
    let bounds = parts.iter().flat_map(|part| bounds(part).split(',').map(str::to_owned).collect::<Vec<_>>());
    bounds.filter(|bound| !bound.is_empty()).collect()
}

/// Poetry's `^1.2` and `~1.2` as the bounds that they stand for; everything else is as pip has it.
pub(super) fn bounds(version: &str) -> String {
    let numbers = |text: &str| -> Vec<u64> { text.split('.').map_while(|part| part.parse().ok()).collect() };
    match version.split_at_checked(1) {
        _ if version == "*" => String::new(),
        Some(("^", rest)) if !numbers(rest).is_empty() => {
            let lower = numbers(rest);
            let at = lower.iter().position(|number| *number > 0).unwrap_or(lower.len() - 1);
            format!(">={rest},<{}", next(&lower, at))
        }
        Some(("~", rest)) if !rest.starts_with('=') && !numbers(rest).is_empty() => {
            let lower = numbers(rest);
            format!(">={rest},<{}", next(&lower, usize::from(lower.len() > 1)))
        }
        Some(("=", rest)) if !rest.starts_with('=') => format!("=={rest}"),
        _ if version.starts_with(|letter: char| letter.is_ascii_digit()) => format!("=={version}"),
        _ => version.to_owned(),
    }
}

/// The first version that has another number at this place.
fn next(numbers: &[u64], at: usize) -> String {
    let upper = numbers.iter().take(at + 1).enumerate();
    let upper = upper.map(|(place, number)| if place == at { number.saturating_add(1) } else { *number });
    upper.map(|number| number.to_string()).collect::<Vec<_>>().join(".")
}
