//! Content digests: on all processors, of files that hold still while they are read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use redrill_state::Digest;
use rustix::fs::{OFlags, SeekFrom};

use crate::known::Stamp;

/// A file larger than this is told by the digests of its blocks, of which those of zeros are left out: a sparse file
/// of many gigabytes is read in no time, and has the same digest when its holes are filled with zeros.
const LARGE: u64 = 64 << 20;
const BLOCK: usize = 1 << 20;

/// Why there is no digest.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It is not there any more, or no file.
    Gone,
    Failed(io::Error),
}

/// What a file was when it was read.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) metadata: Metadata,
    /// It was not written to while it was read.
    pub(crate) still: bool,
}

/// Reads a file; one that is written to meanwhile is read once more.
pub(crate) fn read(path: &Path) -> Result<Content, Unread> {
    let content = once(path)?;
    if content.still { Ok(content) } else { once(path) }
}

fn once(path: &Path) -> Result<Content, Unread> {
    let file = open(path)?;
    let before = file.metadata().map_err(Unread::Failed)?;
    if !before.is_file() {
        return Err(Unread::Gone);
    }
    let digest = if before.size() > LARGE { of_blocks(&file, before.size()) } else { whole(&file) };
    let digest = digest.map_err(Unread::Failed)?;
    let metadata = file.metadata().map_err(Unread::Failed)?;
    Ok(Content { digest, still: stamp(&before) == stamp(&metadata), metadata })
}

/// What tells that a file is as it was.
pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
    let ctime = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
    Stamp { inode: metadata.ino(), ctime, size: metadata.size() }
}

/// A link or a pipe that took the file's place since it was listed is neither followed nor waited for, and the file's
/// atime stays.
fn open(path: &Path) -> Result<File, Unread> {
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let with = |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    // Only the owner and root may ask for that.
    let opened = with(careful | OFlags::NOATIME).or_else(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => with(careful),
        _ => Err(error),
    });
    opened.map_err(|error| match error.raw_os_error() {
        // ENOENT, ELOOP (a link), ENXIO (a socket).
        Some(2 | 40 | 6) => Unread::Gone,
        _ => Unread::Failed(error),
    })
}

/// BLAKE3 of the content.
fn whole(mut file: &File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(*hasher.finalize().as_bytes())),
            length => hasher.update(&buffer[..length]),
        };
    }
}

/// BLAKE3 of the size, and of place and digest of each block that is not all zeros.
fn of_blocks(file: &File, size: u64) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"redrill blocks 1\n").update(&size.to_le_bytes());
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        // To the block that has the next data. A file system without holes says that here is some.
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        at = data / BLOCK as u64 * BLOCK as u64;
        let length = fill(file, &mut block, at)?;
        let content = &block[..length];
        if content.iter().any(|byte| *byte != 0) {
            hasher.update(&at.to_le_bytes()).update(blake3::hash(content).as_bytes());
        }
        at += BLOCK as u64;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

fn fill(file: &File, block: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Does the jobs on all processors; the results are in the order of the jobs.
pub(crate) fn in_parallel<J: Sync, R: Send>(jobs: &[J], work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    if threads < 2 {
        return jobs.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let worker = || {
        while let Some((job, result)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| jobs.get(n).zip(results.get(n)))
        {
            let done = work(job);
            *result.lock().expect("nobody panics while it is held") = Some(done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(worker);
        }
        worker();
    });
    let take = |result: Mutex<Option<R>>| result.into_inner().ok().flatten().expect("every job was done");
    results.into_iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<usize> = (0..100).collect();
        assert_eq!(in_parallel(&jobs, |job| job * 2), (0..100).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(in_parallel(&[], |job: &usize| *job), [0; 0]);
    }

    #[test]
    fn the_digest_of_a_file_is_blake3() {
        let tree = Tree::new("digest");
        let path = tree.file("/empty", "");
        let content = read(&path).expect("readable");
        // From the test vectors of the BLAKE3 team: the empty input.
        assert_eq!(content.digest.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!((content.metadata.size(), content.still), (0, true));
    }

    #[test]
    fn what_took_a_files_place_is_neither_followed_nor_waited_for() {
        let tree = Tree::new("places");
        tree.file("/secret", "x");
        tree.link("/link", "secret");
        tree.link("/loop", "loop");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tree.0.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(tree.0.join("socket")).expect("bound");
        for name in ["link", "loop", "pipe", "socket", "none"] {
            assert!(matches!(read(&tree.0.join(name)), Err(Unread::Gone)), "{name}");
        }
    }

    #[test]
    fn a_sparse_file_is_read_by_its_data_and_its_holes_are_zeros() {
        let tree = Tree::new("sparse");
        let sparse = |name: &str, size: u64, data: &[(u64, &[u8])]| {
            let path = tree.file(name, "");
            let file = OpenOptions::new().write(true).open(&path).expect("opened");
            file.set_len(size).expect("a hole");
            data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("written"));
            read(&path).expect("readable").digest
        };
        let began = Instant::now();
        let huge = 20 << 30;
        let empty = sparse("/empty", huge, &[]);
        let one = sparse("/one", huge, &[(15 << 30, b"x")]);
        assert!(began.elapsed() < Duration::from_secs(5), "20 GB of nothing took {:?}", began.elapsed());
        assert_ne!(empty, one);
        assert_ne!(one, sparse("/moved", huge, &[(14 << 30, b"x")]), "where it stands is content");
        assert_ne!(empty, sparse("/longer", huge + 1, &[]));
        let zeros = vec![0; 2 << 20];
        assert_eq!(one, sparse("/filled", huge, &[(0, &zeros), (15 << 30, b"x")]), "a filled hole is the same content");
        let size = LARGE + 5;
        assert_ne!(sparse("/a", size, &[]), sparse("/b", size, &[(size - 1, b"x")]), "the last block counts");
    }

    #[test]
    fn a_file_that_is_written_to_while_it_is_read_is_noticed() {
        let tree = Tree::new("restless");
        let path = tree.file("/log", vec![b'x'; 8 << 20]);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = OpenOptions::new().append(true).open(&path).expect("opened");
                while !done.load(Ordering::Relaxed) {
                    log.write_all(b"more\n").expect("written");
                }
            });
            let noticed = (0..20).any(|_| !read(&path).expect("readable").still);
            done.store(true, Ordering::Relaxed);
            assert!(noticed, "a file that grows all the time was taken for one that holds still");
        });
        // Once it rests it is read as any other.
        let content = read(&path).expect("at rest");
        assert!(content.still);
        assert_eq!(content.metadata.size(), fs::metadata(&path).expect("there").size());
        assert_eq!(content.digest, Digest(*blake3::hash(&fs::read(&path).expect("readable")).as_bytes()));
    }
}
