//! A text without its line ends, so that what is broken over lines is found as what is not.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// A longer stretch of line ends and indentation parts what is before it from what is after it.
const LONGEST_BREAK: usize = 256;
/// `2026-01-02T03:04:05.678Z ` and nothing else: the time that redrill sets before the lines of its logs.
const STAMP: &[u8; 25] = b"0000-00-00T00:00:00.000Z ";

/// A text without its line ends, the indentation after them, and redrill's own times at the beginning of lines.
pub(crate) struct Flat<'a> {
    pub(crate) bytes: Cow<'a, [u8]>,
    /// Where something was left out, and how much was up to there and with it.
    breaks: Vec<(usize, usize)>,
}

impl<'a> Flat<'a> {
    pub(crate) fn of(text: &'a [u8]) -> Self {
        let Some(mut end) = memchr2(b'\n', b'\r', text) else {
            return Self { bytes: Cow::Borrowed(text), breaks: Vec::new() };
        };
        let mut bytes = Vec::with_capacity(text.len());
        let mut breaks = Vec::new();
        let (mut from, mut removed) = (0, 0);
        loop {
            bytes.extend_from_slice(&text[from..end]);
            let length = break_at(&text[end..]);
            removed += length;
            breaks.push((bytes.len(), removed));
            from = end + length;
            match memchr2(b'\n', b'\r', &text[from..]) {
                // What follows a break that is too long is text, whatever it is.
                Some(0) | None if length >= LONGEST_BREAK => {
                    let more = text[from..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                    bytes.extend_from_slice(&text[from..from + more]);
                    from += more;
                    match memchr2(b'\n', b'\r', &text[from..]) {
                        Some(next) => end = from + next,
                        None => break,
                    }
                }
                Some(next) => end = from + next,
                None => break,
            }
        }
        bytes.extend_from_slice(&text[from..]);
        Self { bytes: Cow::Owned(bytes), breaks }
    }

    /// Where this stretch lies in the text.
    pub(crate) fn original(&self, range: &Range<usize>) -> Range<usize> {
        self.start(range.start)..range.end + self.removed(self.breaks.partition_point(|(at, _)| *at < range.end))
    }

    /// Where this place lies in the text: behind a break that stands there.
    pub(crate) fn start(&self, at: usize) -> usize {
        at + self.removed(self.breaks.partition_point(|(place, _)| *place <= at))
    }

    fn removed(&self, breaks: usize) -> usize {
        breaks.checked_sub(1).map_or(0, |last| self.breaks[last].1)
    }
}

/// How long the break is that begins here.
fn break_at(text: &[u8]) -> usize {
    let limit = text.len().min(LONGEST_BREAK);
    let blank = text[..limit].iter().take_while(|byte| b"\r\n \t".contains(byte)).count();
    blank + if text[..blank].ends_with(b"\n") && is_stamp(&text[blank..]) { STAMP.len() } else { 0 }
}

fn is_stamp(text: &[u8]) -> bool {
    let same = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    text.len() >= STAMP.len() && text.iter().zip(STAMP).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(text: &str) -> String {
        String::from_utf8(Flat::of(text.as_bytes()).bytes.into_owned()).expect("text")
    }

    #[test]
    fn line_ends_indentation_and_our_own_times_go() {
        assert_eq!(flat("abc\r\n  def\n\n\tghi"), "abcdefghi");
        assert_eq!(flat("abc\n2026-01-02T03:04:05.678Z def"), "abcdef");
        assert_eq!(flat("abc\n2026-01-02 def"), "abc2026-01-02 def");
        assert_eq!(flat("no line end"), "no line end");
    }

    #[test]
    fn a_place_leads_back_to_the_text() {
        let text = b"xabc\r\n  def\nghi";
        let flat = Flat::of(text);
        assert_eq!(&flat.bytes[1..7], b"abcdef");
        assert_eq!(&text[flat.original(&(1..7))], b"abc\r\n  def");
        assert_eq!(&text[flat.original(&(4..7))], b"def", "a break before it is no part of it");
        assert_eq!(&text[flat.original(&(7..10))], b"ghi");
    }

    #[test]
    fn a_gap_that_is_too_long_parts_two_texts() {
        let text = format!("abc{}def", "\n".repeat(1000));
        assert!(flat(&text).len() > 500 && flat(&text).starts_with("abc\n") && flat(&text).ends_with("\ndef"));
        assert_eq!(Flat::of(text.as_bytes()).start(flat(&text).len()), text.len());
    }
}
