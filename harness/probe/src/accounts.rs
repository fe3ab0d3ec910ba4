//! Users and groups, from the files themselves: name services are no part of the machine's state.

use std::collections::BTreeSet;
use std::io::{self, Write};

use redrill_state::{Group, Record, Section, User};

use crate::found::Root;
use crate::sink::Sink;

/// The accounts of `/etc/passwd`, for those who look for what is theirs.
pub(crate) fn users(root: &Root) -> io::Result<Vec<User>> {
    Ok(root.text("/etc/passwd")?.unwrap_or_default().lines().filter_map(user).collect())
}

pub(crate) fn write<W: Write>(sink: &mut Sink<W>) -> io::Result<()> {
    section(sink, Section::Users, "/etc/passwd", |line| {
        user(line).map(|user| (user.name.clone(), Record::User(user)))
    })?;
    section(sink, Section::Groups, "/etc/group", |line| {
        group(line).map(|group| (group.name.clone(), Record::Group(group)))
    })
}

fn section<W: Write>(
    sink: &mut Sink<W>,
    section: Section,
    path: &str,
    parse: impl Fn(&str) -> Option<(String, Record)>,
) -> io::Result<()> {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return sink.gap(section, format!("{path}: {error}")),
    };
    let mut names = BTreeSet::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match parse(line) {
            Some((name, record)) if names.insert(name.clone()) => sink.entry(record)?,
            _ => sink.gap(section, format!("{path}:{}: no entry, or a second one of this name", number + 1))?,
        }
    }
    Ok(())
}

fn user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let &[name, _, uid, gid, comment, home, shell] = fields.as_slice() else { return None };
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        comment: comment.to_owned(),
        home: home.to_owned(),
        shell: shell.to_owned(),
    })
}

fn group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let &[name, _, gid, members] = fields.as_slice() else { return None };
    let mut members: Vec<String> = members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
    members.sort();
    Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_by_field() {
        let ada = user("ada:x:1000:1001:Ada,,,:/home/ada:/bin/bash").expect("a user");
        assert_eq!((ada.uid, ada.gid, ada.home.as_str(), ada.shell.as_str()), (1000, 1001, "/home/ada", "/bin/bash"));
        assert_eq!(group("sudo:x:27:bob,ada").expect("a group").members, ["ada", "bob"]);
        assert_eq!(group("nobody:x:65534:").expect("a group").members, [""; 0]);
        assert_eq!(user("+::::::"), None, "name services are not followed");
        assert_eq!(group("broken"), None);
    }
}
