//! What `uv.lock`, `poetry.lock` and `pdm.lock` pin, for pip.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Value;

use super::line::{self, Requirement, normal};
use super::{FILE, Requirements, lies_in_checkout};
use crate::scenario_error::ScenarioError;

/// What the three kinds have in common.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: Option<String>,
    #[serde(default)]
    source: BTreeMap<String, Value>,
    /// PDM's ways to say where a package comes from, which has no `source`.
    git: Option<String>,
    revision: Option<String>,
    subdirectory: Option<String>,
    url: Option<String>,
    path: Option<String>,
    /// Archives, with their hashes.
    sdist: Option<Value>,
    #[serde(default)]
    wheels: Vec<Value>,
    #[serde(default)]
    files: Vec<Value>,
    /// Where this version is for, if others are for elsewhere: uv's list, of which one holds.
    #[serde(default, rename = "resolution-markers")]
    resolution_markers: Vec<String>,
    /// Poetry's: a text, or one for each group.
    markers: Option<Value>,
    /// PDM's.
    marker: Option<String>,
}

impl Locked {
    fn of_source(&self, key: &str) -> Option<&str> {
        self.source.get(key).and_then(Value::as_str)
    }

    /// The project itself, one of its workspace, or another that lies on a path.
    fn is_local(&self) -> bool {
        let of_uv = ["editable", "virtual", "directory", "path"].iter().any(|kind| self.source.contains_key(*kind));
        of_uv || matches!(self.of_source("type"), Some("directory" | "file")) || self.path.is_some()
    }

    /// Where it comes from, as pip has it; `None` for a package of an index.
    fn place(&self) -> Option<String> {
        let url = self.of_source("url");
        match (self.of_source("git"), self.of_source("type")) {
            (Some(git), _) => Some(of_uv(git)),
            (None, Some("git")) => {
                Some(line::git(url?, self.of_source("resolved_reference"), self.of_source("subdirectory")))
            }
            (None, Some("url")) => Some(self.hashed(url?)),
            (None, Some(_)) => None, // Another index.
            (None, None) => match &self.git {
                Some(git) => Some(line::git(git, self.revision.as_deref(), self.subdirectory.as_deref())),
                None => Some(self.hashed(url.or(self.url.as_deref())?)),
            },
        }
    }

    /// Where this version is for, as pip has it. What extras and groups decide is nothing that pip can tell.
    fn marker(&self) -> Option<String> {
        let of_uv = self.resolution_markers.iter().map(|marker| format!("({marker})")).collect::<Vec<_>>().join(" or ");
        let written = self.markers.as_ref().and_then(Value::as_str).or(self.marker.as_deref());
        let marker = if of_uv.is_empty() { written?.to_owned() } else { of_uv };
        let mut words = marker.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let by_choice = words.any(|word| ["extra", "extras", "dependency_groups"].contains(&word));
        (!by_choice).then_some(marker)
    }

    /// A URL with what its content must be, if the lock knows one archive.
    fn hashed(&self, url: &str) -> String {
        let archives = self.sdist.iter().chain(&self.wheels).chain(&self.files);
        let hashes = archives.filter_map(|archive| archive.get("hash")?.as_str()?.strip_prefix("sha256:"));
        match hashes.collect::<Vec<_>>().as_slice() {
            [hash] if !url.contains('#') => format!("{url}#sha256={hash}"),
            _ => url.to_owned(),
        }
    }
}

/// uv's `URL?subdirectory=BELOW&rev=MAIN#COMMIT`.
fn of_uv(git: &str) -> String {
    let (url, commit) = git.rsplit_once('#').unwrap_or((git, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let below = query.split('&').find_map(|part| part.strip_prefix("subdirectory="));
    line::git(url, Some(commit), below)
}

/// One version of a package.
struct Version<'a> {
    number: Option<&'a str>,
    /// Where it comes from, if not from an index.
    place: Option<String>,
    /// For which systems it is.
    marker: Option<String>,
}

impl Lock {
    /// Pins what was `found` by the lock `file`, which `command` brings up to date.
    pub(super) fn pin(&self, found: &mut Requirements, (file, command): (&str, &str)) -> Result<(), ScenarioError> {
        for name in found.lines.iter().map(|line| Requirement::of(line).name()) {
            let mut locked = self.package.iter().filter(|locked| normal(&locked.name) == name).peekable();
            if locked.peek().is_none() {
                let message = format!("`{file}` does not have `{name}`, which `{FILE}` depends on");
                return Err(ScenarioError::mismatch(message, format!("a lock that is up to date: `{command}`")));
            }
            if locked.any(Locked::is_local) {
                return Err(lies_in_checkout(&name));
            }
        }
        for (name, versions) in self.versions() {
            match versions.as_slice() {
                [Version { place: Some(place), .. }] => take_from(place, &name, found),
                [Version { number: Some(number), .. }] => found.constraints.push(format!("{name}=={number}")),
                [Version { number: None, .. }] => {}
                several => match by_markers(&name, several) {
                    Some(constraints) => found.constraints.extend(constraints),
                    None => {
                        let count = several.len();
                        found.remarks.push(format!("`{file}` has {count} versions of `{name}`: pip chose one"));
                    }
                },
            }
        }
        Ok(())
    }

    /// Every version of every package. PDM lists one again for each of its extras.
    fn versions(&self) -> BTreeMap<String, Vec<Version<'_>>> {
        let mut all: BTreeMap<String, Vec<Version<'_>>> = BTreeMap::new();
        for locked in self.package.iter().filter(|locked| !locked.is_local()) {
            let (number, place) = (locked.version.as_deref(), locked.place());
            let known = all.entry(normal(&locked.name)).or_default();
            if !known.iter().any(|other| (other.number, &other.place) == (number, &place)) {
                known.push(Version { number, place, marker: locked.marker() });
            }
        }
        all
    }
}

/// Each version for its own systems; `None` unless the lock says for each what these are.
fn by_markers(name: &str, versions: &[Version<'_>]) -> Option<Vec<String>> {
    let one = |version: &Version<'_>| match version {
        Version { number: Some(number), place: None, marker: Some(marker) } => {
            Some(format!("{name}=={number} ; {marker}"))
        }
        _ => None,
    };
    versions.iter().map(one).collect()
}

/// Takes a package from its place: where a line asks for it by that line, which keeps extras and marker, or else by a
/// constraint, which installs nothing that nobody asks for.
fn take_from(place: &str, name: &str, found: &mut Requirements) {
    let mut asked = false;
    for line in &mut found.lines {
        let parts = Requirement::of(line);
        if parts.name() == name {
            *line = parts.at(place);
            asked = true;
        }
    }
    if !asked {
        found.constraints.push(format!("{name} @ {place}"));
    }
}
