//! The entries of a capture's sections.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an entry of the file section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Block device, character device, named pipe or socket.
    Special,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Special => "special",
        })
    }
}

/// One path of a persistent file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute, escaped as by [`crate::escape`].
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Bytes; 0 for what is no regular file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Of a regular file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where a symbolic link points, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Box<str>>,
    /// Extended attributes (ACLs and capabilities are among them): name and value in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// When content or metadata last changed: nanoseconds since 1970 on the machine's clock. Never compared, only used
    /// to find the operation that did it.
    pub ctime: i64,
}

impl FileEntry {
    /// Whether every fact is the same. Quicker than asking for the facts: nearly all of a million files are.
    pub(crate) fn same(&self, other: &Self) -> bool {
        (self.kind, self.mode, self.uid, self.gid, self.size)
            == (other.kind, other.mode, other.uid, other.gid, other.size)
            && (self.digest, &self.target, &self.xattrs) == (other.digest, &other.target, &other.xattrs)
    }
}

/// A digest of a file's content: BLAKE3, or that of a large file's parts; see the probe's `hashing.rs`. As text in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a digest has 64 hexadecimal digits";
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return Err(WRONG);
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high << 4 | low).ok_or(WRONG)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        serializer.serialize_str(std::str::from_utf8(&hex).expect("digits are text"))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, hex: &str) -> Result<Digest, E> {
                hex.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name, with the architecture where several are installed (`libc6:i386`).
    pub name: String,
    /// Version.
    pub version: String,
    /// dpkg's words for it, such as `install ok installed`.
    pub status: String,
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of the first group.
    pub gid: u32,
    /// Full name and so on.
    pub comment: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A line of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    /// Members, sorted.
    pub members: Vec<String>,
}

/// A systemd unit as the running manager knows it, or as a file that it has not loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Name with its ending.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, ...
    pub load: String,
    /// `enabled`, `disabled`, `static`, ...; empty where there is no file.
    pub enabled: String,
    /// `active`, `inactive`, `failed`, ...
    pub active: String,
    /// Service type, such as `oneshot`; empty for other kinds of units.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_type: String,
    /// The D-Bus name that starts it on demand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bus_name: String,
    /// Units that start it, such as a timer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub triggered_by: String,
    /// New at every start of the unit; empty if it never ran since boot.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub invocation: String,
    /// When it last became active (or, if it never did, last began to): nanoseconds since 1970 on the machine's clock.
    #[serde(default)]
    pub since: i64,
    /// Why what runs is not what lies on the disk. Never compared: it is judged on its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<String>,
    /// BLAKE3 of the unit file and its drop-ins, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<String>,
    /// What the kernel holds it to, `none` if to nothing; empty while it has no processes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub limits: String,
}

/// A socket that waits for connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `tcp`, `tcp6`, `udp` or `udp6`.
    pub protocol: String,
    /// Address and port, such as `0.0.0.0:22`.
    pub address: String,
    /// Name of a process that holds it; empty if none was found.
    pub process: String,
    /// A datagram socket on a port that the kernel picked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// How an entry is compared: a name within its section, and attributes as text.
pub trait Facts {
    /// Its name within its section.
    fn subject(&self) -> String;

    /// Its attributes.
    fn facts(&self) -> Vec<(&'static str, String)>;

    /// The file that says so: its ctime tells when that came to be.
    fn source(&self) -> Option<&str> {
        None
    }
}

impl Facts for FileEntry {
    fn subject(&self) -> String {
        self.path.clone()
    }

    fn source(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let xattrs: Vec<String> = self.xattrs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut facts = vec![
            ("type", self.kind.to_string()),
            ("mode", format!("{:04o}", self.mode)),
            ("uid", self.uid.to_string()),
            ("gid", self.gid.to_string()),
            ("xattrs", xattrs.join(" ")),
        ];
        if self.kind == FileKind::File {
            facts.push(("size", self.size.to_string()));
            facts.push(("content", self.digest.map(|digest| digest.to_string()).unwrap_or_default()));
        }
        if let Some(target) = &self.target {
            facts.push(("target", target.to_string()));
        }
        facts
    }
}

impl Facts for Package {
    fn subject(&self) -> String {
        self.name.clone()
    }

    fn source(&self) -> Option<&str> {
        Some("/var/lib/dpkg/status")
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("version", self.version.clone()), ("status", self.status.clone())]
    }
}

impl Facts for User {
    fn subject(&self) -> String {
        self.name.clone()
    }

    fn source(&self) -> Option<&str> {
        Some("/etc/passwd")
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("uid", self.uid.to_string()),
            ("gid", self.gid.to_string()),
            ("comment", self.comment.clone()),
            ("home", self.home.clone()),
            ("shell", self.shell.clone()),
        ]
    }
}

impl Facts for Group {
    fn subject(&self) -> String {
        self.name.clone()
    }

    fn source(&self) -> Option<&str> {
        Some("/etc/group")
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("gid", self.gid.to_string()), ("members", self.members.join(","))]
    }
}

impl Facts for Unit {
    fn subject(&self) -> String {
        self.name.clone()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("load", self.load.clone()),
            ("enabled", self.enabled.clone()),
            ("active", self.active.clone()),
            ("unit file", self.fragment.clone().unwrap_or_default()),
            ("limits", self.limits.clone()),
        ]
    }
}

impl Facts for Socket {
    fn subject(&self) -> String {
        format!("{} {}", self.protocol, self.address)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("process", self.process.clone())]
    }
}

impl Facts for crate::Record {
    fn subject(&self) -> String {
        self.entry().map(|(_, entry)| entry.subject()).unwrap_or_default()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.entry().map(|(_, entry)| entry.facts()).unwrap_or_default()
    }

    fn source(&self) -> Option<&str> {
        self.entry().and_then(|(_, entry)| entry.source())
    }
}
