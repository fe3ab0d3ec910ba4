//! Removes what a run made in the container engine, by its label. It works without a runtime, since it is also what the
//! reaper and the next start do: plain HTTP over the engine's socket (Docker Engine API 1.24 and later).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Names the engine's socket, in the directory of a run that uses one.
pub(super) const ENGINE: &str = "engine";
/// On everything that a run makes; its value is the run directory.
pub(super) const LABEL: &str = "redrill.run";
/// Removing a container of a busy engine takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes containers, networks and images of the run in `dir`; returns how many. A run that never used an engine costs
/// no question. An engine that does not answer keeps what it has: the note stays, for the next sweep to ask again.
pub(crate) fn remove_all(dir: &Path) -> io::Result<usize> {
    let note = dir.join(ENGINE);
    let Ok(socket) = std::fs::read_to_string(&note) else { return Ok(0) };
    let count = remove(Path::new(socket.trim()), &dir.display().to_string())?;
    let _ = std::fs::remove_file(note);
    Ok(count)
}

/// What of a run is still in the engine.
pub fn left(dir: &Path) -> usize {
    let Ok(socket) = std::fs::read_to_string(dir.join(ENGINE)) else { return 0 };
    let count =
        |kind: &Kind| list(Path::new(socket.trim()), kind, &dir.display().to_string()).map_or(0, |ids| ids.len());
    KINDS.iter().map(count).sum()
}

/// Where the engine listens: `DOCKER_HOST`, if it is a unix socket, else the usual place.
pub fn engine_socket() -> PathBuf {
    let named = std::env::var("DOCKER_HOST").ok().and_then(|host| host.strip_prefix("unix://").map(PathBuf::from));
    named.unwrap_or_else(|| PathBuf::from("/var/run/docker.sock"))
}

/// The engine's version, if one answers.
pub fn engine_version() -> Result<String, String> {
    let socket = engine_socket();
    let answer = ask(&socket, "GET", "/version").map_err(|error| format!("{}: {error}", socket.display()))?;
    answer["Version"].as_str().map(str::to_owned).ok_or_else(|| "the engine does not tell its version".to_owned())
}

/// A kind of object: how it is listed, and how one is removed.
struct Kind {
    list: &'static str,
    remove: &'static str,
    options: &'static str,
}

/// Containers first: they hold the others.
const KINDS: [Kind; 3] = [
    Kind { list: "/containers/json?all=1&", remove: "/containers/", options: "?force=1&v=1" },
    Kind { list: "/networks?", remove: "/networks/", options: "" },
    Kind { list: "/images/json?", remove: "/images/", options: "?force=1" },
];

fn list(socket: &Path, kind: &Kind, run: &str) -> io::Result<Vec<String>> {
    let filter = serde_json::json!({ "label": [format!("{LABEL}={run}")] }).to_string();
    let answer = ask(socket, "GET", &format!("{}filters={}", kind.list, encoded(&filter)))?;
    let ids = answer.as_array().into_iter().flatten().filter_map(|object| object["Id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

fn remove(socket: &Path, run: &str) -> io::Result<usize> {
    let mut count = 0;
    for kind in &KINDS {
        for id in list(socket, kind, run)? {
            ask(socket, "DELETE", &format!("{}{id}{}", kind.remove, kind.options))?;
            count += 1;
        }
    }
    Ok(count)
}

/// One question. HTTP/1.0, so that the answer comes in one piece and the connection ends with it.
fn ask(socket: &Path, method: &str, path: &str) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("the engine sent no answer"))?;
    let status: u16 = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    match status {
        200..300 => Ok(serde_json::from_str(body).unwrap_or_default()),
        // Somebody was faster.
        404 | 409 if method == "DELETE" => Ok(Value::Null),
        _ => Err(io::Error::other(format!("{status}: {}", body.trim()))),
    }
}

/// Percent-encoding of all that is not unreserved, RFC 3986, section 2.3.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::sync::{Arc, Mutex};

    /// An engine with one container of the run, which it forgets when it is removed.
    fn engine(socket: &Path, asked: Arc<Mutex<Vec<String>>>) {
        let listener = UnixListener::bind(socket).expect("bound");
        std::thread::spawn(move || {
            let mut there = true;
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                let body = if line.starts_with("GET /containers") && there { r#"[{"Id": "abc"}]"# } else { "[]" };
                there &= !line.starts_with("DELETE /containers/abc?force=1&v=1 ");
                asked.lock().expect("no panic").push(line);
                let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes());
            }
        });
    }

    #[test]
    fn what_a_run_made_is_found_by_its_label_and_removed_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, asked) = (dir.path().join("engine.sock"), Arc::default());
        engine(&socket, Arc::clone(&asked));
        assert_eq!(remove_all(dir.path()).expect("removed"), 0, "a run without an engine");
        assert!(asked.lock().expect("no panic").is_empty());
        std::fs::write(dir.path().join(ENGINE), socket.display().to_string()).expect("noted");
        assert_eq!((left(dir.path()), remove_all(dir.path()).expect("removed")), (1, 1));
        assert_eq!((left(dir.path()), remove_all(dir.path()).expect("removed")), (0, 0));
        let asked = asked.lock().expect("no panic").join("");
        assert!(asked.contains("%22redrill.run%3D"), "by label: {asked}");
    }

    #[test]
    fn an_engine_that_is_away_is_asked_again_the_next_time() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(ENGINE), "/nonexistent/engine.sock").expect("noted");
        remove_all(dir.path()).expect_err("nobody answers");
        assert!(dir.path().join(ENGINE).exists(), "the note stays");
    }
}
