//! Content digests: on all processors, and only of what changed since the last capture.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Device, inode, ctime and size. Content cannot change without a new ctime, which no program can set.
pub(crate) type Identity = (u64, u64, i64, u64);

/// A file to hash.
pub(crate) struct Job {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
}

/// In memory and gone after a reboot: a cache that could be older than the disk would be worse than none.
const CACHE: &str = "/run/redrill/digests";
/// A file that changed this shortly before it was read may change again within the same tick of the clock, without a
/// new ctime: its digest is used once and not kept.
const RACY: i64 = 2_000_000_000;

/// The digest of each job, in order; `clock` is the time at which the capture began.
pub(crate) fn digests(jobs: &[Job], clock: i64) -> Vec<io::Result<String>> {
    let known = fs::read_to_string(CACHE).map(|text| parse(&text)).unwrap_or_default();
    let digests = in_parallel(jobs, |job| match known.get(&job.identity) {
        Some(digest) => Ok(digest.clone()),
        None => digest(&job.path),
    });
    let kept = jobs.iter().zip(&digests).filter(|(job, _)| job.identity.2 < clock - RACY);
    let lines = kept.filter_map(|(job, digest)| digest.as_ref().ok().map(|digest| line(&job.identity, digest)));
    let text: String = lines.collect();
    // Without the cache the next capture is slower, and as good.
    let _ = fs::create_dir_all("/run/redrill").and_then(|()| replace(Path::new(CACHE), &text));
    digests
}

fn in_parallel(jobs: &[Job], digest: impl Fn(&Job) -> io::Result<String> + Sync) -> Vec<io::Result<String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((number, job)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, jobs.get(n)?)))
        {
            done.push((number, digest(job)));
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("hashing does not panic")).collect::<Vec<_>>()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, digest)| digest).collect()
}

/// BLAKE3 of a file's content, in hex.
pub(crate) fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            length => hasher.update(&buffer[..length]),
        };
    }
}

fn line((device, inode, ctime, size): &Identity, digest: &str) -> String {
    format!("{device} {inode} {ctime} {size} {digest}\n")
}

fn parse(text: &str) -> HashMap<Identity, String> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let &[device, inode, ctime, size, digest] = words.as_slice() else { return None };
        let identity = (device.parse().ok()?, inode.parse().ok()?, ctime.parse().ok()?, size.parse().ok()?);
        (digest.len() == 64).then(|| (identity, digest.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

/// Readers find the old text or the new one, never half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    File::create(&new)?.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_reads_back_and_ignores_damage() {
        let digest = "ab".repeat(32);
        let text = line(&(1, 2, -3, 4), &digest) + "1 2 x 4 broken\n1 2 3\n";
        assert_eq!(parse(&text), HashMap::from([((1, 2, -3, 4), digest)]));
    }

    #[test]
    fn digests_come_in_the_order_of_the_jobs() {
        let job = |number| Job { path: PathBuf::from(format!("{number}")), identity: (0, number, 0, 0) };
        let jobs: Vec<Job> = (0..100).map(job).collect();
        let digests = in_parallel(&jobs, |job| Ok(job.path.display().to_string()));
        let numbers: Vec<String> = digests.into_iter().map(|d| d.expect("ok")).collect();
        assert_eq!(numbers, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn the_digest_is_blake3() {
        let path = std::env::temp_dir().join(format!("redrill-digest-{}", std::process::id()));
        fs::write(&path, "").expect("file");
        let digest = digest(&path).expect("readable");
        fs::remove_file(&path).expect("cleaned up");
        // From the test vectors of the BLAKE3 team: the empty input.
        assert_eq!(digest, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
