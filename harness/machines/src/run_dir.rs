//! Where things lie on the host: what runs leave, and what is worth keeping between them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use crate::{container, process};

/// The harness's own places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Images, virtual environments: may be deleted at any time, and cost time to make again.
    pub cache: PathBuf,
    /// Run directories.
    pub state: PathBuf,
}

/// A place of the harness could not be used.
#[derive(Debug, Error)]
#[error("cannot use `{path}`")]
pub struct RunDirError {
    /// Which.
    pub path: PathBuf,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError { path, source }
}

impl Home {
    /// `REDRILL_CACHE_DIR` and `REDRILL_STATE_DIR`, else the XDG directories, else those under `HOME`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let variable = |name: &str| variable(name).filter(|path| path.is_absolute());
        let home = variable("HOME").unwrap_or_else(|| PathBuf::from("/root"));
        let place = |own: &str, xdg: &str, below: &str| {
            variable(own)
                .or_else(|| Some(variable(xdg)?.join("redrill")))
                .unwrap_or_else(|| home.join(below).join("redrill"))
        };
        Self {
            cache: place("REDRILL_CACHE_DIR", "XDG_CACHE_HOME", ".cache"),
            state: place("REDRILL_STATE_DIR", "XDG_STATE_HOME", ".local/state"),
        }
    }

    /// Where run directories lie.
    pub fn runs(&self) -> PathBuf {
        self.state.join("runs")
    }

    /// Every run directory, oldest first.
    pub fn run_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.runs()).into_iter().flatten().flatten();
        let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        dirs.sort();
        dirs
    }

    /// Removes what runs left behind that were killed: processes, disks, sockets. Reports and logs stay.
    pub fn sweep(&self) -> Vec<Swept> {
        self.run_dirs().iter().filter_map(|dir| sweep(dir)).collect()
    }
}

/// What a sweep found in a run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The directory.
    pub run: PathBuf,
    /// Processes that were still there.
    pub processes: usize,
    /// Containers, networks and images of a container engine.
    pub containers: usize,
    /// Disks, sockets and keys that were removed.
    pub files: usize,
}

const LOCK: &str = "lock";
/// Present while a run may have left something: removed when it cleaned up after itself.
const UNCLEAN: &str = "unclean";
/// Present when the user asked to keep the machines.
const KEPT: &str = "kept";

fn sweep(dir: &Path) -> Option<Swept> {
    if !dir.join(UNCLEAN).exists() || dir.join(KEPT).exists() {
        return None;
    }
    let lock = File::open(dir.join(LOCK)).ok()?;
    match lock.try_lock() {
        Ok(()) => Some(clear(dir)),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
    }
}

/// Ends what a run left, kept or not.
pub(crate) fn clear(dir: &Path) -> Swept {
    let processes = process::kill_marked(dir);
    let containers = container::remove_all(dir);
    let files = remove_disposable(dir);
    let _ = fs::remove_file(dir.join(KEPT));
    let _ = fs::remove_file(dir.join(UNCLEAN));
    Swept { run: dir.to_owned(), processes, containers, files }
}

/// Removes disks, sockets, keys and checkouts below `dir`; what a person may want to read stays.
fn remove_disposable(dir: &Path) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let disposable =
            [".qcow2", ".sock", ".key", ".key.pub", ".cred", ".ram", ".state"].iter().any(|end| name.ends_with(end));
        if path.is_dir() && !path.is_symlink() {
            if ["controller", "shared", "frozen", "template"].contains(&&*name) {
                removed += usize::from(fs::remove_dir_all(&path).is_ok());
            } else {
                removed += remove_disposable(&path);
            }
        } else if disposable {
            removed += usize::from(fs::remove_file(&path).is_ok());
        }
    }
    removed
}

/// The directory of one drill. While it is open, its lock tells others that the run lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a new one, named after the scenario and the time.
    pub fn create(home: &Home, scenario: &str, now: SystemTime) -> Result<Self, RunDirError> {
        let runs = home.runs();
        fs::create_dir_all(&runs).map_err(failed(&runs))?;
        let stamp = humantime::format_rfc3339_seconds(now).to_string();
        let stamp: String = stamp.chars().filter(char::is_ascii_digit).collect();
        let (day, time) = stamp.split_at(8);
        for attempt in 0_u32.. {
            let again = if attempt == 0 { String::new() } else { format!("-{attempt}") };
            let path = runs.join(format!("{scenario}-{day}-{time}{again}"));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
                Err(error) => return Err(failed(&path)(error)),
                Ok(()) => return Self::lock(path),
            }
        }
        unreachable!("the loop returns")
    }

    fn lock(path: PathBuf) -> Result<Self, RunDirError> {
        let lock = File::create(path.join(LOCK)).and_then(|lock| lock.lock().map(|()| lock)).map_err(failed(&path))?;
        fs::write(path.join(UNCLEAN), "").map_err(failed(&path))?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside it, made if need be.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf, RunDirError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(failed(&path))?;
        Ok(path)
    }

    /// Removes what is disposable; called when every machine has been ended.
    pub fn close(self) {
        clear(&self.path);
    }

    /// Leaves everything as it is, for `redrill shell`.
    pub fn keep(self) -> Result<(), RunDirError> {
        let path = self.path.join(KEPT);
        fs::write(&path, "").map_err(failed(&path))
    }

    /// Whether the machines of the run in `dir` were kept.
    pub fn is_kept(dir: &Path) -> bool {
        dir.join(KEPT).exists()
    }

    /// Whether the run in `dir` is still going on.
    pub fn is_live(dir: &Path) -> bool {
        let locked = |lock: File| matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
        File::open(dir.join(LOCK)).is_ok_and(locked)
    }

    /// Ends the machines of a kept run, and removes what is disposable.
    pub fn clean(dir: &Path) -> Swept {
        clear(dir)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn home(name: &str) -> Home {
        let base = std::env::temp_dir().join(format!("redrill-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        Home { cache: base.join("cache"), state: base.join("state") }
    }

    #[test]
    fn places_come_from_the_environment_in_order() {
        let from = |pairs: &[(&str, &str)]| {
            let pairs: BTreeMap<String, PathBuf> = pairs.iter().map(|(k, v)| ((*k).into(), v.into())).collect();
            Home::from_environment(|name| pairs.get(name).cloned()).cache
        };
        assert_eq!(from(&[("HOME", "/h")]), Path::new("/h/.cache/redrill"));
        assert_eq!(from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/redrill"));
        assert_eq!(from(&[("REDRILL_CACHE_DIR", "/own"), ("XDG_CACHE_HOME", "/x")]), Path::new("/own"));
        assert_eq!(from(&[("REDRILL_CACHE_DIR", "relative"), ("HOME", "/h")]), Path::new("/h/.cache/redrill"));
    }

    #[test]
    fn a_sweep_takes_what_a_dead_run_left_and_nothing_of_a_live_or_kept_one() {
        let home = home("sweep");
        let now = SystemTime::UNIX_EPOCH;
        let make = || {
            let run = RunDir::create(&home, "web", now).expect("made");
            let machine = run.dir("machines/web").expect("made");
            fs::write(machine.join("overlay.qcow2"), "").expect("written");
            fs::write(machine.join("console.log"), "").expect("written");
            run
        };
        let (live, dead, kept) = (make(), make(), make());
        let (dead_path, kept_path) = (dead.path.clone(), kept.path.clone());
        drop(dead); // As a SIGKILL would: the lock goes, the files stay.
        kept.keep().expect("kept");
        let swept = home.sweep();
        assert_eq!(swept, [Swept { run: dead_path.clone(), processes: 0, containers: 0, files: 1 }]);
        assert!(dead_path.join("machines/web/console.log").exists(), "evidence stays");
        assert!(live.path.join("machines/web/overlay.qcow2").exists());
        assert!(kept_path.join("machines/web/overlay.qcow2").exists());
        assert_eq!(home.sweep(), [], "swept once");
        assert!(RunDir::is_live(live.path()) && !RunDir::is_live(&dead_path));
        live.close();
        fs::remove_dir_all(home.state.parent().expect("a parent")).expect("cleaned up");
    }
}
