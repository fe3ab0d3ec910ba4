//! Language and time zone.

use std::fs;
use std::path::Path;

use redrill_state::{LocaleSetting, Section, TimeZone};

use crate::found::{Found, Root, digest, squeeze};

/// Debian's and systemd's own.
const FILES: [&str; 4] = ["/etc/default/locale", "/etc/locale.conf", "/etc/default/keyboard", "/etc/vconsole.conf"];
const WANTED: &str = "/etc/locale.gen";
const LOCALTIME: &str = "/etc/localtime";

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Locale);
    for file in FILES {
        // The second is a link to the first on newer systems, and both say so.
        let text = found.text(root, file).unwrap_or_default();
        for (name, value) in lines(&text).filter_map(|line| line.split_once('=')) {
            let (name, value) = (name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned());
            found.add(LocaleSetting { name, value, file: file.to_owned() });
        }
    }
    let text = found.text(root, WANTED).unwrap_or_default();
    for line in lines(&text).map(squeeze) {
        let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
        found.add(LocaleSetting { name: format!("locale {name}"), value: value.to_owned(), file: WANTED.to_owned() });
    }
    found
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

pub(crate) fn zone(root: &Root) -> Found {
    let mut found = Found::new(Section::TimeZone);
    let target = fs::read_link(root.at(LOCALTIME)).unwrap_or_default().to_string_lossy().into_owned();
    let named = target.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned());
    let noted = || root.text("/etc/timezone").ok().flatten().map(|text| text.trim().to_owned());
    // The link may lead into the machine, and not into this one.
    let file = if target.starts_with('/') { target } else { Path::new("/etc").join(target).display().to_string() };
    let rules = root.text(LOCALTIME).ok().flatten().or_else(|| root.text(&file).ok().flatten());
    if let Some(zone) = named.or_else(noted).or_else(|| rules.as_ref().map(|_| "unnamed".to_owned())) {
        found.add(TimeZone { zone, rules: rules.map(digest).unwrap_or_default() });
    } else {
        found.note("no time zone is set: UTC");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    #[test]
    fn language_and_time_zone_are_read() {
        let tree = Tree::new("locale");
        tree.file("/etc/default/locale", "# x\nLANG=\"de_DE.UTF-8\"\n");
        tree.file(WANTED, "# en_US.UTF-8 UTF-8\nde_DE.UTF-8  UTF-8\n");
        tree.link(LOCALTIME, "../usr/share/zoneinfo/Europe/Berlin");
        tree.file("/usr/share/zoneinfo/Europe/Berlin", "rules");
        let names: Vec<String> = read(&tree.root())
            .entries
            .iter()
            .map(|record| match record {
                Record::LocaleSetting(setting) => format!("{}={}", setting.name, setting.value),
                _ => panic!("another section"),
            })
            .collect();
        assert_eq!(names, ["LANG=de_DE.UTF-8", "locale de_DE.UTF-8=UTF-8"]);
        let Record::TimeZone(zone) = &zone(&tree.root()).entries[0] else { panic!("another section") };
        assert_eq!((zone.zone.as_str(), zone.rules.as_str()), ("Europe/Berlin", digest("rules").as_str()));
    }
}
