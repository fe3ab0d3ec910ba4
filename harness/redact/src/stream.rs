//! Takes secrets out of what comes piece by piece, however long it is.

use crate::flat::Flat;
use crate::redactor::{Redactor, Style, write_mark};

/// So much is looked at together.
const WINDOW: usize = 256 * 1024;
/// What is held back at the end of a window, at least: a break between lines must not be cut.
const LEAST_HELD: usize = 64;
/// For patterns of the user a window ends with a line, unless the line is longer.
const LONGEST_LINE: usize = 64 * 1024;

/// Cleans a stream of bytes. What it holds back is no more than a window.
#[derive(Debug)]
pub struct Stream<'r> {
    redactor: &'r Redactor,
    style: Style<'r>,
    /// What has come and is not passed on.
    pending: Vec<u8>,
    /// How much at its beginning belongs to a secret whose mark is written.
    covered: usize,
    /// What was written last is a mark.
    marked: bool,
    found: bool,
}

impl<'r> Stream<'r> {
    /// A new stream.
    pub fn new(redactor: &'r Redactor, style: Style<'r>) -> Self {
        Self { redactor, style, pending: Vec::new(), covered: 0, marked: false, found: false }
    }

    /// Takes what comes next; what is sure to be clean is added to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = WINDOW.saturating_sub(self.pending.len()).clamp(1, bytes.len());
            self.pending.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if self.pending.len() >= WINDOW {
                let held = self.redactor.longest().max(LEAST_HELD);
                self.settle(|flat| flat.bytes.len().saturating_sub(held), out);
            }
        }
    }

    /// Passes on all but what may be the beginning of a secret.
    pub fn advance(&mut self, out: &mut Vec<u8>) {
        let redactor = self.redactor;
        self.settle(|flat| flat.bytes.len() - redactor.open_end(&flat.bytes), out);
    }

    /// Passes on all that has come: what comes later begins anew.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        let pending = std::mem::take(&mut self.pending);
        let flat = Flat::of(&pending);
        self.write(&pending, &flat, pending.len(), out);
        self.marked = false;
    }

    /// Whether there was a secret in what was passed on.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Whether something is held back.
    pub fn holds_back(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Passes on what comes before a place in the flat text.
    fn settle(&mut self, place: impl FnOnce(&Flat<'_>) -> usize, out: &mut Vec<u8>) {
        let mut pending = std::mem::take(&mut self.pending);
        let flat = Flat::of(&pending);
        let place = place(&flat);
        // A line end before what is held back is part of it: a longer break must not be taken for two.
        let mut cut = if place == flat.bytes.len() { pending.len() } else { flat.original(&(0..place)).end };
        if self.redactor.by_lines() {
            let line = memchr::memrchr(b'\n', &pending[..cut]).map_or(0, |at| at + 1);
            if pending.len() - line <= LONGEST_LINE {
                cut = line;
            }
        }
        self.write(&pending, &flat, cut, out);
        drop(flat);
        pending.drain(..cut);
        self.pending = pending;
    }

    /// Writes what comes before `cut`.
    fn write(&mut self, pending: &[u8], flat: &Flat<'_>, cut: usize, out: &mut Vec<u8>) {
        // Up to where a secret reaches whose mark is written, and up to where all is written.
        let mut covered = self.covered;
        let mut from = covered.min(cut);
        rest_of_mark(&pending[..from], self.style, out);
        for span in self.redactor.spans_in(pending, flat) {
            let goes_on = self.marked && span.start <= covered;
            if span.start >= cut && !goes_on {
                break;
            }
            let end = span.end.min(cut).max(from);
            if goes_on {
                rest_of_mark(&pending[from..end], self.style, out);
            } else {
                out.extend_from_slice(&pending[from..span.start]);
                write_mark(&pending[span.start..end], self.style, out);
            }
            (from, covered, self.marked) = (end, covered.max(span.end), true);
            self.found = true;
        }
        if from < cut {
            out.extend_from_slice(&pending[from..cut]);
            self.marked = false;
        }
        self.covered = covered.saturating_sub(cut);
    }
}

/// More of a secret whose mark is written.
fn rest_of_mark(secret: &[u8], style: Style<'_>, out: &mut Vec<u8>) {
    match style {
        Style::Mask => write_mark(secret, style, out),
        Style::Mark | Style::Keyed(_) => out.extend(secret.iter().filter(|byte| **byte == b'\n')),
    }
}

/// Cleans lines as they come: one is held back while its end may be the beginning of a secret.
#[derive(Debug)]
pub struct Lines<'r> {
    stream: Stream<'r>,
    clean: Vec<u8>,
}

impl<'r> Lines<'r> {
    /// No lines yet.
    pub fn new(redactor: &'r Redactor) -> Self {
        Self { stream: Stream::new(redactor, Style::Mark), clean: Vec::new() }
    }

    /// Takes the next line, without its end; returns those that are clean now.
    pub fn push(&mut self, line: &str) -> Vec<String> {
        self.stream.push(line.as_bytes(), &mut self.clean);
        self.stream.push(b"\n", &mut self.clean);
        self.stream.advance(&mut self.clean);
        self.whole()
    }

    /// Every line that is held back.
    pub fn flush(&mut self) -> Vec<String> {
        self.stream.flush(&mut self.clean);
        self.whole()
    }

    /// Whether a line is held back.
    pub fn holds_back(&self) -> bool {
        self.stream.holds_back() || !self.clean.is_empty()
    }

    fn whole(&mut self) -> Vec<String> {
        let Some(end) = memchr::memrchr(b'\n', &self.clean) else { return Vec::new() };
        let lines: Vec<u8> = self.clean.drain(..=end).collect();
        lines[..end].split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }
}
