//! sshd's options as they take effect: `sshd -T`, once for root, and once for each account that can sign in if the
//! configuration tells accounts apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use redrill_state::{Section, SshdOption, User};

use crate::accounts;
use crate::found::{self, Found, Root};

const CONFIG: &str = "/etc/ssh/sshd_config";
/// Accounts asked about at most; each costs a start of sshd.
const MOST: usize = 16;

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Sshd);
    let Some(sshd) = found::program("sshd") else {
        found.note("sshd is not installed");
        return found;
    };
    let users = asked(root, &mut found);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |user: &str| found::run(&sshd, &["-T", "-C", &format!("user={user},host=localhost,addr=127.0.0.1")]);
        let asking: Vec<_> = users.iter().map(|user| scope.spawn(move || ask(user))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap_or_else(|_| Err("sshd: lost".to_owned()))).collect()
    });
    let mut root_options = BTreeMap::new();
    for (user, answer) in users.iter().zip(answers) {
        match answer {
            Ok(text) => {
                let options = parse(&text);
                let differ = |option: &String, value: &String| root_options.get(option) != Some(value);
                for (option, value) in options.iter().filter(|(option, value)| differ(option, value)) {
                    let (user, option, value) = (user.clone(), option.clone(), value.clone());
                    found.add(SshdOption { user, option, value });
                }
                if root_options.is_empty() {
                    root_options = options;
                }
            }
            // The directory is there while sshd runs. Nobody signs in by one that does not.
            Err(error) if error.contains("privilege separation directory") => {
                found.note("sshd is installed and does not run: it was not asked");
                break;
            }
            Err(error) => found.gap(error),
        }
    }
    found
}

/// root first.
fn asked(root: &Root, found: &mut Found) -> Vec<String> {
    let mut names = vec!["root".to_owned()];
    let text = configuration(root);
    let tells_apart = directives(&text).any(|(word, _)| word == "match");
    if tells_apart {
        let users = accounts::users(root).unwrap_or_default();
        let can_sign_in = |user: &&User| {
            user.name != "root" && !["nologin", "false", "sync"].iter().any(|shell| user.shell.ends_with(shell))
        };
        names.extend(users.iter().filter(can_sign_in).map(|user| user.name.clone()));
    }
    if names.len() > MOST {
        found.note(format!("sshd was asked about {MOST} of {} accounts", names.len()));
        names.truncate(MOST);
    }
    names
}

/// An option that may be given several times has several lines.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines() {
        let (option, value) = line.split_once(' ').unwrap_or((line, ""));
        let values = options.entry(option.to_owned()).or_default();
        if !values.is_empty() {
            values.push_str(", ");
        }
        values.push_str(value.trim());
    }
    options
}

/// Patterns of the files that keys are read from, as any part of the configuration gives them.
pub(crate) fn key_files(root: &Root) -> BTreeSet<String> {
    let text = configuration(root);
    let patterns = directives(&text).filter(|(word, _)| word == "authorizedkeysfile");
    let words = patterns.flat_map(|(_, rest)| rest.split_whitespace().map(|word| word.trim_matches('"').to_owned()));
    words.filter(|word| word != "none").collect()
}

/// The configuration's text with that of its includes, in no order that matters.
fn configuration(root: &Root) -> String {
    let mut text = root.text(CONFIG).ok().flatten().unwrap_or_default();
    let mut seen = BTreeSet::new();
    loop {
        let includes: Vec<String> = directives(&text)
            .filter(|(word, _)| word == "include")
            .flat_map(|(_, rest)| rest.split_whitespace().map(str::to_owned))
            .collect();
        let new: Vec<PathBuf> = includes
            .iter()
            .flat_map(|pattern| matching(root, pattern))
            .filter(|path| seen.insert(path.clone()))
            .collect();
        if new.is_empty() {
            return text;
        }
        for path in new {
            text.push('\n');
            text.push_str(&root.text(root.inside(&path)).ok().flatten().unwrap_or_default());
        }
    }
}

/// Files that a pattern names; stars in the file's name only.
fn matching(root: &Root, pattern: &str) -> Vec<PathBuf> {
    let pattern = pattern.trim_matches('"');
    let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") };
    let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", &pattern));
    let fits = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fits(name, &file)
    };
    root.list(if directory.is_empty() { "/" } else { directory }).unwrap_or_default().into_iter().filter(fits).collect()
}

/// Whether a name fits a pattern with `*` and `?`.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            fits(&pattern[1..], name)
                || name.chars().next().is_some_and(|first| fits(pattern, &name[first.len_utf8()..]))
        }
        (Some(a), Some(b)) if a == '?' || a == b => fits(&pattern[a.len_utf8()..], &name[b.len_utf8()..]),
        _ => false,
    }
}

/// Keyword in small letters, and the rest of its line.
fn directives(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (word, rest) = line.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((line, ""));
        (word.to_ascii_lowercase(), rest.trim_start_matches(['=', ' ', '\t']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn accounts_are_asked_about_only_where_the_configuration_tells_them_apart() {
        let tree = Tree::new("sshd");
        tree.file(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nada:x:1:1::/home/ada:/bin/bash\nd:x:2:2::/:/usr/sbin/nologin\n",
        );
        tree.file(CONFIG, "Include /etc/ssh/sshd_config.d/*.conf\n# Match all\n");
        let ask = || asked(&tree.root(), &mut Found::new(Section::Sshd));
        assert_eq!(ask(), ["root"]);
        tree.file("/etc/ssh/sshd_config.d/sftp.conf", "match user ada\n  ForceCommand internal-sftp\n");
        assert_eq!(ask(), ["root", "ada"]);
        tree.file("/etc/ssh/sshd_config.d/sftp.conf.off", "");
        assert_eq!(matching(&tree.root(), "sshd_config.d/*.conf").len(), 1);
    }

    #[test]
    fn repeated_options_are_joined() {
        let options = parse("port 22\nacceptenv LANG\nacceptenv LC_*\nmaxsessions\n");
        assert_eq!((options["port"].as_str(), options["acceptenv"].as_str()), ("22", "LANG, LC_*"));
        assert_eq!(options["maxsessions"], "");
        assert!(fits("*.conf", "a.conf") && fits("a?c*", "abcd") && !fits("*.conf", "a.conf~") && !fits("a", ""));
    }
}
