//! Reads the directory of the keys: which values are secrets.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use crate::words::{self, FLOOR};
use crate::{lines, pairs, parse, public};

/// No more of a file is read: whatever is larger is no key.
const LARGEST: u64 = 64 * 1024 * 1024;
/// Larger files are read by their lines only.
const LARGEST_PARSED: usize = 1024 * 1024;
/// A longer value is data: its beginning and its end are looked for.
const LONGEST: usize = 16 * 1024;
const ENDS: usize = 4 * 1024;
/// Files are secrets as a whole up to here: longer ones by their lines.
const LONGEST_WHOLE: usize = 8 * 1024;
/// Of a larger file with more lines, those are looked for that look like secrets or have a name that says so.
const MOST_LINES: usize = 4096;
/// More values than these would cost memory without end. Small files are read first: keys are small, and what is large
/// is data.
const MOST_VALUES: usize = 20_000;
/// No file takes the place of all others.
const MOST_OF_A_FILE: usize = 5_000;
/// Values within values, and directories within directories.
const DEEPEST: usize = 6;
const DEEPEST_DIRECTORY: usize = 32;

/// In which forms a value is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// As it stands: its parts are looked for in all forms.
    Plain,
    /// In what hides line ends: its lines are looked for in all forms.
    Packed,
    /// In every form.
    Encoded,
}

/// The secrets of a directory of keys.
#[derive(Debug, Default)]
pub(crate) struct KeySecrets {
    pub(crate) values: BTreeMap<Vec<u8>, How>,
    /// Public keys and certificates: what stands in them gives nothing away.
    pub(crate) published: Vec<Vec<u8>>,
    /// What is not looked for though it may be a secret, told by where it stands.
    pub(crate) left_out: BTreeSet<String>,
    /// Values that are none.
    public: BTreeSet<String>,
    /// The file that is being read, for `left_out`.
    file: String,
    /// How many values it brought.
    of_file: usize,
    /// Files of which values are not looked for.
    too_many: BTreeSet<String>,
}

impl KeySecrets {
    pub(crate) fn new(public: BTreeSet<String>) -> Self {
        Self { public, ..Self::default() }
    }

    /// Everything below a directory. Links are followed, as by the deploy; what is no file or directory is none.
    pub(crate) fn directory(&mut self, directory: &Path) {
        let (mut seen, mut files) = (HashSet::new(), Vec::new());
        self.below(directory, directory, (&mut seen, &mut files), 0);
        files.sort();
        for (_, path) in files {
            self.file(directory, &path);
        }
        if let Some(first) = self.too_many.first() {
            let others = match self.too_many.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} other files"),
            };
            let what = "more values than can be looked for: those beyond are not blanked out";
            self.left_out.insert(format!("`{first}`{others}: {what}"));
        }
    }

    /// Gathers the files of a directory with their sizes.
    fn below(
        &mut self,
        top: &Path,
        directory: &Path,
        (seen, files): (&mut HashSet<PathBuf>, &mut Vec<(u64, PathBuf)>),
        depth: usize,
    ) {
        let fresh = directory.canonicalize().is_ok_and(|place| seen.insert(place));
        let mut paths: Vec<PathBuf> = match std::fs::read_dir(directory) {
            Ok(entries) if fresh && depth <= DEEPEST_DIRECTORY => entries.flatten().map(|entry| entry.path()).collect(),
            Ok(_) => return,
            Err(error) => return self.leave_out(top, directory, &format!("cannot be read: {error}")),
        };
        paths.sort();
        for path in paths {
            let Ok(kind) = path.metadata() else { continue };
            if kind.is_dir() && path.file_name().is_some_and(|name| name == ".git") {
                // What is committed is packed; how it is fetched may hold a token.
                files.push((0, path.join("config")));
            } else if kind.is_dir() {
                self.below(top, &path, (seen, files), depth + 1);
            } else if kind.is_file() {
                files.push((kind.len(), path));
            }
        }
    }

    fn leave_out(&mut self, top: &Path, path: &Path, why: &str) {
        let path = path.strip_prefix(top).unwrap_or(path).display();
        self.left_out.insert(format!("`{path}` {why}"));
    }

    fn file(&mut self, top: &Path, path: &Path) {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
        if let Err(error) = read {
            if error.kind() != std::io::ErrorKind::NotFound {
                self.leave_out(top, path, &format!("cannot be read: {error}"));
            }
            return;
        }
        if u64::try_from(bytes.len()) == Ok(LARGEST) {
            self.leave_out(top, path, "is larger than 64 MiB: its beginning is looked for, the rest is not");
        }
        self.file = path.strip_prefix(top).unwrap_or(path).display().to_string();
        self.of_file = 0;
        self.content(&bytes);
    }

    /// What a file holds.
    pub(crate) fn content(&mut self, bytes: &[u8]) {
        if let Some(text) = utf16(bytes) {
            return self.file_text(&text);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.file_text(text.trim_start_matches('\u{feff}')),
            Err(_) => self.file_bytes(bytes),
        }
    }

    fn file_text(&mut self, text: &str) {
        let whole = text.trim();
        if whole.len() > LARGEST_PARSED {
            let data = whole.lines().nth(MOST_LINES).is_some();
            if data {
                self.tell(&format!(
                    "has more than {MOST_LINES} lines: of these, what looks like a secret is looked for"
                ));
            }
            return lines::text(self, whole, data, 0);
        }
        if whole.len() <= LONGEST_WHOLE && !lines::is_public(whole) {
            let name = self.file.clone();
            self.add(whole, &name, How::Encoded);
        }
        let json = parse::json(whole);
        let structured = json.is_some();
        for (name, value) in json.unwrap_or_else(|| parse::values(whole)) {
            self.value(&name, &value, 0);
        }
        if !structured {
            lines::text(self, whole, false, 0);
        }
    }

    /// A file in no encoding that is known: each line as it stands, as a program would print it that takes it for
    /// UTF-8 or Latin-1, and what can be read of it.
    fn file_bytes(&mut self, bytes: &[u8]) {
        if bytes.len() <= LONGEST_WHOLE {
            self.add_bytes(bytes.trim_ascii(), How::Encoded);
        }
        let data = bytes.len() > LARGEST_PARSED;
        for line in bytes.split(|byte| b"\n\r\0".contains(byte)).map(<[u8]>::trim_ascii).take(MOST_LINES) {
            if !data || line.len() <= 256 {
                self.add_bytes(line, How::Encoded);
            }
            for run in line.split(|byte| !(0x20..0x7f).contains(byte)) {
                let text = std::str::from_utf8(run).unwrap_or_default().trim();
                if words::looks_secret(text) {
                    self.add(text, "", How::Encoded);
                }
            }
        }
        let (lossy, latin): (_, String) =
            (String::from_utf8_lossy(bytes), bytes.iter().map(|byte| char::from(*byte)).collect());
        for text in [lossy.as_ref(), latin.as_str()] {
            // Text with a few odd letters, and no program or archive.
            if !data && !text.contains('\0') {
                lines::text(self, text, false, 0);
            }
        }
    }

    /// A value, and what it is made of.
    pub(crate) fn value(&mut self, name: &str, text: &str, depth: usize) {
        let text = text.trim();
        if depth > DEEPEST || text.is_empty() {
            return;
        }
        if text.contains('\n') {
            if text.len() <= LONGEST_WHOLE && !lines::is_public(text) {
                self.add(text, name, How::Encoded);
            }
            return lines::text(self, text, false, depth + 1);
        }
        if public::ssh_key(text).is_some() || public::is_age_recipient(text) {
            return lines::text(self, text, false, depth + 1);
        }
        self.add(text, name, How::Encoded);
        // Such a word may be base64 of something: in its form it would be found after all.
        if self.is_none(text) {
            return;
        }
        for (name, value) in parse::json(text).filter(|_| !text.starts_with('"')).unwrap_or_default() {
            self.value(&name, &value, depth + 1);
        }
        for password in pairs::of_connection(text) {
            self.value("password", &password, depth + 1);
        }
        lines::words(self, text, depth);
        self.decoded(text, depth);
    }

    /// What a value says in base64.
    fn decoded(&mut self, text: &str, depth: usize) {
        let engines: [&GeneralPurpose; 4] = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
        let bytes = engines.iter().find_map(|engine| engine.decode(text).ok());
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= FLOOR) else { return };
        match std::str::from_utf8(&bytes) {
            Ok(plain) if !plain.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
                self.value("", plain, depth + 1);
                // `user:password`, as HTTP has it.
                if let Some((_, password)) = plain.split_once(':') {
                    self.value("password", password, depth + 1);
                }
            }
            _ => self.add_bytes(&bytes, How::Encoded),
        }
    }

    /// Takes a text as a secret, unless it gives nothing away.
    pub(crate) fn add(&mut self, text: &str, name: &str, how: How) {
        let text = text.trim();
        if words::is_vocabulary(text) && words::is_secret_name(name) {
            self.tell(&format!("says `{name}` with a common word as its value: it is not looked for"));
        }
        if text.chars().count() >= FLOOR && !self.is_none(text) {
            let how = if how == How::Encoded && text.contains('\n') { How::Packed } else { how };
            self.add_bytes(text.as_bytes(), how);
        }
    }

    /// Whether a text is no secret, whatever it stands for.
    fn is_none(&self, text: &str) -> bool {
        words::is_vocabulary(text) || words::is_date(text) || self.public.contains(text)
    }

    pub(crate) fn add_bytes(&mut self, bytes: &[u8], how: How) {
        let telling = bytes.iter().any(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80);
        if bytes.len() < FLOOR || !telling || bytes.iter().all(|byte| *byte == bytes[0]) {
            return;
        }
        if bytes.len() > LONGEST {
            self.tell("holds a value of more than 16 KiB: its beginning and its end are looked for");
            self.add_bytes(&bytes[..ENDS], how);
            return self.add_bytes(&bytes[bytes.len() - ENDS..], how);
        }
        let full = self.values.len() >= MOST_VALUES || self.of_file >= MOST_OF_A_FILE;
        if full && !self.values.contains_key(bytes) {
            self.too_many.insert(self.file.clone());
            return;
        }
        self.of_file += 1;
        let known = self.values.entry(bytes.to_vec()).or_insert(how);
        *known = how.max(*known);
    }

    pub(crate) fn publish(&mut self, text: &str) {
        self.published.push(text.split_whitespace().collect::<String>().into_bytes());
    }

    fn tell(&mut self, what: &str) {
        self.left_out.insert(format!("`{}` {what}", self.file));
    }
}

/// A text as some programs of Windows write it, told by the mark that it begins with.
fn utf16(bytes: &[u8]) -> Option<String> {
    let (mark, rest) = bytes.split_first_chunk::<2>()?;
    let unit: fn([u8; 2]) -> u16 = match mark {
        [0xff, 0xfe] => u16::from_le_bytes,
        [0xfe, 0xff] => u16::from_be_bytes,
        _ => return None,
    };
    let units: Vec<u16> = rest.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}
