//! Debian's alternatives: names of which several programs may be the meaning.

use std::fs;

use redrill_state::{Alternative, Section};

use crate::found::{Found, Root};

const STATE: &str = "/var/lib/dpkg/alternatives";
const LINKS: &str = "/etc/alternatives";

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Alternatives);
    for path in found.list(root, STATE) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // update-alternatives makes a new file beside the old one and renames it.
        let Some(text) = found.text_at(root, &path).filter(|_| !name.ends_with(".dpkg-tmp")) else { continue };
        let mut lines = text.lines();
        let (Some(mode), Some(link)) = (lines.next(), lines.next()) else {
            found.gap(format!("{STATE}/{name}: no mode and no link"));
            continue;
        };
        let target = fs::read_link(root.at(format!("{LINKS}/{name}"))).unwrap_or_default();
        found.add(Alternative {
            name,
            mode: mode.to_owned(),
            link: link.to_owned(),
            target: target.to_string_lossy().into_owned(),
            file: root.inside(&path),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    #[test]
    fn an_alternative_has_a_mode_and_a_meaning() {
        let tree = Tree::new("alternatives");
        tree.file(&format!("{STATE}/editor"), "manual\n/usr/bin/editor\n\n/bin/nano\n40\n");
        tree.file(&format!("{STATE}/broken"), "auto");
        tree.link(&format!("{LINKS}/editor"), "/usr/bin/vim");
        let found = read(&tree.root());
        assert_eq!(found.gaps.len(), 1);
        let Record::Alternative(editor) = &found.entries[0] else { panic!("another section") };
        assert_eq!((editor.mode.as_str(), editor.target.as_str()), ("manual", "/usr/bin/vim"));
    }
}
