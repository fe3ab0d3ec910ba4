//! What becomes of a difference that a second deploy left, when the deploy runs again.

use std::collections::BTreeSet;
use std::fmt;

use crate::capture::Capture;
use crate::diff::diff;
use crate::sections::Section;

/// How a difference goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trend {
    /// The third deploy left it as the second did.
    SettlesLate,
    /// The third deploy took it back, and the fourth made it again.
    Oscillates,
    /// The third deploy changed more.
    Diverges,
    /// It is there with one controller and not with another, each time.
    ControllerDependent,
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SettlesLate => "SETTLES_LATE",
            Self::Oscillates => "OSCILLATES",
            Self::Diverges => "DIVERGES",
            Self::ControllerDependent => "CONTROLLER_DEPENDENT",
        })
    }
}

type Names = BTreeSet<(Section, String)>;

/// The machine after the second, third and fourth deploy.
#[derive(Debug)]
pub struct Trends {
    /// Differs between S1 and S3.
    from_first: Names,
    /// Differs between S2 and S3.
    from_second: Names,
    /// Differs between S3 and S4, if there was a fourth deploy.
    from_third: Option<Names>,
}

impl Trends {
    /// After a third deploy.
    pub fn new(s1: &Capture, s2: &Capture, s3: &Capture) -> Self {
        Self { from_first: names(s1, s3), from_second: names(s2, s3), from_third: None }
    }

    /// After a fourth.
    pub fn with_fourth(mut self, s3: &Capture, s4: &Capture) -> Self {
        self.from_third = Some(names(s3, s4));
        self
    }

    /// Whether the third deploy took it back.
    pub fn taken_back(&self, section: Section, subject: &str) -> bool {
        let key = (section, subject.to_owned());
        self.from_second.contains(&key) && !self.from_first.contains(&key)
    }

    /// Of one difference between S1 and S2. `again` says that its operation changed something in the third deploy too:
    /// one that makes a new file each time leaves the old ones alone.
    pub fn of(&self, section: Section, subject: &str, again: bool) -> Trend {
        let key = (section, subject.to_owned());
        if self.taken_back(section, subject) {
            return match &self.from_third {
                Some(fourth) if !fourth.contains(&key) => Trend::ControllerDependent,
                _ => Trend::Oscillates,
            };
        }
        if again || self.from_second.contains(&key) { Trend::Diverges } else { Trend::SettlesLate }
    }
}

fn names(before: &Capture, after: &Capture) -> Names {
    diff(before, after).into_iter().map(|change| (change.section, change.subject)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{file, machine};

    fn content(text: &str) -> Capture {
        machine(&[file("/a", text)], &[])
    }

    fn trend(states: [&str; 3], fourth: Option<&str>, again: bool) -> Trend {
        let [s1, s2, s3] = states.map(content);
        let trends = Trends::new(&s1, &s2, &s3);
        let trends = match fourth {
            Some(text) => trends.with_fourth(&s3, &content(text)),
            None => trends,
        };
        trends.of(Section::Files, "/a", again)
    }

    #[test]
    fn what_goes_on_is_told_from_what_settles() {
        assert_eq!(trend(["1", "2", "2"], None, false), Trend::SettlesLate);
        assert_eq!(trend(["1", "2", "3"], None, true), Trend::Diverges);
        assert_eq!(trend(["1", "2", "2"], None, true), Trend::Diverges, "its operation went on elsewhere");
        assert_eq!(trend(["1", "2", "1"], Some("2"), true), Trend::Oscillates);
        assert_eq!(trend(["1", "2", "1"], None, true), Trend::Oscillates);
        assert_eq!(trend(["1", "2", "1"], Some("1"), true), Trend::ControllerDependent);
    }
}
