//! The directory of the keys: nothing in it may be waited for, lead in a circle, or lead out. A link out would take a
//! file of the host into the controller, and its content into no list of secrets.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::scenario_error::ScenarioError;

/// More files than any directory of keys has.
const MOST: usize = 20_000;
const EXPECTED: &str = "regular files that you can read, and links that stay inside";

/// Why keys cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeysError {
    /// There is something among them that must not be.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// They cannot be copied.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl KeysError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Looks at all of it.
pub(crate) fn check(keys: &Path) -> Result<(), ScenarioError> {
    KeyWalk::new(keys, None)?.directory(Path::new("")).map_err(|error| match error {
        KeysError::Scenario(error) => error,
        other => wrong(&keys.display().to_string(), &other.to_string()),
    })
}

/// Copies it: a deploy that changed the keys would change the user's own. Links stay links, and lead into the copy.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), KeysError> {
    KeyWalk::new(from, Some(to))?.directory(Path::new(""))
}

fn wrong(what: &str, why: &str) -> ScenarioError {
    ScenarioError::mismatch(format!("the keys cannot be used: `{what}` {why}"), EXPECTED)
}

struct KeyWalk<'a> {
    root: PathBuf,
    to: Option<&'a Path>,
    /// Directories that are being looked at, links to them resolved.
    open: Vec<PathBuf>,
    seen: usize,
}

impl<'a> KeyWalk<'a> {
    fn new(keys: &Path, to: Option<&'a Path>) -> Result<Self, ScenarioError> {
        let root = keys.canonicalize();
        let root = root.map_err(|error| wrong(&keys.display().to_string(), &format!("cannot be found: {error}")))?;
        Ok(Self { root, to, open: Vec::new(), seen: 0 })
    }

    /// The directory at this path below the keys.
    fn directory(&mut self, inner: &Path) -> Result<(), KeysError> {
        let directory = self.root.join(inner);
        let unreadable = |error: std::io::Error| {
            let told = if inner.as_os_str().is_empty() { &directory } else { inner };
            KeysError::from(wrong(&told.display().to_string(), &format!("cannot be read: {error}")))
        };
        self.make(inner)?;
        let real = directory.canonicalize().map_err(unreadable)?;
        if self.open.contains(&real) {
            return Err(wrong(&inner.display().to_string(), "leads in a circle").into());
        }
        self.open.push(real);
        for entry in fs::read_dir(&directory).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            self.entry(&inner.join(name))?;
        }
        self.open.pop();
        Ok(())
    }

    fn entry(&mut self, inner: &Path) -> Result<(), KeysError> {
        self.seen += 1;
        let wrong = |why: &str| KeysError::from(wrong(&inner.display().to_string(), why));
        if self.seen > MOST {
            return Err(wrong(&format!("is one of more than {MOST} files")));
        }
        let path = self.root.join(inner);
        let unreadable = |error: std::io::Error| wrong(&format!("cannot be read: {error}"));
        let kind = fs::symlink_metadata(&path).map_err(unreadable)?.file_type();
        if kind.is_symlink() {
            return self.link(inner, &path);
        }
        if kind.is_dir() {
            return self.directory(inner);
        }
        if kind.is_file() {
            fs::File::open(&path).map_err(unreadable)?;
            return match self.to {
                Some(to) => {
                    let copied = fs::copy(&path, to.join(inner));
                    copied.map(drop).map_err(KeysError::io(format!("cannot copy the key `{}`", inner.display())))
                }
                None => Ok(()),
            };
        }
        let kind = match kind {
            kind if kind.is_fifo() => "a FIFO",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        };
        Err(wrong(&format!("is {kind}")))
    }

    fn link(&mut self, inner: &Path, path: &Path) -> Result<(), KeysError> {
        let wrong = |why: &str| KeysError::from(wrong(&inner.display().to_string(), why));
        let behind = path.canonicalize().map_err(|error| wrong(&format!("is a link that leads nowhere: {error}")))?;
        let Ok(target) = behind.strip_prefix(&self.root) else {
            return Err(wrong("is a link that leads out of the keys"));
        };
        let about = fs::metadata(&behind).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
        if about.is_dir() {
            // Looked at for circles; its files are copied where they lie.
            let to = self.to.take();
            self.directory(inner)?;
            self.to = to;
        }
        let Some(to) = self.to else { return Ok(()) };
        let up = inner.components().filter(|part| matches!(part, Component::Normal(_))).count() - 1;
        let relative: PathBuf = std::iter::repeat_n(Path::new(".."), up).collect::<PathBuf>().join(target);
        let linked = std::os::unix::fs::symlink(&relative, to.join(inner));
        linked.map_err(KeysError::io(format!("cannot copy the key `{}`", inner.display())))
    }

    fn make(&self, inner: &Path) -> Result<(), KeysError> {
        let Some(to) = self.to.map(|to| to.join(inner)) else { return Ok(()) };
        let made = fs::create_dir_all(&to).and_then(|()| fs::set_permissions(&to, fs::Permissions::from_mode(0o700)));
        made.map_err(KeysError::io("cannot copy the keys"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn keys() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let keys = place.path().join("keys");
        fs::create_dir_all(keys.join("sub/deep")).expect("made");
        fs::write(keys.join("one"), "1").expect("written");
        fs::write(keys.join("sub/deep/two"), "2").expect("written");
        fs::write(place.path().join("outside"), "host").expect("written");
        (place, keys)
    }

    #[track_caller]
    fn refuses(plant: impl FnOnce(&Path), because: &str) {
        let (place, keys) = keys();
        plant(&keys);
        let error = check(&keys).expect_err("refused");
        assert!(matches!(error, ScenarioError::Mismatch { .. }) && error.to_string().contains(because), "{error}");
        assert_eq!(copy(&keys, &place.path().join("copy")).expect_err("refused").to_string(), error.to_string());
    }

    #[test]
    fn links_inside_stay_links_and_lead_into_the_copy() {
        let (place, keys) = keys();
        symlink("one", keys.join("near")).expect("linked");
        symlink("../../one", keys.join("sub/deep/up")).expect("linked");
        symlink(keys.join("sub/deep"), keys.join("absolute")).expect("linked");
        symlink("sub/deep/../../../keys/sub/deep/two", keys.join("around")).expect("linked");
        check(&keys).expect("fine");
        let to = place.path().join("copy");
        copy(&keys, &to).expect("copied");
        fs::remove_dir_all(&keys).expect("removed");
        let read = |name: &str| fs::read_to_string(to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(["one", "near", "sub/deep/up"].map(read), ["1", "1", "1"]);
        assert_eq!(["absolute/two", "around", "sub/deep/two"].map(read), ["2", "2", "2"]);
        assert!(fs::symlink_metadata(to.join("absolute")).expect("there").is_symlink());
        assert_eq!(fs::metadata(&to).expect("there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_leads_out_or_in_a_circle_is_an_error_that_names_it() {
        refuses(
            |keys| symlink("../outside", keys.join("x")).expect("linked"),
            "`x` is a link that leads out of the keys",
        );
        refuses(|keys| symlink("/etc/shadow", keys.join("sub/x")).expect("linked"), "`sub/x` is a link that leads out");
        refuses(|keys| symlink("..", keys.join("sub/deep/x")).expect("linked"), "`sub/deep/x` leads in a circle");
        refuses(|keys| symlink(".", keys.join("x")).expect("linked"), "leads in a circle");
        refuses(|keys| symlink("gone", keys.join("x")).expect("linked"), "`x` is a link that leads nowhere");
        refuses(|keys| symlink("x", keys.join("x")).expect("linked"), "`x` is a link that leads nowhere");
        let each_other = |keys: &Path| {
            fs::create_dir(keys.join("a")).and_then(|()| fs::create_dir(keys.join("b"))).expect("made");
            symlink("../b", keys.join("a/x")).and_then(|()| symlink("../a", keys.join("b/y"))).expect("linked");
        };
        refuses(each_other, "leads in a circle");
    }

    #[test]
    fn what_would_be_waited_for_is_an_error_that_names_it() {
        let fifo = |keys: &Path| {
            assert!(std::process::Command::new("mkfifo").arg(keys.join("sub/x")).status().expect("runs").success());
        };
        refuses(fifo, "`sub/x` is a FIFO");
        refuses(|keys| drop(UnixListener::bind(keys.join("x")).expect("bound")), "`x` is a socket");
        refuses(|keys| symlink("/dev/zero", keys.join("x")).expect("linked"), "`x` is a link that leads out");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_named() {
        if rustix::process::geteuid().is_root() {
            return; // Nothing is closed to root.
        }
        let close = |name: &'static str| {
            move |keys: &Path| fs::set_permissions(keys.join(name), fs::Permissions::from_mode(0o000)).expect("set")
        };
        refuses(close("one"), "`one` cannot be read");
        refuses(close("sub/deep"), "`sub/deep` cannot be read");
    }
}
