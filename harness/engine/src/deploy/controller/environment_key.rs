//! What a Python environment is made from: requirements with all that they include, local projects byte by byte, pip's
//! own settings, the interpreter. Two environments with one key are one environment. What a key cannot hold (a branch
//! of a repository elsewhere, a project that is used where it lies) makes an environment of this run alone.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redrill_model::InputError;

use super::ControllerError;
use crate::scenario_error::ScenarioError;

/// Prints all of an interpreter that an environment depends on.
pub(super) const INTERPRETER: &str = "\
import os, platform, sys, sysconfig
real = os.path.realpath(sys.executable)
about = os.stat(real)
print(sys.version, sys.executable, real, about.st_size, about.st_mtime_ns, sys.base_prefix)
print(sysconfig.get_platform(), platform.libc_ver(), platform.machine())
try:
    import ensurepip
    print(ensurepip.version())
except ImportError:
    print('no ensurepip')
";
/// No requirements file of people is larger.
const LARGEST: u64 = 16 * 1024 * 1024;
/// Settings of pip that change nothing in what is installed.
const SILENT: [&str; 14] = [
    "PIP_CACHE_DIR",
    "PIP_NO_CACHE_DIR",
    "PIP_PROGRESS_BAR",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_NO_INPUT",
    "PIP_NO_COLOR",
    "PIP_QUIET",
    "PIP_VERBOSE",
    "PIP_LOG",
    "PIP_RETRIES",
    "PIP_TIMEOUT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_ROOT_USER_ACTION",
    "PIP_CERT",
];
const ARCHIVES: [&str; 9] = [".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar"];

/// Long options whose value leads somewhere.
const TAKING: [&str; 7] =
    ["--requirement", "--constraint", "--editable", "--find-links", "--index-url", "--extra-index-url", "--pypi-url"];

/// What requirements lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sources {
    /// Digest of all of it.
    pub(super) digest: blake3::Hash,
    /// Why no other run may use the environment.
    pub(super) own: Option<String>,
    /// Projects of the checkout are built.
    pub(super) builds: bool,
    /// One of them is used where it lies.
    pub(super) editable: bool,
}

/// Reads the requirements file of a checkout and all that it leads to. `variables` are those that pip sees.
pub(super) fn read(
    checkout: &Path,
    requirements: &Path,
    variables: &[(OsString, OsString)],
) -> Result<Sources, ControllerError> {
    let root = checkout.canonicalize().map_err(ControllerError::io("cannot find the checkout"))?;
    let file = root.join(requirements);
    let mut reader = SourceReader {
        at: file.parent().unwrap_or(&root).to_owned(),
        root,
        variables,
        hasher: blake3::Hasher::new(),
        open: Vec::new(),
        own: None,
        builds: false,
        editable: false,
    };
    reader.settings();
    if !file.is_file() || !file.canonicalize().is_ok_and(|file| file.starts_with(&reader.root)) {
        let message = format!("`{}` is no file of the servers repo", requirements.display());
        return Err(ScenarioError::mismatch(message, "a committed requirements file").into());
    }
    reader.file(&file)?;
    let SourceReader { hasher, own, builds, editable, .. } = reader;
    Ok(Sources { digest: hasher.finalize(), own, builds, editable })
}

struct SourceReader<'a> {
    root: PathBuf,
    /// Where pip runs: paths of projects start here, wherever the line stands.
    at: PathBuf,
    variables: &'a [(OsString, OsString)],
    hasher: blake3::Hasher,
    /// Files that are being read, each included by the one before.
    open: Vec<PathBuf>,
    own: Option<String>,
    builds: bool,
    editable: bool,
}

/// A line of a requirements file.
struct RequirementLine<'a> {
    file: &'a Path,
    text: &'a str,
    span: Range<usize>,
}

impl RequirementLine<'_> {
    fn wrong(&self, message: impl Into<String>, expected: &str) -> ControllerError {
        let error = InputError::new(self.span.clone(), message, expected);
        ScenarioError::Invalid { path: self.file.to_owned(), text: self.text.to_owned(), error }.into()
    }
}

impl SourceReader<'_> {
    /// Lengths stand before contents: no two sources are written alike.
    fn add(&mut self, kind: &str, bytes: &[u8]) {
        for part in [kind.as_bytes(), bytes] {
            self.hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// pip's settings, from its environment and its files.
    fn settings(&mut self) {
        let mut named: Vec<_> =
            self.variables.iter().filter(|(name, _)| name.as_bytes().starts_with(b"PIP_")).collect();
        named.retain(|(name, _)| !SILENT.iter().any(|silent| name == silent));
        named.sort();
        for (name, value) in named {
            self.add("variable", name.as_bytes());
            self.add("value", value.as_bytes());
            // Files and directories of the host that pip is told to take from.
            for word in value.to_string_lossy().split_whitespace() {
                let place = PathBuf::from(word.trim_start_matches("file://"));
                if place.is_absolute() {
                    self.outside(&place);
                }
            }
        }
        for file in self.configurations() {
            if let Some(bytes) = regular(&file) {
                self.add("configuration", &bytes);
            }
        }
    }

    fn configurations(&self) -> Vec<PathBuf> {
        let below = |name: &str, rest: &str| self.variable(name).map(|place| Path::new(place).join(rest));
        let personal = below("XDG_CONFIG_HOME", "pip/pip.conf").or_else(|| below("HOME", ".config/pip/pip.conf"));
        let host = ["/etc/pip.conf", "/etc/xdg/pip/pip.conf"].map(PathBuf::from);
        host.into_iter().chain(personal).chain(below("HOME", ".pip/pip.conf")).collect()
    }

    /// A file of the host by its content, a directory by its listing.
    fn outside(&mut self, place: &Path) {
        if let Some(bytes) = regular(place) {
            self.add("outside", &bytes);
        }
        let Ok(entries) = fs::read_dir(place) else { return };
        let mut listing: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let about = entry.metadata().ok()?;
                Some((entry.file_name(), about.len(), about.mtime(), about.mtime_nsec()))
            })
            .collect();
        listing.sort();
        for (name, length, seconds, nanoseconds) in listing {
            self.add("listed", name.as_bytes());
            self.add("about", format!("{length} {seconds} {nanoseconds}").as_bytes());
        }
    }

    /// Reads a file of requirements or constraints that lies in the checkout.
    fn file(&mut self, file: &Path) -> Result<(), ControllerError> {
        let told = file.strip_prefix(&self.root).unwrap_or(file).to_owned();
        let unreadable = || ControllerError::io(format!("cannot read `{}`", told.display()));
        if fs::metadata(file).map_err(unreadable())?.len() > LARGEST {
            let message = format!("`{}` is larger than {LARGEST} bytes", told.display());
            return Err(ScenarioError::mismatch(message, "a requirements file").into());
        }
        let bytes = fs::read(file).map_err(unreadable())?;
        self.add("requirements", &bytes);
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let line = RequirementLine { file: &told, text: &text, span: at..at + 1 };
                return Err(line.wrong("this is no UTF-8", "a requirements file in UTF-8"));
            }
        };
        if let Some(at) = text.find(|c: char| c.is_control() && !"\t\r\n\u{c}".contains(c)) {
            let line = RequirementLine { file: &told, text: &text, span: at..at + 1 };
            return Err(line.wrong("a control character stands here", "plain text"));
        }
        self.open.push(file.to_owned());
        for (span, line) in logical(text.trim_start_matches('\u{feff}')) {
            let cut = text.len() - text.trim_start_matches('\u{feff}').len();
            let span = span.start + cut..span.end + cut;
            let line = self.expanded(&line);
            self.line(&line, &RequirementLine { file: &told, text: &text, span })?;
        }
        self.open.pop();
        Ok(())
    }

    /// Puts variables in, `${NAME}` as pip knows them; their values are part of the key, as what they stand for is.
    fn expanded(&mut self, line: &str) -> String {
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let name = after.split('}').next().unwrap_or_default();
            let sound = after.len() > name.len()
                && !name.is_empty()
                && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            match self.variable(name).filter(|_| sound).map(|value| value.to_string_lossy().into_owned()) {
                Some(value) => {
                    self.add("expanded", value.as_bytes());
                    out.push_str(&value);
                    rest = &after[name.len() + 1..];
                }
                None => {
                    out.push_str("${");
                    rest = after;
                }
            }
        }
        out + rest
    }

    fn line(&mut self, text: &str, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        if !text.starts_with('-') {
            let requirement = text.find(" --").map_or(text, |at| &text[..at]);
            let hashed = text.contains("--hash=") || text.contains("--hash ");
            return self.requirement(requirement.trim(), hashed, line);
        }
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, Some(value)),
                _ if word.starts_with("--") => (word, None),
                _ => (word.get(..2).unwrap_or(word), word.get(2..).filter(|value| !value.is_empty())),
            };
            // pip takes any beginning of a long option that is no other's.
            let long = |full: &&&str| option.len() > 2 && option.starts_with("--") && full.starts_with(option);
            let option = TAKING.iter().find(long).copied().unwrap_or(option);
            if !TAKING.contains(&option) && !["-r", "-c", "-e", "-f", "-i"].contains(&option) {
                continue; // The text is part of the key; pip says what it does not know.
            }
            let Some(value) = value.or_else(|| words.next()).map(unquoted) else {
                return Err(line.wrong(format!("`{option}` has no value"), "a value behind it"));
            };
            match option {
                "-r" | "--requirement" | "-c" | "--constraint" => self.included(value, line)?,
                "-e" | "--editable" => self.editable(value, line)?,
                _ => self.index(value, line)?,
            }
        }
        Ok(())
    }

    fn included(&mut self, name: &str, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        if is_remote(name) {
            self.own.get_or_insert_with(|| format!("`{name}` may say something else tomorrow"));
            return Ok(());
        }
        let above = self.open.last().and_then(|file| file.parent()).unwrap_or(&self.at).to_owned();
        let file = self.inside(&above.join(local_path(name)), name, line)?;
        if !file.is_file() {
            return Err(line.wrong(format!("`{name}` is no file"), "a requirements file"));
        }
        if self.open.contains(&file) {
            return Err(line.wrong(format!("`{name}` includes itself"), "files that do not include each other"));
        }
        self.file(&file)
    }

    fn editable(&mut self, value: &str, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        if is_remote(value) {
            return self.remote(value, false);
        }
        self.own.get_or_insert_with(|| format!("`{value}` is used where it lies"));
        self.editable = true;
        self.local(value, line)
    }

    /// Where packages are looked for.
    fn index(&mut self, value: &str, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        let here = self.open.last().and_then(|file| file.parent()).unwrap_or(&self.at).to_owned();
        if is_remote(value) || value.contains("://") && !value.starts_with("file:") {
            return Ok(());
        }
        let place = self.inside(&here.join(local_path(value)), value, line)?;
        self.content(&place, value, line)
    }

    fn requirement(&mut self, text: &str, hashed: bool, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        let named = text.split_once('@').filter(|(name, _)| is_name(name)).map(|(_, place)| place.trim());
        let place = named.unwrap_or(text);
        if is_remote(place) {
            return self.remote(place, hashed);
        }
        let bare = place.split(';').next().unwrap_or_default().trim();
        let is_path = bare.starts_with("file:") || bare.contains('/') || bare.starts_with('.');
        let is_archive = ARCHIVES.iter().any(|end| bare.to_ascii_lowercase().ends_with(end));
        if is_path || (is_archive && self.at.join(bare).is_file()) {
            return self.local(bare, line);
        }
        if named.is_some() || !is_specifier(bare) {
            let message = format!("`{text}` is no requirement");
            return Err(line.wrong(message, "a package, such as `pyinfra==3.10.0`, a path, or an option of pip"));
        }
        Ok(())
    }

    /// A project elsewhere: what a commit or a digest names stays what it is.
    fn remote(&mut self, url: &str, hashed: bool) -> Result<(), ControllerError> {
        let (place, fragment) = url.split_once('#').unwrap_or((url, ""));
        let place = place.split_whitespace().next().unwrap_or_default();
        let commit = place.rsplit_once('@').map(|(_, commit)| commit).unwrap_or_default();
        let pinned = matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !(pinned || hashed || fragment.contains("sha256=")) {
            // Named without a password that may stand in it.
            let told =
                place.rsplit_once("://").map_or(place, |(_, rest)| rest.split_once('@').map_or(rest, |(_, r)| r));
            self.own.get_or_insert_with(|| format!("`{told}` names nothing that stays the same"));
        }
        Ok(())
    }

    /// A project or an archive in the checkout.
    fn local(&mut self, value: &str, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        let without_extras = match value.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
            Some((path, _)) => path.trim(),
            None => value,
        };
        let place = self.inside(&self.at.join(local_path(without_extras)), value, line)?;
        let project = ["pyproject.toml", "setup.py", "setup.cfg"].iter().any(|name| place.join(name).is_file());
        if place.is_dir() && !project && !value.contains('#') {
            return Err(line
                .wrong(format!("`{value}` is no Python project"), "a directory with a pyproject.toml or a setup.py"));
        }
        self.builds = true;
        self.content(&place, value, line)
    }

    /// What a name in a requirements file leads to, which must be there and part of the checkout.
    fn inside(&self, path: &Path, name: &str, line: &RequirementLine<'_>) -> Result<PathBuf, ControllerError> {
        let found = path.canonicalize();
        let found =
            found.map_err(|error| line.wrong(format!("`{name}` cannot be found: {error}"), "what is committed"))?;
        if !found.starts_with(&self.root) {
            let message = format!("`{name}` leads out of the servers repo: this commit would not be enough");
            return Err(line.wrong(message, "a path inside the repo"));
        }
        Ok(found)
    }

    /// All of a file or a directory: names, modes, bytes, links.
    fn content(&mut self, place: &Path, name: &str, line: &RequirementLine<'_>) -> Result<(), ControllerError> {
        let mut seen = Vec::new();
        let read = self.tree(place, &mut seen);
        let failed = |error: io::Error| line.wrong(format!("`{name}` cannot be read: {error}"), "what is committed");
        read.map_err(failed)
    }

    fn tree(&mut self, place: &Path, seen: &mut Vec<PathBuf>) -> io::Result<()> {
        let about = fs::symlink_metadata(place)?;
        if about.is_dir() {
            if seen.contains(&place.to_owned()) {
                return Ok(());
            }
            seen.push(place.to_owned());
            let mut entries = fs::read_dir(place)?.collect::<io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            entries.retain(|entry| entry.file_name() != ".git");
            self.add("directory", entries.len().to_string().as_bytes());
            for entry in entries {
                self.add("name", entry.file_name().as_bytes());
                self.tree(&entry.path(), seen)?;
            }
        } else if about.is_symlink() {
            self.add("link", fs::read_link(place)?.as_os_str().as_bytes());
            // A build copies what lies behind it. One that leads nowhere is no content.
            if let Ok(behind) = place.canonicalize() {
                if !behind.starts_with(&self.root) {
                    let told = place.strip_prefix(&self.root).unwrap_or(place).display();
                    return Err(io::Error::other(format!("the link `{told}` leads out of the servers repo")));
                }
                self.tree(&behind, seen)?;
            }
        } else if about.is_file() {
            self.add("mode", if about.permissions().mode() & 0o111 == 0 { b"-" } else { b"x" });
            let mut content = blake3::Hasher::new();
            io::copy(&mut fs::File::open(place)?, &mut content)?;
            self.add("file", content.finalize().as_bytes());
        }
        Ok(())
    }
}

/// Lines as pip joins them, without comments and blank ones, each with the place of its first.
fn logical(text: &str) -> Vec<(Range<usize>, String)> {
    let (mut lines, mut open, mut offset) = (Vec::new(), None::<(Range<usize>, String)>, 0);
    for raw in text.split_inclusive('\n') {
        let start = offset;
        offset += raw.len();
        let body = raw.trim_end_matches(['\n', '\r']);
        let comment = body.trim_start().starts_with('#');
        let (body, goes_on) = match body.strip_suffix('\\') {
            Some(body) if !comment => (body, true),
            _ => (body, false),
        };
        let indent = body.len() - body.trim_start().len();
        let span = start + indent..start + indent + body.trim().len();
        let (span, mut joined) = open.take().unwrap_or((span, String::new()));
        // A comment inside a joined line ends it for pip, too.
        joined.push_str(if comment && !joined.is_empty() { "" } else { body });
        if goes_on {
            open = Some((span, joined));
        } else {
            lines.push((span, joined));
        }
    }
    lines.extend(open);
    let cut = |line: String| {
        let at =
            line.char_indices().position(|(at, c)| c == '#' && (at == 0 || line[..at].ends_with(char::is_whitespace)));
        let kept: String = line.chars().take(at.unwrap_or(usize::MAX)).collect();
        kept.trim().to_owned()
    };
    lines.into_iter().map(|(span, line)| (span, cut(line))).filter(|(_, line)| !line.is_empty()).collect()
}

fn unquoted(word: &str) -> &str {
    let inner = |mark: char| word.strip_prefix(mark).and_then(|word| word.strip_suffix(mark));
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

fn is_remote(text: &str) -> bool {
    let scheme = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let versioned = ["git", "hg", "svn", "bzr"].iter().any(|tool| scheme.starts_with(&format!("{tool}+")));
    text.contains(':') && (versioned || matches!(scheme.as_str(), "http" | "https" | "ftp"))
}

/// The path of `file:` URLs, or the path itself.
fn local_path(text: &str) -> PathBuf {
    let Some(rest) = text.strip_prefix("file:") else { return PathBuf::from(text) };
    let rest = rest.strip_prefix("//localhost").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
    let rest = rest.split('#').next().unwrap_or_default().as_bytes();
    let mut path = Vec::new();
    let mut at = 0;
    while at < rest.len() {
        let code =
            rest.get(at + 1..at + 3).filter(|_| rest[at] == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 3;
            }
            None => {
                path.push(rest[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&path))
}

/// A project's name, perhaps with extras.
fn is_name(text: &str) -> bool {
    let text = text.trim();
    let name = text.split('[').next().unwrap_or_default().trim();
    let extras = text.len() == name.len() || text.ends_with(']');
    let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    extras && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(sound)
}

/// A name, extras and versions, without the marker.
fn is_specifier(text: &str) -> bool {
    let end = text.find(['=', '<', '>', '~', '!', '(']).unwrap_or(text.len());
    let (name, versions) = text.split_at(end);
    let versions = versions.trim().trim_start_matches('(').trim_end_matches(')');
    let sound = |version: &str| {
        let version = version.trim();
        let number = version.trim_start_matches(['=', '<', '>', '~', '!']);
        number.len() < version.len() && !number.trim().is_empty() && !number.trim().contains(char::is_whitespace)
    };
    is_name(name) && (versions.is_empty() || versions.trim_end_matches(',').split(',').all(sound))
}

/// A regular file of a sensible size; anything else is nothing.
fn regular(file: &Path) -> Option<Vec<u8>> {
    let about = fs::metadata(file).ok().filter(|about| about.is_file() && about.len() <= LARGEST);
    about.and_then(|_| fs::read(file).ok())
}

/// Copies a checkout for pip to build projects in, which writes beside their sources: the deploy shall see the commit.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
