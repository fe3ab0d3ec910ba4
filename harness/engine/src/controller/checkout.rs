//! A clean checkout of the servers repo at one commit. What is not committed is named, and is no part of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use redrill_model::SourceReport;
use tokio::process::Command;

use super::ControllerError;
use crate::loaded::ScenarioError;

/// Checks `commit` of `repo` out into `to`, which must not exist. `repo` is a repository of its own, which is cloned, or
/// a directory inside a larger one, of which the directory alone is taken.
pub(super) async fn checkout(repo: &Path, commit: &str, to: &Path) -> Result<SourceReport, ControllerError> {
    let top = match git(repo, &["rev-parse", "--show-toplevel"]).await? {
        output if output.status.success() => PathBuf::from(text(&output)),
        _ => {
            let message = format!("`{}` is no git repository, nor a directory inside one", repo.display());
            return Err(
                ScenarioError::mismatch(message, "a repo with at least one commit: git init; git commit").into()
            );
        }
    };
    let resolved =
        git(repo, &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{commit}^{{commit}}")]).await?;
    if !resolved.status.success() {
        let message = format!("there is no commit `{commit}` in `{}`", repo.display());
        return Err(ScenarioError::mismatch(message, "a branch, tag or commit id that `git rev-parse` knows").into());
    }
    let id = text(&resolved);
    let repo = repo.canonicalize().map_err(ControllerError::io("cannot find the servers repo"))?;
    let inner = repo.strip_prefix(&top).unwrap_or(Path::new("")).to_owned();
    if inner.as_os_str().is_empty() {
        clone(&repo, &id, to).await?;
    } else {
        let tree = format!("{id}:{}", inner.display());
        if !git(&top, &["cat-file", "-e", &tree]).await?.status.success() {
            let message = format!("`{}` is not in commit {}", inner.display(), &id[..12]);
            return Err(ScenarioError::mismatch(message, "a committed directory: git add; git commit").into());
        }
        export(&top, &tree, to).await?;
    }
    let title = text(&must(git(&repo, &["log", "-1", "--format=%s", &id]).await?, "git log")?);
    let status = must(git(&repo, &["status", "--porcelain", "--", "."]).await?, "git status")?;
    let uncommitted = String::from_utf8_lossy(&status.stdout).lines().map(|line| line.trim().to_owned()).collect();
    Ok(SourceReport { repo: repo.display().to_string(), commit: id, title, uncommitted })
}

async fn clone(repo: &Path, id: &str, to: &Path) -> Result<(), ControllerError> {
    let (from, to_text) = (repo.display().to_string(), to.display().to_string());
    must(git(repo, &["clone", "--quiet", "--no-checkout", "--no-hardlinks", &from, &to_text]).await?, "git clone")?;
    must(git(to, &["checkout", "--quiet", "--detach", id]).await?, "git checkout").map(drop)
}

async fn export(top: &Path, tree: &str, to: &Path) -> Result<(), ControllerError> {
    std::fs::create_dir_all(to).map_err(ControllerError::io("cannot make the checkout"))?;
    let archive = must(git(top, &["archive", "--format=tar", tree]).await?, "git archive")?.stdout;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--directory"]).arg(to).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = tar.kill_on_drop(true).spawn().map_err(ControllerError::io("cannot start tar"))?;
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &archive).await; // tar says what is wrong.
        }
    };
    let output = tokio::join!(feed, child.wait_with_output()).1.map_err(ControllerError::io("cannot run tar"))?;
    must(output, "tar").map(drop)
}

/// Runs git without the user's and the system's configuration, and without hooks.
async fn git(directory: &Path, args: &[&str]) -> Result<Output, ControllerError> {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"]).args(args);
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
    git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    git.stdin(Stdio::null()).kill_on_drop(true);
    // `safe.directory` counts in no `-c`: only a protected place of the configuration may set it.
    git.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    git.output().await.map_err(ControllerError::io("cannot start git"))
}

fn must(output: Output, what: &str) -> Result<Output, ControllerError> {
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ControllerError::Program { what: what.to_owned(), said })
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Files below `repo` that differ between two commits, relative to it.
pub(crate) async fn changed(repo: &Path, since: &str, commit: &str) -> Result<Vec<String>, ControllerError> {
    let output =
        git(repo, &["diff", "--name-only", "--relative", "--end-of-options", since, commit, "--", "."]).await?;
    if !output.status.success() {
        let message = format!("there is no commit `{since}` in `{}`", repo.display());
        return Err(ScenarioError::mismatch(message, "a branch, tag or commit id that `git rev-parse` knows").into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Copies the keys: a deploy that changed them would change the user's own.
pub(super) fn copy_private(from: &Path, to: &Path) -> Result<(), ControllerError> {
    let failed = || ControllerError::io(format!("cannot copy the keys from `{}`", from.display()));
    std::fs::create_dir_all(to).map_err(failed())?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).map_err(failed())?;
    for entry in std::fs::read_dir(from).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_private(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(failed())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Repo(PathBuf);

    impl Repo {
        async fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("redrill-checkout-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("repo/inner")).expect("made");
            let repo = Self(path);
            repo.git(&["init", "--quiet", "-b", "main"]).await;
            repo.write("inner/deploy.py", "committed");
            repo.git(&["add", "."]).await;
            repo.git(&["-c", "user.name=a", "-c", "user.email=a@b.test", "commit", "--quiet", "-m", "First step"])
                .await;
            repo
        }

        fn top(&self) -> PathBuf {
            self.0.join("repo")
        }

        fn write(&self, name: &str, content: &str) {
            std::fs::write(self.top().join(name), content).expect("written");
        }

        async fn git(&self, args: &[&str]) {
            must(git(&self.top(), args).await.expect("git runs"), "git").expect("git succeeds");
        }
    }

    impl Drop for Repo {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_directory_inside_a_repo_is_taken_as_committed() {
        let repo = Repo::new("inner").await;
        repo.write("inner/deploy.py", "edited");
        repo.write("inner/new.py", "new");
        let to = repo.0.join("out");
        let source = checkout(&repo.top().join("inner"), "HEAD", &to).await.expect("checked out");
        assert_eq!(std::fs::read_to_string(to.join("deploy.py")).expect("there"), "committed");
        assert!(!to.join("new.py").exists() && !to.join(".git").exists());
        assert_eq!(source.title, "First step");
        assert_eq!(source.uncommitted, ["M inner/deploy.py", "?? inner/new.py"]);
    }

    #[tokio::test]
    async fn a_repo_of_its_own_is_cloned() {
        let repo = Repo::new("own").await;
        let to = repo.0.join("out");
        let source = checkout(&repo.top(), "main", &to).await.expect("checked out");
        assert!(to.join(".git").exists() && to.join("inner/deploy.py").exists());
        assert_eq!((source.commit.len(), source.uncommitted.len()), (40, 0));
    }

    #[tokio::test]
    async fn what_is_no_repo_or_no_commit_is_the_scenarios_mistake() {
        let repo = Repo::new("wrong").await;
        let error = checkout(&repo.top(), "v9", &repo.0.join("out")).await.expect_err("no such commit");
        assert!(
            matches!(&error, ControllerError::Scenario(_)) && error.to_string().contains("no commit `v9`"),
            "{error}"
        );
        std::fs::create_dir_all(repo.top().join("new")).expect("made");
        let error = checkout(&repo.top().join("new"), "HEAD", &repo.0.join("out")).await.expect_err("not committed");
        assert!(
            matches!(&error, ControllerError::Scenario(_)) && error.to_string().contains("`new` is not in commit"),
            "{error}"
        );
        let plain = repo.0.join("plain");
        std::fs::create_dir_all(&plain).expect("made");
        let error = checkout(&plain, "HEAD", &repo.0.join("out")).await.expect_err("no repo");
        assert!(
            matches!(&error, ControllerError::Scenario(_)) && error.to_string().contains("is no git repository"),
            "{error}"
        );
    }
}
