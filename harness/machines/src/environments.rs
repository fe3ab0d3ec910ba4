//! Python environments in the cache, `venvs/KEY`. They are built where they stay, since their scripts name their place:
//! not one that is renamed, but one that is marked is whole. Whoever makes one holds the lock `venvs/KEY.lock`. Lock and
//! mark lie beside it: what is installed in it runs programs of its own, which may put anything into it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Whether somebody has made this one to its end.
pub fn is_whole(directory: &Path) -> bool {
    mark_of(directory).symlink_metadata().is_ok_and(|about| about.is_file())
}

/// Marks it as whole.
pub fn mark(directory: &Path) -> io::Result<()> {
    fs::write(mark_of(directory), "")
}

/// Takes it away, mark first.
pub fn discard(directory: &Path) {
    let _ = fs::remove_file(mark_of(directory));
    let _ = fs::remove_dir_all(directory);
}

fn mark_of(directory: &Path) -> PathBuf {
    directory.with_extension("whole")
}

/// Environments that nobody completes.
pub(crate) fn half_made(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("venvs")).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let half = |directory: &PathBuf| {
        // In this order: a maker marks it before it gives the lock back.
        let made = File::open(lock_of(directory)).is_ok_and(|lock| lock.try_lock().is_err());
        !made && !is_whole(directory)
    };
    directories.map(|entry| entry.path()).filter(half).collect()
}

/// Removes one, unless somebody has begun with it again. `false` if it is no environment of the cache.
pub(crate) fn remove(directory: &Path) -> bool {
    if !directory.parent().is_some_and(|venvs| venvs.ends_with("venvs")) {
        return false;
    }
    // Held until it is removed. What stays is told by the next look.
    if let Ok(lock) = File::options().create(true).truncate(false).write(true).open(lock_of(directory))
        && lock.try_lock().is_ok()
        && !is_whole(directory)
    {
        discard(directory);
    }
    true
}

fn lock_of(directory: &Path) -> PathBuf {
    directory.with_extension("lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_without_its_mark_is_half_made_unless_somebody_makes_it() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = |name: &str| {
            let directory = place.path().join("venvs").join(name);
            fs::create_dir_all(directory.join("bin")).expect("made");
            directory
        };
        let (whole, dead, making) = (directory("whole-one"), directory("dead"), directory("making"));
        mark(&whole).expect("written");
        let lock = File::create(place.path().join("venvs/making.lock")).expect("made");
        lock.lock().expect("held");
        assert_eq!(half_made(place.path()), std::slice::from_ref(&dead));
        for each in [&whole, &dead, &making] {
            assert!(remove(each));
        }
        assert!(whole.exists() && !dead.exists() && making.exists());
        drop(lock);
        assert_eq!(half_made(place.path()), [making]);
        assert!(!remove(&place.path().join("templates")));
    }
}
