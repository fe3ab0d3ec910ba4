//! Writes a capture: every section in turn, compressed, as a stream.
//!
//! Files take the longest. What asks a program (sshd, nft, a database) does so beside them, each on a thread of its own;
//! what only reads small files shares one.

use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use redrill_state::Header;

use crate::found::{Found, Root};
use crate::shadow::{self, Key};
use crate::sink::Sink;
use crate::{
    accounts, alternatives, apt, containers, cron, databases, files, firewall, keys, known, locale, modules, mounted,
    mounts, packages, sockets, sshd, sudoers, sysctl, timers, units,
};

/// Sections that need nothing but the machine's files.
const QUICK: [fn(&Root) -> Found; 14] = [
    keys::read,
    sudoers::read,
    cron::read,
    sysctl::read,
    mounted::mounts,
    mounted::fstab,
    mounted::swap,
    containers::read,
    apt::sources,
    apt::keys,
    alternatives::read,
    locale::read,
    locale::zone,
    modules::read,
];
/// Sections that ask a program.
const SLOW: [fn(&Root) -> Found; 3] = [sshd::read, firewall::read, timers::read];

/// How a capture is to be taken.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Options {
    /// The key of this run's digests comes on standard input; else it is made here, and captures do not compare.
    pub(crate) key: bool,
    /// How long each section took is told on standard error.
    pub(crate) times: bool,
}

/// Writes the whole capture to `out`. An error means that nobody reads it any more; what the machine refuses is a gap.
pub(crate) fn write(out: impl Write, options: Options) -> io::Result<()> {
    let began = Instant::now();
    let key = key(options)?;
    let clock = crate::now();
    let mounts = mounts::read()?;
    let mut sink = Sink::new(out);
    let mut header = Header::new(crate::boot_id(), clock);
    header.key = shadow::keyed(&key, "the name of the key")[..16].to_owned();
    header.walked.clone_from(&mounts.walked);
    header.left_out.clone_from(&mounts.left_out);
    sink.header(header)?;
    let mut times: Vec<(String, Duration)> = Vec::new();
    // Units first: they are what a capture itself disturbs soonest.
    timed(&mut times, "units", || units::write(&mut sink))?;
    timed(&mut times, "sockets", || sockets::write(&mut sink))?;
    let root = &Root::machine();
    let found = thread::scope(|scope| {
        let mut readers: Vec<thread::ScopedJoinHandle<'_, Vec<(Found, Duration)>>> = Vec::new();
        readers.extend(SLOW.map(|read| scope.spawn(move || vec![measured(|| read(root))])));
        readers.push(scope.spawn(|| vec![measured(|| databases::servers(root, &key))]));
        readers.push(scope.spawn(|| {
            let mut found = vec![measured(|| shadow::read(root, &key))];
            found.extend(QUICK.map(|read| measured(|| read(root))));
            found
        }));
        timed(&mut times, "packages", || packages::write(&mut sink))?;
        timed(&mut times, "users and groups", || accounts::write(&mut sink))?;
        let sqlite = timed(&mut times, "files", || files::write(&mut sink, &mounts, Path::new(known::LIST), clock))?;
        let mut found = vec![measured(|| databases::sqlite::read(&sqlite, &key))];
        for reader in readers {
            found.extend(reader.join().map_err(|_| io::Error::other("a section's reader broke"))?);
        }
        io::Result::Ok(found)
    })?;
    for (found, time) in found {
        times.push((found.section().name().to_owned(), time));
        sink.found(found)?;
    }
    timed(&mut times, "end", || sink.end())?;
    if options.times {
        times.push(("in all".to_owned(), began.elapsed()));
        for (section, time) in times {
            writeln!(io::stderr(), "{:>8.1} ms  {section}", time.as_secs_f64() * 1e3)?;
        }
    }
    Ok(())
}

/// Writes the files below a directory and nothing else, with a list of digests of its own: for measurements.
pub(crate) fn write_files(out: impl Write, root: &str, list: &str) -> io::Result<()> {
    let clock = crate::now();
    let mut sink = Sink::new(out);
    let mut header = Header::new(crate::boot_id(), clock);
    header.walked.push(root.to_owned());
    let mounts = mounts::Mounts { walked: header.walked.clone(), ..mounts::Mounts::default() };
    sink.header(header)?;
    files::write(&mut sink, &mounts, Path::new(list), clock)?;
    sink.end()
}

fn key(options: Options) -> io::Result<Key> {
    let mut key = Key::default();
    if options.key {
        io::stdin().lock().read_exact(&mut key)?;
    } else {
        std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    }
    Ok(key)
}

fn measured<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

fn timed<T>(times: &mut Vec<(String, Duration)>, what: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (done, time) = measured(work);
    times.push((what.to_owned(), time));
    done
}
