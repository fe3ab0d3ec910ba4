//! The deploy tool at the versions that the repo pins: a Python virtual environment, cached by what it was made from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use redrill_machines::process::Guard;
use tokio::process::Command;

use super::{ControllerError, Progress};
use crate::process;

/// Present in a whole environment. They are built where they stay, since their scripts name their place.
const WHOLE: &str = "whole";

/// The environment for these requirements: from the cache, or made with pip.
pub(super) async fn make(
    requirements: &Path,
    cache: &Path,
    guard: &Guard,
    run: &Path,
    progress: &Progress,
) -> Result<PathBuf, ControllerError> {
    let mut text = Vec::new();
    read_with_included(requirements, &mut text, 0).map_err(ControllerError::io("cannot read the requirements"))?;
    let python = python().await?;
    let key = blake3::hash(&[text.as_slice(), b"\0", python.as_bytes()].concat()).to_hex();
    let venvs = cache.join("venvs");
    fs::create_dir_all(&venvs).map_err(ControllerError::io("cannot use the cache"))?;
    let directory = venvs.join(&key[..32]);
    let lock_path = venvs.join(format!("{}.lock", &key[..32]));
    let lock = tokio::task::spawn_blocking(move || File::create(lock_path).and_then(|file| file.lock().map(|()| file)));
    let lock = lock.await.map_err(std::io::Error::other).and_then(|lock| lock);
    let _lock = lock.map_err(ControllerError::io("cannot lock the cache"))?;
    if directory.join(WHOLE).exists() {
        return Ok(directory);
    }
    progress("installing the deploy tool from the repo's requirements");
    let _ = fs::remove_dir_all(&directory);
    let guard = Guard::new(guard.program().to_owned(), run.to_owned());
    let mut venv = guard.command("python3");
    venv.args(["-m", "venv"]).arg(&directory);
    must(&guard, venv, "python3 -m venv").await?;
    let mut pip = guard.command(directory.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]).arg(requirements);
    pip.current_dir(requirements.parent().unwrap_or(Path::new("/")));
    must(&guard, pip, "pip install").await?;
    fs::write(directory.join(WHOLE), "").map_err(ControllerError::io("cannot write the cache"))?;
    Ok(directory)
}

/// The text of a requirements file and of all that it includes (`-r FILE`, `-c FILE`): each of them picks versions.
fn read_with_included(file: &Path, text: &mut Vec<u8>, depth: usize) -> std::io::Result<()> {
    let own = fs::read_to_string(file)?;
    text.extend_from_slice(own.as_bytes());
    text.push(0);
    let options = ["-r", "--requirement", "-c", "--constraint"];
    let included = own.lines().filter_map(|line| {
        let (option, rest) = line.trim().split_once([' ', '='])?;
        options.contains(&option).then(|| rest.trim())
    });
    // Files that include each other are pip's to complain about.
    for name in included.filter(|_| depth < 8) {
        read_with_included(&file.parent().unwrap_or(Path::new("/")).join(name), text, depth + 1)?;
    }
    Ok(())
}

async fn must(guard: &Guard, command: Command, what: &str) -> Result<(), ControllerError> {
    let output = process::output(guard, command, what).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    Err(ControllerError::Program { what: what.to_owned(), said })
}

/// Version and place of the interpreter: another one needs another environment.
async fn python() -> Result<String, ControllerError> {
    let script = "import sys; print(sys.version, sys.executable)";
    let output = Command::new("python3").args(["-c", script]).stdin(Stdio::null()).output().await;
    let output = output.map_err(ControllerError::io("cannot start python3"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_part_of_the_key() {
        let directory = std::env::temp_dir().join(format!("redrill-venv-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("made");
        fs::write(directory.join("requirements.txt"), "-r base.txt\n-c limits.txt\n").expect("written");
        fs::write(directory.join("base.txt"), "pyinfra==3.10.0\n").expect("written");
        fs::write(directory.join("limits.txt"), "click<9\n").expect("written");
        let mut text = Vec::new();
        read_with_included(&directory.join("requirements.txt"), &mut text, 0).expect("read");
        fs::remove_dir_all(&directory).expect("cleaned up");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("pyinfra==3.10.0") && text.contains("click<9"), "{text}");
    }
}
