//! The server that goes by the names of ACME servers: it ends TLS, and hands each request on to Pebble, whose directory
//! has another path. One request for each connection, so that each is looked at.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::certificates::LOOPBACK;
use super::{Acme, Issued, SOCKET};
use crate::relay;

/// Where Pebble's directory is, which clients find all else by.
const DIRECTORY: &str = "/dir";
/// What the paths of directories end in elsewhere: Let's Encrypt's own, and those of most others.
const DIRECTORIES: &str = "/directory";
/// Where Pebble takes orders to their end. RFC 8555, section 7.4.
const FINALIZE: &str = "/finalize-order/";
/// A conversation that takes longer has died: no answer of Pebble's is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of an answer that is looked at: an order is a few hundred bytes.
const LARGEST_ORDER: usize = 256 * 1024;

/// Answers on [`SOCKET`] in `at` until the returned task is dropped. What comes is that of the machine in `dir`.
pub(crate) fn serve(at: &Path, dir: &Path, acme: &Acme) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = relay::listen(at, SOCKET)?;
    let (dir, acme) = (dir.to_owned(), acme.clone());
    Ok(tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (dir, acme) = (dir.clone(), acme.clone());
            // A broken connection is the client's to notice: it sees the end of the stream.
            tokio::spawn(async move { tokio::time::timeout(PATIENCE, converse(client, &dir, &acme)).await });
        }
    }))
}

/// One request, from the handshake to the end of its answer.
async fn converse(client: impl AsyncRead + AsyncWrite + Unpin, dir: &Path, acme: &Acme) -> io::Result<()> {
    let mut client = acme.means.front.accept(client).await?;
    let Some((head, rest)) = relay::read_head(&mut client).await? else { return Ok(()) };
    let Some(request) = AcmeRequest::parse(&head) else {
        return refuse(&mut client, "400 Bad Request", "this is no request").await;
    };
    let mut pebble = match reach(acme).await {
        Ok(pebble) => pebble,
        Err(error) => {
            let why = format!("the drill's ACME server does not answer: {error}");
            relay::log(&dir.join("network.log"), &format!("unanswered {}", request.target)).await?;
            return refuse(&mut client, "502 Bad Gateway", &why).await;
        }
    };
    relay::log(&dir.join("network.log"), &format!("stood-in {}", request.target)).await?;
    pebble.write_all(request.head.as_bytes()).await?;
    pebble.write_all(&rest).await?;
    pebble.flush().await?;
    let (answer, carried) = carry(&mut client, pebble).await;
    if request.finalizes
        && let Some(names) = order(&answer)
    {
        (acme.taken)(Issued { to: dir.to_owned(), at: Some(SystemTime::now()), names });
    }
    carried?;
    client.shutdown().await
}

async fn reach(acme: &Acme) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(acme.means.pebble).await?;
    acme.means.to_pebble.connect(ServerName::try_from(LOOPBACK).map_err(io::Error::other)?, stream).await
}

async fn refuse(client: &mut (impl AsyncWrite + Unpin), status: &str, why: &str) -> io::Result<()> {
    let body = format!("redrill: {why}\n");
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    client.write_all((head + &body).as_bytes()).await?;
    client.shutdown().await
}

/// Both ways, until the server has said all. Returns the beginning of that, and whether the client took all of it.
async fn carry(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: impl AsyncRead + AsyncWrite + Unpin,
) -> (Vec<u8>, io::Result<()>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        // Who has said all it will say still waits for the answer.
        std::future::pending().await
    };
    let down = async {
        let (mut kept, mut told, mut buffer) = (Vec::new(), Ok(()), vec![0; 16 * 1024]);
        // A server that hangs up without a farewell has said all too.
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if kept.len() < LARGEST_ORDER {
                kept.extend_from_slice(&buffer[..length]);
            }
            // What the server did it did, whether or not anybody listens.
            if told.is_ok() {
                told = to_client.write_all(&buffer[..length]).await;
            }
        }
        (kept, told)
    };
    tokio::select! {
        carried = down => carried,
        never = up => never,
    }
}

/// A request as Pebble wants it.
#[derive(Debug, PartialEq, Eq)]
struct AcmeRequest {
    head: String,
    /// Method, host and path as they were asked for.
    target: String,
    /// It ends an order.
    finalizes: bool,
}

impl AcmeRequest {
    /// Host and all else stay: what a client signs names the URL that it was told, and Pebble tells it by the host.
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let [method, target, version] = lines.next()?.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let (path, query) = target.find('?').map_or((target, ""), |at| target.split_at(at));
        let asked = if path.ends_with(DIRECTORIES) { DIRECTORY } else { path };
        let first = format!("{method} {asked}{query} {version}");
        let (mut kept, mut host) = (vec![first.as_str()], "");
        for line in lines {
            let (name, value) = line.split_once(':')?;
            match name.to_ascii_lowercase().as_str() {
                "connection" | "keep-alive" => continue,
                "host" => host = value.trim(),
                _ => {}
            }
            kept.push(line);
        }
        kept.push("Connection: close");
        Some(Self {
            head: format!("{}\r\n\r\n", kept.join("\r\n")),
            target: format!("{method} {host}{target}"),
            finalizes: method == "POST" && path.starts_with(FINALIZE),
        })
    }
}

/// An order, as far as it is told.
#[derive(Deserialize, Default)]
struct Order {
    #[serde(default)]
    identifiers: Vec<Identifier>,
}

#[derive(Deserialize)]
struct Identifier {
    value: String,
}

/// What an order is for that was taken to its end; `None` if it was not.
fn order(answer: &[u8]) -> Option<Vec<String>> {
    let mut rest = answer;
    loop {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, body) = rest.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        match head.split(' ').nth(1)? {
            // "Go on" comes before the answer.
            status if status.starts_with('1') => rest = body,
            "200" => {
                let chunked =
                    head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
                let body = if chunked { without_chunks(body) } else { body.to_vec() };
                let order: Order = serde_json::from_slice(&body).unwrap_or_default();
                return Some(order.identifiers.into_iter().map(|identifier| identifier.value).collect());
            }
            _ => return None,
        }
    }
}

/// RFC 9112, section 7.1. What is cut off ends where it was cut.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&body[..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        let from = end + 2;
        if size == 0 || body.len() < from + size + 2 {
            break;
        }
        whole.extend_from_slice(&body[from..from + size]);
        body = &body[from + size + 2..];
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpListener;

    use super::super::tests::{accepting, in_front_of, nobody_behind, trusting};
    use super::*;

    const NAME: &str = "acme-v02.api.letsencrypt.org";

    fn asked(first: &str) -> Option<String> {
        let request = AcmeRequest::parse(&format!("{first}\r\nHost: {NAME}\r\n\r\n"))?;
        Some(request.head.lines().next()?.to_owned())
    }

    #[test]
    fn only_the_directory_has_another_path() {
        for (first, wanted) in [
            ("GET /directory HTTP/1.1", "GET /dir HTTP/1.1"),
            ("HEAD /acme/directory?a=1 HTTP/1.1", "HEAD /dir?a=1 HTTP/1.1"),
            ("GET /dir HTTP/1.1", "GET /dir HTTP/1.1"),
            ("GET /directory/x HTTP/1.1", "GET /directory/x HTTP/1.1"),
            ("POST /my-account/directory-1 HTTP/1.1", "POST /my-account/directory-1 HTTP/1.1"),
            ("HEAD /nonce-plz HTTP/1.1", "HEAD /nonce-plz HTTP/1.1"),
        ] {
            assert_eq!(asked(first).as_deref(), Some(wanted));
        }
        for wrong in ["", "GET", "GET /directory", "GET / directory HTTP/1.1"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
        assert_eq!(AcmeRequest::parse("GET / HTTP/1.1\r\nno header\r\n\r\n"), None);
    }

    #[test]
    fn the_host_stays_and_the_connection_ends_with_the_answer() {
        let head = format!(
            "POST /finalize-order/x HTTP/1.1\r\nhost: {NAME}\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nA: b\r\n\r\n"
        );
        let request = AcmeRequest::parse(&head).expect("a request");
        let wanted = format!("POST /finalize-order/x HTTP/1.1\r\nhost: {NAME}\r\nA: b\r\nConnection: close\r\n\r\n");
        assert_eq!(request.head, wanted);
        assert_eq!(request.target, format!("POST {NAME}/finalize-order/x"));
        assert!(request.finalizes);
        let look = AcmeRequest::parse(&head.replace("POST", "GET")).expect("a request");
        assert!(!look.finalizes, "who looks at an order ends none");
    }

    #[test]
    fn an_order_tells_its_names_however_it_is_sent() {
        let json = r#"{"status":"processing","identifiers":[{"type":"dns","value":"a.test"},{"type":"dns","value":"b.test"}]}"#;
        let names = vec!["a.test".to_owned(), "b.test".to_owned()];
        let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
        assert_eq!(order(plain.as_bytes()), Some(names.clone()));
        let (one, two) = json.split_at(20);
        let chunks = format!("{:x}\r\n{one}\r\n{:X};x=y\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n{chunks}");
        assert_eq!(order(chunked.as_bytes()), Some(names.clone()));
        assert_eq!(order(format!("HTTP/1.1 100 Continue\r\n\r\n{plain}").as_bytes()), Some(names));
        // It was taken to its end all the same.
        assert_eq!(order(b"HTTP/1.1 200 OK\r\n\r\n{\"cut"), Some(Vec::new()));
        for none in ["HTTP/1.1 403 Forbidden\r\n\r\n{}", "HTTP/1.1 200 OK\r\n", ""] {
            assert_eq!(order(none.as_bytes()), None, "{none}");
        }
    }

    /// What a machine is answered, that asks for this under this name.
    async fn ask(acme: &Acme, name: &'static str, request: &str) -> io::Result<String> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (connector, acme) = (trusting(acme), acme.clone());
        let dir = tempfile::tempdir()?;
        let at = dir.path().to_owned();
        let served = tokio::spawn(async move { converse(theirs, &at, &acme).await });
        let mut client = connector.connect(ServerName::try_from(name).expect("a name"), ours).await?;
        client.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        served.await.expect("no panic")?;
        let log = std::fs::read_to_string(dir.path().join("network.log"))?;
        assert!(log.contains(request.split_whitespace().next().unwrap_or_default()), "{log}");
        Ok(answer)
    }

    #[tokio::test]
    async fn requests_reach_pebble_and_orders_that_end_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let caught: Arc<Mutex<Vec<Issued>>> = Arc::default();
        let taken = Arc::clone(&caught);
        let taken = Arc::new(move |issued| taken.lock().expect("no panic").push(issued));
        let address = listener.local_addr().expect("bound");
        let acme = in_front_of(address, vec![NAME.to_owned()], taken);
        let acceptor = accepting(&acme);
        let pebble = tokio::spawn(async move {
            let mut heads = Vec::new();
            for status in ["200 OK", "200 OK", "403 Forbidden"] {
                let (stream, _) = listener.accept().await.expect("a client");
                let mut stream = acceptor.accept(stream).await.expect("it trusts us");
                let (head, _) = relay::read_head(&mut stream).await.expect("read").expect("a request");
                heads.push(head);
                let body = r#"{"identifiers":[{"type":"dns","value":"web.test"}]}"#;
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.expect("answered");
                stream.shutdown().await.expect("ended");
            }
            heads
        });
        let finalize = format!("POST /finalize-order/1 HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 2\r\n\r\n{{}}");
        let directory = format!("GET /directory HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        assert!(ask(&acme, NAME, &directory).await.expect("answered").ends_with("}]}"));
        assert!(ask(&acme, NAME, &finalize).await.expect("answered").starts_with("HTTP/1.1 200"));
        assert!(ask(&acme, NAME, &finalize).await.expect("answered").starts_with("HTTP/1.1 403"));
        let heads = pebble.await.expect("no panic");
        assert!(heads[0].starts_with("GET /dir HTTP/1.1\r\n") && heads[0].contains(NAME), "{heads:?}");
        let caught = caught.lock().expect("no panic");
        assert_eq!((caught.len(), &caught[0].names), (1, &vec!["web.test".to_owned()]), "{caught:?}");
    }

    #[tokio::test]
    async fn a_pebble_that_is_gone_is_told_and_another_name_is_not_answered_for() {
        let acme = nobody_behind(vec![NAME.to_owned()]);
        let answer = ask(&acme, NAME, "GET /directory HTTP/1.1\r\n\r\n").await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("ACME server does not answer"), "{answer}");
        let error = ask(&acme, "acme.example.org", "GET / HTTP/1.1\r\n\r\n").await.expect_err("no such certificate");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}
