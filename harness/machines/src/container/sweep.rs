//! Removes what a run made in the container engine, by its label. It works without a runtime, since it is also what the
//! reaper and the next start do: plain HTTP over the engine's socket (Docker Engine API 1.24 and later).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Names the engine's socket, in the directory of a run that uses one.
pub(crate) const ENGINE: &str = "engine";
/// On everything that a run makes; its value is the run directory.
pub(super) const LABEL: &str = "redrill.run";
/// The name of the image in which sealed programs run.
pub(super) const SANDBOX: &str = "sandbox";
/// How often, and how long after each other, a killed run's engine is asked for more.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// How often what is being removed is looked for.
const SOON: Duration = Duration::from_millis(50);
/// Removing a container with many files takes a busy engine more than half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Removes containers, networks and images of the run in `dir`; returns how many. A run that never used an engine costs
/// no question. The note of the engine stays: it is for whoever knows that nothing more will come.
pub(crate) fn remove_all(dir: &Path) -> io::Result<usize> {
    let Ok(socket) = std::fs::read_to_string(dir.join(ENGINE)) else { return Ok(0) };
    remove(Path::new(socket.trim()), &dir.display().to_string())
}

/// The same for a run that was killed: the engine may be making what it was asked for, and show it only then.
pub(crate) fn remove_what_comes(dir: &Path) -> io::Result<usize> {
    let mut all = remove_all(dir)?;
    if dir.join(ENGINE).exists() {
        for _ in 0..LOOKS {
            std::thread::sleep(PAUSE);
            all += remove_all(dir)?;
        }
    }
    Ok(all)
}

/// What of a run is still in the engine.
pub fn left(dir: &Path) -> usize {
    let Ok(socket) = std::fs::read_to_string(dir.join(ENGINE)) else { return 0 };
    let count =
        |kind: &Kind| list(Path::new(socket.trim()), kind, &dir.display().to_string()).map_or(0, |ids| ids.len());
    KINDS.iter().map(count).sum()
}

/// How many containers of a run there are that run.
pub(super) fn running(dir: &Path) -> usize {
    let Ok(socket) = std::fs::read_to_string(dir.join(ENGINE)) else { return 0 };
    let running = Kind { list: "/containers/json?", ..KINDS[0] };
    list(Path::new(socket.trim()), &running, &dir.display().to_string()).map_or(0, |ids| ids.len())
}

/// What the engine calls its copy of an image: repository and tag.
pub(super) fn copy_of(name: &str, digest: &str) -> (String, String) {
    (format!("redrill/{name}"), digest[..16.min(digest.len())].to_owned())
}

/// What became of an engine's copy of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copy {
    /// It is gone, and was as large.
    Removed(String, u64),
    /// It is still there, and why.
    Stays(String, String),
}

/// Removes the engine's copies of these images, told by name and digest. Without an engine there are none.
pub fn forget_copies(images: &[(String, String)]) -> Vec<Copy> {
    let socket = engine_socket();
    if !socket.exists() {
        return Vec::new();
    }
    images.iter().filter_map(|(name, digest)| forget_copy(&socket, name, digest)).collect()
}

/// Removes the engine's images of sandboxes: the next one that is needed is made in a moment.
pub fn forget_sandboxes() -> Vec<Copy> {
    let socket = engine_socket();
    let filter = serde_json::json!({ "reference": [format!("redrill/{}", SANDBOX)] }).to_string();
    let Ok(images) = ask(&socket, "GET", &format!("/images/json?filters={}", encoded(&filter))) else {
        return Vec::new();
    };
    let tags = images.as_array().into_iter().flatten().flat_map(|image| image["RepoTags"].as_array()).flatten();
    let names = tags.filter_map(|tag| tag.as_str()?.strip_prefix("redrill/")?.split_once(':'));
    names.filter_map(|(name, tag)| forget_copy(&socket, name, tag)).collect()
}

fn forget_copy(socket: &Path, name: &str, digest: &str) -> Option<Copy> {
    let (repository, tag) = copy_of(name, digest);
    let copy = format!("{repository}:{tag}");
    let found = match ask(socket, "GET", &format!("/images/{copy}/json")) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Copy::Stays(copy, error.to_string())),
    };
    match ask(socket, "DELETE", &format!("/images/{copy}")) {
        // It lists what it removed.
        Ok(Value::Array(_)) => Some(Copy::Removed(copy, found["Size"].as_u64().unwrap_or_default())),
        Ok(_) => Some(Copy::Stays(copy, "a container was made of it".to_owned())),
        Err(error) => Some(Copy::Stays(copy, error.to_string())),
    }
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

/// One that will not go keeps no other; the first that would not is the error.
fn remove(socket: &Path, run: &str) -> io::Result<usize> {
    let mut count = 0;
    let mut stays = Ok(());
    for kind in &KINDS {
        let ids = list(socket, kind, run)?;
        for id in &ids {
            match ask(socket, "DELETE", &format!("{}{id}{}", kind.remove, kind.options)) {
                Ok(_) => count += 1,
                Err(error) => stays = stays.and(Err(error)),
            }
        }
        if stays.is_ok() && !ids.is_empty() {
            stays = wait_for(socket, kind, run, &ids);
        }
    }
    stays.map(|()| count)
}

/// Waits until none of these is there any more: what an engine removes by itself is listed to the end, and what it is
/// asked to remove meanwhile it says it does already.
fn wait_for(socket: &Path, kind: &Kind, run: &str, gone: &[String]) -> io::Result<()> {
    let began = Instant::now();
    while list(socket, kind, run)?.iter().any(|id| gone.contains(id)) {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("the engine does not come to an end with what it removes"));
        }
        std::thread::sleep(SOON);
    }
    Ok(())
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
        404 => Err(io::Error::new(io::ErrorKind::NotFound, body.trim().to_owned())),
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
    fn what_an_engine_is_removing_already_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        std::thread::spawn(move || {
            let mut lists = 0;
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                let answer = match line.split('?').next().unwrap_or_default() {
                    "GET /containers/json" => {
                        lists += 1;
                        if lists < 4 { r#"200 OK|[{"Id": "abc"}]"# } else { "200 OK|[]" }
                    }
                    "DELETE /containers/abc" => r#"409 Conflict|{"message": "removal is already in progress"}"#,
                    _ => "200 OK|[]",
                };
                let (status, body) = answer.split_once('|').expect("two parts");
                let _ = stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n{body}").as_bytes());
            }
        });
        std::fs::write(dir.path().join(ENGINE), socket.display().to_string()).expect("noted");
        assert_eq!((remove_all(dir.path()).expect("removed"), left(dir.path())), (1, 0));
    }

    #[test]
    fn a_container_that_will_not_go_keeps_no_network_and_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, asked) = (dir.path().join("engine.sock"), Arc::<Mutex<Vec<String>>>::default());
        let (listener, heard) = (UnixListener::bind(&socket).expect("bound"), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                let answer = match line.split('?').next().unwrap_or_default() {
                    "GET /containers/json" => r#"200 OK|[{"Id": "abc"}]"#,
                    "GET /networks" => r#"200 OK|[{"Id": "def"}]"#,
                    "DELETE /containers/abc" => r#"500 Internal Server Error|{"message": "still busy"}"#,
                    _ => "200 OK|[]",
                };
                heard.lock().expect("no panic").push(line);
                let (status, body) = answer.split_once('|').expect("two parts");
                let _ = stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n{body}").as_bytes());
            }
        });
        std::fs::write(dir.path().join(ENGINE), socket.display().to_string()).expect("noted");
        let error = remove_all(dir.path()).expect_err("the container stays");
        assert!(error.to_string().contains("still busy"), "{error}");
        assert!(asked.lock().expect("no panic").iter().any(|line| line.starts_with("DELETE /networks/def ")));
    }

    #[test]
    fn copies_of_images_go_unless_somebody_uses_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                // As Docker 26 answers.
                let answer = match line.trim_end_matches(" HTTP/1.0\r\n") {
                    "GET /images/redrill/old:0123456789abcdef/json" => r#"200 OK|{"Size": 4096}"#,
                    "DELETE /images/redrill/old:0123456789abcdef" => r#"200 OK|[{"Untagged": "redrill/old"}]"#,
                    "GET /images/redrill/used:0123456789abcdef/json" => r#"200 OK|{"Size": 1}"#,
                    "DELETE /images/redrill/used:0123456789abcdef" => r#"409 Conflict|{"message": "in use"}"#,
                    _ => r#"404 Not Found|{"message": "No such image"}"#,
                };
                let (status, body) = answer.split_once('|').expect("two parts");
                let _ = stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n{body}").as_bytes());
            }
        });
        let forget = |name: &str| forget_copy(&socket, name, "0123456789abcdef0123");
        assert_eq!(forget("old"), Some(Copy::Removed("redrill/old:0123456789abcdef".to_owned(), 4096)));
        assert!(matches!(forget("used"), Some(Copy::Stays(..))), "{:?}", forget("used"));
        assert_eq!(forget("never-imported"), None);
    }

    #[test]
    fn an_engine_that_is_away_is_asked_again_the_next_time() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(ENGINE), "/nonexistent/engine.sock").expect("noted");
        remove_all(dir.path()).expect_err("nobody answers");
        assert!(dir.path().join(ENGINE).exists(), "the note stays");
    }
}
