//! restic's rest-server, in version 2 of its protocol: lists and files, by GET and HEAD. No other method is spoken here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_model::{Code, Rest};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::listing::{Attributes, Entry, Listing};
use crate::error_chain::chain;
use crate::problem::Problem;

/// Before a server counts as silent.
const CONNECT: Duration = Duration::from_secs(30);
/// Between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(60);
const VERSION_2: &str = "application/vnd.x.restic.rest.v2";
/// Everything that a repository has beside `config`.
const KINDS: [&str; 5] = ["keys", "snapshots", "index", "data", "locks"];

pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    login: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    size: u64,
}

impl Client {
    /// `login` is the text `USER:PASSWORD`, `ca` the certificates.
    pub(super) fn new(rest: &Rest, login: Option<&str>, ca: Option<&[u8]>) -> Result<Self, Problem> {
        // The second call finds a provider in place, and that is what it is for.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent("redrill")
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        let host = rest.url.split('/').nth(2).unwrap_or_default();
        if ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| host == *own || host.starts_with(&format!("{own}:"))) {
            // A proxy has another localhost.
            builder = builder.no_proxy();
        }
        let odd =
            |error: reqwest::Error| Problem::new(Code::NoAccess, format!("its `ca` cannot be used: {}", chain(&error)));
        if let Some(ca) = ca {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(ca).map_err(odd)?);
        }
        let login = match login.map(|login| login.trim().split_once(':')) {
            None => None,
            Some(Some((user, password))) => Some((user.to_owned(), password.to_owned())),
            Some(None) => return Err(Problem::new(Code::NoAccess, "the file of its `login` holds no `USER:PASSWORD`")),
        };
        Ok(Self { http: builder.build().map_err(odd)?, url: rest.url.clone(), login })
    }

    fn request(&self, method: Method, inner: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{inner}", self.url));
        // Packed on the way it would be other bytes, and no range of them.
        let request = request.header(ACCEPT_ENCODING, "identity").header(ACCEPT, VERSION_2);
        match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// What the repository holds, at the places where a directory of restic has it.
    pub(super) async fn list(&self) -> Result<Listing, Problem> {
        let mut listing = Listing::default();
        let config = granted(self.request(Method::HEAD, "config").send().await)?;
        if config.status() == StatusCode::NOT_FOUND {
            return Err(Problem::new(Code::NoRepository, "there is no repository at that URL"));
        }
        let size = well(&config, "config").map(|()| length(&config))?;
        let size = size.ok_or_else(|| odd("it does not say how large `config` is"))?;
        listing.entries.insert("config".into(), file(size));
        for kind in KINDS {
            let answer = granted(self.request(Method::GET, &format!("{kind}/")).send().await)?;
            if answer.status() == StatusCode::NOT_FOUND {
                continue;
            }
            well(&answer, kind)?;
            let version = answer.headers().get(CONTENT_TYPE).map(|value| value.as_bytes().to_owned());
            if version.as_deref() != Some(VERSION_2.as_bytes()) {
                return Err(odd("it does not speak version 2 of the protocol"));
            }
            let body = answer.bytes().await.map_err(|error| broke(&error))?;
            let named: Vec<Named> =
                serde_json::from_slice(&body).map_err(|error| odd(&format!("its list: {error}")))?;
            for Named { name, size } in named {
                // Names become paths on this host.
                if !is_digest(&name) {
                    return Err(odd(&format!("it lists `{}`, which is no name of restic's", name.escape_debug())));
                }
                listing.entries.insert(place(kind, &name), file(size));
            }
        }
        Ok(listing)
    }

    /// Appends a file from this offset on; where the server has no part of it to give, the file is begun anew.
    pub(super) async fn fetch(&self, path: &Path, from: u64, to: &mut tokio::fs::File) -> Result<u64, Problem> {
        let mut request = self.request(Method::GET, &address(path));
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let mut answer = granted(request.send().await)?;
        let part = answer.headers().get(CONTENT_RANGE).map(|range| range.as_bytes().to_owned()).unwrap_or_default();
        let local = |error: std::io::Error| super::no_copy(&error);
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if part.starts_with(format!("bytes {from}-").as_bytes()) => {}
            StatusCode::OK => to.set_len(0).await.map_err(local)?,
            _ => return Err(well(&answer, &address(path)).err().unwrap_or_else(|| odd("it gives another part"))),
        }
        let mut came = 0;
        let ended = loop {
            match answer.chunk().await {
                Ok(Some(piece)) => {
                    to.write_all(&piece).await.map_err(local)?;
                    came += piece.len() as u64;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(broke(&error)),
            }
        };
        // What came before a cut is gone on with the next time.
        to.flush().await.map_err(local)?;
        ended.map(|()| came)
    }
}

fn file(size: u64) -> Entry {
    Entry::File { size, attributes: Attributes::default() }
}

/// Whether a name is that of its content, as restic's are.
pub(super) fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Where a directory has what the server has: its `data` is flat.
fn place(kind: &str, name: &str) -> PathBuf {
    match kind {
        "data" => Path::new(kind).join(&name[..2]).join(name),
        _ => Path::new(kind).join(name),
    }
}

/// The reverse of [`place`].
fn address(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    match parts.as_slice() {
        [data, _, name] => format!("{data}/{name}"),
        _ => parts.join("/"),
    }
}

fn length(answer: &Response) -> Option<u64> {
    answer.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The answer, unless there is none or the login is refused.
fn granted(answer: Result<Response, reqwest::Error>) -> Result<Response, Problem> {
    let answer =
        answer.map_err(|error| Problem::new(Code::Unreachable, "its host does not answer").with(&chain(&error)))?;
    match answer.status() {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let text = format!("its server refuses the login ({status})");
            Err(Problem::new(Code::NoAccess, text))
        }
        _ => Ok(answer),
    }
}

fn well(answer: &Response, what: &str) -> Result<(), Problem> {
    match answer.status() {
        StatusCode::OK => Ok(()),
        status => Err(odd(&format!("it answers {status} when asked for `{what}`"))),
    }
}

fn odd(why: &str) -> Problem {
    Problem::new(Code::Unreachable, format!("its server cannot be read from: {why}"))
}

/// reqwest's texts hold the URL, in which there is no password.
fn broke(error: &reqwest::Error) -> Problem {
    super::broke(&chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_directory_are_those_of_the_server() {
        let name = "ab".repeat(32);
        for (kind, wanted) in [("data", format!("data/ab/{name}")), ("keys", format!("keys/{name}"))] {
            let path = place(kind, &name);
            assert_eq!(path, PathBuf::from(wanted));
            assert_eq!(address(&path), format!("{kind}/{name}"));
        }
        assert_eq!(address(Path::new("config")), "config");
    }

    #[test]
    fn only_digests_are_names() {
        assert!(is_digest(&"0f".repeat(32)));
        for odd in [String::new(), "../../etc/passwd".to_owned(), "0F".repeat(32), "0f".repeat(31)] {
            assert!(!is_digest(&odd), "{odd}");
        }
    }
}
