//! The deploy tool at the versions that the repo pins: a Python virtual environment, cached by what it was made from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use redrill_machines::environments;
use redrill_machines::process::Guard;
use tokio::process::Command;

use super::environment_key::{self, Sources};
use super::{ControllerError, Progress};
use crate::process;

/// The environment for the requirements of a checkout: from the cache, or made with pip. One that no other run may use
/// lies in the run directory, and goes with it.
pub(super) async fn make(
    checkout: &Path,
    requirements: &Path,
    cache: &Path,
    guard: &Guard,
    run: &Path,
    progress: &Progress,
) -> Result<PathBuf, ControllerError> {
    let variables: Vec<_> = std::env::vars_os().collect();
    let sources = environment_key::read(checkout, requirements, &variables)?;
    let guard = Guard::new(guard.program().to_owned(), run.to_owned());
    if let Some(why) = &sources.own {
        progress(&format!("installing the deploy tool for this run alone: {why}"));
        let directory = run.join("controller/venv");
        install(&directory, checkout, requirements, &sources, &guard).await?;
        return Ok(directory);
    }
    let python = python().await?;
    let key = blake3::hash(&[sources.digest.as_bytes().as_slice(), python.as_bytes()].concat()).to_hex();
    let venvs = cache.join("venvs");
    fs::create_dir_all(&venvs).map_err(ControllerError::io("cannot use the cache"))?;
    let directory = venvs.join(&key[..32]);
    let lock_path = venvs.join(format!("{}.lock", &key[..32]));
    let lock = tokio::task::spawn_blocking(move || File::create(lock_path).and_then(|file| file.lock().map(|()| file)));
    let lock = lock.await.map_err(std::io::Error::other).and_then(|lock| lock);
    let _lock = lock.map_err(ControllerError::io("cannot lock the cache"))?;
    if directory.join(environments::WHOLE).exists() {
        return Ok(directory);
    }
    progress("installing the deploy tool from the repo's requirements");
    let half = HalfMade(Some(&directory));
    let _ = fs::remove_dir_all(&directory);
    install(&directory, checkout, requirements, &sources, &guard).await?;
    fs::write(directory.join(environments::WHOLE), "").map_err(ControllerError::io("cannot write the cache"))?;
    half.keep();
    Ok(directory)
}

/// An environment that goes, however its making ends: with an error, or interrupted. A sweep takes what a kill leaves.
struct HalfMade<'a>(Option<&'a Path>);

impl HalfMade<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for HalfMade<'_> {
    fn drop(&mut self) {
        if let Some(directory) = self.0 {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Makes the environment in `directory`.
async fn install(
    directory: &Path,
    checkout: &Path,
    requirements: &Path,
    sources: &Sources,
    guard: &Guard,
) -> Result<(), ControllerError> {
    let built_in = guard.run().join("controller/build");
    let place = if sources.builds && !sources.editable {
        let _ = fs::remove_dir_all(&built_in);
        environment_key::copy(checkout, &built_in).map_err(ControllerError::io("cannot copy the checkout"))?;
        &built_in
    } else {
        checkout
    };
    let requirements = place.join(requirements);
    let mut venv = guard.command("python3");
    venv.args(["-m", "venv"]).arg(directory);
    must(guard, venv, "python3 -m venv").await?;
    let mut pip = guard.command(directory.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]).arg(&requirements);
    pip.current_dir(requirements.parent().unwrap_or(Path::new("/")));
    must(guard, pip, "pip install").await?;
    let _ = fs::remove_dir_all(built_in); // It goes with the run at the latest.
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

/// The interpreter: another one needs another environment.
async fn python() -> Result<String, ControllerError> {
    let output = Command::new("python3").args(["-c", environment_key::INTERPRETER]).stdin(Stdio::null()).output().await;
    let output = output.map_err(ControllerError::io("cannot start python3"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;

    /// A wheel of the smallest kind, whose module says this.
    const WHEEL: &str = "\
import sys, zipfile
with zipfile.ZipFile('mylib-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr('mylib.py', 'VALUE = %r' % sys.argv[1])
    wheel.writestr('mylib-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: mylib\\nVersion: 1.0\\n')
    wheel.writestr('mylib-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr('mylib-1.0.dist-info/RECORD', '')
";

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir_all(place.servers()).expect("made");
            // `redrill guard -- PROGRAM ..` without the guard.
            let guard = place.0.path().join("guard");
            fs::write(&guard, "#!/bin/sh\nshift 2\nexec \"$@\" </dev/null\n").expect("written");
            fs::set_permissions(guard, fs::Permissions::from_mode(0o755)).expect("set");
            place
        }

        fn servers(&self) -> PathBuf {
            self.0.path().join("run/controller/servers")
        }

        fn wheel(&self, value: &str) {
            let mut python = std::process::Command::new("python3");
            let made = python.args(["-c", WHEEL, value]).current_dir(self.servers()).status().expect("python3 runs");
            assert!(made.success());
        }

        async fn make(&self, requirements: &str) -> Result<PathBuf, ControllerError> {
            fs::write(self.servers().join("requirements.txt"), requirements).expect("written");
            let guard = Guard::new(self.0.path().join("guard"), self.0.path().join("run"));
            let (cache, run) = (self.0.path().join("cache"), self.0.path().join("run"));
            let quiet: Progress = Arc::new(|_: &str| {});
            make(&self.servers(), Path::new("requirements.txt"), &cache, &guard, &run, &quiet).await
        }

        fn environments(&self) -> usize {
            let entries = fs::read_dir(self.0.path().join("cache/venvs")).expect("there").flatten();
            entries.filter(|entry| entry.path().is_dir()).count()
        }
    }

    fn value(environment: &Path) -> String {
        let mut python = std::process::Command::new(environment.join("bin/python"));
        let output = python.args(["-c", "import mylib; print(mylib.VALUE, end='')"]).output().expect("python runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[tokio::test]
    async fn another_content_of_a_local_project_is_another_environment_and_a_failed_one_leaves_nothing() {
        let place = Place::new();
        let requirements = "--no-index\n./mylib-1.0-py3-none-any.whl\n";
        place.wheel("one");
        let one = place.make(requirements).await.expect("made");
        place.wheel("two");
        let two = place.make(requirements).await.expect("made");
        assert_eq!((value(&one), value(&two)), ("one".to_owned(), "two".to_owned()));
        assert_eq!(place.make(requirements).await.expect("kept"), two);
        let failed = place.make("--no-index\nnot-there==1.0\n").await.expect_err("there is no such package");
        assert!(failed.to_string().contains("not-there"), "{failed}");
        assert_eq!(place.environments(), 2, "of the failed one nothing is left");
        let slow = place.make("--no-index\nslow==1.0\n");
        let slow = tokio::time::timeout(std::time::Duration::from_millis(200), slow).await;
        assert!(slow.is_err() && place.environments() == 2, "nor of one that was interrupted");
        assert_eq!(fs::read_dir(place.servers()).expect("there").count(), 2, "nothing was built in the checkout");
    }
}
