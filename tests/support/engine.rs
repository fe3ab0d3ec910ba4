//! A container engine that goes wrong when it is told to: a socket in front of the real one.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A request that is answered here, and not by the engine.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The method, and how the path goes on after the API's version, such as `POST /containers/`.
    pub starts: &'static str,
    /// How the path ends, such as `/start`; options are no part of it.
    pub ends: &'static str,
    /// Status of the answer.
    pub status: u16,
    /// What it says.
    pub message: &'static str,
}

#[derive(Default)]
struct State {
    dead: bool,
    refusal: Option<Refusal>,
    connections: Vec<UnixStream>,
}

/// The socket, for as long as this lives.
pub struct Engine {
    real: PathBuf,
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Engine {
    /// In front of the engine at `real`, with a socket in `dir`.
    pub fn before(real: PathBuf, dir: &Path) -> Self {
        let engine = Self { real, socket: dir.join("engine.sock"), state: Arc::default() };
        engine.listen();
        engine
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Answers requests like this from now on.
    pub fn refuse(&self, refusal: Refusal) {
        self.locked().refusal = Some(refusal);
    }

    /// As if it had been killed: its connections break, and nobody listens any more. What it had made stays.
    pub fn die(&self) {
        let mut state = self.locked();
        state.dead = true;
        let _ = std::fs::remove_file(&self.socket);
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// As if it had been started again.
    pub fn revive(&self) {
        self.locked().dead = false;
        self.listen();
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).expect("bound");
        let (real, state) = (self.real.clone(), Arc::clone(&self.state));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.lock().unwrap_or_else(PoisonError::into_inner).dead {
                    return;
                }
                let (real, state) = (real.clone(), Arc::clone(&state));
                // A connection that breaks is seen on both sides.
                std::thread::spawn(move || drop(serve(client, &real, &state)));
            }
        });
    }
}

/// One request: the engine is told to close the connection after it, so that each is seen.
fn serve(mut client: UnixStream, real: &Path, state: &Mutex<State>) -> io::Result<()> {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        read.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&read).into_owned();
    let mut server = UnixStream::connect(real)?;
    {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refusal) = state.refusal.as_ref().filter(|refusal| refusal.meets(&head)) {
            let body = format!("{{\"message\": \"{}\"}}", refusal.message);
            let (status, length) = (refusal.status, body.len());
            let head =
                format!("HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
            return client.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
        }
        state.connections.extend([client.try_clone()?, server.try_clone()?]);
    }
    let last = if head.to_ascii_lowercase().contains("\r\nupgrade:") { head } else { closing(&head) };
    server.write_all(last.as_bytes())?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut server, &mut client);
    client.shutdown(std::net::Shutdown::Both)
}

fn closing(head: &str) -> String {
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    lines.chain(["Connection: close"]).map(|line| format!("{line}\r\n")).collect::<String>() + "\r\n"
}

impl Refusal {
    fn meets(&self, head: &str) -> bool {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        // `/v1.47/containers/...`, or without the version.
        let version = path.get(1..).and_then(|rest| rest.split_once('/')).filter(|(first, _)| first.starts_with("v1."));
        let path = version.map_or(path.to_owned(), |(_, rest)| format!("/{rest}"));
        format!("{method} {path}").starts_with(self.starts) && path.ends_with(self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_with_and_without_the_version() {
        let refusal = Refusal { starts: "POST /containers/", ends: "/start", status: 500, message: "" };
        assert!(refusal.meets("POST /v1.47/containers/abc/start?x=1 HTTP/1.1\r\n\r\n"));
        assert!(refusal.meets("POST /containers/abc/start HTTP/1.1\r\n\r\n"));
        assert!(!refusal.meets("POST /containers/create?name=start HTTP/1.1\r\n\r\n"));
        assert!(!refusal.meets("GET /containers/abc/start HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn the_last_request_of_a_connection_says_so_once() {
        let head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(closing(head), "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    }
}
