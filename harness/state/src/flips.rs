//! Operations that undo each other: nothing differs afterwards, and each deploy writes anew. Packages that come and go
//! within one deploy, too.

use std::collections::BTreeMap;

use crate::judge::{Observation, Outcome, Window, window_at};
use crate::observed::Observed;

/// What the path of a package begins with, where one stands for a file.
pub const PACKAGE: &str = "package ";

/// A state in which a file or a package was seen while a deploy ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Nanoseconds since 1970 on the machine's clock; 0 for how it was at the start.
    pub time: i64,
    /// The file, or the package's name after [`PACKAGE`].
    pub path: String,
    /// A word that tells its states apart.
    pub state: String,
}

/// Files that one operation changed and another changed back, each with the number of the latter. `record` is in the
/// order in which it was written.
pub fn flip_flops(record: &[Seen], windows: &[Window]) -> Vec<(Observation, usize)> {
    let mut by_path: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for seen in record {
        by_path.entry(&seen.path).or_default().push(seen);
    }
    let mut found: Vec<(Observation, usize)> =
        by_path.into_iter().filter_map(|(path, states)| flip_flop(path, &states, windows)).collect();
    found.sort_by(|(a, _), (b, _)| (a.window, &a.subject).cmp(&(b.window, &b.subject)));
    found
}

/// Of a file that changes many times, this many states are shown.
const STATES: usize = 6;

fn flip_flop(path: &str, states: &[&Seen], windows: &[Window]) -> Option<(Observation, usize)> {
    let (first, last) = (states.first()?, states.last()?);
    if states.len() < 3 || first.state != last.state {
        return None;
    }
    let at = |seen: &Seen| window_at(windows, seen.time);
    let away = at(states.iter().find(|seen| seen.state != first.state)?)?;
    let back = at(last)?;
    if let Some(package) = path.strip_prefix(PACKAGE) {
        return Some((comes_and_goes(package, first.state == ABSENT, away, back), back.number));
    }
    // Within one operation it is a file that is written in steps.
    let said_so = away.outcome != Outcome::Unchanged || back.outcome != Outcome::Unchanged;
    let observation = || Observation {
        kind: Observed::FlipFlop,
        section: None,
        subject: path.to_owned(),
        summary: format!("in the second deploy `{}` changed `{path}`, and `{}` changed it back", away.name, back.name),
        window: Some(away.number),
        evidence: vec![
            states.iter().take(STATES).map(|seen| seen.state.as_str()).collect::<Vec<_>>().join(" -> "),
            format!("changed back by operation {}: {}", back.number, back.name),
        ],
    };
    (away.number != back.number && said_so).then(|| (observation(), back.number))
}

/// The state of what is not there.
const ABSENT: &str = "absent";

/// No package is written in steps: also within one operation it was there for a while, or was not.
fn comes_and_goes(package: &str, was_absent: bool, away: &Window, back: &Window) -> Observation {
    let (did, undid) =
        if was_absent { ("installed", "removed it again") } else { ("removed or replaced", "brought it back") };
    Observation {
        kind: Observed::FlipFlop,
        section: None,
        subject: format!("{PACKAGE}{package}"),
        summary: format!("in the second deploy `{}` {did} package `{package}`, and `{}` {undid}", away.name, back.name),
        window: Some(away.number),
        evidence: vec![format!("changed back by operation {}: {}", back.number, back.name)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn windows() -> Vec<Window> {
        let window = |number, name: &str| Window {
            number,
            name: name.to_owned(),
            place: None,
            start: number as i64 * SECOND,
            end: number as i64 * SECOND + SECOND / 2,
            outcome: Outcome::Changed,
        };
        vec![window(1, "write"), window(2, "edit"), window(3, "rest")]
    }

    fn seen(states: &[(f64, &str)]) -> Vec<(String, Option<usize>)> {
        let record: Vec<Seen> = states
            .iter()
            .map(|(time, state)| Seen {
                time: (time * 1e9) as i64,
                path: "/etc/app.conf".to_owned(),
                state: (*state).to_owned(),
            })
            .collect();
        flip_flops(&record, &windows()).into_iter().map(|(o, _)| (o.summary, o.window)).collect()
    }

    #[test]
    fn what_one_changes_and_another_changes_back_is_told_with_both() {
        let found = seen(&[(0.0, "8"), (1.2, "4"), (2.2, "8")]);
        assert_eq!(found.len(), 1);
        assert!(found[0].0.contains("`write` changed `/etc/app.conf`, and `edit` changed it back"), "{found:?}");
        assert_eq!(found[0].1, Some(1));
        let record = [(0, "644 8"), (1_200_000_000, "644 4"), (2_200_000_000, "644 8")];
        let record = record.map(|(time, state)| Seen { time, path: "/a".to_owned(), state: state.to_owned() });
        let flips = flip_flops(&record, &windows());
        assert_eq!(flips[0].0.evidence[0], "644 8 -> 644 4 -> 644 8", "what it changed to, and back");
    }

    #[test]
    fn a_package_that_comes_and_goes_is_told_also_within_one_operation() {
        let seen = |states: [(f64, &str); 3]| {
            let of = |(time, state): (f64, &str)| {
                let (path, state) = ("package make".to_owned(), state.to_owned());
                Seen { time: (time * 1e9) as i64, path, state }
            };
            let found = flip_flops(&states.map(of), &windows());
            found.into_iter().map(|(o, back)| (o.summary, o.window, back)).collect::<Vec<_>>()
        };
        let found = seen([(0.0, "absent"), (1.2, "4.4"), (2.2, "absent")]);
        assert_eq!((found[0].1, found[0].2), (Some(1), 2));
        assert!(found[0].0.contains("`write` installed package `make`, and `edit` removed it again"), "{found:?}");
        assert_eq!(seen([(0.0, "absent"), (1.1, "4.4"), (1.2, "absent")]).len(), 1);
        assert!(seen([(0.0, "4.4"), (1.1, "absent"), (1.2, "4.4")])[0].0.contains("brought it back"));
        assert_eq!(seen([(0.0, "absent"), (1.1, "4.4"), (1.2, "4.5")]), [], "a difference that stays is told as one");
    }

    #[test]
    fn steps_of_one_operation_and_lasting_changes_are_none() {
        assert_eq!(seen(&[(0.0, "8"), (1.1, ""), (1.2, "8")]), [], "emptied and written again");
        assert_eq!(seen(&[(0.0, "8"), (1.2, "4")]), [], "a difference that stays is told as one");
        assert_eq!(seen(&[(0.0, "8"), (1.2, "4"), (2.2, "9")]), []);
        assert_eq!(seen(&[(0.0, "8"), (7.0, "4"), (8.0, "8")]), [], "after the deploy");
        assert_eq!(seen(&[(0.0, "8")]), []);
    }
}
