//! Python requirements of a repo that has no requirements file: from `pyproject.toml` (PEP 621, dependency groups, or
//! Poetry's own tables), pinned by the `uv.lock`, `poetry.lock` or `pdm.lock` beside it.

mod line;
mod lock;
mod poetry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redrill_model::InputError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::scenario_error::ScenarioError;
use line::{Requirement, normal};
use lock::Lock;
use poetry::Poetry;

/// The file's name, wherever it lies.
pub(crate) const FILE: &str = "pyproject.toml";
/// Locks, with the command that brings each up to date.
const LOCKS: [(&str, &str); 3] = [("uv.lock", "uv lock"), ("poetry.lock", "poetry lock"), ("pdm.lock", "pdm lock")];
/// What brings a deploy tool.
const TOOLS: [&str; 3] = ["pyinfra", "ansible", "ansible-core"];
/// What pip is given is named for its origin: messages about a line of it name the file.
const WRITTEN: [&str; 2] = ["pyproject-requirements.txt", "pyproject-constraints.txt"];
/// No project or lock of people is larger.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What pip is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requirements {
    /// Lines of a requirements file.
    pub(crate) lines: Vec<String>,
    /// Lines of a constraints file; empty without a lock.
    pub(crate) constraints: Vec<String>,
    /// Where they come from, in words.
    pub(crate) from: String,
    /// What a reader must know, in words.
    pub(crate) remarks: Vec<String>,
}

/// Reads `file` of a checkout, and the lock beside it. The project itself is not installed: a deploy runs from its
/// checkout.
pub(crate) fn read(checkout: &Path, file: &Path) -> Result<Requirements, ScenarioError> {
    let project: Project = parse(checkout, file)?;
    let lines = project.requirements();
    refuse_local(&lines, &project)?;
    let mut found = Requirements { lines, constraints: Vec::new(), from: FILE.to_owned(), remarks: Vec::new() };
    for (name, command) in LOCKS {
        let beside = file.with_file_name(name);
        if checkout.join(&beside).symlink_metadata().is_ok() {
            let lock: Lock = parse(checkout, &beside)?;
            found.from = format!("{FILE}, pinned by {name}");
            lock.pin(&mut found, (name, command))?;
            break;
        }
    }
    Ok(found)
}

/// Names of what `file` depends on; `None` if it cannot be read.
pub(crate) fn names(file: &Path) -> Option<Vec<String>> {
    let project: Project = toml::from_str(&String::from_utf8(bytes(file).ok()?).ok()?).ok()?;
    Some(project.requirements().iter().map(|line| Requirement::of(line).name()).collect())
}

/// Writes what pip is given into `directory`; returns the name of the requirements file there.
pub(crate) fn write(found: &Requirements, directory: &Path) -> std::io::Result<PathBuf> {
    let [requirements, constraints] = WRITTEN;
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join(constraints), found.constraints.join("\n") + "\n")?;
    let lines = [vec![format!("--constraint {constraints}")], found.lines.clone()].concat();
    std::fs::write(directory.join(requirements), lines.join("\n") + "\n")?;
    Ok(PathBuf::from(requirements))
}

/// A regular file of a sensible size: a link may lead to what never ends.
fn bytes(file: &Path) -> std::io::Result<Vec<u8>> {
    let about = std::fs::metadata(file)?;
    if !about.is_file() || about.len() > LARGEST {
        return Err(std::io::Error::other(format!("no file of at most {LARGEST} bytes")));
    }
    std::fs::read(file)
}

fn parse<T: DeserializeOwned>(checkout: &Path, file: &Path) -> Result<T, ScenarioError> {
    let place = checkout.join(file);
    let told = file.display();
    let inside = checkout.canonicalize().and_then(|root| Ok(place.canonicalize()?.starts_with(root)));
    if matches!(inside, Ok(false)) {
        let message = format!("`{told}` is a link that leads out of the servers repo");
        return Err(ScenarioError::mismatch(message, "a committed file"));
    }
    let unreadable =
        |error| ScenarioError::mismatch(format!("`{told}` cannot be read: {error}"), "a committed TOML file");
    let text = String::from_utf8(bytes(&place).map_err(unreadable)?);
    let text = text.map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        invalid(file, &text, at..at + 1, "this is no UTF-8")
    })?;
    toml::from_str(&text).map_err(|error| invalid(file, &text, error.span().unwrap_or_default(), error.message()))
}

fn invalid(file: &Path, text: &str, span: std::ops::Range<usize>, message: &str) -> ScenarioError {
    let error = InputError { span, message: message.to_owned(), expected: None };
    ScenarioError::Invalid { path: file.to_owned(), text: text.to_owned(), error }
}

/// A project of the checkout is refused: pip would look for one of its name in the index, and find a stranger's.
fn refuse_local(lines: &[String], project: &Project) -> Result<(), ScenarioError> {
    let local = project.local();
    let is_local = |line: &Requirement<'_>| line.is_path() || local.contains(&line.name());
    match lines.iter().map(|line| Requirement::of(line)).find(is_local) {
        Some(line) => Err(lies_in_checkout(&line.name())),
        None => Ok(()),
    }
}

fn lies_in_checkout(name: &str) -> ScenarioError {
    let message = format!("`{FILE}` depends on `{name}`, which is no package of an index but lies on a path");
    ScenarioError::mismatch(message, "a committed requirements.txt that names the path, such as `./lib`")
}

/// The part of `pyproject.toml` that names dependencies.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Project {
    project: Metadata,
    dependency_groups: BTreeMap<String, Vec<Value>>,
    tool: Tools,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Metadata {
    name: String,
    dependencies: Vec<String>,
    optional_dependencies: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tools {
    poetry: Poetry,
    uv: Uv,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Uv {
    /// Where packages come from, if not from an index.
    sources: BTreeMap<String, Value>,
}

impl Project {
    /// The main dependencies, and where these bring no deploy tool the groups that do.
    fn requirements(&self) -> Vec<String> {
        let mut all = [self.without_itself(&self.project.dependencies), self.tool.poetry.main()].concat();
        if !brings_a_tool(&all) {
            all.extend(self.groups().into_iter().filter(|group| brings_a_tool(group)).flatten());
        }
        let mut lines: Vec<String> = Vec::new();
        for line in all.iter().map(|line| self.with_its_source(line)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    fn groups(&self) -> Vec<Vec<String>> {
        let groups = self.dependency_groups.keys().map(|name| self.group(name, &mut Vec::new()));
        let optional = self.project.optional_dependencies.values().cloned();
        let own = groups.chain(optional).map(|group| self.without_itself(&group));
        own.chain(self.tool.poetry.groups()).collect()
    }

    /// A dependency group with those that it includes (PEP 735).
    fn group(&self, name: &str, seen: &mut Vec<String>) -> Vec<String> {
        let name = normal(name);
        if seen.contains(&name) {
            return Vec::new();
        }
        seen.push(name.clone());
        let entries = self.dependency_groups.iter().find(|(known, _)| normal(known) == name);
        let mut lines = Vec::new();
        for entry in entries.into_iter().flat_map(|(_, entries)| entries) {
            lines.extend(entry.as_str().map(str::to_owned));
            let included = entry.get("include-group").and_then(Value::as_str);
            lines.extend(included.into_iter().flat_map(|included| self.group(included, seen)));
        }
        lines
    }

    /// Puts in what the project's own extras stand for: in the index its name is a stranger's, or nobody's.
    fn without_itself(&self, lines: &[String]) -> Vec<String> {
        let (mut kept, mut seen, mut open) = (Vec::new(), Vec::new(), Vec::from_iter(lines.iter().rev()));
        while let Some(line) = open.pop() {
            let parts = Requirement::of(line);
            if self.project.name.is_empty() || parts.name() != normal(&self.project.name) {
                kept.push(line.clone());
                continue;
            }
            for extra in parts.extras().into_iter().rev() {
                if !seen.contains(&extra) {
                    let all = self.project.optional_dependencies.iter();
                    open.extend(
                        all.filter(|(name, _)| normal(name) == extra).flat_map(|(_, lines)| lines.iter().rev()),
                    );
                    seen.push(extra);
                }
            }
        }
        kept
    }

    /// A requirement with the place that uv's table of sources has for it.
    fn with_its_source(&self, line: &str) -> String {
        let parts = Requirement::of(line);
        let source = self.tool.uv.sources.iter().find(|(name, _)| normal(name) == parts.name());
        match source.and_then(|(_, source)| place(source)) {
            Some(place) => parts.at(&place),
            None => line.to_owned(),
        }
    }

    /// Names of what lies on a path, or is another member of the workspace.
    fn local(&self) -> Vec<String> {
        let of_uv = self.tool.uv.sources.iter();
        let all = of_uv.chain(self.tool.poetry.tables().into_iter().flatten());
        all.filter(|(_, value)| is_local(value)).map(|(name, _)| normal(name)).collect()
    }
}

fn brings_a_tool(lines: &[String]) -> bool {
    lines.iter().any(|line| TOOLS.contains(&Requirement::of(line).name().as_str()))
}

/// Where Poetry or uv take a package from, as pip has it; `None` for a package of an index.
fn place(value: &Value) -> Option<String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    match text("git") {
        Some(url) => Some(line::git(url, text("rev").or(text("tag")).or(text("branch")), text("subdirectory"))),
        None => text("url").map(str::to_owned),
    }
}

/// Whether it lies on a path; one of several places is enough.
fn is_local(value: &Value) -> bool {
    let several = value.as_array().into_iter().flatten().any(is_local);
    several || value.get("path").is_some() || value.get("workspace").and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests;
