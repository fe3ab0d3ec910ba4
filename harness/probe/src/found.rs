//! What the readers of sections work with: the machine's root, its programs, and a list of what they found.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use redrill_state::{Gap, Note, Record, Section};
use rustix::process::{Pid, Signal};

/// Where programs are looked for, as for an administrator.
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// A program that says nothing for as long is a gap. None takes a second on hardware, or ten under emulation; one that
/// reads a database's tables has its own limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// The root directory of the machine; another one in tests.
pub(crate) struct Root(PathBuf);

impl Root {
    /// The machine that this program runs in.
    pub(crate) fn machine() -> Self {
        Self(PathBuf::from("/"))
    }

    #[cfg(test)]
    pub(crate) fn of(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where an absolute path of the machine lies.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path as the machine knows it.
    pub(crate) fn inside(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.0).unwrap_or(path);
        redrill_state::escape(Path::new("/").join(inside).as_os_str().as_encoded_bytes())
    }

    /// Whether this is a container: much of its kernel is then its host's, which others change.
    pub(crate) fn is_container(&self) -> bool {
        ["/run/systemd/container", "/.dockerenv", "/run/.containerenv"].iter().any(|mark| self.at(mark).exists())
    }

    /// A file's text; `None` if it is not there. What is no UTF-8 is replaced: the file section has the exact bytes.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> io::Result<Option<String>> {
        match fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(lossy(&bytes))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a directory holds, by name; nothing if it is not there.
    pub(crate) fn list(&self, directory: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
        let list = match fs::read_dir(self.at(directory)) {
            Ok(list) => list,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths = list.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn lossy(bytes: &[u8]) -> String {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

/// What the reader of one section found.
pub(crate) struct Found {
    section: Section,
    pub(crate) entries: Vec<Record>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) notes: Vec<Note>,
}

impl Found {
    pub(crate) fn new(section: Section) -> Self {
        Self { section, entries: Vec::new(), gaps: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn section(&self) -> Section {
        self.section
    }

    /// An entry of the section.
    pub(crate) fn add(&mut self, entry: impl Into<Record>) {
        self.entries.push(entry.into());
    }

    /// The section is not whole.
    pub(crate) fn gap(&mut self, what: impl Display) {
        self.gaps.push(Gap { section: self.section, reason: what.to_string() });
    }

    /// Worth knowing, and no gap.
    pub(crate) fn note(&mut self, what: impl Display) {
        self.notes.push(Note { section: self.section, text: what.to_string() });
    }

    /// A file's text; one that is there and cannot be read is a gap.
    pub(crate) fn text(&mut self, root: &Root, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        root.text(path).unwrap_or_else(|error| {
            self.gap(format!("{}: {error}", path.display()));
            None
        })
    }

    /// As [`Found::text`], of a path that a list gave.
    pub(crate) fn text_at(&mut self, root: &Root, path: &Path) -> Option<String> {
        let inside = PathBuf::from(root.inside(path));
        match fs::read(path) {
            Ok(bytes) => Some(lossy(&bytes)),
            // Removed since it was listed, a link to nowhere, or a directory among files.
            Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::IsADirectory => None,
            Err(error) => {
                self.gap(format!("{}: {error}", inside.display()));
                None
            }
        }
    }

    /// What a directory holds; one that cannot be read is a gap.
    pub(crate) fn list(&mut self, root: &Root, directory: impl AsRef<Path>) -> Vec<PathBuf> {
        let directory = directory.as_ref();
        root.list(directory).unwrap_or_else(|error| {
            self.gap(format!("{}: {error}", directory.display()));
            Vec::new()
        })
    }
}

/// Where a program is, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    PATH.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Runs a program to its end; an error is one sentence. Its language is C, so that what it prints can be read.
pub(crate) fn run(program: &Path, args: &[&str]) -> Result<String, String> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH.join(":"))
        .envs([("LC_ALL", "C.UTF-8"), ("HOME", "/root"), ("TERM", "dumb")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let (done, ended) = mpsc::channel::<()>();
    let pid = Pid::from_child(&child);
    let watch = thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    });
    let errors = child.stderr.take().map(|pipe| thread::spawn(move || drain(pipe)));
    let said = child.stdout.take().map(drain).unwrap_or_default();
    let complaint = errors.and_then(|errors| errors.join().ok()).unwrap_or_default();
    let status = child.wait();
    let _ = done.send(()); // It may have given up already.
    let _ = watch.join();
    match status {
        Ok(status) if status.success() => Ok(lossy(&said)),
        Ok(status) => Err(format!("{name} {}: {status}: {}", args.join(" "), lossy(&complaint).trim())),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

fn drain(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes); // What came before an error is still said; the status tells the rest.
    bytes
}

/// Blanks made one: how something is indented is no fact.
pub(crate) fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// BLAKE3 in hex, of what must not be shown.
pub(crate) fn digest(text: impl AsRef<[u8]>) -> String {
    blake3::hash(text.as_ref()).to_hex().to_string()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A small root directory that goes with the test.
    pub(crate) struct Tree(pub(crate) PathBuf);

    impl Tree {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("redrill-probe-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("made");
            Self(path)
        }

        pub(crate) fn file(&self, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.root().at(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            fs::write(&path, text).expect("written");
            path
        }

        pub(crate) fn link(&self, path: &str, target: &str) {
            let path = self.root().at(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            std::os::unix::fs::symlink(target, path).expect("linked");
        }

        pub(crate) fn root(&self) -> Root {
            Root::of(&self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Tree;
    use super::*;

    #[test]
    fn what_is_not_there_is_no_gap_and_what_cannot_be_read_is_one() {
        let tree = Tree::new("found");
        tree.file("/etc/a", b"caf\xe9\n");
        tree.link("/etc/loop", "loop");
        let mut found = Found::new(Section::Crontabs);
        assert_eq!(found.text(&tree.root(), "/etc/none"), None);
        assert_eq!(found.text(&tree.root(), "/etc/a").as_deref(), Some("caf\u{fffd}\n"));
        assert_eq!(found.list(&tree.root(), "/etc/none").len(), 0);
        assert!(found.gaps.is_empty());
        assert_eq!(found.text(&tree.root(), "/etc/loop"), None);
        assert!(found.gaps[0].reason.starts_with("/etc/loop: "), "{}", found.gaps[0].reason);
    }

    #[test]
    fn a_program_that_fails_tells_why() {
        let shell = program("sh").expect("every machine has one");
        assert_eq!(run(&shell, &["-c", "echo out; echo err >&2"]), Ok("out\n".to_owned()));
        let error = run(&shell, &["-c", "echo broken >&2; exit 3"]).expect_err("status 3");
        assert!(error.contains("broken") && error.contains('3'), "{error}");
        assert_eq!(program("no-such-program"), None);
    }
}
