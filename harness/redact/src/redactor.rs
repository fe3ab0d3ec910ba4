//! Finds the secrets of one drill in texts, and takes them out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

use crate::MARK;
use crate::collect::{How, KeySecrets};
use crate::flat::Flat;
use crate::words::{self, FLOOR};
use crate::{forms, public};

/// Up to so many bytes of patterns a table of all transitions is made. Measured with 300 values in 6000 forms: 480 MB/s
/// and 150 MiB, against 240 MB/s and 25 MiB; with 850 values the table would take 300 MiB.
const LARGEST_TABLE: usize = 192 * 1024;

/// A pattern of the user that cannot be looked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{pattern}` cannot be looked for: {why}")]
pub struct PatternError {
    /// As written.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

/// What is put in the place of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style<'a> {
    /// [`MARK`].
    Mark,
    /// A mark with a short digest under this key: texts with different secrets stay different.
    Keyed(&'a [u8; 32]),
    /// As many asterisks as the secret has bytes: for files that somebody else has open.
    Mask,
}

/// Knows the secrets of one drill.
#[derive(Debug)]
pub struct Redactor {
    search: Option<AhoCorasick>,
    /// Sorted: those that are words come first, and are found only where they are words.
    patterns: Vec<Vec<u8>>,
    bound: usize,
    longest: usize,
    regexes: Vec<Regex>,
    values: usize,
    left_out: Vec<String>,
    /// Words beside ours that stay in the structure of a document.
    own: HashSet<String>,
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new(&KeySecrets::default(), Vec::new())
    }
}

/// Gathers what a [`Redactor`] must know.
#[derive(Debug, Default)]
pub struct Builder {
    public: BTreeSet<String>,
    directories: Vec<std::path::PathBuf>,
    values: Vec<String>,
    patterns: Vec<String>,
    own: HashSet<String>,
}

impl Builder {
    /// Every secret below this directory.
    #[must_use]
    pub fn keys(mut self, directory: &Path) -> Self {
        self.directories.push(directory.to_owned());
        self
    }

    /// The names that this scenario's text gives to machines, images, hosts and paths are no secrets.
    #[must_use]
    pub fn scenario(mut self, text: &str) -> Self {
        self.public.extend(public::names(text));
        self
    }

    /// Values that are no secrets, each exactly as it stands in the keys.
    #[must_use]
    pub fn public(mut self, values: &[String]) -> Self {
        self.public.extend(values.iter().map(|value| value.trim().to_owned()));
        self
    }

    /// Words of which the structure of documents is made: where they stand as such they are no secrets, not even in part.
    #[must_use]
    pub fn own(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.own.extend(words);
        self
    }

    /// One more secret, as if it were a file of the keys.
    #[must_use]
    pub fn value(mut self, value: &str) -> Self {
        self.values.push(value.to_owned());
        self
    }

    /// Regular expressions: what they match in a line is a secret, wherever it comes from.
    #[must_use]
    pub fn patterns(mut self, patterns: &[String]) -> Self {
        self.patterns.extend_from_slice(patterns);
        self
    }

    /// Reads the keys.
    pub fn build(self) -> Result<Redactor, PatternError> {
        let regexes = self.patterns.iter().map(|pattern| check_pattern(pattern)).collect::<Result<_, _>>()?;
        let mut secrets = KeySecrets::new(self.public);
        self.directories.iter().for_each(|directory| secrets.directory(directory));
        self.values.iter().for_each(|value| secrets.content(value.as_bytes()));
        Ok(Redactor { own: self.own, ..Redactor::new(&secrets, regexes) })
    }
}

/// A pattern of the user, if it can be looked for: one that matches nothing at all would match everywhere.
pub fn check_pattern(pattern: &str) -> Result<Regex, PatternError> {
    let error = |why: String| PatternError { pattern: pattern.to_owned(), why };
    let regex = RegexBuilder::new(pattern).multi_line(true).size_limit(4 << 20).dfa_size_limit(8 << 20).build();
    let regex = regex.map_err(|why| error(why.to_string().lines().last().unwrap_or_default().to_owned()))?;
    // Assertions alone match no text in some places only: between letters, at ends.
    let probes = ["", "a", "a b", " ", "\n", "a\nb", "-", "0 Z_"];
    let empty = |probe: &&str| regex.find_iter(probe.as_bytes()).any(|found| found.is_empty());
    match probes.iter().any(empty) {
        true => Err(error("it matches the empty text".to_owned())),
        false => Ok(regex),
    }
}

impl Redactor {
    /// Every secret below the directory of the keys. What `scenario`, the text of a `scenario.toml`, calls machines,
    /// hosts, images and paths by is none.
    pub fn from_keys(directory: &Path, scenario: &str) -> Self {
        let built = Self::builder().keys(directory).scenario(scenario).build();
        built.expect("only patterns can be wrong, and there are none")
    }

    /// To say more than a directory.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn new(secrets: &KeySecrets, regexes: Vec<Regex>) -> Self {
        let patterns = patterns(secrets);
        let bytes: usize = patterns.keys().map(Vec::len).sum();
        let longest = patterns.keys().map(Vec::len).max().unwrap_or_default();
        let (free, words): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|(_, bound)| !*bound);
        let bound = words.len();
        let patterns: Vec<Vec<u8>> = words.into_iter().chain(free).map(|(pattern, _)| pattern).collect();
        let kind = if bytes <= LARGEST_TABLE { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let search = AhoCorasick::builder().kind(Some(kind)).match_kind(MatchKind::Standard).build(&patterns);
        // Its own limits (billions of bytes of patterns) are out of reach: values are counted and cut.
        let search = (!patterns.is_empty()).then(|| search.expect("patterns within its limits"));
        let left_out = secrets.left_out.iter().cloned().collect();
        Self { search, patterns, bound, longest, regexes, values: secrets.values.len(), left_out, own: HashSet::new() }
    }

    /// Whether a text is a word of the structure.
    pub(crate) fn is_own(&self, text: &str) -> bool {
        words::is_own(text) || self.own.contains(text)
    }

    /// How many values it looks for.
    pub fn values(&self) -> usize {
        self.values
    }

    /// In how many forms.
    pub fn forms(&self) -> usize {
        self.patterns.len()
    }

    /// What of the keys may be secret and is not looked for, and why: by file, never by value.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether it looks for anything.
    pub fn is_empty(&self) -> bool {
        self.search.is_none() && self.regexes.is_empty()
    }

    /// The text without secrets. It has as many line ends as before.
    pub fn clean(&self, text: &str) -> String {
        self.clean_with(text, Style::Mark)
    }

    /// The text with something else in the place of its secrets.
    pub fn clean_with(&self, text: &str, style: Style<'_>) -> String {
        match self.changed(text.as_bytes(), style) {
            // A secret may be no text, and end within a letter.
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => text.to_owned(),
        }
    }

    /// Bytes without secrets.
    pub fn clean_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.changed(bytes, Style::Mark).unwrap_or_else(|| bytes.to_owned())
    }

    /// Whether a secret stands in the text.
    pub fn finds(&self, text: impl AsRef<[u8]>) -> bool {
        !self.spans(text.as_ref()).is_empty()
    }

    /// The text without secrets, unless it has none.
    pub(crate) fn changed(&self, bytes: &[u8], style: Style<'_>) -> Option<Vec<u8>> {
        let spans = self.spans(bytes);
        if spans.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut from = 0;
        for span in spans {
            out.extend_from_slice(&bytes[from..span.start]);
            write_mark(&bytes[span.clone()], style, &mut out);
            from = span.end;
        }
        out.extend_from_slice(&bytes[from..]);
        Some(out)
    }

    /// Where secrets stand: in order, and apart from each other.
    fn spans(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        if bytes.len() < FLOOR || self.is_empty() {
            return Vec::new();
        }
        let flat = Flat::of(bytes);
        self.spans_in(bytes, &flat)
    }

    pub(crate) fn spans_in(&self, bytes: &[u8], flat: &Flat<'_>) -> Vec<Range<usize>> {
        let mut spans: Vec<Range<usize>> = self.found(&flat.bytes).map(|range| flat.original(&range)).collect();
        let matches = self.regexes.iter().flat_map(|regex| regex.find_iter(bytes));
        spans.extend(matches.map(|found| found.range()).filter(|range| !range.is_empty()));
        union(spans)
    }

    /// Every place of every pattern. They may overlap: what is left of the second of two is a part of a secret too.
    fn found<'a>(&'a self, flat: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        let found = self.search.iter().flat_map(move |search| search.find_overlapping_iter(flat));
        found
            .filter(|found| found.pattern().as_usize() >= self.bound || stands_alone(flat, &found.range()))
            .map(|found| found.range())
    }

    /// How many bytes at the end of a text without line ends may be the beginning of a secret.
    pub(crate) fn open_end(&self, flat: &[u8]) -> usize {
        let begins = |end: &&[u8]| {
            let (words, free) = self.patterns.split_at(self.bound);
            let begins = |patterns: &[Vec<u8>]| {
                let next = patterns.partition_point(|pattern| pattern.as_slice() < *end);
                patterns.get(next).is_some_and(|pattern| pattern.starts_with(end))
            };
            begins(words) || begins(free)
        };
        let longest = self.longest.min(flat.len());
        (flat.len() - longest..flat.len()).map(|from| &flat[from..]).find(begins).map_or(0, <[u8]>::len)
    }

    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Whether texts must be looked at in whole lines.
    pub(crate) fn by_lines(&self) -> bool {
        !self.regexes.is_empty()
    }
}

/// Every form of every secret, and whether it is a word.
fn patterns(secrets: &KeySecrets) -> BTreeMap<Vec<u8>, bool> {
    let mut patterns = BTreeMap::new();
    for (value, how) in &secrets.values {
        let bound = words::is_bound(value);
        let forms = match how {
            How::Plain => forms::plain(value),
            How::Packed => forms::packed(value),
            How::Encoded => forms::forms(value),
        };
        for form in forms {
            let flat = Flat::of(&form).bytes.into_owned();
            let word = bound && flat == *value;
            if flat.len() >= FLOOR && !is_published(secrets, &flat) {
                patterns.entry(flat).and_modify(|bound| *bound &= word).or_insert(word);
            }
        }
    }
    patterns
}

fn is_published(secrets: &KeySecrets, form: &[u8]) -> bool {
    secrets.published.iter().any(|text| memchr::memmem::find(text, form).is_some())
}

fn stands_alone(text: &[u8], range: &Range<usize>) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    !is_word(range.start.checked_sub(1).and_then(|at| text.get(at))) && !is_word(text.get(range.end))
}

/// Joins what overlaps or touches.
fn union(mut spans: Vec<Range<usize>>) -> Vec<Range<usize>> {
    spans.sort_by_key(|span| span.start);
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => joined.push(span),
        }
    }
    joined
}

/// What stands for a secret, with the line ends that were in it.
pub(crate) fn write_mark(secret: &[u8], style: Style<'_>, out: &mut Vec<u8>) {
    match style {
        Style::Mask => return out.extend(secret.iter().map(|byte| if b"\r\n".contains(byte) { *byte } else { b'*' })),
        Style::Mark => out.extend_from_slice(MARK.as_bytes()),
        Style::Keyed(key) => {
            let digest = blake3::keyed_hash(key, &Flat::of(secret).bytes).to_hex();
            out.extend_from_slice(format!("[redacted:{}]", &digest[..12]).as_bytes());
        }
    }
    out.extend(secret.iter().filter(|byte| **byte == b'\n'));
}
