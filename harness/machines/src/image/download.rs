//! Brings a published file into a partial file, goes on where an earlier try was cut, and verifies what came.
//!
//! The caller holds the lock of the file, and gives it its good name once it is verified.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_model::{Algorithm, Checksum};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use ring::digest;
use thiserror::Error;
use tokio::io::AsyncWriteExt;

use crate::host;
use crate::progress::Progress;

/// Before a server counts as silent.
const CONNECT: Duration = Duration::from_secs(30);
/// Between two pieces of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// Before a cut download is asked for again.
const AGAIN: Duration = Duration::from_millis(500);
const MIB: u64 = 1024 * 1024;

/// Why a published image could not be had.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The server says no.
    #[error("`{url}`: the server answers {status}")]
    Refused {
        /// Asked for.
        url: String,
        /// Its status line.
        status: String,
    },
    /// No answer, or none that makes sense.
    #[error("cannot download `{url}`")]
    Unreachable {
        /// Asked for.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke and another one brought nothing more.
    #[error("the download of `{url}` was cut after {got} bytes; what came is kept, the next try goes on from there")]
    Cut {
        /// Asked for.
        url: String,
        /// How much there is.
        got: u64,
        /// Why, if the connection told.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// It is not what the recipe names.
    #[error("`{url}` is not what image.toml names: expected {expected}, found {found}; nothing of it was kept")]
    Checksum {
        /// Where it came from.
        url: String,
        /// What image.toml says.
        expected: Checksum,
        /// What came.
        found: String,
    },
    /// No disk that we can boot.
    #[error("`{url}` is no disk image that can be used: {why}")]
    Kind {
        /// Where it came from.
        url: String,
        /// What it is instead.
        why: String,
    },
    /// No space.
    #[error(transparent)]
    Shortage(#[from] host::Shortage),
    /// The host's files.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> FetchError {
    let what = what.into();
    move |source| FetchError::Io { what, source }
}

/// Fills `partial` with the whole file at `url`. What an earlier try left in it is gone on from, where the server can.
pub(super) async fn fetch(url: &str, partial: &Path, progress: &Progress) -> Result<(), FetchError> {
    if let Some(path) = url.strip_prefix("file://") {
        progress(&format!("copying {path}"));
        let copied = tokio::fs::copy(path, partial).await;
        return copied.map(drop).map_err(failed(format!("cannot copy `{path}`")));
    }
    let mut download = Download { client: client(url)?, url, partial, progress };
    let mut furthest = None;
    loop {
        let cut = match download.attempt().await? {
            Transfer::Whole => return Ok(()),
            Transfer::Cut(source) => source,
        };
        let got = download.length();
        // Another try is worth it for as long as each gets further.
        if furthest.is_some_and(|furthest| got <= furthest) {
            return Err(FetchError::Cut { url: url.to_owned(), got, source: cut });
        }
        furthest = Some(got);
        progress(&format!("the connection broke after {} MiB: asking for the rest", got / MIB));
        tokio::time::sleep(AGAIN).await;
    }
}

fn client(url: &str) -> Result<Client, FetchError> {
    // The second call finds a provider in place, and that is what it is for.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder().user_agent("redrill").connect_timeout(CONNECT).read_timeout(SILENCE);
    let host = url.split('/').nth(2).unwrap_or_default();
    if ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| host == *own || host.starts_with(&format!("{own}:"))) {
        // A proxy has another localhost.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|source| FetchError::Unreachable { url: url.to_owned(), source })
}

struct Download<'a> {
    client: Client,
    url: &'a str,
    partial: &'a Path,
    progress: &'a Progress,
}

enum Transfer {
    Whole,
    Cut(Option<reqwest::Error>),
}

impl Download<'_> {
    fn length(&self) -> u64 {
        std::fs::metadata(self.partial).map_or(0, |file| file.len())
    }

    async fn attempt(&mut self) -> Result<Transfer, FetchError> {
        let have = self.length();
        let response = match self.ask(have).await {
            Ok(response) => response,
            Err(source) if have == 0 => return Err(FetchError::Unreachable { url: self.url.to_owned(), source }),
            Err(source) => return Ok(Transfer::Cut(Some(source))),
        };
        let (from, total) = match (response.status(), range(&response)) {
            (StatusCode::OK, _) => (0, response.content_length()),
            (StatusCode::PARTIAL_CONTENT, Some((Some(from), total))) if from == have => (have, total),
            // Nothing comes after what we have: it is whole already, or of something else.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some((None, Some(total)))) if total == have => {
                return Ok(Transfer::Whole);
            }
            // What we have is of no use to this server. The next try asks for all.
            (StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) if have > 0 => {
                self.open(0).await?;
                return Box::pin(self.attempt()).await;
            }
            (status, _) => return Err(FetchError::Refused { url: self.url.to_owned(), status: status.to_string() }),
        };
        if have > 0 {
            let how = if from > 0 { "going on after" } else { "the server cannot go on, beginning anew; there were" };
            (self.progress)(&format!("{how} {} MiB", have / MIB));
        }
        self.take(response, from, total).await
    }

    async fn ask(&self, have: u64) -> Result<Response, reqwest::Error> {
        // Packed on the way it would be other bytes, and no range of them.
        let mut request = self.client.get(self.url).header(ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        request.send().await
    }

    /// The partial file, cut to `length` and ready for what follows.
    async fn open(&self, length: u64) -> Result<tokio::fs::File, FetchError> {
        let what = || failed(format!("cannot write `{}`", self.partial.display()));
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.create(true).write(true).truncate(false).open(self.partial).await.map_err(what())?;
        file.set_len(length).await.map_err(what())?;
        drop(file);
        tokio::fs::OpenOptions::new().append(true).open(self.partial).await.map_err(what())
    }

    async fn take(&self, mut response: Response, from: u64, total: Option<u64>) -> Result<Transfer, FetchError> {
        let wanted = total.unwrap_or_default().saturating_sub(from) / MIB;
        host::check_disk(self.partial.parent().unwrap_or(Path::new("/")), wanted)?;
        let what = || failed(format!("cannot write `{}`", self.partial.display()));
        let (mut file, mut got, mut told) = (self.open(from).await?, from, None);
        let ended = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    file.write_all(&piece).await.map_err(what())?;
                    got += u64::try_from(piece.len()).expect("a piece of a file");
                    let step = step(got, total);
                    if told != Some(step) {
                        told = Some(step);
                        (self.progress)(&done(got, total));
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        file.flush().await.map_err(what())?;
        // A server that does not say how much there is says with a proper end that this was all.
        let whole = ended.is_none() && total.is_none_or(|total| got == total);
        Ok(if whole { Transfer::Whole } else { Transfer::Cut(ended) })
    }
}

/// `bytes FROM-TO/TOTAL`, or `bytes */TOTAL`.
fn range(response: &Response) -> Option<(Option<u64>, Option<u64>)> {
    parse_range(response.headers().get(CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let from = if range == "*" { None } else { Some(range.split_once('-')?.0.parse().ok()?) };
    Some((from, total.parse().ok()))
}

/// Changes when there is something to tell: each twentieth, or each 32 MiB of who knows how much.
fn step(got: u64, total: Option<u64>) -> u64 {
    match total {
        Some(total) if total > 0 => got.saturating_mul(20) / total,
        _ => got / (32 * MIB),
    }
}

fn done(got: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("downloaded {} of {} MiB", got / MIB, total.div_ceil(MIB)),
        None => format!("downloaded {} MiB", got / MIB),
    }
}

/// Removes `partial` unless it is what `expected` says. It is read from the disk, where it will be used from.
pub(super) async fn verify(url: &str, partial: &Path, expected: &Checksum) -> Result<(), FetchError> {
    let (path, algorithm) = (partial.to_owned(), expected.algorithm);
    let found = tokio::task::spawn_blocking(move || checksum(&path, algorithm)).await;
    let found = found.map_err(io::Error::other).and_then(|found| found).map_err(failed("cannot read what came"))?;
    if found == expected.hex {
        return Ok(());
    }
    std::fs::remove_file(partial).map_err(failed("cannot remove what is not the image"))?;
    Err(FetchError::Checksum { url: url.to_owned(), expected: expected.clone(), found })
}

fn checksum(path: &PathBuf, algorithm: Algorithm) -> io::Result<String> {
    let mut context = digest::Context::new(match algorithm {
        Algorithm::Sha256 => &digest::SHA256,
        Algorithm::Sha512 => &digest::SHA512,
    });
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => context.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use redrill_tests::{FileServer, Manner};

    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(parse_range("bytes */10"), Some((None, Some(10))));
        assert_eq!(parse_range("lines 1-2/3"), None);
    }

    struct Fetching {
        place: tempfile::TempDir,
        told: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
    }

    impl Fetching {
        fn new() -> Self {
            Self { place: tempfile::tempdir().expect("a directory"), told: std::sync::Arc::default() }
        }

        fn partial(&self) -> PathBuf {
            self.place.path().join("partial")
        }

        async fn from(&self, url: &str) -> Result<Vec<u8>, FetchError> {
            let told = std::sync::Arc::clone(&self.told);
            let progress: Progress =
                std::sync::Arc::new(move |text: &str| told.lock().expect("no panic").push(text.to_owned()));
            fetch(url, &self.partial(), &progress).await?;
            Ok(std::fs::read(self.partial()).expect("there"))
        }

        fn told(&self) -> String {
            self.told.lock().expect("no panic").join("\n")
        }
    }

    const LENGTH: u64 = 300_000;

    fn content() -> Vec<u8> {
        (0..LENGTH).map(|number| u8::try_from(number % 251).expect("small")).collect()
    }

    fn cut_after(cuts: &[u64]) -> Manner {
        Manner { cuts: cuts.to_vec(), ..Manner::default() }
    }

    #[tokio::test]
    async fn a_download_that_is_cut_goes_on_where_it_was_and_each_byte_comes_once() {
        let (server, fetched) = (FileServer::start(content(), cut_after(&[100_000, 50_000])), Fetching::new());
        assert!(fetched.from(&server.url("i")).await.expect("fetched") == content());
        assert_eq!(server.sent(), LENGTH);
        assert_eq!(server.ranges(), ["", "bytes=100000-", "bytes=150000-"]);
        let told = fetched.told();
        assert!(told.contains("the connection broke") && told.contains("going on after"), "{told}");
    }

    #[tokio::test]
    async fn what_an_earlier_process_left_is_gone_on_from() {
        let (server, fetched) = (FileServer::start(content(), Manner::default()), Fetching::new());
        std::fs::write(fetched.partial(), &content()[..200_000]).expect("written");
        assert!(fetched.from(&server.url("i")).await.expect("fetched") == content());
        assert_eq!(server.sent(), LENGTH - 200_000);
        assert!(fetched.from(&server.url("i")).await.expect("whole already") == content());
        assert_eq!(server.sent(), LENGTH - 200_000, "nothing more was sent");
    }

    #[tokio::test]
    async fn a_server_without_ranges_is_asked_for_all() {
        let manner = Manner { plain: true, cuts: vec![100_000] };
        let (server, fetched) = (FileServer::start(content(), manner), Fetching::new());
        assert!(fetched.from(&server.url("i")).await.expect("fetched") == content(), "no byte twice in it");
        assert_eq!(server.sent(), 100_000 + LENGTH);
        assert!(fetched.told().contains("the server cannot go on"), "{}", fetched.told());
    }

    #[tokio::test]
    async fn a_partial_file_of_something_larger_is_begun_anew() {
        let (server, fetched) = (FileServer::start(content(), Manner::default()), Fetching::new());
        std::fs::write(fetched.partial(), vec![1; 400_000]).expect("written");
        assert!(fetched.from(&server.url("i")).await.expect("fetched") == content());
        assert_eq!(server.ranges(), ["bytes=400000-", ""]);
    }

    #[tokio::test]
    async fn a_server_that_gets_no_further_is_given_up_and_what_came_is_kept() {
        let (server, fetched) = (FileServer::start(content(), cut_after(&[100_000, 0, 0])), Fetching::new());
        let error = fetched.from(&server.url("i")).await.expect_err("cut");
        assert!(matches!(error, FetchError::Cut { got: 100_000, .. }), "{error:?}");
        assert_eq!(fetched.partial().metadata().expect("kept").len(), 100_000);
        let error = fetched.from(&server.url("missing")).await.expect_err("not there");
        assert!(matches!(&error, FetchError::Refused { status, .. } if status.contains("404")), "{error:?}");
        assert_eq!(fetched.partial().metadata().expect("kept").len(), 100_000);
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_the_address() {
        let error = Fetching::new().from("http://127.0.0.1:1/i").await.expect_err("nobody listens");
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "abc").expect("written");
        let sum = |algorithm| checksum(&file.path().to_owned(), algorithm).expect("read");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum(Algorithm::Sha256), sha256, "FIPS 180-2, appendix B.1");
        assert!(sum(Algorithm::Sha512).starts_with("ddaf35a193617abacc417349ae204131"), "FIPS 180-2, appendix C.1");
    }
}
