//! What a run left on the host, found without redrill's own word for it.

use std::fs::TryLockError;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::processes_of;

/// What only a running machine needs: `harness/machines/src/qemu/args.rs`, `freeze.rs`.
const HEAVY: [&str; 3] = ["qcow2", "ram", "state"];
/// The lists of the engine in which a run's objects stand.
const LISTS: [&str; 3] = ["/containers/json?all=1", "/networks", "/images/json"];

/// Processes, containers, networks and images of runs below `state`; sockets, disks, memory and locks that are held
/// in it. Each with a word of what it is; empty after a sweep.
pub fn leftovers(state: &Path) -> Vec<String> {
    let mut left: Vec<String> = processes_of(state).into_iter().map(|id| format!("process {id}")).collect();
    left.extend(LISTS.iter().flat_map(|list| labelled(list, state)));
    let mut files = Vec::new();
    walk(state, &mut files);
    left.extend(files.into_iter().map(|file| format!("file {}", file.display())));
    left
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let heavy = path.extension().is_some_and(|end| HEAVY.iter().any(|heavy| end == *heavy));
        // Whoever holds a lock is not dead; a place in the budget is such a lock.
        let held =
            || std::fs::File::open(&path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if kind.is_dir() {
            walk(&path, found);
        } else if kind.is_socket() || kind.is_fifo() || heavy || (kind.is_file() && held()) {
            found.push(path);
        }
    }
}

/// Of one of the engine's lists, what carries the label of a run below `state`. Nothing where no engine answers.
fn labelled(list: &str, state: &Path) -> Vec<String> {
    let text = get(list).unwrap_or_default();
    let objects: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap_or_default().1).unwrap_or_default();
    let ours =
        |object: &&Value| object["Labels"]["redrill.run"].as_str().is_some_and(|run| Path::new(run).starts_with(state));
    let objects = objects.as_array().into_iter().flatten().filter(ours);
    objects.map(|object| format!("{list} {}", object["Id"])).collect()
}

/// HTTP/1.0: the answer ends with the connection.
fn get(path: &str) -> std::io::Result<String> {
    let named = std::env::var("DOCKER_HOST").ok();
    let socket = named.as_deref().and_then(|host| host.strip_prefix("unix://")).unwrap_or("/var/run/docker.sock");
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
