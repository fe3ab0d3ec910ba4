//! Python requirements of a repo that has no requirements file: from `pyproject.toml` (PEP 621, dependency groups, or
//! Poetry's own tables), pinned by the `uv.lock`, `poetry.lock` or `pdm.lock` beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use redrill_model::InputError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::scenario_error::ScenarioError;

/// The file's name, wherever it lies.
pub(crate) const FILE: &str = "pyproject.toml";
/// Locks, with the command that brings each up to date.
const LOCKS: [(&str, &str); 3] = [("uv.lock", "uv lock"), ("poetry.lock", "poetry lock"), ("pdm.lock", "pdm lock")];
/// What brings a deploy tool.
const TOOLS: [&str; 3] = ["pyinfra", "ansible", "ansible-core"];

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

/// Reads `file`, and the lock beside it. The project itself is not installed: a deploy runs from its checkout.
pub(crate) fn read(file: &Path) -> Result<Requirements, ScenarioError> {
    let project: Project = parse(file)?;
    let lines = project.requirements();
    let mut found = Requirements { lines, constraints: Vec::new(), from: FILE.to_owned(), remarks: Vec::new() };
    let directory = file.parent().unwrap_or(Path::new(""));
    if let Some((name, command)) = LOCKS.into_iter().find(|(name, _)| directory.join(name).is_file()) {
        let lock: Lock = parse(&directory.join(name))?;
        found.from = format!("{FILE}, pinned by {name}");
        lock.pin(&mut found, (name, command))?;
    }
    Ok(found)
}

/// Names of what `file` depends on; none if it cannot be read.
pub(crate) fn names(file: &Path) -> Vec<String> {
    let project: Result<Project, _> = parse(file);
    project.map(|project| project.requirements().iter().map(|line| name_of(line)).collect()).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(file: &Path) -> Result<T, ScenarioError> {
    let unreadable = |source| ScenarioError::Unreadable { path: file.to_owned(), source };
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    toml::from_str(&text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        let error = InputError { span, message: error.message().to_owned(), expected: None };
        ScenarioError::Invalid { path: file.to_owned(), text: text.clone(), error }
    })
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
    dependencies: Vec<String>,
    optional_dependencies: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tools {
    poetry: Poetry,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Poetry {
    dependencies: BTreeMap<String, Value>,
    group: BTreeMap<String, PoetryGroup>,
    dev_dependencies: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PoetryGroup {
    dependencies: BTreeMap<String, Value>,
}

impl Project {
    /// The main dependencies, and where these bring no deploy tool the groups that do.
    fn requirements(&self) -> Vec<String> {
        let mut all = [self.project.dependencies.clone(), of_poetry(&self.tool.poetry.dependencies)].concat();
        if !brings_a_tool(&all) {
            all.extend(self.groups().filter(|group| brings_a_tool(group)).flatten());
        }
        all
    }

    fn groups(&self) -> impl Iterator<Item = Vec<String>> {
        let plain = |group: &Vec<Value>| group.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let poetry = &self.tool.poetry;
        let groups = self.dependency_groups.values().map(plain);
        let optional = self.project.optional_dependencies.values().cloned();
        let of_poetry = poetry.group.values().map(|group| of_poetry(&group.dependencies));
        groups
            .chain(optional)
            .chain(of_poetry)
            .chain([self::of_poetry(&poetry.dev_dependencies)])
            .collect::<Vec<_>>()
            .into_iter()
    }
}

fn brings_a_tool(lines: &[String]) -> bool {
    lines.iter().any(|line| TOOLS.contains(&name_of(line).as_str()))
}

/// The name of a requirement, as indexes compare it (PEP 503).
fn name_of(line: &str) -> String {
    let end = line.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter));
    normal(line[..end.unwrap_or(line.len())].trim())
}

fn normal(name: &str) -> String {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_lowercase()
}

/// Poetry's table of dependencies as requirements; Python itself is none.
fn of_poetry(table: &BTreeMap<String, Value>) -> Vec<String> {
    table.iter().filter(|(name, _)| normal(name) != "python").map(|(name, value)| one_of_poetry(name, value)).collect()
}

fn one_of_poetry(name: &str, value: &Value) -> String {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let extras: Vec<&str> =
        value.get("extras").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
    if let Some(git) = text("git") {
        let at = text("rev").or(text("tag")).or(text("branch")).map(|at| format!("@{at}")).unwrap_or_default();
        return format!("{name}{extras} @ git+{git}{at}");
    }
    if let Some(url) = text("url") {
        return format!("{name}{extras} @ {url}");
    }
    let version = value.as_str().or(text("version")).unwrap_or("*");
    format!("{name}{extras}{}", version.split(',').map(|part| bounds(part.trim())).collect::<Vec<_>>().join(","))
        .trim_end_matches(',')
        .to_owned()
}

/// Poetry's `^1.2` and `~1.2` as the bounds that they stand for; everything else is as pip has it.
fn bounds(version: &str) -> String {
    let numbers = |text: &str| -> Vec<u64> { text.split('.').map_while(|part| part.parse().ok()).collect() };
    let next = |numbers: &[u64], at: usize| -> String {
        let mut upper: Vec<u64> = numbers[..=at].to_vec();
        upper[at] += 1;
        upper.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
    };
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
        _ if version.starts_with(|letter: char| letter.is_ascii_digit()) => format!("=={version}"),
        _ => version.to_owned(),
    }
}

/// What the three kinds of locks have in common.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: Option<String>,
    #[serde(default)]
    source: BTreeMap<String, Value>,
    /// PDM's way to say where a package comes from.
    git: Option<String>,
    revision: Option<String>,
}

impl Locked {
    /// The project itself, or one of its workspace.
    fn is_local(&self) -> bool {
        ["editable", "virtual", "directory", "path"].iter().any(|kind| self.source.contains_key(*kind))
    }

    /// Where it comes from, as pip has it; `None` for a package of an index.
    fn place(&self) -> Option<String> {
        let text = |key: &str| self.source.get(key).and_then(Value::as_str);
        if let Some(git) = text("git") {
            // uv: URL?rev=MAIN#COMMIT
            let (url, commit) = git.rsplit_once('#').unwrap_or((git, ""));
            let url = url.split('?').next().unwrap_or(url);
            return Some(format!("git+{url}@{commit}"));
        }
        if text("type") == Some("git") {
            return Some(format!("git+{}@{}", text("url")?, text("resolved_reference")?));
        }
        if let (Some(git), Some(revision)) = (&self.git, &self.revision) {
            return Some(format!("git+{git}@{revision}"));
        }
        text("type").is_none().then(|| text("url")).flatten().map(str::to_owned)
    }
}

impl Lock {
    fn pin(&self, found: &mut Requirements, (file, command): (&str, &str)) -> Result<(), ScenarioError> {
        let known: BTreeSet<String> = self.package.iter().map(|locked| normal(&locked.name)).collect();
        if let Some(missing) = found.lines.iter().map(|line| name_of(line)).find(|name| !known.contains(name)) {
            let message = format!("`{file}` does not have `{missing}`, which `{FILE}` depends on");
            return Err(ScenarioError::mismatch(message, format!("a lock that is up to date: `{command}`")));
        }
        let mut versions: BTreeMap<String, Vec<&Locked>> = BTreeMap::new();
        for locked in self.package.iter().filter(|locked| !locked.is_local()) {
            versions.entry(normal(&locked.name)).or_default().push(locked);
        }
        for (name, locked) in &versions {
            match (locked.as_slice(), locked[0].place(), &locked[0].version) {
                ([_], Some(place), _) => {
                    found.lines.retain(|line| name_of(line) != *name);
                    found.lines.push(format!("{name} @ {place}"));
                }
                ([_], None, Some(version)) => found.constraints.push(format!("{name}=={version}")),
                ([_], None, None) => {}
                (several, ..) => {
                    let count = several.len();
                    found.remarks.push(format!("`{file}` has {count} versions of `{name}`: pip chose one"));
                }
            }
        }
        Ok(())
    }
}

/// Writes what pip is given into `directory`; returns the name of the requirements file there.
pub(crate) fn write(found: &Requirements, directory: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join("constraints.txt"), found.constraints.join("\n") + "\n")?;
    let lines = [vec!["--constraint constraints.txt".to_owned()], found.lines.clone()].concat();
    std::fs::write(directory.join("requirements.txt"), lines.join("\n") + "\n")?;
    Ok(PathBuf::from("requirements.txt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Result<Requirements, ScenarioError> {
        let directory = tempfile::tempdir().expect("a directory");
        files.iter().for_each(|(name, text)| std::fs::write(directory.path().join(name), text).expect("written"));
        read(&directory.path().join(FILE))
    }

    const PEP_621: &str = "[project]\nname = 'servers'\nversion = '0'\ndependencies = ['pyinfra>=3', 'Py_YAML']\n";

    #[test]
    fn dependencies_are_read_from_each_kind_of_table() {
        let found = of(&[(FILE, PEP_621)]).expect("read");
        assert_eq!((found.lines, found.from.as_str()), (vec!["pyinfra>=3".into(), "Py_YAML".into()], FILE));
        let poetry = "[tool.poetry.dependencies]\npython = '^3.11'\nansible-core = '^2.19'\nrich = {version = '~13.7', extras = ['jupyter']}\n";
        assert_eq!(of(&[(FILE, poetry)]).expect("read").lines, ["ansible-core>=2.19,<3", "rich[jupyter]>=13.7,<13.8"]);
        let group = "[project]\nname = 'a'\n[dependency-groups]\ndeploy = ['pyinfra', {include-group = 'x'}]\ndocs = ['mkdocs']\n";
        assert_eq!(of(&[(FILE, group)]).expect("read").lines, ["pyinfra"], "the group that brings a tool");
    }

    #[test]
    fn a_lock_pins_what_it_has_in_one_version() {
        let lock = "version = 1\n[[package]]\nname = 'servers'\nsource = { virtual = '.' }\n\
            [[package]]\nname = 'pyinfra'\nversion = '3.2'\nsource = { registry = 'https://pypi.org/simple' }\n\
            [[package]]\nname = 'py-yaml'\nversion = '6'\nsource = { git = 'https://host/y?rev=main#abc1' }\n\
            [[package]]\nname = 'gevent'\nversion = '1'\n[[package]]\nname = 'gevent'\nversion = '2'\n";
        let found = of(&[(FILE, PEP_621), ("uv.lock", lock)]).expect("read");
        assert_eq!(found.from, "pyproject.toml, pinned by uv.lock");
        assert_eq!(found.lines, ["pyinfra>=3", "py-yaml @ git+https://host/y@abc1"]);
        assert_eq!(found.constraints, ["pyinfra==3.2"]);
        assert_eq!(found.remarks, ["`uv.lock` has 2 versions of `gevent`: pip chose one"]);
        let poetry = "[[package]]\nname = 'pyinfra'\nversion = '3.1'\n[[package]]\nname = 'py-yaml'\nversion = '6'\n\
            [package.source]\ntype = 'git'\nurl = 'https://host/y'\nreference = 'main'\nresolved_reference = 'abc2'\n";
        let found = of(&[(FILE, PEP_621), ("poetry.lock", poetry)]).expect("read");
        assert_eq!(
            (found.lines[1].as_str(), found.constraints[0].as_str()),
            ("py-yaml @ git+https://host/y@abc2", "pyinfra==3.1")
        );
    }

    #[test]
    fn a_lock_that_is_behind_and_a_mistake_are_errors_with_their_place() {
        let behind = of(&[(FILE, PEP_621), ("uv.lock", "[[package]]\nname = 'pyinfra'\nversion = '3.2'\n")]);
        let ScenarioError::Mismatch { message, expected } = behind.expect_err("behind") else { panic!("no mismatch") };
        assert!(message.contains("does not have `py-yaml`") && expected.contains("`uv lock`"), "{message}: {expected}");
        let wrong = of(&[(FILE, "[project]\ndependencies = 'pyinfra'\n")]).expect_err("no list");
        assert!(matches!(wrong, ScenarioError::Invalid { ref error, .. } if error.span.start > 9), "{wrong:?}");
    }

    #[test]
    fn poetrys_bounds_are_those_that_pip_has() {
        for (poetry, pip) in [("^0.3.1", ">=0.3.1,<0.4"), ("^1", ">=1,<2"), ("~2", ">=2,<3"), ("~=2.1", "~=2.1")] {
            assert_eq!(bounds(poetry), pip);
        }
        assert_eq!((bounds("*"), bounds("1.2"), bounds(">=1")), (String::new(), "==1.2".into(), ">=1".into()));
    }
}
