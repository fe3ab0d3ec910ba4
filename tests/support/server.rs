//! A small HTTP server on loopback for one file, which does what bad connections and plain servers do.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Serves until the test ends.
pub struct FileServer {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    ranges: Arc<Mutex<Vec<String>>>,
}

/// How it serves.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// It knows nothing of ranges: every answer is the whole file.
    pub plain: bool,
    /// The first answers end after so many bytes of the file, without a word.
    pub cuts: Vec<u64>,
}

impl FileServer {
    /// Any path leads to `content`, but for `/missing`.
    pub fn start(content: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of loopback");
        let address = listener.local_addr().expect("it listens");
        let server = Self { address, sent: Arc::default(), ranges: Arc::default() };
        let (answers, ranges) = (Answers { content, sent: Arc::clone(&server.sent) }, Arc::clone(&server.ranges));
        std::thread::spawn(move || {
            let mut cuts = manner.cuts.into_iter();
            for stream in listener.incoming().flatten() {
                let Some((path, range)) = request(&stream) else { continue };
                ranges.lock().expect("no panic").push(range.clone());
                let range = if manner.plain { String::new() } else { range };
                // Whoever does not read to the end does so on purpose.
                let _ = match path.as_str() {
                    "/missing" => missing(stream),
                    _ => answers.send(stream, &range, cuts.next()),
                };
            }
        });
        server
    }

    /// Address of a file of this name.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// How many bytes of files went out.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// What each request asked for, empty for the whole file.
    pub fn ranges(&self) -> Vec<String> {
        self.ranges.lock().expect("no panic").clone()
    }
}

/// Path and range.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut range = String::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: ") {
            value.clone_into(&mut range);
        }
    }
    Some((path, range))
}

fn missing(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// What is sent, and how much of it was.
struct Answers {
    content: Vec<u8>,
    sent: Arc<AtomicU64>,
}

impl Answers {
    fn send(&self, mut stream: TcpStream, range: &str, cut: Option<u64>) -> std::io::Result<()> {
        let content = self.content.as_slice();
        let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
        let total = content.len();
        let (head, body) = match from {
            Some(from) if from >= total => {
                let head = format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{total}");
                (head, &content[..0])
            }
            Some(from) => {
                let head = format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1);
                (head, &content[from..])
            }
            None => ("200 OK".to_owned(), content),
        };
        let length = body.len();
        let going = cut.and_then(|cut| usize::try_from(cut).ok()).unwrap_or(length).min(length);
        write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
        for piece in body[..going].chunks(64 * 1024) {
            stream.write_all(piece)?;
            self.sent.fetch_add(u64::try_from(piece.len()).expect("small"), Ordering::SeqCst);
        }
        stream.flush()
    }
}
