//! A capture: the recorded state of a machine, and its form on disk.
//!
//! On disk a capture is JSON lines, one [`Record`] each: a header first, entries in any order, the end last with the
//! number of entries of each section. A stream that was cut, or lost a line, is an error and never a smaller machine.
//!
//! What comes from a machine may leave out files that are as an earlier capture of it has them, and name the stretch of
//! them instead ([`Same`]): most of a deployed machine is what its image was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::entries::{Facts, FileEntry, Group, Package, Socket, Unit, User};
use crate::files::Files;
use crate::sections::{Record, Section};

/// The version of the form on disk.
pub(crate) const FORM: u32 = 4;

/// What stands at the head of a capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the form, so that an old probe is noticed.
    pub form: u32,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The machine's clock when the capture began: nanoseconds since 1970.
    pub clock: i64,
    /// Names the key that digests of secrets were made with: only those of one key compare.
    #[serde(default)]
    pub key: String,
    /// Names the list of files that this capture left in the machine, for a later one that builds on it; empty without.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub list: String,
    /// The `list` of the capture that this one builds on; empty for one that is whole by itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base: String,
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

/// A stretch of files that are as the base has them, in its order. Those with an escaped name do not count: they are
/// always told in full, since text sorts them differently than a walk meets them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Same {
    /// Path of the first.
    pub from: String,
    /// Path of the last.
    pub to: String,
    /// How many there are, both included.
    pub count: usize,
}

/// Why a section is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The section.
    pub section: Section,
    /// What could not be read, and why.
    pub reason: String,
}

/// Something about a section that is worth knowing and no gap, such as that a program is not installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The section.
    pub section: Section,
    /// One sentence.
    pub text: String,
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
    /// It builds on a capture that is not at hand, or that does not have what it names.
    #[error("line {line} of the capture says that files are as before, and they are not there: {from} to {to}")]
    Base {
        /// From 1.
        line: usize,
        /// Path of the first.
        from: String,
        /// Path of the last.
        to: String,
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
    pub files: Files,
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
    /// The entries of every other section, by name.
    pub settings: BTreeMap<Section, BTreeMap<String, Record>>,
    /// Sections that are not whole.
    pub gaps: Vec<Gap>,
    /// What else there is to say.
    pub notes: Vec<Note>,
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
            _ => self.settings.get(&section).map_or(0, BTreeMap::len),
        }
    }

    /// Every line of it, as it is written to disk: whole by itself.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let counts =
            Section::ALL.iter().map(|section| (*section, self.count(*section))).filter(|(_, count)| *count > 0);
        let end = Record::End(counts.collect());
        let entries = (self.files.values().cloned().map(Record::from))
            .chain(self.packages.values().cloned().map(Record::from))
            .chain(self.users.values().cloned().map(Record::from))
            .chain(self.groups.values().cloned().map(Record::from))
            .chain(self.units.values().cloned().map(Record::from))
            .chain(self.sockets.values().cloned().map(Record::from))
            .chain(self.settings.values().flat_map(|entries| entries.values().cloned()));
        let said = (self.gaps.iter().cloned().map(Record::Gap)).chain(self.notes.iter().cloned().map(Record::Note));
        std::iter::once(Record::Header(self.header.clone())).chain(entries).chain(said).chain(std::iter::once(end))
    }

    /// The file that says what this entry is, where one does.
    pub fn source(&self, section: Section, subject: &str) -> Option<&str> {
        match section {
            Section::Files => self.files.get(subject).and_then(Facts::source),
            Section::Packages => self.packages.get(subject).and_then(Facts::source),
            Section::Users => self.users.get(subject).and_then(Facts::source),
            Section::Groups => self.groups.get(subject).and_then(Facts::source),
            Section::Units => self.units.get(subject).and_then(Facts::source),
            Section::Sockets => self.sockets.get(subject).and_then(Facts::source),
            _ => self.settings.get(&section)?.get(subject)?.entry()?.1.source(),
        }
    }
}

/// Reads a capture line by line, so that it need not lie in memory twice.
#[derive(Debug, Default)]
pub struct Reader {
    capture: Capture,
    files: Vec<FileEntry>,
    base: Option<Files>,
    lines: usize,
    end: Option<BTreeMap<Section, usize>>,
}

impl Reader {
    /// The name of the capture that this one builds on, once its header is read.
    pub fn builds_on(&self) -> Option<&str> {
        Some(self.capture.header.base.as_str()).filter(|base| !base.is_empty())
    }

    /// Gives it the files of that capture.
    pub fn base(&mut self, files: Files) {
        self.base = Some(files);
    }

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
            Record::File(entry) => self.files.push(entry),
            Record::Same(same) => self.same(same)?,
            Record::Package(entry) => insert(&mut capture.packages, Section::Packages, entry)?,
            Record::User(entry) => insert(&mut capture.users, Section::Users, entry)?,
            Record::Group(entry) => insert(&mut capture.groups, Section::Groups, entry)?,
            Record::Unit(entry) => insert(&mut capture.units, Section::Units, entry)?,
            Record::Socket(entry) => insert(&mut capture.sockets, Section::Sockets, entry)?,
            Record::Gap(gap) => capture.gaps.push(gap),
            Record::Note(note) => capture.notes.push(note),
            Record::End(counts) => self.end = Some(counts),
            other => {
                if let Some((section, entry)) = other.entry() {
                    let subject = entry.subject();
                    add(capture.settings.entry(section).or_default(), section, subject, other)?;
                }
            }
        }
        Ok(())
    }

    fn same(&mut self, Same { from, to, count }: Same) -> Result<(), CaptureError> {
        let before = self.files.len();
        let stretch = self.base.iter().flat_map(|base| base.starting_at(&from));
        self.files.extend(stretch.filter(|entry| !entry.path.contains('\\')).take(count).cloned());
        let came = self.files.get(before..).unwrap_or_default();
        let ends = |entry: Option<&FileEntry>, path: &str| entry.is_some_and(|entry| entry.path == path);
        if came.len() == count && ends(came.first(), &from) && ends(came.last(), &to) {
            return Ok(());
        }
        Err(CaptureError::Base { line: self.lines, from, to })
    }

    /// The capture, if all of it came.
    pub fn finish(mut self) -> Result<Capture, CaptureError> {
        let Some(end) = self.end else { return Err(CaptureError::Cut { lines: self.lines }) };
        let twice = |subject| CaptureError::Twice { section: Section::Files, subject };
        self.capture.files = Files::new(self.files).map_err(twice)?;
        // All of it is here now.
        self.capture.header.base.clear();
        for section in Section::ALL.iter().copied() {
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

/// As [`insert`], but where entries may have one name the second is told apart by its number.
fn add(
    into: &mut BTreeMap<String, Record>,
    section: Section,
    subject: String,
    record: Record,
) -> Result<(), CaptureError> {
    let free = |name: &String| !into.contains_key(name);
    let name = if free(&subject) {
        subject
    } else if section.repeats() {
        (2..).map(|number| format!("{subject} ({number})")).find(free).expect("numbers do not end")
    } else {
        return Err(CaptureError::Twice { section, subject });
    };
    into.insert(name, record);
    Ok(())
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

    fn same(from: &str, to: &str, count: usize) -> Record {
        Record::Same(Same { from: from.to_owned(), to: to.to_owned(), count })
    }

    /// A capture that builds on one of these paths, with these records and so many files in the end.
    fn on_base(paths: &[&str], records: &[Record], files: usize) -> Result<Capture, CaptureError> {
        let mut reader = Reader::default();
        let mut first = Header::new("boot".to_owned(), 6);
        first.base = "earlier".to_owned();
        reader.line(&serde_json::to_string(&Record::Header(first)).expect("plain data"))?;
        assert_eq!(reader.builds_on(), Some("earlier"));
        reader.base(paths.iter().map(|path| file(path, "1")).collect());
        for record in records.iter().chain([&end(files)]) {
            reader.line(&serde_json::to_string(record).expect("plain data"))?;
        }
        reader.finish()
    }

    #[test]
    fn what_is_as_before_comes_from_the_capture_before() {
        let paths = ["/", "/a", "/a/b", "/a/\\xff", "/c", "/d"];
        let records = [same("/", "/a/b", 3), Record::File(file("/a/\\xff", "2")), same("/c", "/c", 1)];
        let capture = on_base(&paths, &records, 5).expect("whole");
        let seen: Vec<(&str, String)> =
            capture.files.iter().map(|(path, entry)| (path.as_str(), entry.digest.expect("one").to_string())).collect();
        let (old, new) =
            (file("", "1").digest.expect("one").to_string(), file("", "2").digest.expect("one").to_string());
        let [a, b, c, d, e] = ["/", "/a", "/a/\\xff", "/a/b", "/c"];
        assert_eq!(seen, [(a, old.clone()), (b, old.clone()), (c, new), (d, old.clone()), (e, old)]);
        assert_eq!(capture.header.base, "", "it is whole now");
    }

    #[test]
    fn a_stretch_that_the_capture_before_does_not_have_is_an_error() {
        let paths = ["/", "/a", "/b"];
        for record in [same("/", "/b", 2), same("/x", "/b", 1), same("/a", "/b", 3), same("/", "/", 0)] {
            let error = on_base(&paths, &[record], 3).expect_err("not there");
            assert!(matches!(error, CaptureError::Base { line: 2, .. }), "{error}");
        }
        let error = lines(&[header(), same("/", "/", 1)]).expect_err("it builds on nothing");
        assert!(matches!(error, CaptureError::Base { .. }), "{error}");
    }

    #[test]
    fn what_is_written_again_reads_back() {
        let package = crate::Package { name: "git".to_owned(), version: "1".to_owned(), status: "ok".to_owned() };
        let records = [
            header(),
            Record::File(file("/a", "1")),
            Record::Package(package),
            Record::Shadow(crate::Shadow { name: "ada".to_owned(), ..crate::Shadow::default() }),
            Record::Gap(Gap { section: Section::Sshd, reason: "no".to_owned() }),
            Record::Note(Note { section: Section::Sshd, text: "so".to_owned() }),
            Record::End([Section::Files, Section::Packages, Section::Shadow].map(|section| (section, 1)).into()),
        ];
        let capture = lines(&records).expect("whole");
        let again: Vec<Record> = capture.records().collect();
        assert_eq!(again, records);
        assert_eq!(lines(&again).expect("whole"), capture);
    }

    #[test]
    fn what_stands_twice_is_there_twice() {
        let job = || {
            let file = "/etc/crontab".to_owned();
            Record::CronJob(crate::CronJob { file, schedule: "@daily".to_owned(), ..crate::CronJob::default() })
        };
        let end = Record::End(BTreeMap::from([(Section::Crontabs, 2)]));
        let capture = lines(&[header(), job(), job(), end]).expect("whole");
        let names: Vec<&String> = capture.settings[&Section::Crontabs].keys().collect();
        assert_eq!(names, ["/etc/crontab: @daily  ", "/etc/crontab: @daily   (2)"]);
        assert_eq!(capture.source(Section::Crontabs, names[1]), Some("/etc/crontab"));
        let shadow = || Record::Shadow(crate::Shadow { name: "ada".to_owned(), ..crate::Shadow::default() });
        let twice = lines(&[header(), shadow(), shadow()]).expect_err("one name, two passwords");
        assert!(twice.to_string().contains("`ada` twice"), "{twice}");
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
        for form in [0, FORM + 1] {
            let mut other = Header::new(String::new(), 0);
            other.form = form;
            assert!(message(&[Record::Header(other)]).contains(&format!("form {form}")));
        }
        let newer = r#"{"header":{"form":99,"boot_id":"","clock":0,"walked":[],"left_out":{},"and":"more"}}"#;
        assert!(Reader::default().line(newer).expect_err("newer").to_string().contains("form 99"));
        assert!(Reader::default().line("{not json").expect_err("no record").to_string().contains("line 1"));
    }
}
