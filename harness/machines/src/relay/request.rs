//! A request to a proxy, read more strictly than servers do (RFC 9112 and 9110): what two readers could understand
//! differently is refused, since the server that gets it is not the one that judged it.

use std::fmt;

/// Longer than any line that apt or pip sends.
const LONGEST_LOGGED: usize = 300;
/// What concerns only one connection, or only the proxy: never passed on. `host` is written anew.
const DROPPED: [&str; 9] = [
    "connection",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    /// A tunnel, for TLS.
    Connect,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Connect => "CONNECT",
        })
    }
}

/// A request that can be understood in one way only. It has no body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// `host:port`, in small letters.
    pub(super) authority: String,
    /// Path and query; empty for CONNECT.
    path: String,
    /// Names in small letters, and values.
    headers: Vec<(String, String)>,
}

impl Request {
    /// From a head with its last, empty line. An error says why it is refused.
    pub(super) fn parse(head: &[u8]) -> Result<Self, &'static str> {
        let text = plain(head)?.strip_suffix("\r\n\r\n").ok_or("no end of the head")?;
        let mut lines = text.split("\r\n");
        let (method, target) = request_line(lines.next().unwrap_or_default())?;
        let (scheme_port, authority, path) = match method {
            Method::Connect => (443, target, ""),
            _ => {
                let rest = target.strip_prefix("http://").ok_or("no absolute http:// target")?;
                let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                (80, authority, path)
            }
        };
        // A tunnel's port is always said.
        let authority = with_port(authority, (method != Method::Connect).then_some(scheme_port))?;
        let path = match (method, path.chars().next()) {
            (Method::Connect, _) | (_, Some('/')) => path.to_owned(),
            (_, None | Some('?')) => format!("/{path}"),
            _ => return Err("a fragment in the target"),
        };
        let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
        let mut hosts = headers.iter().filter(|(name, _)| name == "host");
        if let Some((_, host)) = hosts.next()
            && !with_port(host, Some(scheme_port)).is_ok_and(|host| host == authority)
        {
            return Err("a foreign Host");
        }
        if hosts.next().is_some() {
            return Err("several Hosts");
        }
        if headers.iter().any(|(name, value)| name == "transfer-encoding" || name == "content-length" && value != "0") {
            return Err("a body");
        }
        Ok(Self { method, authority, path, headers })
    }

    pub(super) fn target(&self) -> String {
        format!("{} {}{}", self.method, self.authority, self.path)
    }

    /// The head for the server, or for another proxy: one request per connection, so that each is judged.
    pub(super) fn head(&self, to_a_proxy: bool) -> String {
        let target = match (to_a_proxy, self.method) {
            (_, Method::Connect) => self.authority.clone(),
            (true, _) => format!("http://{}{}", self.authority, self.path),
            (false, _) => self.path.clone(),
        };
        let host = match self.method {
            Method::Connect => &self.authority,
            _ => self.authority.strip_suffix(":80").unwrap_or(&self.authority),
        };
        let mut head = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n", self.method);
        for (name, value) in self.headers.iter().filter(|(name, _)| !DROPPED.contains(&name.as_str())) {
            head += &format!("{name}: {value}\r\n");
        }
        head + "Connection: close\r\n\r\n"
    }
}

/// ASCII that can be seen, blanks and tabs, and lines that end as they should.
fn plain(head: &[u8]) -> Result<&str, &'static str> {
    let mut before = 0;
    for (at, byte) in head.iter().copied().enumerate() {
        match byte {
            b'\n' if before == b'\r' => {}
            b'\r' if head.get(at + 1) == Some(&b'\n') => {}
            b'\n' | b'\r' => return Err("a line that ends otherwise than with CR LF"),
            b' '..=b'~' | b'\t' => {}
            _ => return Err("a character that is none of a request"),
        }
        before = byte;
    }
    std::str::from_utf8(head).map_err(|_| "a character that is none of a request")
}

fn request_line(line: &str) -> Result<(Method, &str), &'static str> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("no request line");
    };
    if !["HTTP/1.0", "HTTP/1.1"].contains(&version) {
        return Err("another version of HTTP");
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "CONNECT" => Method::Connect,
        _ => return Err("another method than GET, HEAD and CONNECT"),
    };
    Ok((method, target))
}

/// `host:port`, with the scheme's port where none is said.
fn with_port(authority: &str, default: Option<u16>) -> Result<String, &'static str> {
    if authority.contains('@') {
        return Err("a user in the target");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, number(port).ok_or("no port")?),
        _ => (authority, default.ok_or("no port")?),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    if !is_address && (host.is_empty() || !host.chars().all(plain)) {
        return Err("no host");
    }
    Ok(format!("{}:{port}", host.to_ascii_lowercase()))
}

/// As everybody writes it: no sign, no zero before it.
fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|number: &u16| number.to_string() == port)
}

fn header(line: &str) -> Result<(String, String), &'static str> {
    if line.starts_with([' ', '\t']) {
        return Err("a header on several lines");
    }
    let (name, value) = line.split_once(':').ok_or("a line that is no header")?;
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(of_a_name) {
        return Err("a header without a proper name");
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

/// What was asked, for people: the first line, and the hosts that were named.
pub(super) fn asked(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let first = lines.next().unwrap_or_default().to_owned();
    let hosts = lines.filter(|line| line.trim_start().to_ascii_lowercase().starts_with("host"));
    let all = hosts.fold(first, |all, host| format!("{all} | {host}"));
    let short: String = all.chars().take(LONGEST_LOGGED).collect();
    if short.len() < all.len() { format!("{short}...") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Request, &'static str> {
        Request::parse(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes())
    }

    #[test]
    fn requests_are_read_as_a_proxy_does() {
        let get = parse(&[
            "GET http://Mirror.test/debian/x HTTP/1.1",
            "Host: mirror.TEST",
            "Connection: keep-alive, X",
            "Range:  bytes=1- ",
            "Proxy-Authorization: Basic eA==",
        ]);
        let get = get.expect("a request");
        assert_eq!((get.authority.as_str(), get.path.as_str()), ("mirror.test:80", "/debian/x"));
        let head = "GET /debian/x HTTP/1.1\r\nHost: mirror.test\r\nrange: bytes=1-\r\nConnection: close\r\n\r\n";
        assert_eq!(get.head(false), head);
        assert!(get.head(true).starts_with("GET http://mirror.test:80/debian/x HTTP/1.1\r\nHost: mirror.test\r\n"));
        let connect = parse(&["CONNECT mirror.test:443 HTTP/1.1", "Host: mirror.test"]).expect("a request");
        assert_eq!(connect.authority, "mirror.test:443");
        assert!(connect.head(true).starts_with("CONNECT mirror.test:443 HTTP/1.1\r\nHost: mirror.test:443\r\n"));
        let bare = parse(&["HEAD http://mirror.test?a HTTP/1.0"]).expect("a request");
        assert_eq!(bare.head(false), "HEAD /?a HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n\r\n");
        let other = parse(&["GET http://mirror.test:8080/ HTTP/1.1", "Host: mirror.test:8080"]).expect("a request");
        assert!(other.head(false).contains("\r\nHost: mirror.test:8080\r\n"));
    }

    #[test]
    fn what_could_be_understood_in_two_ways_is_refused() {
        let get = "GET http://mirror.test/ HTTP/1.1";
        for (lines, because) in [
            (vec![get, "Host: 10.99.0.2"], "a foreign Host"),
            (vec![get, "Host: mirror.test:81"], "a foreign Host"),
            (vec![get, "Host:"], "a foreign Host"),
            (vec![get, "Host: mirror.test, 10.99.0.2"], "a foreign Host"),
            (vec![get, "Host: mirror.test", "host: mirror.test"], "several Hosts"),
            (vec![get, "Host: mirror.test", "Host: 10.99.0.2"], "several Hosts"),
            (vec![get, "Host: mirror.test", " 10.99.0.2"], "on several lines"),
            (vec![get, "Host : 10.99.0.2"], "without a proper name"),
            (vec![get, "10.99.0.2"], "no header"),
            (vec![get, "X: a\nHost: 10.99.0.2"], "otherwise than with CR LF"),
            (vec![get, "X: a\rHost: 10.99.0.2"], "otherwise than with CR LF"),
            (vec![get, "X: a\0"], "none of a request"),
            (vec![get, "X: \u{10a}"], "none of a request"),
            (vec![get, "Content-Length: 5"], "a body"),
            (vec![get, "Transfer-Encoding: chunked"], "a body"),
            (vec!["POST http://mirror.test/ HTTP/1.1"], "another method"),
            (vec!["get http://mirror.test/ HTTP/1.1"], "another method"),
            (vec!["GET /local HTTP/1.1", "Host: mirror.test"], "no absolute"),
            (vec!["GET https://mirror.test/ HTTP/1.1"], "no absolute"),
            (vec!["GET http://mirror.test:80@10.99.0.2/ HTTP/1.1"], "a user"),
            (vec!["GET http://mirror.test:x/ HTTP/1.1"], "no port"),
            (vec!["GET http://mirror.test:+80/ HTTP/1.1"], "no port"),
            (vec!["GET http://mirror.test:080/ HTTP/1.1"], "no port"),
            (vec!["GET http:///x HTTP/1.1"], "no host"),
            (vec!["GET http://mirror.test\\@10.99.0.2/ HTTP/1.1"], "a user"),
            (vec!["GET http://mirror.test%2f/ HTTP/1.1"], "no host"),
            (vec!["GET http://mirror.test#@10.99.0.2/ HTTP/1.1"], "a fragment"),
            (vec!["GET http://mirror.test/ x HTTP/1.1"], "no request line"),
            (vec!["GET http://mirror.test/\tx HTTP/1.1", "Host: x"], "a foreign Host"),
            (vec!["GET http://mirror.test/ HTTP/2.0"], "another version"),
            (vec!["CONNECT mirror.test HTTP/1.1"], "no port"),
            (vec!["CONNECT mirror.test:443 HTTP/1.1", "Host: 10.99.0.2:443"], "a foreign Host"),
            (vec!["CONNECT http://mirror.test:443/ HTTP/1.1"], "no port"),
            (vec![""], "no request line"),
        ] {
            let refused = parse(&lines).expect_err(lines[0]);
            assert!(refused.contains(because), "{lines:?}: {refused}");
        }
        assert!(Request::parse(b"GET http://mirror.test/ HTTP/1.1\n\n").is_err());
    }

    #[test]
    fn what_was_asked_is_told_with_the_hosts_and_not_at_any_length() {
        let head = b"GET http://a/ HTTP/1.1\r\nX: y\r\nHOST: b\r\n\r\n";
        assert_eq!(asked(head), "GET http://a/ HTTP/1.1 | HOST: b");
        assert!(asked(&[b'x'; 5000]).len() < 400);
    }
}
