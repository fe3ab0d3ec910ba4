//! Differences that come with a second look at the same thing: traces of a fetch without news, backup copies that catch
//! up with what they are copies of.

use crate::capture::Capture;
use crate::diff::{Change, ChangeKind};
use crate::sections::Section;

pub(crate) const FETCH: &str = "git looked for news and found none: its refs, its objects and HEAD are the same";
pub(crate) const COPY: &str = "a backup copy that only caught up with what it is a copy of";

/// What git writes each time that it fetches or checks out.
const TRACES: [&str; 3] = ["FETCH_HEAD", "ORIG_HEAD", "index"];
/// How names of copies end.
const ENDINGS: [&str; 4] = ["-old", ".bak", "-", "~"];

/// Why `change`, one of all the `changes` between two captures, is nobody's, if it is.
pub(crate) fn catches_up(
    change: &Change,
    changes: &[Change],
    (before, after): (&Capture, &Capture),
) -> Option<&'static str> {
    if change.section != Section::Files {
        return None;
    }
    if is_trace_of_fetch(change, changes, after) {
        return Some(FETCH);
    }
    is_copy(change, before, after).then_some(COPY)
}

/// Whether git keeps its own notes there, and all else that it keeps is as it was. An index of another size has other
/// files in it, and a shorter log has lost something.
fn is_trace_of_fetch(change: &Change, changes: &[Change], after: &Capture) -> bool {
    let Some((git, name)) = repository(&change.subject) else { return false };
    if !is_trace(name) || !(change.kind == ChangeKind::Added || change.only(&["content", "size"])) {
        return false;
    }
    if (name == "index" && !change.only(&["content"])) || (name.starts_with("logs/") && shrinks(change)) {
        return false;
    }
    if after.files.get(&format!("{git}HEAD")).is_none() {
        return false;
    }
    let inside = |change: &&Change| change.section == Section::Files && change.subject.starts_with(git);
    changes.iter().filter(inside).all(|other| is_trace(&other.subject[git.len()..]))
}

fn shrinks(change: &Change) -> bool {
    let size = |text: &str| text.parse::<u64>().unwrap_or_default();
    change.differences.iter().any(|d| d.attribute == "size" && size(&d.after) < size(&d.before))
}

fn is_trace(name: &str) -> bool {
    TRACES.contains(&name) || name.starts_with("logs/")
}

/// The directory of git's that a path lies in, with a slash at its end, and the rest of it.
fn repository(path: &str) -> Option<(&str, &str)> {
    let at = path.find(".git/")?;
    Some(path.split_at(at + ".git/".len()))
}

/// Whether it has what the file beside it has now or had before, by whose name it goes, and nothing else of it changed.
fn is_copy(change: &Change, before: &Capture, after: &Capture) -> bool {
    let of = ENDINGS.iter().find_map(|ending| change.subject.strip_suffix(ending)).filter(|of| !of.ends_with('/'));
    let Some(of) = of.filter(|_| change.only(&["content", "size"])) else { return false };
    let digest = |capture: &Capture, path: &str| capture.files.get(path).and_then(|file| file.digest);
    let copy = digest(after, &change.subject);
    let there = digest(before, of).is_some() && digest(after, of).is_some();
    copy.is_some() && there && (copy == digest(before, of) || copy == digest(after, of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;
    use crate::testing::{file, machine};

    /// The paths that nobody changed, of those that differ.
    fn excused(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<String> {
        let captures = [before, after].map(|files| {
            let files: Vec<_> = files.iter().map(|(path, content)| file(path, content)).collect();
            machine(&files, &[])
        });
        let changes = diff(&captures[0], &captures[1]);
        let nobodys = |change: &&Change| catches_up(change, &changes, (&captures[0], &captures[1])).is_some();
        changes.iter().filter(nobodys).map(|change| change.subject.clone()).collect()
    }

    #[test]
    fn a_fetch_without_news_leaves_traces_and_one_with_news_is_a_change() {
        let before = [("/opt/app/.git/HEAD", "a"), ("/opt/app/.git/index", "1"), ("/opt/app/.git/logs/HEAD", "1")];
        let after = [("/opt/app/.git/HEAD", "a"), ("/opt/app/.git/index", "2"), ("/opt/app/.git/logs/HEAD", "12")];
        assert_eq!(excused(&before, &after), ["/opt/app/.git/index", "/opt/app/.git/logs/HEAD"]);
        let fetched = [&before[..], &[("/opt/app/.git/FETCH_HEAD", "x")]].concat();
        assert_eq!(excused(&before, &fetched), ["/opt/app/.git/FETCH_HEAD"]);
        assert_eq!(excused(&fetched, &before).len(), 0, "what is gone is no trace");
        let news = [&fetched[..], &[("/opt/app/.git/refs/remotes/origin/main", "x")]].concat();
        assert_eq!(excused(&before, &news).len(), 0, "a new ref");
        let moved = [&[("/opt/app/.git/HEAD", "b")][..], &after[1..]].concat();
        assert_eq!(excused(&before, &moved).len(), 0, "another HEAD");
        let larger = [after[0], ("/opt/app/.git/index", "22"), after[2]];
        assert_eq!(excused(&before, &larger), ["/opt/app/.git/logs/HEAD"], "an index of another size");
        let emptied = [after[0], after[1], ("/opt/app/.git/logs/HEAD", "")];
        assert_eq!(excused(&before, &emptied), ["/opt/app/.git/index"], "a reflog that was emptied");
        assert_eq!(excused(&before[1..], &after[1..]).len(), 0, "no repository of git's");
        assert_eq!(excused(&[("/srv/FETCH_HEAD", "1")], &[("/srv/FETCH_HEAD", "2")]).len(), 0, "no repository");
    }

    #[test]
    fn a_copy_may_catch_up_and_may_not_hold_anything_else() {
        let copies = ["/etc/shadow-", "/var/lib/dpkg/status-old", "/etc/a.conf.bak", "/etc/a.conf~"];
        for (copy, of) in copies.into_iter().zip(["/etc/shadow", "/var/lib/dpkg/status", "/etc/a.conf", "/etc/a.conf"])
        {
            assert_eq!(excused(&[(of, "2"), (copy, "1")], &[(of, "2"), (copy, "2")]), [copy]);
            assert_eq!(excused(&[(of, "2"), (copy, "1")], &[(of, "3"), (copy, "2")]), [copy], "{of} is told");
            assert_eq!(excused(&[(of, "2"), (copy, "2")], &[(of, "2"), (copy, "9")]).len(), 0, "other content");
            assert_eq!(excused(&[(of, "2")], &[(of, "2"), (copy, "2")]).len(), 0, "a copy more");
            assert_eq!(excused(&[(of, "2"), (copy, "2")], &[(of, "2")]).len(), 0, "a copy less");
            assert_eq!(excused(&[(copy, "1")], &[(copy, "2")]).len(), 0, "a copy of nothing");
        }
        let [old, new] = [("1", 0o600), ("2", 0o644)].map(|(content, mode)| {
            let mut copy = file("/etc/shadow-", content);
            copy.mode = mode;
            machine(&[file("/etc/shadow", "2"), copy], &[])
        });
        let changes = diff(&old, &new);
        assert_eq!(catches_up(&changes[0], &changes, (&old, &new)), None, "everybody may read it now");
    }
}
