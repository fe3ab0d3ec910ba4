//! The deploy tool at the versions that the repo pins: a Python virtual environment, cached by what it was made from.
//!
//! It is made in the sandbox: packages run programs of their own when they are installed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use redrill_sandbox::Cell;
use tokio::process::Command;

use super::index;
use super::sandbox::{Sandbox, Sealed};
use super::ways::Ways;
use super::{ControllerError, Progress};

/// Present in a whole environment. They are built where they stay, since their scripts name their place.
const WHOLE: &str = "whole";

/// What an environment is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The checkout.
    pub(super) servers: &'a Path,
    /// The requirements, relative to it.
    pub(super) requirements: &'a Path,
}

/// The environment for these requirements: from the cache, or made with pip.
pub(super) async fn make(
    wanted: &Wanted<'_>,
    cache: &Path,
    sandbox: &Sandbox,
    controller: &Path,
    progress: &Progress,
) -> Result<PathBuf, ControllerError> {
    let requirements = wanted.servers.join(wanted.requirements);
    let mut text = Vec::new();
    read_with_included(&requirements, &mut text, 0).map_err(ControllerError::io("cannot read the requirements"))?;
    let python = Python::of_host().await?;
    let key = blake3::hash(&[text.as_slice(), b"\0", python.version.as_bytes()].concat()).to_hex();
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
    let made = install(wanted, &directory, &python, sandbox, controller).await;
    let whole = match made {
        Ok(()) => fs::write(directory.join(WHOLE), "").map_err(ControllerError::io("cannot write the cache")),
        Err(error) => Err(error),
    };
    if let Err(error) = whole {
        let _ = fs::remove_dir_all(&directory); // A half-made one is of no use, and the next start would remove it.
        return Err(error);
    }
    Ok(directory)
}

/// Makes the environment at `directory`, where it stays.
async fn install(
    wanted: &Wanted<'_>,
    directory: &Path,
    python: &Python,
    sandbox: &Sandbox,
    controller: &Path,
) -> Result<(), ControllerError> {
    let failed = || ControllerError::io("cannot make the deploy tool's environment");
    fs::create_dir_all(directory).map_err(failed())?;
    // What is built from source is built beside its source: in a copy, so that the checkout stays as committed.
    let (source, home) = (controller.join("pip/servers"), controller.join("pip/home"));
    fs::create_dir_all(&home).map_err(failed())?;
    copy(wanted.servers, &source).await.map_err(failed())?;
    let index = index::of_host().await;
    let mut ways = Ways::new(controller.join("pip/ways"))?;
    index.hosts.iter().try_for_each(|(host, port)| ways.lead_to_outside(host, *port))?;
    let mut cell = Cell {
        host_name: "redrill".to_owned(),
        machine_id: "0".repeat(32),
        user: "redrill".to_owned(),
        directory: source.clone(),
        environment: BTreeMap::new(),
        read_only: index.files.iter().filter(|path| path.exists()).cloned().chain(python.prefix.clone()).collect(),
        writable: vec![directory.to_owned(), source.clone(), home.clone()],
        moved: Vec::new(),
        leads: ways.leads().to_vec(),
        ssh: None,
        home,
    };
    for (name, value) in environment(&cell, index.environment) {
        cell.environment.insert(name, value);
    }
    let mut venv = Sealed::new("python3 -m venv", &python.executable, cell.clone());
    venv.args(["-m", "venv"]).arg(directory);
    must(sandbox, &venv, "python3 -m venv").await?;
    let mut pip = Sealed::new("pip install", directory.join("bin/pip"), cell);
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]);
    pip.arg(source.join(wanted.requirements));
    must(sandbox, &pip, "pip install").await
}

fn environment(cell: &Cell, pip: Vec<(String, String)>) -> Vec<(String, String)> {
    let own = [
        ("HOME", cell.home.to_string_lossy().into_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
        ("USER", cell.user.clone()),
        ("PIP_CONFIG_FILE", "/dev/null".to_owned()),
    ];
    own.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(pip).collect()
}

/// A copy of the checkout, links as links.
async fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--reflink=auto", "--no-target-directory", "--"]).arg(from).arg(to);
    let output = cp.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Where the interpreter of an environment lies, if that is not among the system's own programs.
pub(super) fn interpreter(venv: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(venv.join("pyvenv.cfg")).ok()?;
    let home = text.lines().find_map(|line| line.strip_prefix("home")?.trim().strip_prefix('='))?.trim();
    outside_system(Path::new(home).parent()?)
}

fn outside_system(prefix: &Path) -> Option<PathBuf> {
    (!prefix.starts_with("/usr") && prefix != Path::new("/")).then(|| prefix.to_owned())
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

async fn must(sandbox: &Sandbox, command: &Sealed, what: &str) -> Result<(), ControllerError> {
    let output = sandbox.output(command, what).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    Err(sandbox.failed(what, what, said))
}

/// The host's interpreter.
#[derive(Debug)]
struct Python {
    /// Version and place: another one needs another environment.
    version: String,
    executable: PathBuf,
    /// Where it is installed, if that is not among the system's own programs.
    prefix: Option<PathBuf>,
}

impl Python {
    async fn of_host() -> Result<Self, ControllerError> {
        let script = "import os, sys; print(sys.version.replace('\\n', ' '), sys.executable)\n\
                      print(os.path.realpath(sys.executable)); print(os.path.realpath(sys.base_prefix))";
        let mut command = Command::new("python3");
        command.args(["-I", "-c", script]).current_dir("/").stdin(Stdio::null());
        let output = command.output().await.map_err(ControllerError::io("cannot start python3"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().map(str::to_owned);
        let (Some(version), Some(executable), Some(prefix)) = (lines.next(), lines.next(), lines.next()) else {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ControllerError::Program { what: "python3".to_owned(), said });
        };
        Ok(Self { version, executable: executable.into(), prefix: outside_system(Path::new(&prefix)) })
    }
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
