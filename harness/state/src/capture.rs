//! A capture: the recorded state of a machine, and its form on disk.
//!
//! On disk a capture is JSON lines, one [`Record`] each: a header first, entries in any order, the end last with the
//! number of entries of each section. A stream that was cut, or lost a line, is an error and never a smaller machine.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::entries::{Facts, FileEntry, Group, Package, Socket, Unit, User};

/// The version of the form on disk.
pub(crate) const FORM: u32 = 1;

/// A section of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// Persistent file systems.
    Files,
    /// Installed packages.
    Packages,
    /// Accounts.
    Users,
    /// Groups.
    Groups,
    /// systemd units.
    Units,
    /// Listening sockets.
    Sockets,
}

impl Section {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 6] = [Self::Files, Self::Packages, Self::Users, Self::Groups, Self::Units, Self::Sockets];

    /// The plural noun used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Packages => "packages",
            Self::Users => "users",
            Self::Groups => "groups",
            Self::Units => "units",
            Self::Sockets => "sockets",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What stands at the head of a capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the form, so that an old probe is noticed.
    pub form: u32,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The machine's clock when the capture began: nanoseconds since 1970.
    pub clock: i64,
    /// Mount points that were walked.
    pub walked: Vec<String>,
    /// Mount points that were not, each with the reason.
    pub left_out: BTreeMap<String, String>,
}

impl Header {
    /// A header of the current form.
    pub fn new(boot_id: String, clock: i64) -> Self {
        Self { form: FORM, boot_id, clock, ..Self::default() }
    }
}

/// Why a section is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The section.
    pub section: Section,
    /// What could not be read, and why.
    pub reason: String,
}

/// One line of a capture on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// First line.
    Header(Header),
    /// Entry of [`Section::Files`].
    File(FileEntry),
    /// Entry of [`Section::Packages`].
    Package(Package),
    /// Entry of [`Section::Users`].
    User(User),
    /// Entry of [`Section::Groups`].
    Group(Group),
    /// Entry of [`Section::Units`].
    Unit(Unit),
    /// Entry of [`Section::Sockets`].
    Socket(Socket),
    /// A section is not whole.
    Gap(Gap),
    /// Last line: entries written, by section.
    End(BTreeMap<Section, usize>),
}

/// Why a stream of lines is no capture.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// Not one of our records.
    #[error("line {line} of the capture is no record")]
    Line {
        /// From 1.
        line: usize,
        /// serde's opinion.
        #[source]
        source: serde_json::Error,
    },
    /// Lines out of order.
    #[error("line {line} of the capture is out of place: {what}")]
    Order {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another version.
    #[error("the capture has form {found}, this harness reads form {FORM}")]
    Form {
        /// Version found.
        found: u32,
    },
    /// Same name twice in a section.
    #[error("{section} has `{subject}` twice")]
    Twice {
        /// Section.
        section: Section,
        /// Name.
        subject: String,
    },
    /// The stream ended early.
    #[error("the capture was cut off after {lines} lines")]
    Cut {
        /// Lines that came.
        lines: usize,
    },
    /// Lines were lost.
    #[error("the capture lost entries of {section}: {found} of {written} arrived")]
    Lost {
        /// Section.
        section: Section,
        /// Arrived.
        found: usize,
        /// Written by the probe.
        written: usize,
    },
}

/// The recorded state of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// When, and what was walked.
    pub header: Header,
    /// By path.
    pub files: BTreeMap<String, FileEntry>,
    /// By name.
    pub packages: BTreeMap<String, Package>,
    /// By name.
    pub users: BTreeMap<String, User>,
    /// By name.
    pub groups: BTreeMap<String, Group>,
    /// By name.
    pub units: BTreeMap<String, Unit>,
    /// By protocol and address.
    pub sockets: BTreeMap<String, Socket>,
    /// Sections that are not whole.
    pub gaps: Vec<Gap>,
}

impl Capture {
    /// How many entries a section holds.
    pub fn count(&self, section: Section) -> usize {
        match section {
            Section::Files => self.files.len(),
            Section::Packages => self.packages.len(),
            Section::Users => self.users.len(),
            Section::Groups => self.groups.len(),
            Section::Units => self.units.len(),
            Section::Sockets => self.sockets.len(),
        }
    }
}

/// Reads a capture line by line, so that it need not lie in memory twice.
#[derive(Debug, Default)]
pub struct Reader {
    capture: Capture,
    lines: usize,
    end: Option<BTreeMap<Section, usize>>,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, text: &str) -> Result<(), CaptureError> {
        self.lines += 1;
        let line = self.lines;
        let record = serde_json::from_str(text).map_err(|source| CaptureError::Line { line, source })?;
        match (line, &record) {
            (1, Record::Header(header)) if header.form != FORM => {
                return Err(CaptureError::Form { found: header.form });
            }
            (1, Record::Header(_)) => {}
            (1, _) => return Err(CaptureError::Order { line, what: "the header must come first" }),
            (_, Record::Header(_)) => return Err(CaptureError::Order { line, what: "a second header" }),
            _ if self.end.is_some() => return Err(CaptureError::Order { line, what: "lines after the end" }),
            _ => {}
        }
        self.take(record)
    }

    fn take(&mut self, record: Record) -> Result<(), CaptureError> {
        let capture = &mut self.capture;
        match record {
            Record::Header(header) => capture.header = header,
            Record::File(entry) => insert(&mut capture.files, Section::Files, entry)?,
            Record::Package(entry) => insert(&mut capture.packages, Section::Packages, entry)?,
            Record::User(entry) => insert(&mut capture.users, Section::Users, entry)?,
            Record::Group(entry) => insert(&mut capture.groups, Section::Groups, entry)?,
            Record::Unit(entry) => insert(&mut capture.units, Section::Units, entry)?,
            Record::Socket(entry) => insert(&mut capture.sockets, Section::Sockets, entry)?,
            Record::Gap(gap) => capture.gaps.push(gap),
            Record::End(counts) => self.end = Some(counts),
        }
        Ok(())
    }

    /// The capture, if all of it came.
    pub fn finish(self) -> Result<Capture, CaptureError> {
        let Some(end) = self.end else { return Err(CaptureError::Cut { lines: self.lines }) };
        for section in Section::ALL {
            let (found, written) = (self.capture.count(section), end.get(&section).copied().unwrap_or(0));
            if found != written {
                return Err(CaptureError::Lost { section, found, written });
            }
        }
        Ok(self.capture)
    }
}

fn insert<T: Facts>(into: &mut BTreeMap<String, T>, section: Section, entry: T) -> Result<(), CaptureError> {
    let subject = entry.subject();
    match into.insert(subject.clone(), entry) {
        None => Ok(()),
        Some(_) => Err(CaptureError::Twice { section, subject }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::file;

    fn lines(records: &[Record]) -> Result<Capture, CaptureError> {
        let mut reader = Reader::default();
        for record in records {
            reader.line(&serde_json::to_string(record).expect("records are plain data"))?;
        }
        reader.finish()
    }

    fn header() -> Record {
        Record::Header(Header::new("boot".to_owned(), 5))
    }

    fn end(files: usize) -> Record {
        Record::End(BTreeMap::from([(Section::Files, files)]))
    }

    #[test]
    fn a_whole_capture_reads_back() {
        let capture = lines(&[header(), Record::File(file("/a", "1")), end(1)]).expect("whole");
        assert_eq!(capture.files["/a"], file("/a", "1"));
        assert_eq!(capture.header.clock, 5);
    }

    #[test]
    fn a_damaged_capture_is_an_error_and_no_smaller_machine() {
        let message = |records: &[Record]| lines(records).expect_err("damaged").to_string();
        assert!(message(&[header(), Record::File(file("/a", "1"))]).contains("cut off after 2 lines"));
        assert!(message(&[header(), Record::File(file("/a", "1")), end(2)]).contains("1 of 2 arrived"));
        assert!(message(&[end(0)]).contains("header must come first"));
        assert!(message(&[header(), end(0), end(0)]).contains("lines after the end"));
        let twice = Record::File(file("/a", "1"));
        assert!(message(&[header(), twice.clone(), twice, end(2)]).contains("`/a` twice"));
        assert!(message(&[]).contains("cut off after 0 lines"));
        let mut old = Header::new(String::new(), 0);
        old.form = 0;
        assert!(message(&[Record::Header(old)]).contains("form 0"));
        assert!(Reader::default().line("{not json").expect_err("no record").to_string().contains("line 1"));
    }
}
