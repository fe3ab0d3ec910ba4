//! Files whose locks say that somebody lives: the kernel gives a lock back when its last holder ends, however it ends.

use std::fs::File;
use std::path::Path;

/// Holds the place of a drill beside it. `None` if it has given it back.
pub(crate) fn hold(place: &Path) -> Option<File> {
    let file = File::open(place).ok()?;
    file.lock_shared().ok()?;
    Some(file)
}

/// Whether nobody holds this lock any more: its holder has ended, however it ended.
pub(crate) fn is_abandoned(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| file.try_lock().is_ok()) || !lock.exists()
}
