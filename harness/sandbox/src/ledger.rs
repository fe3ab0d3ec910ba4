//! What a sealed program wanted and did not get: a JSON object a line, written by the warden.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "wanted.jsonl";
/// Of tries beyond these only those are written that go to something new.
const MOST: usize = 2000;
/// More things than these are told by number.
const MOST_TARGETS: usize = 50_000;

/// How something was to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Ping,
    /// A question for a name's address that no connection followed.
    Name,
    /// Any other protocol of the internet.
    Other,
    /// None: a file of the host, which is not there in the sandbox. `name` is its path, or the part of it that is missing.
    File,
    /// The same, of the host's system and for everybody to read: what any host may have, and programs look at.
    SystemFile,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Ping => "ping",
            Self::Name => "the address of",
            Self::Other => "ip",
            Self::File | Self::SystemFile => "the host's file",
        })
    }
}

/// One try to reach something that is no part of the drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Nanoseconds since 1970.
    pub time: i64,
    /// How.
    pub protocol: Protocol,
    /// Where to; absent of a question for a name.
    pub address: Option<IpAddr>,
    /// The port; 0 where the protocol has none.
    pub port: u16,
    /// The name by which the address was found, if it was asked for.
    pub name: Option<String>,
}

impl Attempt {
    /// `tcp 203.0.113.7:443`, `tcp api.example.org:443`.
    pub fn target(&self) -> String {
        let host = match (&self.name, self.address) {
            (Some(name), _) => name.clone(),
            (None, Some(IpAddr::V6(address))) => format!("[{address}]"),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        };
        if self.port == 0 {
            format!("{} {host}", self.protocol)
        } else {
            format!("{} {host}:{}", self.protocol, self.port)
        }
    }
}

/// All that a sealed program wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// In the order of time; more than a few thousand are only counted.
    pub attempts: Vec<Attempt>,
    /// How many are missing there.
    pub more: usize,
    /// The warden saw the program's end: nothing is missing.
    pub over: bool,
    /// Why the program was not started.
    pub failed: Option<String>,
    /// Why it was not seen which files of the host it looked for, if it was not.
    pub files_unseen: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    Attempt(Attempt),
    More(usize),
    Failed(String),
    FilesUnseen(String),
    Over,
    /// The last one from a container, with the program's exit status. It is for the harness, and in no file.
    Ended(u8),
}

impl Ledger {
    /// Reads what lies in a cell's place. A file that is not there, or breaks off, is a ledger that is not `over`.
    pub fn read(place: &Path) -> Self {
        let mut ledger = Self::default();
        let Ok(file) = File::open(place.join(FILE)) else { return ledger };
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Line::Attempt(attempt)) => ledger.attempts.push(attempt),
                Ok(Line::More(more)) => ledger.more = more,
                Ok(Line::Failed(why)) => ledger.failed = Some(why),
                Ok(Line::FilesUnseen(why)) => ledger.files_unseen = Some(why),
                Ok(Line::Over) => ledger.over = true,
                Ok(Line::Ended(_)) | Err(_) => break,
            }
        }
        ledger
    }
}

/// Notes why the program of the cell in `place` was not started, if nobody has.
pub fn failed(place: &Path, why: &str) -> io::Result<()> {
    Writer::open(place)?.failed(why)
}

/// Writes a ledger as it grows.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Or the way to whoever keeps it.
    file: File,
    written: usize,
    more: usize,
    /// Everything that was tried.
    targets: HashSet<(Protocol, Option<IpAddr>, u16, Option<String>)>,
}

impl Writer {
    fn new(file: File) -> Self {
        Self { file, written: 0, more: 0, targets: HashSet::new() }
    }

    pub(crate) fn open(place: &Path) -> io::Result<Self> {
        Ok(Self::new(File::options().append(true).create(true).open(place.join(FILE))?))
    }

    /// Sends it to whoever is at the other end.
    pub(crate) fn to(harness: UnixStream) -> Self {
        Self::new(OwnedFd::from(harness).into())
    }

    pub(crate) fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }

    pub(crate) fn attempt(&mut self, attempt: Attempt) -> io::Result<()> {
        let target = (attempt.protocol, attempt.address, attempt.port, attempt.name.clone());
        let new = self.targets.len() < MOST_TARGETS && self.targets.insert(target);
        if new || self.written < MOST {
            self.written += 1;
            return self.line(&Line::Attempt(attempt));
        }
        self.more += 1;
        Ok(())
    }

    pub(crate) fn failed(&mut self, why: &str) -> io::Result<()> {
        self.line(&Line::Failed(why.to_owned()))
    }

    pub(crate) fn files_unseen(&mut self, why: &str) -> io::Result<()> {
        self.line(&Line::FilesUnseen(why.to_owned()))
    }

    pub(crate) fn ended(&mut self, status: u8) -> io::Result<()> {
        self.line(&Line::Ended(status))
    }

    pub(crate) fn over(&mut self) -> io::Result<()> {
        if self.more > 0 {
            self.line(&Line::More(self.more))?;
        }
        self.line(&Line::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wanted_is_read_back_and_a_torn_ledger_is_not_over() {
        let place = tempfile::tempdir().expect("a directory");
        assert!(!Ledger::read(place.path()).over, "none was written");
        let address = Some("203.0.113.7".parse().expect("valid"));
        let attempt = Attempt { time: 7, protocol: Protocol::Tcp, address, port: 443, name: None };
        let mut writer = Writer::open(place.path()).expect("opened");
        writer.attempt(attempt.clone()).expect("written");
        let torn = Ledger::read(place.path());
        assert_eq!((torn.attempts.len(), torn.over), (1, false));
        writer.over().expect("written");
        let ledger = Ledger::read(place.path());
        assert_eq!((&ledger.attempts[..], ledger.over), (&[attempt][..], true));
        assert_eq!(ledger.attempts[0].target(), "tcp 203.0.113.7:443");
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let place = tempfile::tempdir().expect("a directory");
        let mut writer = Writer::open(place.path()).expect("opened");
        let mut attempt = |port| {
            let attempt = Attempt { time: 0, protocol: Protocol::Udp, address: None, port, name: None };
            writer.attempt(attempt).expect("written");
        };
        (0..2500).for_each(|_| attempt(53));
        attempt(22);
        writer.over().expect("written");
        let ledger = Ledger::read(place.path());
        assert_eq!((ledger.attempts.len(), ledger.more), (MOST + 1, 500));
        assert_eq!(ledger.attempts.last().expect("some").port, 22, "what is new is never only counted");
    }
}
