//! A line of a requirements file (PEP 508), as far as its name, extras, place and marker.

/// The parts of a requirement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requirement<'a> {
    /// As written.
    name: &'a str,
    /// Between brackets.
    extras: &'a str,
    /// Versions, or `@` and a place.
    rest: &'a str,
    marker: &'a str,
}

impl<'a> Requirement<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let text = text.trim();
        let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter));
        let (name, behind) = text.split_at(end.unwrap_or(text.len()));
        let behind = behind.trim_start();
        let (extras, behind) = match behind.strip_prefix('[').and_then(|behind| behind.split_once(']')) {
            Some((extras, behind)) => (extras.trim(), behind.trim_start()),
            None => ("", behind),
        };
        // A semicolon may be part of a URL: there a space stands before the one that begins the marker.
        let end = if behind.starts_with('@') { " ;" } else { ";" };
        let (rest, marker) = behind.split_once(end).unwrap_or((behind, ""));
        Self { name, extras, rest: rest.trim(), marker: marker.trim() }
    }

    /// The name, as indexes compare it.
    pub(super) fn name(&self) -> String {
        normal(self.name)
    }

    pub(super) fn extras(&self) -> Vec<String> {
        self.extras.split(',').map(normal).filter(|extra| !extra.is_empty()).collect()
    }

    /// Whether it names a path instead of a package of an index or a URL.
    pub(super) fn is_path(&self) -> bool {
        let place = self.rest.strip_prefix('@').map(str::trim_start);
        place.is_some_and(|place| place.starts_with(['.', '/']) || place.starts_with("file:"))
    }

    /// The same package, from this place.
    pub(super) fn at(&self, place: &str) -> String {
        requirement(&self.name(), self.extras, &format!(" @ {place}"), self.marker)
    }
}

/// Puts a requirement together; `rest` is versions, or ` @ ` and a place.
pub(super) fn requirement(name: &str, extras: &str, rest: &str, marker: &str) -> String {
    let extras = if extras.is_empty() { String::new() } else { format!("[{extras}]") };
    let marker = if marker.is_empty() { String::new() } else { format!(" ; {marker}") };
    format!("{name}{extras}{rest}{marker}")
}

/// A name, as indexes compare it (PEP 503).
pub(super) fn normal(name: &str) -> String {
    let parts: Vec<&str> = name.trim().split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_lowercase()
}

/// A place in a Git repository, as pip has it.
pub(super) fn git(url: &str, at: Option<&str>, subdirectory: Option<&str>) -> String {
    let url = match url.split_once(':') {
        // `git@host:path`, which Git knows and pip does not.
        Some((host, path)) if !url.contains("://") && host.contains('@') => format!("ssh://{host}/{path}"),
        _ => url.to_owned(),
    };
    let at = at.filter(|at| !at.is_empty()).map(|at| format!("@{at}")).unwrap_or_default();
    let below = subdirectory.map(|below| format!("#subdirectory={below}")).unwrap_or_default();
    let scheme = if url.starts_with("git+") { "" } else { "git+" };
    format!("{scheme}{url}{at}{below}")
}
