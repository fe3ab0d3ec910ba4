//! Files that a sealed program may have written, and files where it may write.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

/// More than a tool tells of itself.
const LONGEST: u64 = 512 << 20;

/// The content of `name` below `root`, which a sealed program may have replaced by anything: links that lead out of
/// `root`, devices and pipes are errors and not followed.
pub fn read_back(root: &Path, name: &Path) -> io::Result<Vec<u8>> {
    let root = File::open(root)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file: File = rustix::fs::openat2(&root, name, flags, Mode::empty(), ResolveFlags::BENEATH)?.into();
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut content = Vec::new();
    let length = file.take(LONGEST + 1).read_to_end(&mut content)?;
    if length as u64 > LONGEST { Err(io::Error::other("it is too large")) } else { Ok(content) }
}

/// Writes the file `name` in the directory `below` of `root`, readable by its owner alone. A sealed program may have put
/// anything in the place of either: what is no directory goes, what is no plain file goes, and no link is followed.
pub fn write_anew(root: &Path, below: &str, name: &str, content: &[u8]) -> io::Result<()> {
    let root = File::open(root)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(&root, below, flags, Mode::empty());
    let directory = match open() {
        Ok(directory) => directory,
        Err(_) => {
            match rustix::fs::unlinkat(&root, below, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            rustix::fs::mkdirat(&root, below, Mode::RWXU)?;
            open()?
        }
    };
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)?.into();
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_anew_follows_no_link_of_a_sealed_program() {
        let place = tempfile::tempdir().expect("a directory");
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        std::fs::create_dir(&root).and_then(|()| std::fs::create_dir(&outside)).expect("made");
        std::fs::write(outside.join("config"), "theirs").expect("written");
        std::os::unix::fs::symlink(&outside, root.join(".ssh")).expect("linked");
        write_anew(&root, ".ssh", "config", b"ours").expect("written");
        let read = |path: &Path| std::fs::read_to_string(path).expect("there");
        assert_eq!((read(&outside.join("config")), read(&root.join(".ssh/config"))), ("theirs".into(), "ours".into()));
        std::fs::remove_file(root.join(".ssh/config")).expect("removed");
        std::os::unix::fs::symlink(outside.join("config"), root.join(".ssh/config")).expect("linked");
        write_anew(&root, ".ssh", "config", b"again").expect("written");
        assert_eq!((read(&outside.join("config")), read(&root.join(".ssh/config"))), ("theirs".into(), "again".into()));
    }

    #[test]
    fn links_that_lead_out_are_not_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("root");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(place.path().join("secret"), "s").expect("written");
        std::fs::write(root.join("plain"), "p").expect("written");
        std::os::unix::fs::symlink("../secret", root.join("out")).expect("linked");
        std::os::unix::fs::symlink("plain", root.join("in")).expect("linked");
        let read = |name: &str| read_back(&root, Path::new(name));
        assert_eq!(read("plain").expect("read"), b"p");
        assert_eq!(read("in").expect("read"), b"p");
        assert!(read("out").is_err() && read("../secret").is_err() && read(".").is_err());
    }
}
