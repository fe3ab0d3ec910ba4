//! Files that somebody else may have put there: a machine, or a program of a repo under test.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open as open_at_once};

/// Opens a plain file for reading. A link is not followed, a device not opened and a pipe not waited for: each is an
/// error. Directories on the way must be our own.
pub fn open(path: &Path) -> io::Result<File> {
    let inode = open_at_once(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(fstat(&inode)?.st_mode).is_file() {
        return Err(io::Error::other(format!("`{}` is no plain file", path.display())));
    }
    // By the inode that was looked at: the name may be another's by now.
    File::open(format!("/proc/self/fd/{}", inode.as_raw_fd()))
}

/// All that is in a plain file, if it is no more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("`{}` has more than {} MiB", path.display(), limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_others_left_only_plain_files_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| dir.path().join(name);
        std::fs::write(place("file"), "text").expect("written");
        std::os::unix::fs::symlink(place("file"), place("link")).expect("linked");
        rustix::fs::mknodat(rustix::fs::CWD, place("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("made");
        assert_eq!(read(&place("file"), 4).expect("read"), b"text");
        read(&place("file"), 3).expect_err("it has more");
        for wrong in ["link", "pipe", ".", "absent"] {
            open(&place(wrong)).expect_err(wrong);
        }
    }
}
