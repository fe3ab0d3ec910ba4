//! git, told by nobody but us: no configuration and no environment of the user's, no hooks, no network.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::super::ControllerError;

/// Longer than git takes for the largest repository; a FIFO that lies where git expects a file would block it for ever.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// git on `git_dir`, which must be one of our own: git runs what the configuration there names.
pub(super) fn git(git_dir: &Path) -> Command {
    let mut git = bare();
    // Told, not looked for: no directory above is asked for a repository.
    git.env("GIT_DIR", git_dir).current_dir(git_dir);
    // `.config/git/attributes` and `ignore` there are somebody's own.
    git.env("HOME", git_dir).env_remove("XDG_CONFIG_HOME");
    git
}

/// git without a repository.
pub(super) fn bare() -> Command {
    let mut git = Command::new("git");
    for (name, _) in std::env::vars_os() {
        // Among them are programs (GIT_SSH_COMMAND, GIT_EXTERNAL_DIFF, ..) and configuration (GIT_CONFIG_PARAMETERS).
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            git.env_remove(name);
        }
    }
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_SYSTEM", "/dev/null").env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.env("GIT_ATTR_NOSYSTEM", "1").env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_OPTIONAL_LOCKS", "0");
    // What a partial clone lacks would be fetched otherwise, by whatever program its configuration names.
    git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "").env("GIT_TERMINAL_PROMPT", "0");
    git.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    git
}

/// Runs it to its end.
pub(super) async fn run(git: Command) -> Result<Output, ControllerError> {
    let output = run_within(git, LIMIT).await;
    output.unwrap_or_else(|| ended(Err(std::io::ErrorKind::TimedOut.into())))
}

/// The same. `None` if it was not done within the limit, and was killed.
pub(super) async fn run_within(mut git: Command, limit: Duration) -> Option<Result<Output, ControllerError>> {
    tokio::time::timeout(limit, git.output()).await.ok().map(ended)
}

/// The same, with something to read.
pub(super) async fn feed(mut git: Command, input: Vec<u8>) -> Result<Output, ControllerError> {
    let run = async {
        let mut child = git.stdin(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // It says itself what is wrong if it does not read on.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &input).await;
            }
        };
        tokio::join!(feed, child.wait_with_output()).1
    };
    let output = tokio::time::timeout(LIMIT, run).await;
    ended(output.map_err(|_| std::io::ErrorKind::TimedOut.into()).and_then(|output| output))
}

fn ended(output: std::io::Result<Output>) -> Result<Output, ControllerError> {
    output.map_err(|error| match error.kind() {
        std::io::ErrorKind::TimedOut => {
            ControllerError::Program { what: "git".into(), said: format!("not done after {LIMIT:?}: it was killed") }
        }
        _ => ControllerError::io("cannot run git")(error),
    })
}

pub(super) fn must(output: Output, what: &str) -> Result<Output, ControllerError> {
    if output.status.success() {
        return Ok(output);
    }
    Err(ControllerError::Program { what: what.to_owned(), said: said(&output) })
}

/// What it complained about.
pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

pub(super) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Parts of an output that was asked for with `-z`.
pub(super) fn parts(output: &Output) -> impl Iterator<Item = &OsStr> {
    use std::os::unix::ffi::OsStrExt;
    output.stdout.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(OsStr::from_bytes)
}
