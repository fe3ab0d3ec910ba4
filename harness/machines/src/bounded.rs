//! What a command prints, as far as anybody will read it: whole up to a limit, and of more than that the two ends.

/// Kept of either end, of what was too much.
const END: usize = 1 << 20;

/// Output that does not grow without an end.
#[derive(Debug)]
pub struct Bounded {
    limit: usize,
    /// All of it, or its head.
    start: Vec<u8>,
    /// Once it is too much: the end, and a little before it.
    end: Vec<u8>,
    total: u64,
}

impl Bounded {
    /// The most that a command may print, unless somebody needs all of it: more is no answer that anybody asked for.
    pub const LIMIT: usize = 64 << 20;

    /// Whole up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, start: Vec::new(), end: Vec::new(), total: 0 }
    }

    /// Takes more in.
    pub fn feed(&mut self, data: &[u8]) {
        let was_over = self.is_over();
        self.total += data.len() as u64;
        if was_over {
            self.end.extend_from_slice(data);
            if self.end.len() > 4 * END {
                self.end.drain(..self.end.len() - END);
            }
            return;
        }
        self.start.extend_from_slice(data);
        if self.is_over() {
            let head = END.min(self.limit / 2);
            self.end = self.start.split_off(self.start.len().saturating_sub(END).max(head));
            self.start.truncate(head);
            self.start.shrink_to_fit();
        }
    }

    /// Whether it was more than the limit: time to end the writer.
    pub fn is_over(&self) -> bool {
        self.total > self.limit as u64
    }

    /// What was printed; where something was left out it says so, and how much.
    pub fn into_bytes(self) -> Vec<u8> {
        if !self.is_over() {
            return self.start;
        }
        let end = &self.end[self.end.len().saturating_sub(END)..];
        let missing = self.total - (self.start.len() + end.len()) as u64;
        [&self.start, left_out(missing, "").as_bytes(), end].concat()
    }
}

/// A line of its own that says how much is missing there.
fn left_out(bytes: u64, of: &str) -> String {
    format!("\n[... {} bytes{of} left out ...]\n", grouped(bytes))
}

/// A line of which the rest was not kept.
pub fn cut_line(kept: &str, missing: u64) -> String {
    format!("{kept}{}", left_out(missing, " of this line").trim_matches('\n'))
}

/// How [`killed`] begins.
const KILLED: &str = "redrill: it was killed, since it printed more than ";

/// Why a writer was ended, for the end of its standard error.
pub fn killed(limit: usize) -> String {
    format!("{KILLED}{} MiB\n", limit >> 20)
}

/// That reason, if this standard error ends with it.
pub fn why_killed(stderr: &str) -> Option<&str> {
    let last = &stderr[stderr.rfind(KILLED)?..];
    last.strip_suffix('\n').filter(|last| !last.contains('\n'))?.strip_prefix("redrill: ")
}

/// Thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = Some(digits[..first].to_owned()).filter(|head| !head.is_empty());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_too_much_stays_whole() {
        for pieces in [1, 7, 1000] {
            let mut bounded = Bounded::new(1000);
            let data: Vec<u8> = (0..1000_u32).map(|n| n.to_le_bytes()[0]).collect();
            data.chunks(pieces).for_each(|piece| bounded.feed(piece));
            assert!(!bounded.is_over());
            assert_eq!(bounded.into_bytes(), data);
        }
    }

    #[test]
    fn of_what_is_too_much_the_ends_stay_and_it_says_how_much_is_missing() {
        for pieces in [1000, 32 * 1024, 50 << 20] {
            let mut bounded = Bounded::new(8 << 20);
            let data: Vec<u8> = (0..50 << 20).map(|n: u32| b'a' + (n % 26) as u8).collect();
            data.chunks(pieces).for_each(|piece| bounded.feed(piece));
            assert!(bounded.is_over());
            let text = String::from_utf8(bounded.into_bytes()).expect("text");
            let remark = format!("\n[... {} bytes left out ...]\n", grouped((50 << 20) - (2 << 20)));
            assert_eq!(text.len(), (2 << 20) + remark.len(), "in pieces of {pieces}");
            assert!(text.starts_with("abc") && text.contains(&remark));
            assert_eq!(text.as_bytes()[text.len() - 5..], data[data.len() - 5..]);
            assert_eq!(text.as_bytes()[..END], data[..END]);
        }
        let mut small = Bounded::new(10);
        small.feed(b"0123456789ab");
        assert_eq!(String::from_utf8_lossy(&small.into_bytes()), "01234\n[... 0 bytes left out ...]\n56789ab");
    }

    #[test]
    fn the_reason_is_found_at_the_end_alone() {
        let text = format!("words without an end of a line{}", killed(Bounded::LIMIT));
        assert_eq!(why_killed(&text), Some("it was killed, since it printed more than 64 MiB"));
        assert_eq!((why_killed(&format!("{text}and on\n")), why_killed("")), (None, None));
    }

    #[test]
    fn numbers_are_told_as_people_read_them() {
        let numbers = [0, 12, 999, 1000, 1_498_000_000].map(grouped);
        assert_eq!(numbers, ["0", "12", "999", "1,000", "1,498,000,000"]);
        assert_eq!(cut_line("abc", 4096), "abc[... 4,096 bytes of this line left out ...]");
    }
}
