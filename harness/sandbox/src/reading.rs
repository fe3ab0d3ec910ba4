//! Files that a sealed program may have written.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

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

#[cfg(test)]
mod tests {
    use super::*;

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
