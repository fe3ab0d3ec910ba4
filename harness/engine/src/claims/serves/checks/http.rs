//! Checks over HTTP: one request, made as a user's client would make it, on a connection that was made for it. The client
//! itself can make none: whatever host the URL names, an address included, nothing is sent to it.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use redrill_machines::{Deadline, Machine, MachineError};
use redrill_model::{From, HttpCheck};
use reqwest::header::HOST;
use reqwest::tls::TlsInfo;
use reqwest::{Certificate, Client, Response};
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinHandle;

use super::{Place, Seen};
use crate::error_chain::chain;

/// One request, before it counts as unanswered: an emulated machine takes seconds for a TLS handshake.
const ANSWER: Duration = Duration::from_secs(10);
/// A body larger than this is not looked at to the end.
const LARGEST_BODY: usize = 4 * 1024 * 1024;

pub(super) async fn attempt<M: Machine>(
    check: &HttpCheck,
    place: &Place<'_, M>,
    deadline: &Deadline,
) -> Result<Seen, MachineError> {
    let machine = place.machine;
    let address = match &check.from {
        From::Outside => machine.outside(check.port).ok_or_else(|| {
            MachineError::Monitor(format!("port {} of `{}` is not forwarded", check.port, machine.name()))
        })?,
        From::Inside => machine.inside(&check.host, check.port).await?,
        From::Neighbour(name) => {
            let (neighbour, address) = place.neighbour(name)?;
            neighbour.inside(&address, check.port).await?
        }
    };
    let wait = deadline.child("an answer over HTTP", ANSWER).left();
    let stream = match tokio::time::timeout(wait, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ok(Seen::Not(vec![format!("cannot connect: {error}")])),
        Err(_) => return Ok(Seen::Not(vec!["cannot connect: nobody answered".to_owned()])),
    };
    let what = || "cannot lead a request to a machine".to_owned();
    let way = HttpWay::to(stream).map_err(|source| MachineError::Io { what: what(), source })?;
    let client = match client(check, place, &way, wait) {
        Ok(client) => client,
        Err(error) => return Ok(Seen::Not(vec![chain(&*error)])),
    };
    let request = client.get(&check.url).header(HOST, host_header(check));
    Ok(match request.send().await {
        Ok(response) => judge(check, response).await,
        Err(error) => Seen::Not(vec![chain(&error)]),
    })
}

/// A unix socket that leads to one connection, once. A client that has it has no other way to go: neither to an address
/// in its URL, which would not be looked up, nor to a proxy of the host.
struct HttpWay {
    path: PathBuf,
    task: JoinHandle<()>,
    /// Keeps the path short: a socket's has at most 107 bytes.
    _open: File,
    _place: tempfile::TempDir,
}

impl HttpWay {
    fn to(mut stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let place = tempfile::tempdir()?;
        let open = File::open(place.path())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/http", open.as_raw_fd()));
        let listener = UnixListener::bind(&path)?;
        let task = tokio::spawn(async move {
            let Ok((mut client, _)) = listener.accept().await else { return };
            drop(listener);
            // A broken connection is the client's to notice.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
        });
        Ok(Self { path, task, _open: open, _place: place })
    }
}

impl Drop for HttpWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client<M>(
    check: &HttpCheck,
    place: &Place<'_, M>,
    way: &HttpWay,
    wait: Duration,
) -> Result<Client, Box<dyn Error + Send + Sync>> {
    // The second call finds a provider in place, and that is what it is for.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .unix_socket(way.path.as_path())
        .timeout(wait)
        .tls_info(true);
    builder = match (&check.ca, place.trusted) {
        (Some(ca), _) => {
            builder.tls_certs_only(Certificate::from_pem_bundle(&std::fs::read(place.directory.join(ca))?)?)
        }
        (None, Some(root)) => builder.tls_certs_merge(Certificate::from_pem_bundle(root.as_bytes())?),
        (None, None) => builder,
    };
    Ok(builder.build()?)
}

/// What a client at the real address would send.
fn host_header(check: &HttpCheck) -> String {
    let rest = check.url.split_once("://").map_or(check.url.as_str(), |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
}

async fn judge(check: &HttpCheck, response: Response) -> Seen {
    let mut complaints = Vec::new();
    let status = response.status().as_u16();
    if check.status.is_some_and(|wanted| wanted != status) {
        complaints.push(format!("status {status}, expected {}", check.status.unwrap_or_default()));
    }
    for (name, wanted) in &check.header {
        let value = response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        match value {
            Some(value) if value.contains(wanted) => {}
            Some(value) => complaints.push(format!("header {name} is `{value}`, which does not contain `{wanted}`")),
            None => complaints.push(format!("there is no header {name}")),
        }
    }
    if let Some(wanted) = check.valid_for {
        complaints.extend(expiry(response.extensions().get::<TlsInfo>(), wanted));
    }
    if check.contains.is_some() || !check.json.is_empty() {
        match body(response).await {
            Ok(body) => complaints.extend(judge_body(check, &body)),
            Err(error) => complaints.push(format!("the body could not be read: {}", chain(&error))),
        }
    }
    Seen::from_complaints(complaints)
}

async fn body(mut response: Response) -> Result<String, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LARGEST_BODY {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn judge_body(check: &HttpCheck, body: &str) -> Vec<String> {
    let short: String = body.chars().take(200).collect();
    let mut complaints = Vec::new();
    if let Some(wanted) = check.contains.as_ref().filter(|wanted| !body.contains(wanted.as_str())) {
        complaints.push(format!("the body does not contain `{wanted}`: `{short}`"));
    }
    if !check.json.is_empty() {
        match serde_json::from_str::<serde_json::Value>(body) {
            Err(error) => complaints.push(format!("the body is no JSON ({error}): `{short}`")),
            Ok(value) => {
                for (pointer, wanted) in &check.json {
                    match value.pointer(pointer) {
                        Some(found) if found == wanted => {}
                        Some(found) => complaints.push(format!("{pointer} is {found}, expected {wanted}")),
                        None => complaints.push(format!("there is no {pointer} in the body: `{short}`")),
                    }
                }
            }
        }
    }
    complaints
}

/// Whether the server's certificate ends too soon.
fn expiry(tls: Option<&TlsInfo>, wanted: Duration) -> Option<String> {
    let Some(der) = tls.and_then(TlsInfo::peer_certificate) else {
        return Some("the server showed no certificate".to_owned());
    };
    match x509_parser::parse_x509_certificate(der) {
        Err(error) => Some(format!("the certificate cannot be read: {error}")),
        Ok((_, certificate)) => {
            let left = certificate.validity().time_to_expiration().map(|left| left.whole_seconds().unsigned_abs());
            match left {
                Some(left) if left >= wanted.as_secs() => None,
                Some(left) => Some(format!("the certificate ends in {} days", left / 86400)),
                None => Some("the certificate is not valid now".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use redrill_machines::Fake;
    use redrill_model::CheckKind;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::tests::{at, deadline, machine, parse};
    use super::*;

    fn http(lines: &str) -> HttpCheck {
        match parse(&format!("[[check.http]]\n{lines}")).kind {
            CheckKind::Http(check) => check,
            other => panic!("no http check: {other:?}"),
        }
    }

    /// Serves one answer over and over; returns what the check made of it, and the request's head.
    async fn ask(check: &HttpCheck, answer: &'static str) -> (Seen, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let mut fake = Fake::default();
        fake.ports.insert(check.port, address);
        let machine = machine(fake).await;
        let seen = attempt(check, &at(&machine), &deadline()).await.expect("could be found out");
        (seen, server.await.expect("served"))
    }

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 26\r\n\r\n\
                          {\"status\": \"ok\", \"n\": [1]}\n";

    #[tokio::test]
    async fn every_assertion_is_held_against_the_answer() {
        let good = "url = 'http://web.test/x?y=1'\nstatus = 200\ncontains = 'ok'\n\
                    header = { content-type = 'application/json' }\njson = { '/status' = 'ok', '/n/0' = 1 }";
        let (seen, head) = ask(&http(good), ANSWER).await;
        assert_eq!(seen, Seen::Holds);
        assert!(
            head.starts_with("GET /x?y=1 HTTP/1.1") && head.to_ascii_lowercase().contains("host: web.test\r\n"),
            "{head}"
        );
        for (wrong, because) in [
            ("status = 204", "status 200, expected 204"),
            ("contains = 'absent'", "does not contain `absent`"),
            ("header = { x-none = 'a' }", "no header x-none"),
            ("header = { content-type = 'text/html' }", "does not contain `text/html`"),
            ("json = { '/status' = 'bad' }", "/status is \"ok\", expected \"bad\""),
            ("json = { '/none' = 1 }", "there is no /none"),
        ] {
            let (seen, _) = ask(&http(&format!("url = 'http://web.test/'\n{wrong}")), ANSWER).await;
            let Seen::Not(complaints) = seen else { panic!("{wrong} must not hold") };
            assert!(complaints.join("; ").contains(because), "{complaints:?}");
        }
    }

    #[tokio::test]
    async fn a_url_with_an_address_goes_to_the_machine_and_nothing_to_the_address() {
        let real = TcpListener::bind("127.0.0.2:0").await.expect("a port of an address that is real");
        let port = real.local_addr().expect("bound").port();
        for host in ["127.0.0.2", "2130706434", "0x7f000002", "127.2", "0177.0.0.2", "0x7f.2", "[::ffff:127.0.0.2]"] {
            let check = http(&format!("url = 'http://{host}:{port}/x'\nstatus = 200"));
            let (seen, head) = ask(&check, ANSWER).await;
            assert_eq!(seen, Seen::Holds, "{host}");
            let head = head.to_ascii_lowercase();
            assert!(head.starts_with("get /x ") && head.contains(&format!("host: {host}:{port}\r\n")), "{head}");
        }
        // A redirect to it is an answer.
        let check = http("url = 'http://web.test/'\nstatus = 302");
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:{port}/\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(ask(&check, answer.leak()).await.0, Seen::Holds);
        let nobody = tokio::time::timeout(Duration::from_millis(50), real.accept()).await;
        assert!(nobody.is_err(), "the real address was connected to");
    }

    #[tokio::test]
    async fn a_certificate_for_an_address_is_held_against_the_address_of_the_url() {
        let dir = std::env::temp_dir().join(format!("redrill-address-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        for (host, because) in [("192.0.2.7", ""), ("192.0.2.8", "not valid for name")] {
            let (address, root) = over_tls_for("192.0.2.7", 4000).await;
            std::fs::write(dir.join("ca.pem"), root).expect("written");
            let check = http(&format!("url = 'https://{host}/'\nstatus = 200\nca = 'ca.pem'"));
            let mut fake = Fake::default();
            fake.ports.insert(443, address);
            let machine = machine(fake).await;
            let place = Place { directory: &dir, ..at(&machine) };
            match attempt(&check, &place, &deadline()).await.expect("could be found out") {
                Seen::Holds => assert_eq!(because, ""),
                Seen::Not(told) => assert!(!because.is_empty() && told.join("; ").contains(because), "{told:?}"),
            }
        }
        std::fs::remove_dir_all(dir).expect("cleaned up");
    }

    #[tokio::test]
    async fn redirects_are_answers_and_are_not_followed() {
        let check = http("url = 'http://web.test:8080/'\nstatus = 301\nheader = { location = 'https://web.test/' }");
        let answer = "HTTP/1.1 301 Moved\r\nLocation: https://web.test/\r\nContent-Length: 0\r\n\r\n";
        let (seen, head) = ask(&check, answer).await;
        assert_eq!(seen, Seen::Holds);
        assert!(head.to_ascii_lowercase().contains("host: web.test:8080\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_machine_that_does_not_answer_is_red_and_no_error() {
        let check = http("url = 'http://web.test/'\nstatus = 200");
        let mut fake = Fake::default();
        fake.ports.insert(80, ([127, 0, 0, 1], 1).into());
        let seen = attempt(&check, &at(&machine(fake).await), &deadline()).await.expect("found out");
        let Seen::Not(complaints) = seen else { panic!("must not hold") };
        assert!(complaints[0].contains("refused"), "the cause is told: {complaints:?}");
    }

    /// A server for `web.test` that answers once over TLS, until then, and the root of its authority as PEM.
    async fn over_tls(until: i32) -> (std::net::SocketAddr, String) {
        over_tls_for("web.test", until).await
    }

    async fn over_tls_for(name: &str, until: i32) -> (std::net::SocketAddr, String) {
        let (mut authority, authority_key) = (CertificateParams::default(), KeyPair::generate().expect("a key"));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let root = authority.self_signed(&authority_key).expect("signed").pem();
        let mut server = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        server.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key)).expect("signed");
        let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("they fit");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            // A client that does not trust it hangs up.
            let Ok(mut stream) = TlsAcceptor::from(std::sync::Arc::new(config)).accept(stream).await else { return };
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(ANSWER.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
        (address, root)
    }

    #[tokio::test]
    async fn a_certificate_holds_for_its_name_and_time_and_by_the_authority_of_the_check_alone() {
        const CHECK: &str = "url = 'https://web.test/'\nstatus = 200\n";
        const BY_CA: &str = "url = 'https://web.test/'\nstatus = 200\nca = 'ca.pem'\nvalid-for = '30d'";
        let dir = std::env::temp_dir().join(format!("redrill-https-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let (_, stranger) = over_tls(4000).await;
        for (lines, until, ca, trusted, because) in [
            (BY_CA, 4000, None, None, ""),
            (CHECK, 4000, None, None, "invalid peer certificate"),
            (CHECK, 4000, None, Some(None), ""),
            // The check's own authority goes before the drill's.
            (BY_CA, 4000, Some(stranger.as_str()), Some(None), "invalid peer certificate"),
            (CHECK, 4000, None, Some(Some(stranger.as_str())), "invalid peer certificate"),
            (BY_CA, 2020, None, None, "certificate expired"),
            (BY_CA, 4000, Some("no certificate"), None, "certificate"),
            (&BY_CA.replace("web.test", "other.test"), 4000, None, None, "not valid for name"),
            (&BY_CA.replace("30d", "36000d"), 2100, None, None, "the certificate ends in"),
        ] {
            let (address, root) = over_tls(until).await;
            std::fs::write(dir.join("ca.pem"), ca.unwrap_or(&root)).expect("written");
            let mut fake = Fake::default();
            let check = http(lines);
            fake.ports.insert(check.port, address);
            let machine = machine(fake).await;
            let trusted = trusted.map(|root_of: Option<&str>| root_of.unwrap_or(&root));
            let place = Place { directory: &dir, trusted, ..at(&machine) };
            match attempt(&check, &place, &deadline()).await.expect("could be found out") {
                Seen::Holds => assert_eq!(because, "", "{lines}"),
                Seen::Not(told) => {
                    let told = told.join("; ");
                    assert!(!because.is_empty() && told.contains(because), "{lines}: {told}");
                }
            }
        }
        std::fs::remove_dir_all(dir).expect("cleaned up");
    }
}
