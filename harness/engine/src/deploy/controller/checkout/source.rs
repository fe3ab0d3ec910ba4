//! The user's repository, read without running git in it.
//!
//! A repository's configuration names programs: `core.fsmonitor`, `core.sshCommand`, `filter.NAME.smudge`,
//! `diff.external`, hooks, and more with each version of git. No list of them stays whole. So git never reads it: it
//! works in a git directory of our own, with a configuration of our own, with a copy of the repository's refs, and with
//! the repository's objects as alternates. Refs and objects are data.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::super::ControllerError;
use super::git;
use crate::scenario_error::ScenarioError;

/// Files that are looked at for one that git waits for.
const MOST: usize = 1_000_000;
/// Larger than any file of git that holds a path or a ref.
const SMALL: u64 = 1024 * 1024;
/// What says how files of a work tree are compared with the index, and how a repository is stored. None runs anything.
const HARMLESS: &str = r"^(core\.(filemode|autocrlf|eol|symlinks|ignorecase)|extensions\.(objectformat|refstorage))$";

/// A repository and our view of it.
#[derive(Debug)]
pub(super) struct GitSource {
    /// Its work tree.
    pub(super) top: PathBuf,
    /// Its git directory: of this work tree.
    pub(super) git_dir: PathBuf,
    /// What its work trees share.
    pub(super) common: PathBuf,
    /// Settings for the comparison with the work tree.
    settings: Vec<(String, String)>,
    mirror: TempDir,
    /// The git directory of this work tree in the mirror.
    view: PathBuf,
}

impl GitSource {
    /// The repository that `directory` lies in. The view is made in `beside`, and goes with this value.
    pub(super) async fn around(directory: &Path, beside: &Path) -> Result<Self, ControllerError> {
        let Some((top, git_dir)) = directory.ancestors().find_map(|top| Some((top.to_owned(), git_dir_of(top)?)))
        else {
            let message = format!("`{}` is no git repository, nor a directory inside one", directory.display());
            let expected = "a repo with at least one commit: git init; git commit";
            return Err(ScenarioError::mismatch(message, expected).into());
        };
        Self::of(top, git_dir, beside).await
    }

    /// The repository in `git_dir`.
    pub(super) async fn of(top: PathBuf, git_dir: PathBuf, beside: &Path) -> Result<Self, ControllerError> {
        owned(&[&top, &top.join(".git"), &git_dir]).await?;
        let common = match small(&git_dir.join("commondir")) {
            Some(bytes) => git_dir.join(path(&bytes)),
            None => git_dir.clone(),
        };
        let unmade = || ControllerError::io("cannot make a view of the servers repo");
        let mirror = tempfile::Builder::new().prefix(".git-view-").tempdir_in(beside).map_err(unmade())?;
        let view = lay(&git_dir, &common, mirror.path()).map_err(unmade())?;
        let mut source = Self { top, git_dir, common, settings: Vec::new(), mirror, view };
        source.configure().await?;
        Ok(source)
    }

    /// Takes over how the repository is stored, and nothing else of its configuration. It is parsed as a mere file:
    /// nothing that it includes is read.
    async fn configure(&mut self) -> Result<(), ControllerError> {
        let file = self.common.join("config");
        let read = if fs::metadata(&file).is_ok_and(|file| file.is_file()) {
            let mut git = self.git();
            git.args(["config", "--no-includes", "--null", "--file"]).arg(&file).args(["--get-regexp", HARMLESS]);
            let output = git::run(git).await?;
            // 1: there are none.
            if output.status.code() == Some(1) { Vec::new() } else { git::must(output, "git config")?.stdout }
        } else {
            Vec::new()
        };
        let mut stored = String::new();
        for entry in String::from_utf8_lossy(&read).split('\0').filter(|entry| !entry.is_empty()) {
            let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
            match key.strip_prefix("extensions.") {
                Some(key) if value.chars().all(|c| c.is_ascii_alphanumeric()) => {
                    stored.push_str(&format!("\t{key} = {value}\n"));
                }
                Some(_) => {}
                None => self.settings.push((key.to_owned(), value.to_owned())),
            }
        }
        let config = format!("{CONFIG}[extensions]\n{stored}");
        fs::write(self.mirror.path().join("config"), config).map_err(ControllerError::io("cannot write git's files"))
    }

    /// git on the view.
    pub(super) fn git(&self) -> Command {
        git::git(&self.view)
    }

    /// The view's own directory: what others may clone.
    pub(super) fn mirror(&self) -> &Path {
        self.mirror.path()
    }

    /// The id of a commit that somebody named, if there is such a commit.
    pub(super) async fn resolve(&self, commit: &str) -> Result<Option<String>, ControllerError> {
        let mut git = self.git();
        git.args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{commit}^{{commit}}")]);
        let output = git::run(git).await?;
        Ok(output.status.success().then(|| git::text(&output)))
    }

    /// What is not committed below `directory`, as `git status` tells it. The index is a copy: nothing is written into
    /// the user's. Submodules are compared by their commits alone: git would start itself in them, configured by them.
    pub(super) async fn uncommitted(&self, directory: &Path, limit: Duration) -> Result<Vec<String>, ControllerError> {
        let index = self.view.join("index");
        let failed = || ControllerError::io("cannot copy the index of the servers repo");
        for entry in fs::read_dir(&self.git_dir).map_err(failed())?.flatten() {
            let name = entry.file_name();
            let wanted = name == "index" || name.as_bytes().starts_with(b"sharedindex.");
            if wanted && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                fs::copy(entry.path(), self.view.join(name)).map_err(failed())?;
            }
        }
        let mut git = self.git();
        git.env("GIT_WORK_TREE", &self.top).env("GIT_INDEX_FILE", index).current_dir(directory);
        // Its owner's list of files that are never told of is theirs, not the repo's.
        git.envs(["HOME", "XDG_CONFIG_HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        for (key, value) in &self.settings {
            git.arg("-c").arg(format!("{key}={value}"));
        }
        git.args([
            "-c",
            "core.untrackedCache=false",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.attributesFile=/dev/null",
        ]);
        git.args(["status", "--porcelain", "--ignore-submodules=dirty", "--", "."]);
        let Some(status) = git::run_within(git, limit).await else {
            let found = waited_for(&self.top, &mut 0);
            let why = found.map_or_else(String::new, |file| format!(": `{}` is no regular file", file.display()));
            let message = format!("git status is not done in `{}` after {limit:?}{why}", self.top.display());
            return Err(ScenarioError::mismatch(message, "a work tree that git can read").into());
        };
        let status = git::must(status?, "git status")?;
        Ok(String::from_utf8_lossy(&status.stdout).lines().map(|line| line.trim().to_owned()).collect())
    }
}

/// A file of git's in a work tree that git opens and waits for.
fn waited_for(directory: &Path, seen: &mut usize) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        *seen += 1;
        let Ok(kind) = entry.file_type() else { continue };
        let gits = [".gitignore", ".gitattributes"].iter().any(|name| entry.file_name() == *name);
        if *seen > MOST {
            return None;
        } else if gits && !kind.is_file() && !kind.is_symlink() {
            return Some(entry.path());
        } else if kind.is_dir()
            && let Some(found) = waited_for(&entry.path(), seen)
        {
            return Some(found);
        }
    }
    None
}

const CONFIG: &str = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tlogallrefupdates = false\n\
                      [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n";

/// The git directory of the work tree `top`, if it is one.
pub(super) fn git_dir_of(top: &Path) -> Option<PathBuf> {
    let dot = top.join(".git");
    if dot.is_dir() {
        return fs::symlink_metadata(dot.join("HEAD")).is_ok().then_some(dot);
    }
    let text = small(&dot)?;
    let named = text.strip_prefix(b"gitdir: ")?;
    Some(top.join(path(named))).filter(|git_dir| git_dir.is_dir())
}

fn path(line: &[u8]) -> PathBuf {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    PathBuf::from(std::ffi::OsString::from_vec(line[..end].to_vec()))
}

/// A regular file that is not large: a FIFO would be waited for.
fn small(file: &Path) -> Option<Vec<u8>> {
    let about = fs::metadata(file).ok().filter(|about| about.is_file() && about.len() <= SMALL);
    about.and_then(|_| fs::read(file).ok())
}

/// Lays out our git directory; returns the one of the work tree in it.
fn lay(git_dir: &Path, common: &Path, to: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(to.join("objects/info"))?;
    fs::write(to.join("objects/info/alternates"), quoted(&common.canonicalize()?.join("objects")))?;
    fs::write(to.join("config"), CONFIG)?;
    refs(common, to)?;
    fs::create_dir_all(to.join("info"))?;
    for name in ["shallow", "info/exclude"] {
        if let Some(bytes) = small(&common.join(name)) {
            fs::write(to.join(name), bytes)?;
        }
    }
    if git_dir == common {
        return Ok(to.to_owned());
    }
    let view = to.join("worktrees/view");
    refs(git_dir, &view)?;
    fs::write(view.join("commondir"), "../..\n")?;
    fs::write(view.join("gitdir"), "/nonexistent/.git\n")?;
    Ok(view)
}

/// Copies all that gives commits a name, as files or as tables.
fn refs(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for name in ["refs", "reftable", "logs"] {
        copy_files(&from.join(name), &to.join(name))?;
    }
    fs::create_dir_all(to.join("refs"))?;
    for name in ["packed-refs", "ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD"] {
        let file = from.join(name);
        if fs::symlink_metadata(&file).is_ok_and(|file| file.is_file()) {
            fs::copy(file, to.join(name))?;
        }
    }
    let head = from.join("HEAD");
    match fs::read_link(&head) {
        // As git wrote it until 2005, and `core.preferSymlinkRefs` still does.
        Ok(target) => fs::write(to.join("HEAD"), [b"ref: ", target.as_os_str().as_bytes(), b"\n"].concat()),
        Err(_) => fs::write(to.join("HEAD"), small(&head).unwrap_or_default()),
    }
}

/// Copies regular files and directories; links, which lead anywhere, and everything else is left out.
fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(from).is_ok_and(|from| from.is_dir()) {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
        if kind.is_dir() {
            copy_files(&entry.path(), &to.join(entry.file_name()))?;
        } else if kind.is_file() {
            match fs::copy(entry.path(), to.join(entry.file_name())) {
                // A ref that somebody packs or moves just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => copied.map(drop)?,
            }
        }
    }
    Ok(())
}

/// A line of `objects/info/alternates`, whatever the path.
fn quoted(path: &Path) -> Vec<u8> {
    let mut line = vec![b'"'];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', *byte]),
            b'\n' => line.extend(b"\\n"),
            _ => line.push(*byte),
        }
    }
    line.extend(b"\"\n");
    line
}

/// Whether the caller may read this repository by git's own rule: it is theirs, or they said that they trust it. git asks
/// since the owner of a repository decides what git runs in it. Here git runs nothing of it, for anybody; so root, who
/// drills the repos of a host's users, may read every one. Anybody else keeps to git's rule: what is deployed from a
/// stranger's repository is the stranger's choice.
async fn owned(places: &[&Path]) -> Result<(), ControllerError> {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Ok(());
    }
    owned_by(user.as_raw(), places, &trusted().await)
}

fn owned_by(user: u32, places: &[&Path], trusted: &[String]) -> Result<(), ControllerError> {
    let strange = places.iter().find_map(|place| {
        let owner = fs::symlink_metadata(place).ok()?.uid();
        (owner != user).then_some((*place, owner))
    });
    let Some((place, owner)) = strange else { return Ok(()) };
    let top = places[0].canonicalize().unwrap_or_else(|_| places[0].to_owned());
    if trusted.iter().any(|named| trusts(named, &top)) {
        return Ok(());
    }
    let message = format!("`{}` belongs to another user (uid {owner}), and you are uid {user}", place.display());
    let expected =
        format!("a repo of your own; if you trust it: git config --global --add safe.directory {}", top.display());
    Err(ScenarioError::mismatch(message, expected).into())
}

/// `safe.directory`, where alone it counts: in the configuration of the user and of the host.
async fn trusted() -> Vec<String> {
    let mut named = Vec::new();
    for scope in ["--system", "--global"] {
        let mut git = git::bare();
        git.env_remove("GIT_CONFIG_GLOBAL").env_remove("GIT_CONFIG_SYSTEM").env_remove("GIT_CONFIG_NOSYSTEM");
        git.args(["config", scope, "--null", "--get-all", "safe.directory"]).current_dir("/");
        let Ok(output) = git::run(git).await else { continue };
        for value in String::from_utf8_lossy(&output.stdout).split_terminator('\0') {
            match value {
                "" => named.clear(), // git's way to take back what stands before.
                value => named.push(value.to_owned()),
            }
        }
    }
    named
}

fn trusts(named: &str, top: &Path) -> bool {
    let named = named.trim();
    match named.strip_suffix("/*") {
        _ if named.is_empty() => false,
        _ if named == "*" => true,
        Some(above) => top.starts_with(above) && top != Path::new(above),
        None => Path::new(named) == top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_repo_is_an_error_until_it_is_trusted_by_name() {
        let place = tempfile::tempdir().expect("a directory");
        let top = place.path().canonicalize().expect("there");
        let other = fs::metadata(&top).expect("there").uid() + 1;
        assert!(owned_by(other - 1, &[&top], &[]).is_ok());
        let error = owned_by(other, &[&top], &[]).expect_err("not theirs");
        let ControllerError::Scenario(ScenarioError::Mismatch { message, expected }) = error else { panic!("{error}") };
        assert!(message.contains("belongs to another user"), "{message}");
        assert!(expected.contains(&format!("safe.directory {}", top.display())), "{expected}");
        let by = |named: &str| owned_by(other, &[&top], &[named.to_owned()]).is_ok();
        assert!(by(&top.display().to_string()) && by("*") && !by("/elsewhere") && !by(""));
        assert!(by(&format!("{}/*", top.parent().expect("a parent").display())));
    }

    #[test]
    fn alternates_hold_any_path() {
        assert_eq!(quoted(Path::new("/a b/\"c\\d\n#")), b"\"/a b/\\\"c\\\\d\\n#\"\n");
    }
}
