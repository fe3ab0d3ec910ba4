//! The only way out of a machine: a small HTTP proxy that leads to the package mirror of its image and nowhere else.
//!
//! Machines have no route (`restrict=on`). QEMU hands each connection to the proxy's address to `redrill relay SOCKET`,
//! which carries it to a unix socket in the run directory, where [`serve`] answers. Every request is logged.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

/// Larger than any request that apt makes.
const LONGEST_HEAD: usize = 64 * 1024;

/// Who may be asked for, and where requests are written down.
#[derive(Debug)]
pub(crate) struct Rules {
    /// `host:port` of the mirrors.
    pub(crate) allowed: BTreeSet<String>,
    /// The host's own HTTP proxy (`host:port`), if its apt uses one.
    pub(crate) upstream: Option<String>,
    /// One line per request: time, method, target, answer.
    pub(crate) log: PathBuf,
}

/// The socket `name` in `dir`. One that an earlier run left is replaced.
pub(crate) fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(dir.join(name));
    // A socket's path has at most 107 bytes, a run directory may have more: go by way of the open directory.
    let directory = File::open(dir)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Answers on the socket `name` in `dir` until the returned task is dropped.
pub(crate) fn serve(dir: &Path, name: &str, rules: Rules) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = listen(dir, name)?;
    let rules = Arc::new(rules);
    Ok(tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let rules = Arc::clone(&rules);
            // A broken connection is the client's to notice: it sees the end of the stream.
            tokio::spawn(async move { answer(client, &rules).await });
        }
    }))
}

async fn answer(mut client: UnixStream, rules: &Rules) -> io::Result<()> {
    let Some((head, rest)) = read_head(&mut client).await? else { return Ok(()) };
    let request = Request::parse(&head);
    let verdict = match &request {
        Some(request) if rules.allowed.contains(&request.authority) => "allowed",
        _ => "refused",
    };
    let target = request.as_ref().map_or_else(|| head.lines().next().unwrap_or_default().to_owned(), Request::target);
    log(&rules.log, &format!("{verdict} {target}")).await?;
    match request {
        Some(request) if verdict == "allowed" => forward(client, &request, &rest, rules).await,
        _ => {
            let body = format!("redrill: machines of a drill reach their package mirror only; refused: {target}\n");
            let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            client.write_all((head + &body).as_bytes()).await
        }
    }
}

async fn forward(mut client: UnixStream, request: &Request, rest: &[u8], rules: &Rules) -> io::Result<()> {
    let address = rules.upstream.as_ref().unwrap_or(&request.authority);
    let mut server = match TcpStream::connect(address).await {
        Ok(server) => server,
        Err(error) => {
            let body = format!("redrill: cannot reach {}: {error}\n", request.authority);
            let head =
                format!("HTTP/1.1 502 Bad Gateway\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            return client.write_all((head + &body).as_bytes()).await;
        }
    };
    if request.method == "CONNECT" && rules.upstream.is_none() {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        server.write_all(request.head(rules.upstream.is_some()).as_bytes()).await?;
    }
    server.write_all(rest).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

pub(crate) async fn log(path: &Path, line: &str) -> io::Result<()> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let mut file = tokio::fs::OpenOptions::new().append(true).create(true).open(path).await?;
    file.write_all(format!("{now} {line}\n").as_bytes()).await?;
    file.flush().await
}

/// The head of a request, and what came after it.
pub(crate) async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok(Some((String::from_utf8_lossy(&read).into_owned(), rest)));
        }
        match client.read(&mut buffer).await? {
            0 => return Ok(None),
            _ if read.len() > LONGEST_HEAD => return Ok(None),
            length => read.extend_from_slice(&buffer[..length]),
        }
    }
}

/// A request to a proxy: RFC 9112, section 3.2.2 and 3.2.3.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    /// `host:port`.
    authority: String,
    /// Path and query; empty for CONNECT.
    path: String,
    headers: Vec<String>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (authority, path) = if method == "CONNECT" {
            (target.to_owned(), String::new())
        } else {
            let rest = target.strip_prefix("http://")?;
            let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            (authority.to_owned(), path.to_owned())
        };
        // What names a user or leaves the port open to doubt is no mirror.
        let authority = match authority.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => authority,
            None if !authority.is_empty() => format!("{authority}:80"),
            _ => return None,
        };
        let dropped = ["connection:", "proxy-connection:", "keep-alive:"];
        let kept =
            |line: &&str| !line.is_empty() && !dropped.iter().any(|name| line.to_ascii_lowercase().starts_with(name));
        let headers = lines.filter(kept).map(str::to_owned).collect();
        Some(Self { method, authority: authority.to_ascii_lowercase(), path, headers })
    }

    fn target(&self) -> String {
        format!("{} {}{}", self.method, self.authority, self.path)
    }

    /// The head for the server: one request per connection, so that each is judged.
    fn head(&self, absolute: bool) -> String {
        let target = match (absolute, self.method.as_str()) {
            (_, "CONNECT") => self.authority.clone(),
            (true, _) => format!("http://{}{}", self.authority, self.path),
            (false, _) => self.path.clone(),
        };
        format!("{} {target} HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", self.method, self.headers.join("\r\n"))
    }
}

/// `redrill relay TARGET`: carries one connection, handed over as standard input and output, to a unix socket or to an
/// `ADDRESS:PORT` on loopback.
pub fn pump(target: &Path) -> io::Result<()> {
    match target.to_str().and_then(|text| text.parse::<SocketAddr>().ok()) {
        Some(address) if address.ip().is_loopback() => {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            carry(stream.try_clone()?, stream, |stream| stream.shutdown(Shutdown::Write))
        }
        Some(address) => Err(io::Error::other(format!("{address} is not on this machine"))),
        None => {
            let stream = StdUnixStream::connect(target)?;
            carry(stream.try_clone()?, stream, |stream| stream.shutdown(Shutdown::Write))
        }
    }
}

fn carry<S: io::Read + io::Write + Send + 'static>(
    mut reading: S,
    mut writing: S,
    shutdown: impl Fn(&S) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            if writing.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        let _ = shutdown(&writing);
    });
    let mut out = io::stdout();
    let mut buffer = [0; 64 * 1024];
    loop {
        match reading.read(&mut buffer)? {
            0 => return Ok(()),
            length => {
                out.write_all(&buffer[..length])?;
                out.flush()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn requests_are_read_as_a_proxy_does() {
        let get = Request::parse(
            "GET http://Mirror.test/debian/x HTTP/1.1\r\nHost: mirror.test\r\nConnection: keep-alive\r\n\r\n",
        );
        let get = get.expect("a request");
        assert_eq!((get.authority.as_str(), get.path.as_str()), ("mirror.test:80", "/debian/x"));
        assert_eq!(get.head(false), "GET /debian/x HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n\r\n");
        let connect = Request::parse("CONNECT mirror.test:443 HTTP/1.1\r\n\r\n").expect("a request");
        assert_eq!(connect.authority, "mirror.test:443");
        assert_eq!(Request::parse("GET /local HTTP/1.1\r\n\r\n"), None);
        assert_eq!(Request::parse("GET http://mirror.test:x/ HTTP/1.1\r\n\r\n"), None);
        assert_eq!(Request::parse(""), None);
    }

    async fn ask(dir: &Path, request: &str) -> String {
        let directory = File::open(dir).expect("there");
        let socket = format!("/proc/self/fd/{}/relay.sock", directory.as_raw_fd());
        let mut stream = UnixStream::connect(socket).await.expect("the relay listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn the_mirror_is_reached_and_nothing_else() {
        let mirror = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = mirror.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = mirror.accept().await {
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let line = String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{line}").as_bytes()).await;
            }
        });
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().join("a run directory of a longer path than a socket can have".repeat(3));
        std::fs::create_dir_all(&dir).expect("made");
        let log = dir.join("network.log");
        let rules = Rules { allowed: BTreeSet::from([address.clone()]), upstream: None, log: log.clone() };
        let task = serve(&dir, "relay.sock", rules).expect("serves");
        let allowed = ask(&dir, &format!("GET http://{address}/pool/a.deb HTTP/1.1\r\nHost: m\r\n\r\n")).await;
        assert!(allowed.ends_with("GET /pool/a.deb HTTP/1.1"), "{allowed}");
        let refused = ask(&dir, "GET http://192.0.2.1/ HTTP/1.1\r\n\r\n").await;
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("package mirror only"), "{refused}");
        assert!(ask(&dir, "CONNECT prod.test:443 HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 403"));
        task.abort();
        let log = std::fs::read_to_string(&log).expect("logged");
        let verdicts: Vec<&str> = log.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(verdicts, ["allowed", "refused", "refused"]);
    }
}
