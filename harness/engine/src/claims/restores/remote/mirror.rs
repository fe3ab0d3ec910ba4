//! A copy of a repository in the cache, brought up to date. What it has it need not fetch again.
//!
//! A file comes into `partial/` first, goes on there where an earlier try was cut, and gets its name in `tree/` once all
//! of them are whole. One that is there is kept only if nothing speaks against it: where its name is the digest of its
//! content, as restic's are, that is computed; else size and time must be as listed.

use redrill_model::Code;
use std::fs::{self, File, TryLockError};
use std::future::Future;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, StreamExt};
use ring::digest;

use super::listing::{Attributes, Entry, Listing};
use super::no_copy;
use super::rest::is_digest;
use crate::problem::Problem;

/// Files that are fetched at once.
const ABREAST: usize = 16;
/// Only their owner reads copies of backups.
const PRIVATE: u32 = 0o700;
/// Of a file whose host tells no mode.
const FILE: u32 = 0o600;

/// Where files come from.
pub(super) trait RemoteStore: Sync {
    /// Appends `path` from an offset on, up to `size`. Tells how many bytes came.
    fn fetch(
        &self,
        path: &Path,
        span: (u64, u64),
        to: tokio::fs::File,
    ) -> impl Future<Output = Result<u64, Problem>> + Send;
}

/// The copy of one repository. It is nobody else's while this lives.
#[derive(Debug)]
pub(super) struct RepositoryMirror {
    directory: PathBuf,
    _lock: File,
}

/// What came of an update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Brought {
    /// Files that were there already.
    pub(super) kept: u64,
    /// Bytes that came now.
    pub(super) bytes: u64,
}

impl RepositoryMirror {
    /// The copy of the repository at `place`; `None` while another drill uses it.
    pub(super) fn open(cache: &Path, place: &str) -> io::Result<Option<Self>> {
        let name = blake3::hash(place.as_bytes()).to_hex();
        let directory = cache.join("repositories").join(&name[..24]);
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(PRIVATE))?;
        // For whoever finds it in the cache.
        fs::write(directory.join("place"), place)?;
        let lock = File::create(directory.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { directory, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }

    fn partial(&self) -> PathBuf {
        self.directory.join("partial")
    }

    /// Makes it what `listing` says.
    pub(super) async fn bring(&self, far: &impl RemoteStore, listing: &Listing) -> Result<Brought, Problem> {
        let (tree, partial, listed) = (self.tree(), self.partial(), listing.clone());
        let missing = blocking(move || lay_out(&tree, &partial, &listed)).await?;
        let wanted: u64 = missing.iter().map(|file| file.size).sum();
        redrill_machines::host::check_disk(&self.directory, wanted / (1024 * 1024)).map_err(|shortage| {
            Problem::new(Code::DiskFull, format!("this host has no room for a copy of the repository: {shortage}"))
        })?;
        let bytes = self.fetch_all(far, &missing).await?;
        let kept = listing.files().count() - missing.len();
        let (tree, partial, listed) = (self.tree(), self.partial(), listing.clone());
        blocking(move || settle(&tree, &partial, &missing, &listed)).await?;
        Ok(Brought { kept: kept as u64, bytes })
    }

    /// Once one is cut no other is begun; those on their way keep what they have got.
    async fn fetch_all(&self, far: &impl RemoteStore, missing: &[Missing]) -> Result<u64, Problem> {
        let cut = AtomicBool::new(false);
        let coming = missing.iter().map(async |file| {
            if cut.load(Ordering::Relaxed) {
                return Ok(0);
            }
            self.one(far, file).await.inspect_err(|_| cut.store(true, Ordering::Relaxed))
        });
        let mut coming = stream::iter(coming.collect::<Vec<_>>()).buffer_unordered(ABREAST);
        let mut bytes = Ok(0);
        while let Some(came) = coming.next().await {
            bytes = bytes.and_then(|bytes| came.map(|came| bytes + came));
        }
        bytes
    }

    /// One file, whole in `partial/`.
    async fn one(&self, far: &impl RemoteStore, missing: &Missing) -> Result<u64, Problem> {
        let (path, size) = (missing.path.as_path(), missing.size);
        let file = self.partial().join(name_of(missing));
        let there = tokio::fs::metadata(&file).await.map_or(0, |found| found.len());
        // Of what neither name nor time tells whether it is still the same nothing is gone on with.
        let from = if there <= size && is_known(missing) { there } else { 0 };
        let mut options = tokio::fs::OpenOptions::new();
        let open = options.create(true).append(true).open(&file).await.map_err(|error| no_copy(&error))?;
        open.set_len(from).await.map_err(|error| no_copy(&error))?;
        let came = if from < size { far.fetch(path, (from, size), open).await? } else { 0 };
        let whole = tokio::fs::metadata(&file).await.map_err(|error| no_copy(&error))?.len();
        if whole == size {
            return Ok(came);
        }
        let _ = tokio::fs::remove_file(&file).await; // What it is nobody knows.
        let text = format!("`{}` has {whole} bytes, and its host lists {size}", path.display());
        Err(Problem::new(Code::Unreachable, format!("the repository changed while it was fetched: {text}")))
    }

    /// The tree as it is now, at a place of its own: later updates do not reach it. On one file system no byte is
    /// copied, since an update never writes into a file that has its name.
    pub(super) fn snapshot(&self, to: &Path) -> io::Result<()> {
        let tree = self.tree();
        for (path, metadata) in walked(&tree)? {
            let target = to.join(path.strip_prefix(&tree).expect("below the tree"));
            if metadata.is_dir() {
                fs::create_dir_all(&target)?;
            } else if metadata.is_symlink() {
                symlink(fs::read_link(&path)?, &target)?;
            } else if fs::hard_link(&path, &target).is_err() {
                fs::copy(&path, &target)?;
                File::open(&target)?.set_times(fs::FileTimes::new().set_modified(metadata.modified()?))?;
            }
        }
        for (path, metadata) in walked(&tree)?.into_iter().rev().filter(|(_, metadata)| metadata.is_dir()) {
            let target = to.join(path.strip_prefix(&tree).expect("below the tree"));
            fs::set_permissions(&target, metadata.permissions())?;
            File::open(&target)?.set_times(fs::FileTimes::new().set_modified(metadata.modified()?))?;
        }
        Ok(())
    }

    /// Forgets all of it: what was fetched may be what is wrong.
    pub(super) fn forget(&self) -> io::Result<()> {
        [self.tree(), self.partial()].iter().filter(|path| path.exists()).try_for_each(fs::remove_dir_all)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).and_then(|done| done).map_err(|error| no_copy(&error))
}

/// A file that is listed, and is not in the copy.
struct Missing {
    path: PathBuf,
    size: u64,
    attributes: Attributes,
}

/// Whether name or time tell that a file is still the same.
fn is_known(file: &Missing) -> bool {
    file.attributes.modified.is_some() || file.path.file_name().is_some_and(|name| is_digest(&name.to_string_lossy()))
}

fn name_of(file: &Missing) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(file.path.as_os_str().as_encoded_bytes());
    hasher.update(&file.size.to_le_bytes());
    hasher.update(&file.attributes.modified.unwrap_or_default().to_le_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Takes away what is not listed or is something else, makes directories and links, and tells which files are missing.
fn lay_out(tree: &Path, partial: &Path, listing: &Listing) -> io::Result<Vec<Missing>> {
    fs::create_dir_all(tree)?;
    fs::create_dir_all(partial)?;
    let there = walked(tree)?;
    for (path, _) in there.iter().filter(|(_, metadata)| metadata.is_dir()) {
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE))?;
    }
    for (path, metadata) in there.into_iter().skip(1).rev() {
        let entry = listing.entries.get(path.strip_prefix(tree).expect("below the tree"));
        let same = match entry {
            // Directories that a rest-server does not list lead to files that it does.
            None => metadata.is_dir() && listing_leads_through(listing, path.strip_prefix(tree).expect("below")),
            Some(Entry::Directory(_)) => metadata.is_dir(),
            Some(Entry::Link(to)) => metadata.is_symlink() && fs::read_link(&path)? == *to,
            Some(Entry::File { size, attributes }) => {
                metadata.is_file() && metadata.len() == *size && is_as_listed(&path, &metadata, *attributes)?
            }
        };
        match (same, metadata.is_dir()) {
            (true, _) => {}
            (false, true) => fs::remove_dir_all(&path)?,
            (false, false) => fs::remove_file(&path)?,
        }
    }
    let mut missing = Vec::new();
    for (inner, entry) in &listing.entries {
        let path = tree.join(inner);
        match entry {
            Entry::Directory(_) => fs::create_dir_all(&path)?,
            Entry::Link(to) if fs::symlink_metadata(&path).is_err() => symlink(to, &path)?,
            Entry::Link(_) => {}
            Entry::File { size, attributes } => {
                fs::create_dir_all(path.parent().unwrap_or(tree))?;
                if fs::symlink_metadata(&path).is_err() {
                    missing.push(Missing { path: inner.clone(), size: *size, attributes: *attributes });
                }
            }
        }
    }
    Ok(missing)
}

fn listing_leads_through(listing: &Listing, directory: &Path) -> bool {
    let next = listing.entries.range(directory.to_owned()..).find(|(path, _)| *path != directory);
    next.is_some_and(|(path, _)| path.starts_with(directory))
}

fn is_as_listed(path: &Path, metadata: &fs::Metadata, attributes: Attributes) -> io::Result<bool> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if is_digest(&name) {
        return Ok(sha256(path)? == name);
    }
    let Some(modified) = attributes.modified else { return Ok(false) };
    Ok(metadata.modified()? == time(modified) && metadata.permissions().mode() & 0o7777 == mode(attributes, FILE))
}

fn sha256(path: &Path) -> io::Result<String> {
    let (mut context, mut file, mut buffer) =
        (digest::Context::new(&digest::SHA256), File::open(path)?, vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => context.update(&buffer[..length]),
        }
    }
}

/// Gives what came its names, modes and times.
fn settle(tree: &Path, partial: &Path, missing: &[Missing], listing: &Listing) -> io::Result<()> {
    // All of it is on the disk before any of it has a name.
    rustix::fs::syncfs(File::open(partial)?)?;
    for file in missing {
        let came = partial.join(name_of(file));
        dress(&came, file.attributes, FILE)?;
        fs::rename(&came, tree.join(&file.path))?;
    }
    fs::remove_dir_all(partial)?;
    for (path, entry) in listing.entries.iter().rev() {
        if let Entry::Directory(attributes) = entry {
            dress(&tree.join(path), *attributes, PRIVATE)?;
        }
    }
    Ok(())
}

/// Its owner can read it whatever the host says.
fn dress(path: &Path, attributes: Attributes, least: u32) -> io::Result<()> {
    if let Some(modified) = attributes.modified {
        File::open(path)?.set_times(fs::FileTimes::new().set_modified(time(modified)))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode(attributes, least)))
}

fn mode(attributes: Attributes, least: u32) -> u32 {
    attributes.mode.unwrap_or(least) | (least & 0o500)
}

fn time(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())
}

/// Everything at and below a directory, parents before children.
fn walked(root: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let mut all = vec![(root.to_owned(), fs::symlink_metadata(root)?)];
    let mut next = 0;
    while next < all.len() {
        if all[next].1.is_dir() {
            for entry in fs::read_dir(&all[next].0)? {
                let path = entry?.path();
                let metadata = fs::symlink_metadata(&path)?;
                all.push((path, metadata));
            }
        }
        next += 1;
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
