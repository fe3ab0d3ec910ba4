//! Submodules at the commits that the repo names: from the repositories that the user has of them, never from elsewhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::super::ControllerError;
use super::source::{self, GitSource};
use super::{STATUS_LIMIT, Selection, WorkTree, beside, git, short, take};
use crate::scenario_error::ScenarioError;

/// Deeper nesting is a circle.
const DEEPEST: usize = 16;

/// Checks all submodules of `tree` out, and theirs. Tells what in them is not committed, as `git status` does.
pub(super) async fn take_all(
    source: &GitSource,
    wanted: Selection<'_>,
    tree: &WorkTree<'_>,
) -> Result<Vec<String>, ControllerError> {
    let output = tree.files(&["--stage"]).await?;
    let links: Vec<(PathBuf, String)> = git::parts(&output).filter_map(link).collect();
    let mut uncommitted = Vec::new();
    if links.is_empty() {
        return Ok(uncommitted);
    }
    let names = names(source, wanted.id).await?;
    for (path, id) in links {
        let told = path.display();
        let Some(name) = names.iter().find(|(_, there)| *there == path).map(|(name, _)| name) else {
            let message = format!("`{told}` is a repository of its own, and .gitmodules does not say whose");
            return Err(ScenarioError::mismatch(message, "its files committed, or git submodule add").into());
        };
        if wanted.depth == DEEPEST {
            let message = format!("`{told}` is a submodule inside {DEEPEST} others");
            return Err(ScenarioError::mismatch(message, "submodules that do not hold themselves").into());
        }
        let Some(inner) = find(source, name, &path, &id).await? else {
            let message = format!("commit {} of the submodule `{told}` is not there", short(&id));
            let expected = format!("all submodules: git submodule update --init --recursive -- {told}");
            return Err(ScenarioError::mismatch(message, expected).into());
        };
        let to = tree.work_tree.join(&path);
        // git made an empty directory for it; what lies above it are directories of the commit.
        std::fs::remove_dir(&to).map_err(ControllerError::io("cannot make the checkout"))?;
        let mut below = match source::git_dir_of(&inner.top) {
            Some(_) => inner.uncommitted(&inner.top, STATUS_LIMIT).await?,
            None => Vec::new(),
        };
        let whole = Selection { id: &id, inner: Path::new(""), depth: wanted.depth + 1 };
        below.extend(take(&inner, whole, &to).await?);
        let in_it = |line: &String| line.split_once(' ').map(|(state, file)| format!("{state} {told}/{}", file.trim()));
        uncommitted.extend(below.iter().filter_map(in_it));
    }
    Ok(uncommitted)
}

/// An entry of `git ls-files --stage` that names a commit.
fn link(entry: &OsStr) -> Option<(PathBuf, String)> {
    let entry = entry.as_bytes().strip_prefix(b"160000 ")?;
    let tab = entry.iter().position(|byte| *byte == b'\t')?;
    let id = entry.split(|byte| *byte == b' ').next().map(|id| String::from_utf8_lossy(id).into_owned())?;
    Some((PathBuf::from(OsStr::from_bytes(&entry[tab + 1..])), id))
}

/// Names of submodules and their paths, as the commit tells them. Names are file names in the repo: none leads out.
async fn names(source: &GitSource, id: &str) -> Result<Vec<(String, PathBuf)>, ControllerError> {
    let mut git = source.git();
    git.args(["config", "--no-includes", "--null", "--blob", &format!("{id}:.gitmodules")]);
    git.args(["--get-regexp", r"^submodule\..*\.path$"]);
    let output = git::run(git).await?; // It fails where there is no such file.
    let entry = |entry: &OsStr| {
        let at = entry.as_bytes().iter().position(|byte| *byte == b'\n')?;
        let key = String::from_utf8_lossy(&entry.as_bytes()[..at]).into_owned();
        let name = key.strip_prefix("submodule.")?.strip_suffix(".path")?.to_owned();
        let inside = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
        let path = PathBuf::from(OsStr::from_bytes(&entry.as_bytes()[at + 1..]));
        (inside && !name.is_empty()).then_some((name, path))
    };
    Ok(git::parts(&output).filter_map(entry).collect())
}

/// The repository of a submodule that has this commit.
async fn find(source: &GitSource, name: &str, path: &Path, id: &str) -> Result<Option<GitSource>, ControllerError> {
    let top = source.top.join(path);
    let kept = [&source.git_dir, &source.common].map(|git_dir| git_dir.join("modules").join(name));
    let kept = kept.into_iter().filter(|git_dir| git_dir.join("HEAD").is_file());
    for git_dir in kept.chain(source::git_dir_of(&top)) {
        let inner = GitSource::of(top.clone(), git_dir, beside(source.mirror())).await?;
        if inner.resolve(id).await?.is_some() {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}
