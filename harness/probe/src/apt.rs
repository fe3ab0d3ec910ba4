//! Where packages come from, and the keys that they are trusted by.

use redrill_state::{AptKey, AptSource, Section};

use crate::found::{Found, Root, digest, squeeze};

const KEYS: [&str; 3] = ["/etc/apt/trusted.gpg.d", "/etc/apt/keyrings", "/usr/share/keyrings"];

pub(crate) fn sources(root: &Root) -> Found {
    let mut found = Found::new(Section::AptSources);
    let mut paths = vec![root.at("/etc/apt/sources.list")];
    paths.extend(found.list(root, "/etc/apt/sources.list.d"));
    for path in paths {
        let file = root.inside(&path);
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let parse = match extension.as_str() {
            "list" => one_line,
            "sources" => deb822,
            _ => continue, // apt heeds no other names.
        };
        let Some(text) = found.text_at(root, &path) else { continue };
        parse(&text).into_iter().for_each(|source| found.add(AptSource { file: file.clone(), ..source }));
    }
    found
}

/// `deb [options] uri suite components`, sources.list(5).
fn one_line(text: &str) -> Vec<AptSource> {
    let parse = |line: &str| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let (types, rest) = line.split_once(char::is_whitespace)?;
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next().unwrap_or_default());
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        let others = options.split_whitespace().filter(|option| !option.starts_with("signed-by="));
        Some(AptSource {
            file: String::new(),
            types: types.to_owned(),
            uri: without_password(uri),
            suite: suite.to_owned(),
            components: words.collect::<Vec<_>>().join(" "),
            signed_by: signed_by.unwrap_or_default().to_owned(),
            options: others.collect::<Vec<_>>().join(" "),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Paragraphs of fields; one entry for each address and suite.
fn deb822(text: &str) -> Vec<AptSource> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    lines.split("\n\n").flat_map(stanza).collect()
}

fn stanza(paragraph: &str) -> Vec<AptSource> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in paragraph.lines() {
        match (line.starts_with([' ', '\t']), line.split_once(':'), fields.last_mut()) {
            (true, _, Some((_, value))) => *value = format!("{value}\n{}", line.trim()),
            (_, Some((name, value)), _) => fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
            _ => {}
        }
    }
    let field = |name: &str| fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let known = ["types", "uris", "suites", "components", "signed-by"];
    let others = fields.iter().filter(|(name, _)| !known.contains(&name.as_str()));
    let options = others.map(|(name, value)| format!("{name}={}", squeeze(value))).collect::<Vec<_>>().join(" ");
    // The key itself may stand there.
    let signed_by = match field("signed-by").unwrap_or_default() {
        key if key.contains('\n') => format!("a key with digest {}", digest(key)),
        path => path.to_owned(),
    };
    let mut sources = Vec::new();
    for uri in words("uris") {
        for suite in words("suites") {
            sources.push(AptSource {
                file: String::new(),
                types: words("types").join(" "),
                uri: without_password(&uri),
                suite,
                components: words("components").join(" "),
                signed_by: signed_by.clone(),
                options: options.clone(),
            });
        }
    }
    sources
}

/// `https://user:password@host/` is told by a digest.
fn without_password(uri: &str) -> String {
    let split = || {
        let (scheme, rest) = uri.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = authority.rsplit_once('@')?;
        Some(format!("{scheme}://[{}]@{host}/{path}", &digest(login)[..12]))
    };
    split().unwrap_or_else(|| uri.to_owned())
}

pub(crate) fn keys(root: &Root) -> Found {
    let mut found = Found::new(Section::AptKeys);
    let mut paths = vec![root.at("/etc/apt/trusted.gpg")];
    for directory in KEYS {
        paths.extend(found.list(root, directory));
    }
    for path in paths {
        let inside = root.inside(&path);
        match std::fs::read(&path) {
            Ok(bytes) => found.add(AptKey { path: inside, digest: digest(bytes) }),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::IsADirectory) => {}
            Err(error) => found.gap(format!("{inside}: {error}")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn both_forms_of_sources_are_read() {
        let [one] =
            one_line("# deb no\ndeb [arch=amd64 signed-by=/k.gpg] https://u:p@host/debian trixie main  contrib # x\n")
                .try_into()
                .expect("one source");
        assert_eq!(
            (one.suite.as_str(), one.components.as_str(), one.signed_by.as_str()),
            ("trixie", "main contrib", "/k.gpg")
        );
        assert_eq!(one.options, "arch=amd64");
        assert!(one.uri.ends_with("@host/debian") && !one.uri.contains("u:p"), "{}", one.uri);
        let two = deb822(
            "# x\nTypes: deb\nURIs: http://a\nSuites: s s-updates\nComponents: main\nEnabled: no\nSigned-By:\n -----BEGIN\n .\n abc\n\nTypes: deb\nURIs: http://b\nSuites: t\n",
        );
        let seen: Vec<String> = two.iter().map(|s| format!("{} {} {}", s.uri, s.suite, s.options)).collect();
        assert_eq!(seen, ["http://a s enabled=no", "http://a s-updates enabled=no", "http://b t "]);
        assert!(two[0].signed_by.starts_with("a key with digest "));
    }

    #[test]
    fn apt_heeds_only_files_of_its_endings() {
        let tree = Tree::new("apt");
        tree.file("/etc/apt/sources.list", "deb http://a s main\n");
        tree.file("/etc/apt/sources.list.d/b.list.save", "deb http://b s main\n");
        tree.file("/etc/apt/sources.list.d/c.sources", "Types: deb\nURIs: http://c\nSuites: s\n");
        tree.file("/etc/apt/keyrings/k.gpg", "key");
        assert_eq!(sources(&tree.root()).entries.len(), 2);
        assert_eq!(keys(&tree.root()).entries.len(), 1);
    }
}
