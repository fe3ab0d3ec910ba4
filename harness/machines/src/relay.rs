//! The only way out of a machine: a small HTTP proxy that leads to the package mirror of its image and nowhere else.
//!
//! Machines have no route (`restrict=on`). QEMU hands each connection to the proxy's address to `redrill relay SOCKET`,
//! which carries it to a unix socket in the run directory, where [`serve`] answers. Every request is logged.
//!
//! One request is answered on a connection, and it is written anew for the server. What names another host than its
//! target does, has a body, or can be understood in two ways, is refused.

mod request;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use request::{Method, Request, asked};

/// Larger than any request that apt makes.
const LONGEST_HEAD: usize = 64 * 1024;
const END: &[u8] = b"\r\n\r\n";
/// How long what a client still sends is listened to, after the answer.
const LINGER: Duration = Duration::from_millis(500);
/// The first byte of TLS: RFC 8446, section 5.1.
const HANDSHAKE: u8 = 22;

/// Of machines.
pub(crate) const MIRROR_ONLY: &str = "machines of a drill reach their package mirror only";

/// Who may be asked for, and where requests are written down.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `host:port`, in small letters. A CONNECT to one of them must be for TLS; everything else is asked in the clear.
    pub allowed: BTreeSet<String>,
    /// The host's own HTTP proxy (`host:port`), if it goes through one.
    pub upstream: Option<String>,
    /// One line per request: time, verdict, method, target; control characters are escaped.
    pub log: PathBuf,
    /// What whoever is refused is told: who reaches what, such as `machines of a drill reach their package mirror only`.
    pub what: &'static str,
}

/// The socket `name` in `dir`. One that an earlier run left is replaced.
pub fn listen(dir: &Path, name: &str) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(dir.join(name));
    // A socket's path has at most 107 bytes, a run directory may have more: go by way of the open directory.
    let directory = File::open(dir)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Answers on the socket `name` in `dir` until the returned task is aborted or the runtime ends.
pub fn serve(dir: &Path, name: &str, rules: Rules) -> io::Result<tokio::task::JoinHandle<()>> {
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
    let (head, rest) = match read_strictly(&mut client).await? {
        RequestHead::Whole(head, rest) => (head, rest),
        RequestHead::None => return Ok(()),
        RequestHead::Wrong(head, why) => return refuse(client, &head, why, rules).await,
    };
    match Request::parse(&head) {
        Err(why) => refuse(client, &head, why, rules).await,
        Ok(request) if !rules.allowed.contains(&request.authority) => {
            refuse(client, &head, "nobody who may be asked", rules).await
        }
        Ok(request) => {
            log(&rules.log, &format!("allowed {}", request.target())).await?;
            forward(client, &request, &rest, rules).await
        }
    }
}

async fn refuse(mut client: UnixStream, head: &[u8], why: &str, rules: &Rules) -> io::Result<()> {
    let asked = asked(head);
    log(&rules.log, &format!("refused {asked} ({why})")).await?;
    say(&mut client, "403 Forbidden", &format!("redrill: {}; refused: {} ({why})", rules.what, escaped(&asked)))
        .await?;
    // Closed while something of the client's is unread, the answer would be lost on the way.
    client.shutdown().await?;
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut client, &mut tokio::io::sink())).await;
    Ok(())
}

async fn say(client: &mut UnixStream, status: &str, text: &str) -> io::Result<()> {
    let length = text.len() + 1;
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    client.write_all(format!("{head}{text}\n").as_bytes()).await
}

async fn forward(mut client: UnixStream, request: &Request, rest: &[u8], rules: &Rules) -> io::Result<()> {
    let address = rules.upstream.as_ref().unwrap_or(&request.authority);
    let mut server = match TcpStream::connect(address).await {
        Ok(server) => server,
        Err(error) => {
            let text = format!("redrill: cannot reach {}: {error}", request.authority);
            return say(&mut client, "502 Bad Gateway", &text).await;
        }
    };
    if request.method != Method::Connect {
        server.write_all(request.head(rules.upstream.is_some()).as_bytes()).await?;
        return one_answer(client, server, rest, rules).await;
    }
    if rules.upstream.is_some() {
        server.write_all(request.head(true).as_bytes()).await?;
        let Some((head, early)) = read_head(&mut server).await? else { return Ok(()) };
        client.write_all(head.as_bytes()).await?;
        client.write_all(&early).await?;
        if !head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
            return tokio::io::copy(&mut server, &mut client).await.map(drop);
        }
    } else {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    }
    let first = said_first(&mut client, rest).await?;
    match first.first() {
        None => Ok(()),
        Some(&HANDSHAKE) => {
            server.write_all(&first).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        // A tunnel is for TLS: who speaks anything else in it is not heard.
        Some(_) => {
            let line = format!("refused {} ({:?} is no TLS)", request.target(), asked(&first));
            log(&rules.log, &line).await
        }
    }
}

/// The answer to the one request that was judged. What else the client sends goes nowhere; it is told to ask again.
async fn one_answer(client: UnixStream, mut server: TcpStream, rest: &[u8], rules: &Rules) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let mut more = rest.to_vec();
    let answer = tokio::io::copy(&mut server, &mut to_client);
    let unheard = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let room = LONGEST_HEAD.saturating_sub(more.len());
            more.extend_from_slice(&buffer[..length.min(room)]);
        }
        std::future::pending::<()>().await;
    };
    let copied = tokio::select! {
        copied = answer => copied,
        () = unheard => Ok(0),
    };
    for asked in not_allowed(&more, rules) {
        log(&rules.log, &format!("refused {asked} (a second request on one connection)")).await?;
    }
    to_client.shutdown().await?;
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut from_client, &mut tokio::io::sink())).await;
    copied.map(drop)
}

/// Of requests that were sent without waiting, as apt does, those that would have been refused anyway.
fn not_allowed(mut more: &[u8], rules: &Rules) -> Vec<String> {
    let mut found = Vec::new();
    while !more.is_empty() {
        let end = more.windows(4).position(|window| window == END).map_or(more.len(), |at| at + END.len());
        let (head, rest) = more.split_at(end);
        if !Request::parse(head).is_ok_and(|request| rules.allowed.contains(&request.authority)) {
            found.push(asked(head));
        }
        more = rest;
    }
    found
}

/// What a client says first in a tunnel: what came with its request, or what comes then. Nothing if it says nothing.
async fn said_first(client: &mut UnixStream, rest: &[u8]) -> io::Result<Vec<u8>> {
    let mut first = rest.to_vec();
    if first.is_empty() {
        first.resize(16 * 1024, 0);
        let length = client.read(&mut first).await?;
        first.truncate(length);
    }
    Ok(first)
}

pub(crate) async fn log(path: &Path, line: &str) -> io::Result<()> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let mut file = tokio::fs::OpenOptions::new().append(true).create(true).open(path).await?;
    file.write_all(format!("{now} {}\n", escaped(line)).as_bytes()).await?;
    file.flush().await
}

/// Without what moves a terminal's cursor, or looks like another line.
fn escaped(line: &str) -> String {
    line.chars().fold(String::with_capacity(line.len()), |mut text, c| {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
        text
    })
}

/// What a client sent before its request.
enum RequestHead {
    /// The head, and what came after it.
    Whole(Vec<u8>, Vec<u8>),
    /// Nothing.
    None,
    /// Something that will be no head, and why.
    Wrong(Vec<u8>, &'static str),
}

/// Does not wait for the end of a head whose lines end otherwise: it might never come.
async fn read_strictly(client: &mut UnixStream) -> io::Result<RequestHead> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = read.windows(END.len()).position(|window| window == END) {
            let rest = read.split_off(end + END.len());
            return Ok(RequestHead::Whole(read, rest));
        }
        if read.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || read[at - 1] != b'\r')) {
            return Ok(RequestHead::Wrong(read, "a line that ends otherwise than with CR LF"));
        }
        match client.read(&mut buffer).await? {
            0 if read.is_empty() => return Ok(RequestHead::None),
            0 => return Ok(RequestHead::Wrong(read, "no end of the head")),
            _ if read.len() > LONGEST_HEAD => return Ok(RequestHead::Wrong(read, "a head without an end")),
            length => read.extend_from_slice(&buffer[..length]),
        }
    }
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

    async fn ask(dir: &Path, request: &[u8]) -> String {
        let directory = File::open(dir).expect("there");
        let socket = format!("/proc/self/fd/{}/relay.sock", directory.as_raw_fd());
        let mut stream = UnixStream::connect(socket).await.expect("the relay listens");
        stream.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        // One that is cut off has been answered before.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A server that answers a connection with all that it gets within a moment. It counts connections.
    async fn server(status: &'static str) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, count) = (listener.local_addr().expect("bound").to_string(), Arc::default());
        let counted: Arc<std::sync::atomic::AtomicUsize> = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    let mut buffer = [0; 4096];
                    let moment = Duration::from_millis(200);
                    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(moment, stream.read(&mut buffer)).await {
                        got.extend_from_slice(&buffer[..length]);
                    }
                    let _ = stream.write_all(&[status.as_bytes(), b"\r\n\r\n", &got].concat()).await;
                });
            }
        });
        (address, count)
    }

    struct RelayPlace {
        _dir: tempfile::TempDir,
        dir: PathBuf,
        task: tokio::task::JoinHandle<()>,
    }

    impl RelayPlace {
        fn new(allowed: &[&str], upstream: Option<&str>) -> Self {
            let place = tempfile::tempdir().expect("a directory");
            let dir = place.path().join("a run directory of a longer path than a socket can have".repeat(3));
            std::fs::create_dir_all(&dir).expect("made");
            let rules = Rules {
                allowed: allowed.iter().map(|&host| host.to_owned()).collect(),
                upstream: upstream.map(str::to_owned),
                log: dir.join("network.log"),
                what: "tests reach their server only",
            };
            let task = serve(&dir, "relay.sock", rules).expect("serves");
            Self { _dir: place, dir, task }
        }

        fn log(&self) -> Vec<String> {
            let log = std::fs::read_to_string(self.dir.join("network.log")).unwrap_or_default();
            log.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
        }
    }

    impl Drop for RelayPlace {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn the_mirror_is_reached_and_nothing_else() {
        let (address, _) = server("HTTP/1.1 200 OK").await;
        let place = RelayPlace::new(&[&address], None);
        let request = format!("GET http://{address}/pool/a.deb HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let allowed = ask(&place.dir, request.as_bytes()).await;
        assert!(allowed.contains("\r\n\r\nGET /pool/a.deb HTTP/1.1\r\n"), "{allowed}");
        let refused = ask(&place.dir, b"GET http://192.0.2.1/ HTTP/1.1\r\n\r\n").await;
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("tests reach their server only"), "{refused}");
        assert!(ask(&place.dir, b"CONNECT prod.test:443 HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 403"));
        let wanted = [
            format!("allowed GET {address}/pool/a.deb"),
            "refused GET http://192.0.2.1/ HTTP/1.1 (nobody who may be asked)".to_owned(),
            "refused CONNECT prod.test:443 HTTP/1.1 (nobody who may be asked)".to_owned(),
        ];
        assert_eq!(place.log(), wanted);
    }

    #[tokio::test]
    async fn nothing_of_a_request_that_names_another_host_reaches_the_server() {
        let (address, count) = server("HTTP/1.1 200 OK").await;
        let place = RelayPlace::new(&[&address], None);
        for (line, rest) in [
            (format!("GET http://{address}/ HTTP/1.1"), "Host: 10.99.0.2"),
            (format!("GET http://{address}/ HTTP/1.1"), "X: \x1b[2J\nHost: 10.99.0.2"),
            (format!("GET http://{address}@10.99.0.2/ HTTP/1.1"), "X: y"),
            (format!("GET http://{address}/ HTTP/1.1"), "Content-Length: 40"),
        ] {
            let answer = ask(&place.dir, format!("{line}\r\n{rest}\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{line} {rest}: {answer}");
        }
        // Without an end that a strict reader knows; and nothing at all.
        let answer =
            ask(&place.dir, format!("GET http://{address}/\x07 HTTP/1.1\nHost: 10.99.0.2\n\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 0);
        let log = place.log();
        assert_eq!(log.len(), 5, "{log:#?}");
        assert!(log.iter().all(|line| line.starts_with("refused GET http://")), "{log:#?}");
        assert!(log[0].contains("| Host: 10.99.0.2 (a foreign Host)") && log[4].contains("\\u{7}"), "{log:#?}");
        assert!(!log.join("").contains('\x1b') && !log.join("").contains('\x07'));
    }

    #[tokio::test]
    async fn a_second_request_on_a_connection_goes_nowhere() {
        let (address, count) = server("HTTP/1.1 200 OK").await;
        let place = RelayPlace::new(&[&address], None);
        let get = |host: &str, path: &str| format!("GET http://{host}/{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let three = [get(&address, "first"), get("10.99.0.2", "pipelined"), get(&address, "third")].concat();
        let answer = ask(&place.dir, three.as_bytes()).await;
        assert!(
            answer.contains("GET /first ") && !answer.contains("pipelined") && !answer.contains("third"),
            "{answer}"
        );
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
        let pipelined = "refused GET http://10.99.0.2/pipelined HTTP/1.1 | Host: 10.99.0.2 (a second request on one \
                         connection)";
        assert_eq!(place.log(), [format!("allowed GET {address}/first"), pipelined.to_owned()]);
    }

    #[tokio::test]
    async fn a_tunnel_carries_tls_and_nothing_else() {
        let (address, count) = server("hello").await;
        let place = RelayPlace::new(&[&address], None);
        let connect = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let answer = ask(&place.dir, &[connect.as_bytes(), b"\x16\x03\x01 client hello"].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200 Connection established\r\n\r\nhello"), "{answer}");
        assert!(answer.ends_with("client hello"), "{answer}");
        let answer = ask(&place.dir, &[connect.as_bytes(), b"SSH-2.0-x"].concat()).await;
        assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\n");
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 2);
        assert_eq!(place.log()[2], format!("refused CONNECT {address} (\"SSH-2.0-x\" is no TLS)"));
    }

    #[tokio::test]
    async fn another_proxy_on_the_way_is_asked_the_same() {
        let (proxy, _) = server("HTTP/1.1 200 OK").await;
        let place = RelayPlace::new(&["pypi.test:443", "mirror.test:80"], Some(&proxy));
        let request = b"GET http://mirror.test/x HTTP/1.1\r\nHost: mirror.test\r\n\r\n";
        let answer = ask(&place.dir, request).await;
        assert!(answer.contains("GET http://mirror.test:80/x HTTP/1.1\r\nHost: mirror.test\r\n"), "{answer}");
        let answer = ask(&place.dir, b"CONNECT pypi.test:443 HTTP/1.1\r\nHost: pypi.test:443\r\n\r\n\x16").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n\r\nCONNECT pypi.test:443 HTTP/1.1\r\n"), "{answer}");
        let (proxy, _) = server("HTTP/1.1 407 Who are you").await;
        let place = RelayPlace::new(&["pypi.test:443"], Some(&proxy));
        let answer = ask(&place.dir, b"CONNECT pypi.test:443 HTTP/1.1\r\n\r\n\x16").await;
        assert!(answer.starts_with("HTTP/1.1 407 Who are you"), "{answer}");
    }
}
