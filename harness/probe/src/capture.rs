//! Writes a capture: every section in turn, compressed, as a stream.
//!
//! Files take the longest, and all else is read beside them: what asks a program (sshd, nft, a database) on a thread of
//! its own, what only reads small files on one for all.

use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use redrill_state::Header;

use crate::files::Files;
use crate::found::{Found, Root};
use crate::shadow::{self, Key};
use crate::sink::Sink;
use crate::{
    accounts, alternatives, apt, containers, cron, databases, firewall, keys, known, locale, managers, modules,
    mounted, mounts, network, packages, processes, sockets, sshd, sudoers, sysctl, timers, units, wireguard,
};

const FIRST: [fn(&Root) -> Found; 2] = [units::read, sockets::read];
/// Sections that need nothing but the machine's files.
const QUICK: [fn(&Root) -> Found; 15] = [
    packages::read,
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
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The key of this run's digests comes on standard input; else it is made here, and captures do not compare.
    pub(crate) key: bool,
    /// How long each section took is told on standard error.
    pub(crate) times: bool,
    /// Names of lists whose captures the reader has: files that are as one of them says need not be told again.
    pub(crate) bases: Vec<String>,
}

impl Options {
    /// From the words of a command line; `None` for one that is unknown.
    pub(crate) fn from(words: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        for word in words {
            match word.split_once('=') {
                None if *word == "--key" => options.key = true,
                None if *word == "--times" => options.times = true,
                Some(("--base", name)) => options.bases.push(name.to_owned()),
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Writes the whole capture to `out`. An error means that nobody reads it any more; what the machine refuses is a gap.
pub(crate) fn write(out: impl Write, options: &Options) -> io::Result<()> {
    let began = Instant::now();
    let key = key(options)?;
    let clock = crate::now();
    let mounts = mounts::read()?;
    let files = Files::new(&mounts, Path::new(known::LIST), &options.bases, clock)?;
    let mut sink = Sink::new(out);
    let mut header = Header::new(crate::boot_id(), clock);
    files.announce(&mut header);
    header.key = shadow::keyed(&key, "the name of the key")[..16].to_owned();
    header.walked.clone_from(&mounts.walked);
    header.left_out.clone_from(&mounts.left_out);
    sink.header(header)?;
    let mut times: Vec<(String, Duration)> = Vec::new();
    let root = &Root::machine();
    let found = thread::scope(|scope| {
        let others = scope.spawn(|| others(root, &key));
        timed(&mut times, "users and groups", || accounts::write(&mut sink))?;
        let sqlite = timed(&mut times, "files", || files.write(&mut sink))?;
        let mut found = others.join().map_err(broken)??;
        found.push(measured(|| databases::sqlite::read(&sqlite, &key)));
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

/// What is read beside the files, with the time that each took. Processes and units come first: they are what a capture
/// itself disturbs soonest.
fn others(root: &Root, key: &Key) -> io::Result<Vec<(Found, Duration)>> {
    let (running, looking) = measured(|| processes::look(root));
    let mut found = FIRST.map(|read| measured(|| read(root))).into_iter().collect::<Vec<_>>();
    thread::scope(|scope| {
        let mut readers: Vec<thread::ScopedJoinHandle<'_, Vec<(Found, Duration)>>> = Vec::new();
        readers.extend(SLOW.map(|read| scope.spawn(move || vec![measured(|| read(root))])));
        readers.push(scope.spawn(|| vec![measured(|| databases::servers(root, key))]));
        readers.push(scope.spawn(|| network::READERS.map(|read| measured(|| read(root))).into()));
        readers.push(
            scope.spawn(|| vec![measured(|| managers::variables(root, key)), measured(|| wireguard::read(root, key))]),
        );
        found.push(measured(|| shadow::read(root, key)));
        found.extend(QUICK.map(|read| measured(|| read(root))));
        for reader in readers {
            found.extend(reader.join().map_err(broken)?);
        }
        let (counted, counting) = measured(|| running.read(root, key));
        found.push((counted, looking + counting));
        Ok(found)
    })
}

fn broken<T>(_: T) -> io::Error {
    io::Error::other("a section's reader broke")
}

/// Writes the files below a directory and nothing else, with a list of digests of its own: for measurements.
pub(crate) fn write_files(out: impl Write, root: &str, list: &str, base: Option<&str>) -> io::Result<()> {
    let clock = crate::now();
    let mounts = mounts::Mounts { walked: vec![root.to_owned()], ..mounts::Mounts::default() };
    let bases: Vec<String> = base.into_iter().map(str::to_owned).collect();
    let files = Files::new(&mounts, Path::new(list), &bases, clock)?;
    let mut sink = Sink::new(out);
    let mut header = Header::new(crate::boot_id(), clock);
    files.announce(&mut header);
    header.walked.clone_from(&mounts.walked);
    sink.header(header)?;
    files.write(&mut sink)?;
    sink.end()
}

fn key(options: &Options) -> io::Result<Key> {
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
