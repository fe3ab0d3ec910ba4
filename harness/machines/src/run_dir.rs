//! Where things lie on the host: what runs leave, and what is worth keeping between them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use crate::{admission, container, environments, process};

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

    /// Removes what runs left behind that were killed: processes, containers, disks, sockets, and what was half made in
    /// the cache. Reports and logs stay.
    pub fn sweep(&self) -> Vec<Swept> {
        for path in self.half_made() {
            if environments::remove(&path) {
                continue;
            }
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        self.run_dirs().iter().filter_map(|dir| sweep(dir)).collect()
    }

    /// What is there of runs that are not going on. Kept machines are named as such.
    pub fn left(&self) -> Vec<Left> {
        let dead = self.run_dirs().into_iter().filter(|dir| !RunDir::is_live(dir));
        let runs = dead.filter_map(|dir| {
            let left = Left {
                kept: RunDir::is_kept(&dir),
                processes: process::marked(&dir).len(),
                containers: container::left(&dir),
                files: disposable(&dir).len(),
                place: dir,
            };
            (left.processes + left.containers + left.files > 0).then_some(left)
        });
        let half_made = self.half_made().into_iter();
        runs.chain(half_made.map(|place| Left { place, kept: false, processes: 0, containers: 0, files: 1 })).collect()
    }

    /// Images, templates and Python environments whose makers are gone, and places in the budget whose holders are.
    fn half_made(&self) -> Vec<PathBuf> {
        let caches = ["images", "templates"].map(|name| self.cache.join(name));
        let entries = caches.iter().flat_map(|cache| fs::read_dir(cache).into_iter().flatten().flatten());
        let ours = entries.map(|entry| entry.path()).filter(|path| is_half_made(path));
        let environments = environments::half_made(&self.cache);
        ours.chain(environments).chain(admission::abandoned(&self.state)).collect()
    }
}

/// `tmp-PID-...`, and no such process.
fn is_half_made(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let maker = name.strip_prefix("tmp-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// What is left of something that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Run directory, or file in the cache.
    pub place: PathBuf,
    /// The user asked to keep it.
    pub kept: bool,
    /// Processes.
    pub processes: usize,
    /// Containers, networks and images of a container engine.
    pub containers: usize,
    /// Disks, sockets, keys, frozen machines.
    pub files: usize,
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
    /// Why the engine still has something of it, or cannot be asked: the next sweep tries again.
    pub stays: Option<String>,
}

impl Swept {
    /// How much was removed.
    pub fn count(&self) -> usize {
        self.processes + self.containers + self.files
    }
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
        Ok(()) => Some(clear(dir, container::remove_what_comes))
            .filter(|swept| swept.count() > 0 || !dir.join(UNCLEAN).exists()),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
    }
}

/// Ends what a run left, kept or not. While its engine is away the run stays unclean: the next sweep asks again.
fn clear(dir: &Path, remove: fn(&Path) -> io::Result<usize>) -> Swept {
    let processes = process::kill_marked(dir);
    let containers = remove(dir);
    let files = remove_disposable(dir);
    let _ = fs::remove_file(dir.join(KEPT));
    if containers.is_ok() {
        let _ = fs::remove_file(dir.join(container::ENGINE));
        let _ = fs::remove_file(dir.join(UNCLEAN));
    }
    let stays = containers.as_ref().err().map(ToString::to_string);
    Swept { run: dir.to_owned(), processes, containers: containers.unwrap_or_default(), files, stays }
}

/// The same for a run whose makers have ended. A sandbox that was ended while its container was being made may come to
/// have one.
fn clear_whole(dir: &Path) -> Swept {
    let remove = if container::is_making(dir) { container::remove_what_comes } else { container::remove_all };
    clear(dir, remove)
}

/// Removes disks, sockets, keys and checkouts below `dir`; what a person may want to read stays.
fn remove_disposable(dir: &Path) -> usize {
    let removed = |path: &PathBuf| if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.is_ok();
    disposable(dir).iter().filter(|path| removed(path)).count()
}

/// Directories that hold nothing that a person would want to read.
const DIRECTORIES: [&str; 5] = ["controller", "shared", "frozen", "template", "restores"];
const ENDINGS: [&str; 7] = [".qcow2", ".sock", ".key", ".key.pub", ".cred", ".ram", ".state"];

fn disposable(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            if DIRECTORIES.contains(&&*name) {
                found.push(path);
            } else {
                found.extend(disposable(&path));
            }
        } else if ENDINGS.iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
    found
}

/// The directory of one drill. While it is open, its lock tells others that the run lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a new one, named after the scenario and the time. Nobody else may look into it: machines' disks and copies of
    /// the keys lie there while it goes on.
    pub fn create(home: &Home, scenario: &str, now: SystemTime) -> Result<Self, RunDirError> {
        let runs = home.runs();
        fs::create_dir_all(&runs).map_err(failed(&runs))?;
        let stamp = humantime::format_rfc3339_seconds(now).to_string();
        let stamp: String = stamp.chars().filter(char::is_ascii_digit).collect();
        let (day, time) = stamp.split_at(8);
        for attempt in 0_u32.. {
            let again = if attempt == 0 { String::new() } else { format!("-{attempt}") };
            let path = runs.join(format!("{scenario}-{day}-{time}{again}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
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
        clear_whole(&self.path);
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

    /// What `clean` removes of the run in `dir`: disks, sockets, keys, checkouts.
    pub fn disposable(dir: &Path) -> Vec<PathBuf> {
        disposable(dir)
    }

    /// Whether the run in `dir` is still going on.
    pub fn is_live(dir: &Path) -> bool {
        let locked = |lock: File| matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
        File::open(dir.join(LOCK)).is_ok_and(locked)
    }

    /// Ends the machines of a kept run, and removes what is disposable.
    pub fn clean(dir: &Path) -> Swept {
        clear_whole(dir)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

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
        let mode = live.path.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "nobody else may look into it");
        let (dead_path, kept_path) = (dead.path.clone(), kept.path.clone());
        drop(dead); // As a SIGKILL would: the lock goes, the files stay.
        kept.keep().expect("kept");
        let half = home.cache.join("templates/tmp-4194305-x");
        let environment = home.cache.join("venvs/0123");
        fs::create_dir_all(&half).and_then(|()| fs::create_dir_all(&environment)).expect("made");
        let places = |left: Vec<Left>| left.into_iter().map(|left| (left.place, left.kept)).collect::<Vec<_>>();
        let kept_and = |others: &[&PathBuf]| {
            let mut all: Vec<_> = others.iter().map(|path| ((*path).clone(), **path == kept_path)).collect();
            all.sort();
            all
        };
        let mut left = places(home.left());
        left.sort();
        assert_eq!(left, kept_and(&[&dead_path, &kept_path, &half, &environment]), "a live run has left nothing yet");
        let swept = home.sweep();
        assert_eq!(places(home.left()), kept_and(&[&kept_path]));
        assert_eq!(swept, [Swept { run: dead_path.clone(), processes: 0, containers: 0, files: 1, stays: None }]);
        assert!(dead_path.join("machines/web/console.log").exists(), "evidence stays");
        assert!(live.path.join("machines/web/overlay.qcow2").exists());
        assert!(kept_path.join("machines/web/overlay.qcow2").exists());
        assert_eq!(home.sweep(), [], "swept once");
        assert!(RunDir::is_live(live.path()) && !RunDir::is_live(&dead_path));
        live.close();
        let away = make();
        let away_path = away.path.clone();
        fs::write(away_path.join("engine"), "/nonexistent/engine.sock").expect("written");
        away.close();
        assert!(away_path.join(UNCLEAN).exists(), "its engine may still have containers");
        assert_eq!(home.sweep(), [], "nothing was there to be removed");
        fs::remove_file(away_path.join("engine")).expect("removed");
        home.sweep();
        assert!(!away_path.join(UNCLEAN).exists());
        fs::remove_dir_all(home.state.parent().expect("a parent")).expect("cleaned up");
    }
}
