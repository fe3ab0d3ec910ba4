//! The deploy tool at the versions that the repo pins: a Python virtual environment, cached by what it was made from.
//!
//! It is made in the sandbox: packages run programs of their own when they are installed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use redrill_machines::environments;
use redrill_sandbox::Cell;
use tokio::process::Command;

use super::environment_key::{self, Sources};
use super::index;
use super::sandbox::{Sandbox, Sealed};
use super::ways::Ways;
use super::{ControllerError, Progress};
use crate::deploy::pyproject;

/// What an environment is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The checkout.
    pub(super) servers: &'a Path,
    /// The requirements, relative to it.
    pub(super) requirements: &'a Path,
}

/// A requirements file that pip reads.
#[derive(Debug)]
pub(super) struct RequirementsFile {
    /// What it may lead to lies in here.
    pub(super) root: PathBuf,
    /// The file, relative to it.
    pub(super) file: PathBuf,
    /// What a reader must know, in words.
    pub(super) remarks: Vec<String>,
}

/// The requirements that a checkout names by `file`. Those of a `pyproject.toml` are written beside the checkout, which
/// stays as committed.
pub(super) fn requirements(
    servers: &Path,
    file: &Path,
    controller: &Path,
    progress: &Progress,
) -> Result<RequirementsFile, ControllerError> {
    if !file.ends_with(pyproject::FILE) {
        return Ok(RequirementsFile { root: servers.to_owned(), file: file.to_owned(), remarks: Vec::new() });
    }
    let found = pyproject::read(servers, file)?;
    progress(&format!("the Python environment comes from {}", found.from));
    let root = controller.join("pyproject");
    let file = pyproject::write(&found, &root).map_err(ControllerError::io("cannot write the requirements"))?;
    Ok(RequirementsFile { root, file, remarks: found.remarks })
}

/// An environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) directory: PathBuf,
    /// What it needs beside itself: the interpreter, and the checkout that it uses where it lies.
    pub(super) beside: Vec<PathBuf>,
}

/// Makes environments.
pub(super) struct Installer<'a> {
    /// Where those lie that later runs may use.
    pub(super) cache: &'a Path,
    /// What pip runs in.
    pub(super) sandbox: &'a Sandbox,
    /// The controller's directory.
    pub(super) controller: &'a Path,
    pub(super) progress: &'a Progress,
}

impl Installer<'_> {
    /// The environment for the requirements of a checkout: from the cache, or made with pip. One that no other run may use
    /// lies in the run directory, and goes with it.
    pub(super) async fn environment(&self, wanted: &Wanted<'_>) -> Result<Environment, ControllerError> {
        let variables: Vec<_> = std::env::vars_os().collect();
        let sources = environment_key::read(wanted.servers, wanted.requirements, &variables)?;
        let python = Python::of_host().await?;
        let beside = python.prefix.iter().cloned().chain(sources.editable.then(|| wanted.servers.to_owned())).collect();
        if let Some(why) = &sources.own {
            (self.progress)(&format!("installing the deploy tool for this run alone: {why}"));
            let directory = self.controller.join("venv");
            self.install(wanted, &directory, (&sources, &python)).await?;
            return Ok(Environment { directory, beside });
        }
        let key = blake3::hash(&[sources.digest.as_bytes().as_slice(), python.about.as_bytes()].concat()).to_hex();
        let venvs = self.cache.join("venvs");
        fs::create_dir_all(&venvs).map_err(ControllerError::io("cannot use the cache"))?;
        let directory = venvs.join(&key[..32]);
        let lock_path = venvs.join(format!("{}.lock", &key[..32]));
        let lock =
            tokio::task::spawn_blocking(move || File::create(lock_path).and_then(|file| file.lock().map(|()| file)));
        let lock = lock.await.map_err(std::io::Error::other).and_then(|lock| lock);
        let _lock = lock.map_err(ControllerError::io("cannot lock the cache"))?;
        if environments::is_whole(&directory) {
            return Ok(Environment { directory, beside });
        }
        (self.progress)("installing the deploy tool from the repo's requirements");
        let half = HalfMade(Some(&directory));
        environments::discard(&directory);
        self.install(wanted, &directory, (&sources, &python)).await?;
        environments::mark(&directory).map_err(ControllerError::io("cannot write the cache"))?;
        half.keep();
        Ok(Environment { directory, beside })
    }

    /// Makes the environment at `directory`, where it stays.
    async fn install(
        &self,
        wanted: &Wanted<'_>,
        directory: &Path,
        (sources, python): (&Sources, &Python),
    ) -> Result<(), ControllerError> {
        let failed = || ControllerError::io("cannot make the deploy tool's environment");
        let (built_in, home) = (self.controller.join("pip/build"), self.controller.join("pip/home"));
        for made in [directory, &home] {
            fs::create_dir_all(made).map_err(failed())?;
        }
        // What is built from source is built beside its source: in a copy, so that the checkout stays as committed.
        let source = if sources.builds && !sources.editable {
            environment_key::copy(wanted.servers, &built_in)
                .map_err(ControllerError::io("cannot copy the checkout"))?;
            &built_in
        } else {
            wanted.servers
        };
        let requirements = source.join(wanted.requirements);
        let index = index::of_host().await;
        let mut ways = Ways::new(self.controller.join("pip/ways"))?;
        index.hosts.iter().try_for_each(|(host, port)| ways.lead_to_outside(host, *port))?;
        let mut cell = Cell {
            host_name: "redrill".to_owned(),
            machine_id: "0".repeat(32),
            user: "redrill".to_owned(),
            directory: requirements.parent().unwrap_or(source).to_owned(),
            environment: BTreeMap::new(),
            read_only: index.files.iter().filter(|path| path.exists()).cloned().chain(python.prefix.clone()).collect(),
            writable: vec![directory.to_owned(), source.to_owned(), home.clone()],
            moved: Vec::new(),
            moved_writable: Vec::new(),
            leads: ways.leads().to_vec(),
            ssh: None,
            home,
        };
        for (name, value) in environment(&cell, index.environment) {
            cell.environment.insert(name, value);
        }
        let mut venv = Sealed::new("python3 -m venv", &python.executable, cell.clone());
        venv.args(["-m", "venv"]).arg(directory);
        must(self.sandbox, &venv, "python3 -m venv").await?;
        let mut pip = Sealed::new("pip install", directory.join("bin/pip"), cell);
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"])
            .arg(&requirements);
        must(self.sandbox, &pip, "pip install").await?;
        let _ = fs::remove_dir_all(built_in); // It goes with the run at the latest.
        Ok(())
    }
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
            environments::discard(directory);
        }
    }
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
    /// All that an environment depends on: another one needs another environment.
    about: String,
    executable: PathBuf,
    /// Where it is installed, if that is not among the system's own programs.
    prefix: Option<PathBuf>,
}

impl Python {
    async fn of_host() -> Result<Self, ControllerError> {
        let script = format!(
            "import os, sys\nprint(os.path.realpath(sys.executable))\nprint(os.path.realpath(sys.base_prefix))\n{}",
            environment_key::INTERPRETER
        );
        let mut command = Command::new("python3");
        command.args(["-I", "-c", &script]).current_dir("/").stdin(Stdio::null());
        let output = command.output().await.map_err(ControllerError::io("cannot start python3"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        let (Some(executable), Some(prefix)) = (lines.next(), lines.next()) else {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ControllerError::Program { what: "python3".to_owned(), said });
        };
        let prefix = Path::new(prefix);
        let system = prefix.starts_with("/usr") || prefix == Path::new("/");
        let prefix = (!system).then(|| prefix.to_owned());
        Ok(Self { executable: executable.into(), prefix, about: text })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use redrill_machines::process::Guard;

    use super::*;

    /// A wheel of the smallest kind, whose module says this.
    const WHEEL: &str = "\
import sys, zipfile
value, version = sys.argv[1:]
about = 'mylib-%s.dist-info/' % version
with zipfile.ZipFile('mylib-%s-py3-none-any.whl' % version, 'w') as wheel:
    wheel.writestr('mylib.py', 'VALUE = %r' % value)
    wheel.writestr(about + 'METADATA', 'Metadata-Version: 2.1\\nName: mylib\\nVersion: %s\\n' % version)
    wheel.writestr(about + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(about + 'RECORD', '')
";

    struct Workshop(tempfile::TempDir);

    impl Workshop {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir_all(place.servers()).expect("made");
            // `redrill guard -- PROGRAM ..` without the guard, and `redrill warden PLACE -- PROGRAM ..` without the warden.
            let guard = place.0.path().join("guard");
            let built_in = place.0.path().join("run/controller/pip/build");
            let script = format!(
                "#!/bin/sh\nplace=\n[ $1 = guard ] || {{ place=$2; shift; }}\nshift 2\ncd {} 2>/dev/null || cd {}\n\
                 \"$@\" </dev/null\nstatus=$?\n[ -z \"$place\" ] || echo '\"over\"' >>\"$place/wanted.jsonl\"\nexit $status\n",
                built_in.display(),
                place.servers().display()
            );
            fs::write(&guard, script).expect("written");
            fs::set_permissions(guard, fs::Permissions::from_mode(0o755)).expect("set");
            place
        }

        fn servers(&self) -> PathBuf {
            self.0.path().join("run/controller/servers")
        }

        fn wheel(&self, value: &str) {
            self.wheel_of("1.0", value);
        }

        fn wheel_of(&self, version: &str, value: &str) {
            let mut python = std::process::Command::new("python3");
            let made =
                python.args(["-c", WHEEL, value, version]).current_dir(self.servers()).status().expect("python3 runs");
            assert!(made.success());
        }

        async fn make(&self, requirements: &str) -> Result<PathBuf, ControllerError> {
            fs::write(self.servers().join("requirements.txt"), requirements).expect("written");
            self.make_from(&self.servers(), Path::new("requirements.txt")).await
        }

        /// Makes one from a project and a lock, with these wheels and no index.
        async fn make_locked(&self, file: &str, lock: &str) -> Result<PathBuf, ControllerError> {
            fs::write(self.servers().join("pyproject.toml"), "[project]\nname = 'a'\ndependencies = ['mylib>=1']\n")
                .expect("written");
            fs::write(self.servers().join(file), lock).expect("written");
            let controller = self.0.path().join("run/controller");
            let said = Arc::new(Mutex::new(Vec::new()));
            let heard = Arc::clone(&said);
            let progress: Progress = Arc::new(move |text: &str| heard.lock().expect("sound").push(text.to_owned()));
            let found = requirements(&self.servers(), Path::new("pyproject.toml"), &controller, &progress)?;
            assert_eq!(
                *said.lock().expect("sound"),
                [format!("the Python environment comes from pyproject.toml, pinned by {file}")]
            );
            for entry in fs::read_dir(self.servers()).expect("there").flatten() {
                fs::copy(entry.path(), found.root.join(entry.file_name())).expect("copied");
            }
            let written = fs::read_to_string(found.root.join(&found.file)).expect("written");
            fs::write(found.root.join(&found.file), format!("--no-index\n--find-links .\n{written}")).expect("written");
            self.make_from(&found.root, &found.file).await
        }

        async fn make_from(&self, root: &Path, file: &Path) -> Result<PathBuf, ControllerError> {
            let guard = Guard::new(self.0.path().join("guard"), self.0.path().join("run"));
            let (cache, controller) = (self.0.path().join("cache"), self.0.path().join("run/controller"));
            let quiet: Progress = Arc::new(|_: &str| {});
            let sandbox = Sandbox::open(&guard, &controller).await.expect("this host can seal");
            let wanted = Wanted { servers: root, requirements: file };
            let installer = Installer { cache: &cache, sandbox: &sandbox, controller: &controller, progress: &quiet };
            installer.environment(&wanted).await.map(|made| made.directory)
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
        let place = Workshop::new();
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

    #[tokio::test]
    async fn a_lock_pins_a_version_that_is_not_the_newest_and_another_one_is_another_environment() {
        let place = Workshop::new();
        place.wheel_of("1.0", "old");
        place.wheel_of("2.0", "new");
        let lock = |version: &str| {
            format!(
                "version = 1\n[[package]]\nname = 'a'\nsource = {{ virtual = '.' }}\n\
                 [[package]]\nname = 'mylib'\nversion = '{version}'\nsource = {{ registry = 'https://pypi.org/simple' }}\n"
            )
        };
        let old = place.make_locked("uv.lock", &lock("1.0")).await.expect("made");
        assert_eq!(value(&old), "old");
        assert_eq!(place.make_locked("uv.lock", &lock("1.0")).await.expect("kept"), old);
        let new = place.make_locked("uv.lock", &lock("2.0")).await.expect("made");
        assert_eq!((value(&new), place.environments()), ("new".to_owned(), 2));
    }

    #[tokio::test]
    async fn of_several_versions_that_a_lock_has_pip_takes_the_one_for_this_interpreter() {
        let place = Workshop::new();
        place.wheel_of("1.0", "old");
        place.wheel_of("2.0", "new");
        let one = |version: &str, about: &str| format!("[[package]]\nname = 'mylib'\nversion = '{version}'\n{about}\n");
        let (here, elsewhere) = ("python_full_version >= '3'", "python_full_version < '3'");
        let poetry = one("1.0", &format!("markers = \"{here}\"")) + &one("2.0", &format!("markers = \"{elsewhere}\""));
        let old = place.make_locked("poetry.lock", &poetry).await.expect("made");
        assert_eq!(value(&old), "old", "though there is a newer one");
        let of_uv = |marker: &str| format!("resolution-markers = [\"python_full_version == '2.7.*'\", \"{marker}\"]");
        let uv = one("1.0", &of_uv(elsewhere)) + &one("2.0", &of_uv(here));
        let new = place.make_locked("uv.lock", &uv).await.expect("made");
        assert_eq!((value(&new), place.environments()), ("new".to_owned(), 2));
    }
}
