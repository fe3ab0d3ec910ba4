//! Records what becomes of files and packages while a deploy runs: two operations that undo each other leave no difference
//! behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use redrill_state::PACKAGE;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::{files, packages};

/// Larger files are told apart by size and time of change.
const LARGEST: u64 = 1024 * 1024;
/// No deploy writes so often, and the record lies in memory.
const MOST: usize = 20_000;

/// Reads a JSON list of paths, and writes a line for each time that one of them is no longer as it was last seen: the
/// time, the path, and a word that tells this state from others. The first lines tell how they are at the start, with
/// time 0. Packages are told when they come to be another than they were: the state before, with time 0, and the new one.
/// Goes on until it is killed.
pub(crate) fn write(mut list: impl Read, mut out: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    list.read_to_end(&mut text)?;
    let paths: BTreeSet<String> = serde_json::from_slice::<Vec<String>>(&text)?.into_iter().collect();
    let notify = inotify::init(CreateFlags::CLOEXEC)?;
    let mut places = BTreeMap::new();
    let parents = paths.iter().filter_map(|path| Path::new(path).parent());
    for place in parents.chain(Path::new(packages::STATUS).parent()).collect::<BTreeSet<_>>() {
        let flags = WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        // A directory that is gone by now is no loss: what was in it is a difference.
        if let Ok(watch) = inotify::add_watch(&notify, place, flags) {
            places.insert(watch, place.to_owned());
        }
    }
    let mut installed = Installed::now();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for path in &paths {
        seen.insert(path.clone(), state(Path::new(path)));
        line(&mut out, 0, path, &seen[path])?;
    }
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut events = inotify::Reader::new(notify, &mut buffer);
    for _ in 0..MOST {
        let event = events.next()?;
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(io::Error::other("more was written than could be followed"));
        }
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        let (Some(place), Some(name)) = (places.get(&event.wd()), name) else { continue };
        let path = place.join(name).to_string_lossy().into_owned();
        if path == packages::STATUS {
            installed.follow(&mut out)?;
        }
        let Some(known) = seen.get_mut(&path) else { continue };
        let now = state(Path::new(&path));
        if now != *known {
            line(&mut out, crate::now(), &path, &now)?;
            *known = now;
        }
    }
    Ok(())
}

/// The packages of the machine, as they were last seen.
struct Installed {
    versions: BTreeMap<String, String>,
    /// Those of which the first state was told.
    told: BTreeSet<String>,
}

impl Installed {
    fn now() -> Self {
        Self { versions: packages::installed(), told: BTreeSet::new() }
    }

    /// Tells what has become of them since.
    fn follow(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.change(packages::installed(), out)
    }

    fn change(&mut self, now: BTreeMap<String, String>, out: &mut impl Write) -> io::Result<()> {
        let state =
            |of: &BTreeMap<String, String>, name: &str| of.get(name).map_or("absent", String::as_str).to_owned();
        for name in self.versions.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (state(&self.versions, name), state(&now, name));
            if old == new {
                continue;
            }
            let path = format!("{PACKAGE}{name}");
            if self.told.insert(name.clone()) {
                line(out, 0, &path, &old)?;
            }
            line(out, crate::now(), &path, &new)?;
        }
        self.versions = now;
        Ok(())
    }
}

fn line(out: &mut impl Write, time: i64, path: &str, state: &str) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &serde_json::json!({ "t": time, "path": path, "state": state }))?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A word for what is there now: kind, rights, owner, extended attributes (ACLs and capabilities are among them), how many
/// names it has, content.
fn state(path: &Path) -> String {
    let Ok(metadata) = fs::symlink_metadata(path) else { return "absent".to_owned() };
    let xattrs = files::xattrs(path).unwrap_or_default();
    let xattrs: Vec<String> = xattrs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    // How many directories are in a directory is no fact of it.
    let names = if metadata.is_file() { metadata.nlink() } else { 1 };
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    let rights = format!("{mode:o} {uid} {gid} {} {names}", xattrs.join(" "));
    let content = if metadata.is_symlink() {
        fs::read_link(path).map(|to| to.to_string_lossy().into_owned()).unwrap_or_default()
    } else if metadata.is_file() && metadata.len() <= LARGEST {
        fs::read(path).map(|bytes| blake3::hash(&bytes).to_hex()[..16].to_owned()).unwrap_or_default()
    } else if metadata.is_file() {
        format!("{} {}", metadata.len(), metadata.mtime())
    } else {
        String::new()
    };
    format!("{rights} {content}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Hands each line on.
    struct Lines(mpsc::Sender<String>, Vec<u8>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            let text = String::from_utf8(std::mem::take(&mut self.1)).expect("text");
            self.0.send(text).map_err(io::Error::other)
        }
    }

    #[test]
    fn packages_are_told_when_they_come_and_go_and_not_when_they_are_put_in_again() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let mut installed = Installed { versions: of(&[("bash", "5")]), told: BTreeSet::new() };
        let mut out = Vec::new();
        installed.change(of(&[("bash", "5")]), &mut out).expect("told");
        assert!(out.is_empty());
        installed.change(of(&[("bash", "5"), ("make", "4")]), &mut out).expect("told");
        installed.change(of(&[("bash", "5")]), &mut out).expect("told");
        let text = String::from_utf8(out).expect("text");
        let states: Vec<&str> = text.lines().filter_map(|line| line.split("\"state\":\"").nth(1)).collect();
        assert_eq!((text.matches("package make").count(), states.len()), (3, 3), "{text}");
        assert!(states[0].starts_with("absent") && states[1].starts_with('4') && states[2].starts_with("absent"));
    }

    #[test]
    fn every_state_of_a_file_is_told_and_rewrites_are_not() {
        let dir = std::env::temp_dir().join(format!("redrill-record-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).expect("made");
        let file = dir.join("a.conf");
        fs::write(&file, "1").expect("written");
        let list =
            serde_json::to_vec(&[file.display().to_string(), dir.join("sub").display().to_string()]).expect("text");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || write(list.as_slice(), Lines(sender, Vec::new())));
        let next = || lines.recv_timeout(Duration::from_secs(10)).expect("a line");
        let (first, _) = (next(), next());
        assert!(first.contains(r#""t":0"#) && first.contains("a.conf"), "{first}");
        fs::write(dir.join("other"), "not asked for").expect("written");
        // In one go, or the empty file is a state of its own.
        let replace = |content: &str| {
            fs::write(dir.join("new"), content).expect("written");
            fs::rename(dir.join("new"), &file).expect("renamed");
        };
        replace("1");
        replace("2");
        let second = next();
        assert!(
            second.contains("a.conf") && !second.contains(r#""t":0,"#),
            "the same content is no other state: {second}"
        );
        fs::set_permissions(dir.join("sub"), fs::Permissions::from_mode(0o700)).expect("set");
        assert!(next().contains("sub"));
        fs::hard_link(&file, dir.join("second")).expect("linked");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        let linked = next();
        fs::remove_file(dir.join("second")).expect("removed");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set again");
        assert_ne!(linked, next(), "it has one name less");
        fs::remove_file(&file).expect("removed");
        assert!(next().contains("absent"));
        fs::remove_dir_all(&dir).expect("cleaned up");
    }
}
