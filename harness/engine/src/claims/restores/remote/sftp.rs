//! SFTP, version 3, over the host's own `ssh`: only what reads. There is no code here for a request that writes.
//!
//! Requests are numbered, and many wait at once: a repository has thousands of small files, and its host may be far.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::listing::{Attributes, Entry, Listing};

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const STAT: u8 = 17;
const READLINK: u8 = 19;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

const END_OF_FILE: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
/// `SSH_FXF_READ`: the only way in which a file is ever opened.
const TO_READ: u32 = 1;

/// What every server gives in one answer.
const PIECE: u64 = 32 * 1024;
/// Pieces of one file that are asked for at once.
const AHEAD: usize = 32;
/// Directories that are listed at once.
const ABREAST: usize = 16;
/// OpenSSH answers with 256 KiB at most. What is longer is no answer: a shell that greets, say.
const LONGEST: u32 = 1024 * 1024;

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SftpError {
    /// The connection ended, or was never there.
    #[error("the connection ended")]
    Ended,
    /// What came is no SFTP.
    #[error("{0}")]
    Odd(String),
    /// There is no such file.
    #[error("there is no `{}`", .0.display())]
    Missing(PathBuf),
    /// The host refuses.
    #[error("`{}`: {said}", path.display())]
    Refused { path: PathBuf, denied: bool, said: String },
    /// This host's files.
    #[error("cannot write: {0}")]
    Local(String),
}

type Answer = (u8, Vec<u8>);

/// A connection. Clones share it.
#[derive(Clone)]
pub(super) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    writer: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU32,
}

#[derive(Default)]
struct Waiting {
    by_number: HashMap<u32, oneshot::Sender<Answer>>,
    /// Nobody will answer any more, and why.
    over: Option<SftpError>,
}

impl Client {
    /// Greets, and reads answers until the connection ends.
    pub(super) async fn greet(
        mut reader: impl AsyncRead + Send + Unpin + 'static,
        mut writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, SftpError> {
        let hello = [&5_u32.to_be_bytes()[..], &[INIT], &3_u32.to_be_bytes()].concat();
        writer.write_all(&hello).await.map_err(|_| SftpError::Ended)?;
        writer.flush().await.map_err(|_| SftpError::Ended)?;
        let (kind, _) = packet(&mut reader).await?;
        if kind != VERSION {
            return Err(SftpError::Odd(format!("the host answers the greeting with a packet of type {kind}")));
        }
        let waiting = Arc::<Mutex<Waiting>>::default();
        let answered = Arc::clone(&waiting);
        tokio::spawn(async move {
            let why = loop {
                match packet(&mut reader).await.and_then(numbered) {
                    Err(why) => break why,
                    Ok((number, answer)) => {
                        let asked = answered.lock().expect("no panic while it is held").by_number.remove(&number);
                        // Whoever asked may have gone.
                        let _ = asked.map(|asked| asked.send(answer));
                    }
                }
            };
            let mut waiting = answered.lock().expect("no panic while it is held");
            waiting.over = Some(why);
            waiting.by_number.clear();
        });
        let shared = Shared { writer: tokio::sync::Mutex::new(Box::new(writer)), waiting, next: AtomicU32::new(1) };
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn ask(&self, kind: u8, body: &[u8]) -> Result<Answer, SftpError> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting.lock().expect("no panic while it is held");
            if let Some(why) = &waiting.over {
                return Err(why.clone());
            }
            waiting.by_number.insert(number, sender);
        }
        let length = u32::try_from(body.len() + 5).map_err(|_| SftpError::Odd("a name is too long".to_owned()))?;
        let packet = [&length.to_be_bytes()[..], &[kind], &number.to_be_bytes(), body].concat();
        {
            let mut writer = self.shared.writer.lock().await;
            writer.write_all(&packet).await.map_err(|_| SftpError::Ended)?;
            writer.flush().await.map_err(|_| SftpError::Ended)?;
        }
        let why = || self.shared.waiting.lock().expect("no panic while it is held").over.clone();
        answer.await.map_err(|_| why().unwrap_or(SftpError::Ended))
    }

    /// Everything below `root`, and the directory that the listing's paths begin at. A `root` that is a file is listed
    /// under its own name.
    pub(super) async fn list(&self, root: &Path) -> Result<(PathBuf, Listing), SftpError> {
        let mut listing = Listing::default();
        let found = self.ask(STAT, &string(root.as_os_str().as_bytes())).await?;
        let found = Fields(&expect(found, ATTRS, root)?).attributes()?;
        if !found.is(DIRECTORY) {
            let name = root.file_name().map(PathBuf::from).unwrap_or_default();
            listing.entries.insert(name, found.file());
            return Ok((root.parent().unwrap_or(Path::new("")).to_owned(), listing));
        }
        let mut level = vec![PathBuf::new()];
        while !level.is_empty() {
            let read = level.iter().map(|inner| async move { self.directory(root, inner).await });
            let read: Vec<_> = stream::iter(read).buffered(ABREAST).try_collect().await?;
            level.clear();
            for (path, entry) in read.into_iter().flatten() {
                if matches!(entry, Entry::Directory(_)) {
                    level.push(path.clone());
                }
                listing.entries.insert(path, entry);
            }
        }
        Ok((root.to_owned(), listing))
    }

    /// What lies directly in a directory. What is neither file, directory nor link is left out, as of a local one.
    async fn directory(&self, root: &Path, inner: &Path) -> Result<Vec<(PathBuf, Entry)>, SftpError> {
        let path = below(root, inner);
        let handle = self.handle(OPENDIR, &path, &[]).await?;
        let (mut names, mut entries) = (BTreeSet::new(), Vec::new());
        loop {
            let (kind, body) = self.ask(READDIR, &string(&handle)).await?;
            if kind == STATUS && Fields(&body).number()? == END_OF_FILE {
                break;
            }
            let body = expect((kind, body), NAME, &path)?;
            let mut fields = Fields(&body);
            for _ in 0..fields.number()? {
                let name = OsString::from_vec(fields.string()?.to_vec());
                fields.string()?; // The line of `ls -l`.
                let found = fields.attributes()?;
                if name == "." || name == ".." {
                    continue;
                }
                // Names become paths on this host.
                if name.is_empty() || name.as_bytes().contains(&b'/') || !names.insert(name.clone()) {
                    return Err(SftpError::Odd(format!("the host lists an impossible name in `{}`", path.display())));
                }
                entries.push((inner.join(&name), found));
            }
        }
        self.close(&handle).await;
        let typed = entries.into_iter().map(|(name, found)| async move {
            Ok::<_, SftpError>(match found.mode.unwrap_or_default() & TYPE {
                DIRECTORY => Some((name, Entry::Directory(found.attributes()))),
                REGULAR => Some((name, found.file())),
                LINK => {
                    let to = self.link(&below(root, &name)).await?;
                    Some((name, Entry::Link(to)))
                }
                _ => None,
            })
        });
        let typed: Vec<_> = stream::iter(typed).buffered(ABREAST).try_collect().await?;
        Ok(typed.into_iter().flatten().collect())
    }

    async fn link(&self, path: &Path) -> Result<PathBuf, SftpError> {
        let body = expect(self.ask(READLINK, &string(path.as_os_str().as_bytes())).await?, NAME, path)?;
        let mut fields = Fields(&body);
        fields.number()?;
        Ok(OsString::from_vec(fields.string()?.to_vec()).into())
    }

    async fn handle(&self, kind: u8, path: &Path, more: &[u8]) -> Result<Vec<u8>, SftpError> {
        let body = [&string(path.as_os_str().as_bytes())[..], more].concat();
        let answer = expect(self.ask(kind, &body).await?, HANDLE, path)?;
        Ok(Fields(&answer).string()?.to_vec())
    }

    async fn close(&self, handle: &[u8]) {
        // Nothing was written: there is nothing that its failure could lose.
        let _ = self.ask(CLOSE, &string(handle)).await;
    }

    /// Appends a file from this offset on, up to `size`.
    pub(super) async fn fetch(
        &self,
        path: &Path,
        (from, size): (u64, u64),
        to: &mut tokio::fs::File,
    ) -> Result<u64, SftpError> {
        let how = [TO_READ.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        let handle = self.handle(OPEN, path, &how).await?;
        let starts = (from..size).step_by(usize::try_from(PIECE).expect("small"));
        let pieces = starts.map(|at| self.piece(path, &handle, at, PIECE.min(size - at)));
        let mut pieces = std::pin::pin!(stream::iter(pieces).buffered(AHEAD));
        let mut came = 0;
        let ended = loop {
            match pieces.next().await {
                None => break Ok(came),
                Some(Err(error)) => break Err(error),
                Some(Ok(bytes)) => {
                    if let Err(error) = to.write_all(&bytes).await {
                        break Err(SftpError::Local(error.to_string()));
                    }
                    came += bytes.len() as u64;
                }
            }
        };
        to.flush().await.map_err(|error| SftpError::Local(error.to_string()))?;
        self.close(&handle).await;
        ended
    }

    /// Servers may give less than what was asked for.
    async fn piece(&self, path: &Path, handle: &[u8], at: u64, length: u64) -> Result<Vec<u8>, SftpError> {
        let mut bytes: Vec<u8> = Vec::new();
        while (bytes.len() as u64) < length {
            let (at, left) = (at + bytes.len() as u64, length - bytes.len() as u64);
            let left = u32::try_from(left).expect("a piece is small");
            let (kind, body) =
                self.ask(READ, &[&string(handle)[..], &at.to_be_bytes(), &left.to_be_bytes()].concat()).await?;
            if kind == STATUS && Fields(&body).number()? == END_OF_FILE {
                let said = "it became shorter while it was fetched".to_owned();
                return Err(SftpError::Refused { path: path.to_owned(), denied: false, said });
            }
            let body = expect((kind, body), DATA, path)?;
            bytes.extend_from_slice(Fields(&body).string()?);
        }
        Ok(bytes)
    }
}

/// The root itself, or something in it.
pub(super) fn below(root: &Path, inner: &Path) -> PathBuf {
    if inner.as_os_str().is_empty() { root.to_owned() } else { root.join(inner) }
}

async fn packet(reader: &mut (impl AsyncRead + Unpin)) -> Result<Answer, SftpError> {
    let length = reader.read_u32().await.map_err(|_| SftpError::Ended)?;
    if length == 0 || length > LONGEST {
        let text = "what the host answers is no SFTP: its shell may print something at login".to_owned();
        return Err(SftpError::Odd(text));
    }
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    reader.read_exact(&mut bytes).await.map_err(|_| SftpError::Ended)?;
    let kind = bytes.remove(0);
    Ok((kind, bytes))
}

fn numbered((kind, mut body): Answer) -> Result<(u32, Answer), SftpError> {
    let number = Fields(&body).number()?;
    body.drain(..4);
    Ok((number, (kind, body)))
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// The body of an answer of this kind; a refusal is an error.
fn expect((kind, body): Answer, wanted: u8, path: &Path) -> Result<Vec<u8>, SftpError> {
    if kind == wanted {
        return Ok(body);
    }
    if kind != STATUS {
        return Err(SftpError::Odd(format!("the host answers with a packet of type {kind}")));
    }
    let mut fields = Fields(&body);
    let code = fields.number()?;
    let said = fields.string().map(|said| String::from_utf8_lossy(said).into_owned()).unwrap_or_default();
    Err(match code {
        NO_SUCH_FILE => SftpError::Missing(path.to_owned()),
        code => SftpError::Refused { path: path.to_owned(), denied: code == PERMISSION_DENIED, said },
    })
}

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

#[derive(Debug, Clone, Copy, Default)]
struct Stat {
    size: u64,
    mode: Option<u32>,
    modified: Option<u32>,
}

impl Stat {
    fn is(&self, kind: u32) -> bool {
        self.mode.unwrap_or_default() & TYPE == kind
    }

    fn attributes(&self) -> Attributes {
        Attributes { mode: self.mode.map(|mode| mode & 0o7777), modified: self.modified }
    }

    fn file(&self) -> Entry {
        Entry::File { size: self.size, attributes: self.attributes() }
    }
}

/// Reads the fields of a packet, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SftpError> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or_else(|| SftpError::Odd("an answer of the host is cut".to_owned()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, SftpError> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn string(&mut self) -> Result<&'a [u8], SftpError> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        self.take(length)
    }

    fn attributes(&mut self) -> Result<Stat, SftpError> {
        let (flags, mut found) = (self.number()?, Stat::default());
        if flags & 1 != 0 {
            found.size = u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes"));
        }
        if flags & 2 != 0 {
            self.take(8)?; // Numbers of its owners: they mean nothing here.
        }
        if flags & 4 != 0 {
            found.mode = Some(self.number()?);
        }
        if flags & 8 != 0 {
            self.take(4)?;
            found.modified = Some(self.number()?);
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.string()?;
                self.string()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
