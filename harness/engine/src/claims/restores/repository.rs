//! A backup's repository: read, digested, and shown to a machine. Nothing in here opens it for writing.
//!
//! A machine never sees the original. It gets a copy, through the agent, under a directory of its own, and a read-only
//! mount of that where the scenario says. What a restore does there it cannot do to the repository.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, MachineError};
use redrill_model::{Backup, View};

/// Where the copies lie in a machine; left out of every comparison.
pub(crate) const COPIES: &str = "/var/lib/redrill-restore";
/// What is sent in one go. An agent holds as much in memory.
const PIECE: u64 = 8 * 1024 * 1024;
/// The longest that one piece may take.
const SENDING: Duration = Duration::from_secs(300);

/// Where a repository is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A directory or file of the host.
    Tree(PathBuf),
    /// A tar archive that a machine of this drill wrote: with its owners, which a tree of the host may not have.
    Archive(PathBuf),
}

/// What a repository holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// BLAKE3 over every path and content, in hex.
    pub(crate) digest: String,
    /// Relative paths of all entries, sorted.
    pub(crate) paths: Vec<String>,
}

impl Source {
    /// Where it is, for people.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Tree(path) | Self::Archive(path) => path,
        }
    }

    /// Reads all of it.
    pub(crate) fn contents(&self) -> io::Result<Contents> {
        match self {
            Self::Tree(path) => of_tree(path),
            Self::Archive(path) => of_archive(path),
        }
    }

    /// The same as a tar stream in pieces, each an archive of its own but for the middles of large files.
    fn each(&self, mut send: impl FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
        let mut packer = Packer::default();
        match self {
            Self::Tree(root) => {
                for path in listed(root)? {
                    let metadata = std::fs::symlink_metadata(&path)?;
                    let inner = inner(root, &path);
                    let mut header = tar::Header::new_gnu();
                    header.set_metadata(&metadata);
                    // The host's numbers mean nothing in the machine.
                    header.set_uid(0);
                    header.set_gid(0);
                    let link = if metadata.is_symlink() { Some(std::fs::read_link(&path)?) } else { None };
                    if metadata.is_file() {
                        packer.file(&inner, header, &mut File::open(&path)?, &mut send)?;
                    } else if metadata.is_dir() || link.is_some() {
                        packer.other(&inner, header, link.as_deref(), &mut send)?;
                    }
                }
            }
            Self::Archive(file) => {
                let mut archive = tar::Archive::new(File::open(file)?);
                for entry in archive.entries()? {
                    let mut entry = entry?;
                    let (inner, header) = (entry.path()?.into_owned(), entry.header().clone());
                    let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
                    if header.entry_type().is_file() {
                        packer.file(&inner, header, &mut entry, &mut send)?;
                    } else {
                        packer.other(&inner, header, link.as_deref(), &mut send)?;
                    }
                }
            }
        }
        packer.finish(&mut send)
    }
}

/// What is sent to a machine at once.
enum Piece {
    /// An archive to be unpacked.
    Archive(Vec<u8>),
    /// More of this file.
    More(PathBuf, Vec<u8>),
    /// The file is whole; it was written to at this time, in seconds since 1970, and not when it was put together.
    Whole(PathBuf, u64),
}

/// Packs entries into archives of about [`PIECE`].
#[derive(Default)]
struct Packer {
    archive: Option<tar::Builder<Vec<u8>>>,
}

impl Packer {
    fn builder(&mut self) -> &mut tar::Builder<Vec<u8>> {
        self.archive.get_or_insert_with(|| tar::Builder::new(Vec::new()))
    }

    fn file(
        &mut self,
        path: &Path,
        mut header: tar::Header,
        content: &mut impl Read,
        send: &mut impl FnMut(Piece) -> io::Result<()>,
    ) -> io::Result<()> {
        let (size, modified) = (header.size()?, header.mtime()?);
        let first = size.min(PIECE);
        header.set_size(first);
        let mut bytes = Vec::new();
        content.take(first).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != first {
            return Err(io::Error::other(format!("`{}` changed while it was read", path.display())));
        }
        self.builder().append_data(&mut header, path, bytes.as_slice())?;
        self.flush(PIECE, send)?;
        let mut left = size - first;
        if left > 0 {
            // The file must be there before more of it comes.
            self.flush(0, send)?;
        }
        while left > 0 {
            let mut bytes = Vec::new();
            content.take(left.min(PIECE)).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                return Err(io::Error::other(format!("`{}` changed while it was read", path.display())));
            }
            left -= bytes.len() as u64;
            send(Piece::More(path.to_owned(), bytes))?;
        }
        if size > first { send(Piece::Whole(path.to_owned(), modified)) } else { Ok(()) }
    }

    fn other(
        &mut self,
        path: &Path,
        mut header: tar::Header,
        link: Option<&Path>,
        send: &mut impl FnMut(Piece) -> io::Result<()>,
    ) -> io::Result<()> {
        header.set_size(0);
        match link {
            Some(link) => self.builder().append_link(&mut header, path, link)?,
            None => self.builder().append_data(&mut header, path, io::empty())?,
        }
        self.flush(PIECE, send)
    }

    /// Sends what is packed, if it is larger than this.
    fn flush(&mut self, over: u64, send: &mut impl FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
        if self.archive.as_ref().is_some_and(|archive| archive.get_ref().len() as u64 >= over)
            && let Some(archive) = self.archive.take()
        {
            send(Piece::Archive(archive.into_inner()?))?;
        }
        Ok(())
    }

    fn finish(mut self, send: &mut impl FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
        self.flush(0, send)
    }
}

/// Every path at and below `root`, sorted, parents before children.
fn listed(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = vec![root.to_owned()];
    let mut waiting = if std::fs::symlink_metadata(root)?.is_dir() { vec![root.to_owned()] } else { Vec::new() };
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}

/// The path inside the repository. A repository that is one file keeps its name.
fn inner(root: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(root) {
        Ok(inner) if !inner.as_os_str().is_empty() => inner.to_owned(),
        _ if path.is_dir() => PathBuf::from("."),
        _ => root.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from),
    }
}

fn of_tree(root: &Path) -> io::Result<Contents> {
    let (mut contents, mut hasher) = (Contents::default(), blake3::Hasher::new());
    for path in listed(root)? {
        let metadata = std::fs::symlink_metadata(&path)?;
        let name = inner(root, &path).display().to_string();
        let content = if metadata.is_file() {
            contents.files += 1;
            contents.bytes += metadata.len();
            Some(hashed(File::open(&path)?)?)
        } else if metadata.is_symlink() {
            Some(blake3::hash(std::fs::read_link(&path)?.as_os_str().as_encoded_bytes()))
        } else {
            None
        };
        told(&mut hasher, &name, content);
        if name != "." {
            contents.paths.push(name);
        }
    }
    contents.digest = hasher.finalize().to_hex().to_string();
    Ok(contents)
}

fn of_archive(file: &Path) -> io::Result<Contents> {
    let (mut contents, mut hasher) = (Contents::default(), blake3::Hasher::new());
    let mut archive = tar::Archive::new(File::open(file)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let content = if entry.header().entry_type().is_file() {
            contents.files += 1;
            contents.bytes += entry.size();
            Some(hashed(&mut entry)?)
        } else {
            entry.link_name()?.map(|link| blake3::hash(link.as_os_str().as_encoded_bytes()))
        };
        told(&mut hasher, &name, content);
        contents.paths.push(name.trim_start_matches("./").trim_end_matches('/').to_owned());
    }
    contents.paths.retain(|path| !path.is_empty() && path != ".");
    contents.digest = hasher.finalize().to_hex().to_string();
    Ok(contents)
}

fn hashed(mut content: impl Read) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut content, &mut hasher)?;
    Ok(hasher.finalize())
}

/// A name, its end, and what it holds: no two trees read alike.
fn told(hasher: &mut blake3::Hasher, name: &str, content: Option<blake3::Hash>) {
    hasher.update(name.as_bytes());
    hasher.update(&[0, u8::from(content.is_some())]);
    hasher.update(content.as_ref().map_or(&[][..], |hash| hash.as_bytes().as_slice()));
}

/// Copies the repository into the machine and mounts it where the backup wants it. Ends with everything there, or with an error.
pub(crate) async fn present<M: Machine>(
    machine: &M,
    source: &Source,
    backup: &Backup,
    deadline: &Deadline,
) -> Result<(), MachineError> {
    let (copy, at) = (format!("{COPIES}/{}", backup.name), backup.at.as_str());
    shell(machine, "rm -rf \"$1\" && mkdir -p \"$1\" \"$2\"", &[&copy, at], deadline).await?;
    unpack(machine, source, &copy, deadline).await?;
    let mount = match backup.view {
        View::ReadOnly => "mount --bind \"$1\" \"$2\" && mount -o remount,bind,ro \"$2\"",
        View::Copy => "mount --bind \"$1\" \"$2\"",
    };
    shell(machine, mount, &[&copy, at], deadline).await
}

/// Takes the copy away again.
pub(crate) async fn withdraw<M: Machine>(
    machine: &M,
    (name, at): (&str, &str),
    deadline: &Deadline,
) -> Result<(), MachineError> {
    let copy = format!("{COPIES}/{name}");
    shell(machine, "umount \"$2\" 2>/dev/null; rm -rf \"$1\"", &[&copy, at], deadline).await
}

/// Unpacks the source below a directory of the machine.
pub(crate) async fn unpack<M: Machine>(
    machine: &M,
    source: &Source,
    into: &str,
    deadline: &Deadline,
) -> Result<(), MachineError> {
    // Two pieces wait at most: one is sent, one is packed.
    let (sender, mut parts) = tokio::sync::mpsc::channel(1);
    let reading = source.clone();
    let packing = tokio::task::spawn_blocking(move || {
        reading.each(|part| sender.blocking_send(part).map_err(|_| io::Error::other("nobody unpacks it any more")))
    });
    let mut sent = Ok(());
    while let Some(part) = parts.recv().await {
        let limit = deadline.child("a piece of the repository", SENDING);
        let (words, bytes) = match part {
            Piece::Archive(bytes) => (Exec::new(["tar", "-x", "-p", "--numeric-owner", "-C", into]), bytes),
            Piece::More(path, bytes) => {
                let path = format!("{into}/{}", path.display());
                (Exec::new(["sh", "-c", "cat >> \"$1\"", "sh", &path]), bytes)
            }
            Piece::Whole(path, modified) => {
                let (path, time) = (format!("{into}/{}", path.display()), format!("@{modified}"));
                (Exec::new(["touch", "-m", "-d", &time, "--", &path]), Vec::new())
            }
        };
        sent = succeeded(machine.exec(&words, &bytes, &limit).await?, "tar");
        if sent.is_err() {
            break;
        }
    }
    drop(parts);
    let packed =
        packing.await.map_err(|error| MachineError::Program { program: "tar".into(), said: error.to_string() })?;
    sent?;
    packed.map_err(|source| MachineError::Io { what: "cannot read the repository".to_owned(), source })
}

/// Runs a line of shell with arguments; anything but success is an error.
pub(crate) async fn shell<M: Machine>(
    machine: &M,
    line: &str,
    arguments: &[&str],
    deadline: &Deadline,
) -> Result<(), MachineError> {
    let words = ["sh", "-c", line, "sh"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    succeeded(machine.exec(&Exec(words), b"", deadline).await?, line)
}

fn succeeded(output: redrill_machines::Output, program: &str) -> Result<(), MachineError> {
    match output.status {
        0 => Ok(()),
        _ => Err(MachineError::Program { program: program.to_owned(), said: output.stderr.trim().to_owned() }),
    }
}

/// Copies of an archive what lies at and below these absolute paths: the directories above are the machine's own.
pub(crate) fn only_below(archive: &Path, paths: &[String], to: &Path) -> io::Result<()> {
    let mut read = tar::Archive::new(File::open(archive)?);
    let mut kept = tar::Builder::new(File::create(to)?);
    for entry in read.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let absolute = format!("/{}", path.display().to_string().trim_start_matches(['.', '/']).trim_end_matches('/'));
        if !paths.iter().any(|root| redrill_model::is_below(&absolute, root)) {
            continue;
        }
        let mut header = entry.header().clone();
        match entry.link_name()?.map(std::borrow::Cow::into_owned) {
            Some(link) => kept.append_link(&mut header, &path, link)?,
            None => kept.append_data(&mut header, &path, &mut entry)?,
        }
    }
    kept.into_inner()?.sync_all()
}

/// A copy on the host, for a restore that runs on the controller.
pub(crate) fn copy_on_host(source: &Source, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    match source {
        Source::Archive(file) => tar::Archive::new(File::open(file)?).unpack(to),
        Source::Tree(root) => {
            for path in listed(root)? {
                let (metadata, target) = (std::fs::symlink_metadata(&path)?, to.join(inner(root, &path)));
                if metadata.is_dir() {
                    std::fs::create_dir_all(target)?;
                } else if metadata.is_symlink() {
                    std::os::unix::fs::symlink(std::fs::read_link(&path)?, target)?;
                } else if metadata.is_file() {
                    std::fs::copy(&path, target)?;
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
