//! A clean checkout of the servers repo at one commit. What is not committed is named, and is no part of it. Nothing that
//! the repo names is run for it: see [`source`].

mod filters;
mod git;
mod source;
mod submodules;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use redrill_model::SourceReport;
use tokio::process::Command;

use super::ControllerError;
use crate::loaded::Loaded;
use crate::scenario_error::ScenarioError;
use git::{must, run, text};
use source::GitSource;

/// For the comparison of a work tree with its index: large ones over a slow network take a minute.
const STATUS_LIMIT: Duration = Duration::from_secs(2 * 60);

/// Checks `commit` of the scenario's repo, whatever the scenario says of a commit, out into `to`, which must not exist.
/// The repo is a repository of its own, which is cloned, or a directory inside a larger one, of which the directory
/// alone is taken. Submodules come along at their commits.
pub(super) async fn checkout(loaded: &Loaded, commit: &str, to: &Path) -> Result<SourceReport, ControllerError> {
    let repo = loaded.directory.join(&loaded.scenario.servers.path);
    let in_scenario = |key| move |error: ControllerError| error.at(loaded, &["servers", key]);
    let repo = repo.canonicalize().map_err(ControllerError::io("cannot find the servers repo"))?;
    let source = GitSource::around(&repo, beside(to)).await.map_err(in_scenario("path"))?;
    let id = resolve(&source, &repo, commit).await.map_err(in_scenario("commit"))?;
    let inner = repo.strip_prefix(&source.top).unwrap_or(Path::new("")).to_owned();
    let mut log = source.git();
    log.args(["log", "-1", "--format=%s", &id]);
    let title = text(&must(run(log).await?, "git log")?);
    let mut uncommitted = source.uncommitted(&repo, STATUS_LIMIT).await.map_err(in_scenario("path"))?;
    uncommitted
        .extend(take(&source, Selection { id: &id, inner: &inner, depth: 0 }, to).await.map_err(in_scenario("path"))?);
    Ok(SourceReport { repo: repo.display().to_string(), commit: id, title, uncommitted })
}

/// Where what is needed for a while may lie.
fn beside(to: &Path) -> &Path {
    to.parent().unwrap_or(Path::new("/"))
}

async fn resolve(source: &GitSource, repo: &Path, commit: &str) -> Result<String, ControllerError> {
    // As an argument it would end at the NUL, or not be taken at all.
    let sound = !commit.is_empty() && !commit.starts_with('-') && !commit.contains(char::is_control);
    if sound && let Some(id) = source.resolve(commit).await? {
        return Ok(id);
    }
    let message = format!("there is no commit `{}` in `{}`", commit.escape_debug(), repo.display());
    Err(ScenarioError::mismatch(message, "a branch, tag or commit id that `git rev-parse` knows").into())
}

/// A work tree that was made, and the git directory that knows it.
struct WorkTree<'a> {
    git_dir: PathBuf,
    work_tree: &'a Path,
    /// The index, where it is not the git directory's own.
    index: Option<PathBuf>,
    /// What of it was wanted.
    inner: &'a Path,
}

impl WorkTree<'_> {
    fn git(&self) -> Command {
        let mut git = git::git(&self.git_dir);
        git.env("GIT_WORK_TREE", self.work_tree).current_dir(self.work_tree);
        git.envs(self.index.as_ref().map(|index| ("GIT_INDEX_FILE", index)));
        git.args(["-c", "core.attributesFile=/dev/null"]);
        git
    }

    /// `git ls-files` of what was wanted.
    async fn files(&self, arguments: &[&str]) -> Result<std::process::Output, ControllerError> {
        let mut git = self.git();
        // Told by its letters: a directory may be called `*`.
        git.env("GIT_LITERAL_PATHSPECS", "1").args(["ls-files", "-z"]).args(arguments).arg("--");
        if !self.inner.as_os_str().is_empty() {
            git.arg(self.inner);
        }
        must(run(git).await?, "git ls-files")
    }
}

/// What of a repository is checked out.
#[derive(Clone, Copy)]
struct Selection<'a> {
    /// The commit.
    id: &'a str,
    /// A directory in it; empty for all of it.
    inner: &'a Path,
    /// In how many repositories it is a submodule.
    depth: usize,
}

/// Lays what is wanted into `to`. Tells what is not committed in submodules.
fn take<'a>(
    source: &'a GitSource,
    wanted: Selection<'a>,
    to: &'a Path,
) -> Pin<Box<dyn Future<Output = Result<Vec<String>, ControllerError>> + Send + 'a>> {
    let Selection { id, inner, .. } = wanted;
    Box::pin(async move {
        if inner.as_os_str().is_empty() {
            clone(source, id, to).await?;
            let tree = WorkTree { git_dir: to.join(".git"), work_tree: to, index: None, inner };
            filters::look(source, &tree).await?;
            return submodules::take_all(source, wanted, &tree).await;
        }
        let place = tempfile::Builder::new().prefix(".export-").tempdir_in(beside(to));
        let place = place.map_err(ControllerError::io("cannot make the checkout"))?;
        let tree = export(source, id, inner, place.path()).await?;
        filters::look(source, &tree).await?;
        let uncommitted = submodules::take_all(source, wanted, &tree).await?;
        std::fs::rename(place.path().join(inner), to).map_err(ControllerError::io("cannot make the checkout"))?;
        Ok(uncommitted)
    })
}

/// A clone holds the history that a deploy may ask git for. It is packed, not copied: a copy would be of whatever lies
/// among the repo's objects. Nothing leads from it to the user's repo.
async fn clone(source: &GitSource, id: &str, to: &Path) -> Result<(), ControllerError> {
    let mut detach = source.git();
    detach.env("GIT_DIR", source.mirror()).args(["update-ref", "--no-deref", "HEAD", id]);
    must(run(detach).await?, "git update-ref")?;
    let clone = async |depth: &[&str]| {
        let mut git = source.git();
        git.env_remove("GIT_DIR").env("GIT_ALLOW_PROTOCOL", "file");
        git.args(["clone", "--quiet", "--no-checkout", "--no-local", "--template="]).args(depth);
        git.arg(source.mirror()).arg(to);
        run(git).await
    };
    let whole = clone(&[]).await?;
    if !whole.status.success() {
        // A partial clone has not all of its history, nor need it have: the commit is what counts.
        let _ = std::fs::remove_dir_all(to);
        if !clone(&["--depth=1"]).await?.status.success() {
            let message =
                format!("commit {} is not whole in `{}`: {}", short(id), source.top.display(), git::said(&whole));
            return Err(ScenarioError::mismatch(message, "a whole repo: see git fsck; git fetch --refetch").into());
        }
    }
    let here = WorkTree { git_dir: to.join(".git"), work_tree: to, index: None, inner: Path::new("") };
    let mut checkout = here.git();
    checkout.args(["checkout", "--quiet", "--detach", id]);
    must(run(checkout).await?, "git checkout")?;
    let mut forget = here.git();
    forget.args(["config", "--remove-section", "remote.origin"]);
    must(run(forget).await?, "git config").map(drop)
}

/// The files of a directory, below `to` as they lie in the repo.
async fn export<'a>(
    source: &GitSource,
    id: &str,
    inner: &'a Path,
    to: &'a Path,
) -> Result<WorkTree<'a>, ControllerError> {
    let index = source.mirror().join("export-index");
    let tree = WorkTree { git_dir: source.mirror().to_owned(), work_tree: to, index: Some(index), inner };
    let mut read = tree.git();
    read.args(["read-tree", id]);
    must(run(read).await?, "git read-tree")?;
    let files = tree.files(&[]).await?.stdout;
    if files.is_empty() {
        let message = format!("`{}` is not in commit {}", inner.display(), short(id));
        return Err(ScenarioError::mismatch(message, "a committed directory: git add; git commit").into());
    }
    let mut out = tree.git();
    out.args(["checkout-index", "--quiet", "-z", "--stdin"]);
    must(git::feed(out, files).await?, "git checkout-index")?;
    Ok(tree)
}

fn short(id: &str) -> &str {
    &id[..id.len().min(12)]
}

/// Files below `repo` that differ between two commits, relative to it. What is needed for it lies in `beside` meanwhile.
pub(crate) async fn changed(
    repo: &Path,
    since: &str,
    commit: &str,
    beside: &Path,
) -> Result<Vec<String>, ControllerError> {
    let repo = repo.canonicalize().map_err(ControllerError::io("cannot find the servers repo"))?;
    let source = GitSource::around(&repo, beside).await?;
    let since = resolve(&source, &repo, since).await?;
    let mut relative = std::ffi::OsString::from("--relative=");
    relative.push(repo.strip_prefix(&source.top).unwrap_or(Path::new("")));
    let mut git = source.git();
    git.args(["diff", "--name-only", "--no-ext-diff", "--no-textconv"]).arg(relative).args([&since, commit, "--"]);
    let output = must(run(git).await?, "git diff")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
