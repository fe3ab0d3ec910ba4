//! Repositories on backup hosts: SFTP, and restic's rest-server.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::written::{WrittenKind, within_scenario};
use crate::input::InputError;
use crate::spanned::Spanned;

/// A repository on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// Reached by SSH.
    Sftp(Sftp),
    /// Reached by HTTP.
    Rest(Rest),
}

/// A directory or file on a host that speaks SFTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sftp {
    /// The account; if absent, what the user's own SSH configuration says.
    pub user: Option<String>,
    /// A name that DNS or the user's SSH configuration knows, or an address.
    pub host: String,
    /// The port, if it is written.
    pub port: Option<u16>,
    /// Absolute, or relative to where the account begins.
    pub path: String,
    /// A private key, relative to the scenario; if absent, what the user's own SSH has.
    pub key: Option<PathBuf>,
    /// The host's keys as `known_hosts` has them, relative to the scenario; if absent, the user's own.
    pub known_hosts: Option<PathBuf>,
}

/// A repository of restic on a rest-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// `http://` or `https://`, with a slash at its end.
    pub url: String,
    /// A file with `USER:PASSWORD`, relative to the scenario.
    pub login: Option<PathBuf>,
    /// Certificates in PEM, relative to the scenario; if absent, the host's own.
    pub ca: Option<PathBuf>,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest(rest) => write!(f, "rest:{}", rest.url),
            Self::Sftp(Sftp { user, host, port, path, .. }) => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let root = if path.starts_with('/') { "" } else { "/~/" };
                write!(f, "sftp://{user}{host}{port}{root}{path}")
            }
        }
    }
}

/// How to reach a repository on another host: `key` and `known-hosts` for SFTP, `login` and `ca` for a rest-server.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct AccessFile {
    /// A private SSH key, relative to the scenario.
    #[schemars(example = &"keys/backup")]
    key: Option<Spanned<PathBuf>>,
    /// The host's keys, relative to the scenario, as OpenSSH's `known_hosts` holds them.
    #[schemars(example = &"keys/known_hosts")]
    known_hosts: Option<Spanned<PathBuf>>,
    /// A file with `USER:PASSWORD`, relative to the scenario.
    #[schemars(example = &"keys/rest")]
    login: Option<Spanned<PathBuf>>,
    /// Certificates (PEM) that may sign the server's, relative to the scenario.
    #[schemars(example = &"keys/ca.pem")]
    ca: Option<Spanned<PathBuf>>,
}

const EXPECTED: &str = "a path, `sftp:USER@HOST:/PATH`, `sftp://USER@HOST/PATH`, `ssh://USER@HOST/PATH` or \
    `rest:https://HOST/PATH/`; `./` before a path with a colon in it";

/// What `repository` names, if that is on another host.
pub(super) fn remote(
    repository: &Spanned<PathBuf>,
    access: Option<&Spanned<AccessFile>>,
    kind: &WrittenKind,
) -> Result<Option<Remote>, InputError> {
    let text = repository.get_ref().to_string_lossy();
    let odd = |why: &str| InputError::new(repository.span(), format!("`{text}`: {why}"), EXPECTED);
    let rest = text.strip_prefix("rest:");
    let url = ["sftp://", "ssh://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let short = text.strip_prefix("sftp:");
    let mut remote = match (rest, url, short) {
        (Some(_), ..) if !matches!(kind, WrittenKind::Restic | WrittenKind::Script) => {
            return Err(InputError::new(repository.span(), "a rest-server has repositories of restic only", EXPECTED));
        }
        (Some(url), ..) => Remote::Rest(of_rest(url).map_err(odd)?),
        (None, Some(url), _) => Remote::Sftp(of_url(url, *kind == WrittenKind::Restic).map_err(odd)?),
        (None, None, Some(short)) => Remote::Sftp(of_short(short).map_err(odd)?),
        // `HOST:PATH`, `s3:...`, `http://...`: a path has no colon in its first part.
        _ if text.split('/').next().is_some_and(|first| first.contains(':')) => {
            return Err(odd("redrill does not reach this"));
        }
        _ => {
            return match access {
                None => Ok(None),
                Some(access) => Err(InputError::new(access.span(), "a path on this host needs no `access`", EXPECTED)),
            };
        }
    };
    if let Some(access) = access {
        grant(&mut remote, access)?;
    }
    Ok(Some(remote))
}

fn grant(remote: &mut Remote, access: &Spanned<AccessFile>) -> Result<(), InputError> {
    let AccessFile { key, known_hosts, login, ca } = access.get_ref();
    let path = |written: &Option<Spanned<PathBuf>>| written.as_ref().map(within_scenario).transpose();
    let (wrong, expected) = match remote {
        Remote::Sftp(sftp) => {
            (sftp.key, sftp.known_hosts) = (path(key)?, path(known_hosts)?);
            ([login, ca], "over SFTP: `key`, `known-hosts`")
        }
        Remote::Rest(rest) => {
            (rest.login, rest.ca) = (path(login)?, path(ca)?);
            ([key, known_hosts], "of a rest-server: `login`, `ca`")
        }
    };
    match wrong.into_iter().flatten().next() {
        Some(odd) => Err(InputError::new(odd.span(), "this is no access to such a repository", expected)),
        None => Ok(()),
    }
}

fn of_rest(url: &str) -> Result<Rest, &'static str> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or("a rest-server has a URL of HTTP")?;
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return Err("a password does not stand in a scenario: `access = { login = \"keys/FILE\" }`");
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "?#".contains(c);
    if rest.is_empty() || rest.starts_with('/') || rest.contains(odd) {
        return Err("this is no URL of a repository");
    }
    Ok(Rest { url: format!("{}/", url.trim_end_matches('/')), login: None, ca: None })
}

/// `USER@HOST:PORT/PATH`. restic takes the path to begin after the slash, Borg and people with it.
fn of_url(rest: &str, as_restic: bool) -> Result<Sftp, &'static str> {
    let (authority, path) = rest.split_once('/').ok_or("it names no path")?;
    let (user, place) = of_user(authority)?;
    let (host, port) = match place.rsplit_once(':').filter(|_| !place.ends_with(']')) {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| "its port is no number")?)),
        None => (place, None),
    };
    let home = ["./", "~/"].iter().find_map(|start| path.strip_prefix(start));
    let path = match home {
        Some(path) => path.to_owned(),
        None if as_restic => path.to_owned(),
        None => format!("/{path}"),
    };
    sftp(user, host, port, &path)
}

/// `USER@HOST:PATH`.
fn of_short(text: &str) -> Result<Sftp, &'static str> {
    let (user, rest) = of_user(text)?;
    let at = match rest.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => Some(end + 2).filter(|at| rest[*at..].starts_with(':')),
        None => rest.find(':'),
    };
    let at = at.ok_or("it names no path")?;
    sftp(user, &rest[..at], None, &rest[at + 1..])
}

fn of_user(text: &str) -> Result<(Option<String>, &str), &'static str> {
    match text.split_once('@') {
        None => Ok((None, text)),
        Some((user, _)) if user.contains(':') => Err("a password does not stand in a scenario: SSH asks for none here"),
        Some((user, rest)) => Ok((Some(user.to_owned()), rest)),
    }
}

fn sftp(user: Option<String>, host: &str, port: Option<u16>, path: &str) -> Result<Sftp, &'static str> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // Both become words of a command.
    let plain = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
    };
    if !plain(host, ":%") {
        return Err("it names no host");
    }
    if user.as_ref().is_some_and(|user| !plain(user, "+")) {
        return Err("it names no account");
    }
    if path.contains('\0') {
        return Err("it names no path");
    }
    let short = path.trim_end_matches('/');
    let path = match (short, path.starts_with('/')) {
        ("", true) => return Err("the root of a host is no repository"),
        ("", false) => ".",
        (short, _) => short,
    };
    let path = if path.starts_with('/') { format!("/{}", path.trim_start_matches('/')) } else { path.to_owned() };
    Ok(Sftp { user, host: host.to_owned(), port, path, key: None, known_hosts: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, kind: WrittenKind) -> Result<Option<Remote>, String> {
        remote(&Spanned::new(0..1, PathBuf::from(text)), None, &kind).map_err(|error| error.message)
    }

    #[track_caller]
    fn is(text: &str, kind: WrittenKind, told: &str) {
        assert_eq!(read(text, kind).expect("valid").map(|remote| remote.to_string()).as_deref(), Some(told));
    }

    #[test]
    fn the_tools_own_ways_to_write_a_repository_are_understood() {
        is("sftp:me@host:/srv/r/", WrittenKind::Restic, "sftp://me@host/srv/r");
        is("sftp:host:r", WrittenKind::Restic, "sftp://host/~/r");
        is("sftp:[::1]:/r", WrittenKind::Restic, "sftp://[::1]/r");
        is("sftp://me@host:2222//srv/r", WrittenKind::Restic, "sftp://me@host:2222/srv/r");
        is("sftp://host/srv/r", WrittenKind::Restic, "sftp://host/~/srv/r");
        is("sftp://host/srv/r", WrittenKind::Directory, "sftp://host/srv/r");
        is("ssh://me@host:22/srv/borg", WrittenKind::Borg, "sftp://me@host:22/srv/borg");
        is("ssh://me@host/./borg", WrittenKind::Borg, "sftp://me@host/~/borg");
        is("ssh://me@host/~/borg", WrittenKind::Borg, "sftp://me@host/~/borg");
        is("rest:https://host:8000/me/r", WrittenKind::Restic, "rest:https://host:8000/me/r/");
        for path in ["backups/r", "./a:b", "/srv/a:b", "../r"] {
            assert_eq!(read(path, WrittenKind::Directory), Ok(None), "{path}");
        }
    }

    #[test]
    fn what_is_out_of_reach_or_gives_away_a_password_is_refused() {
        for (text, kind, because) in [
            ("s3:s3.example.org/b", WrittenKind::Restic, "does not reach"),
            ("https://host/r", WrittenKind::Restic, "does not reach"),
            ("me@host:r", WrittenKind::Borg, "does not reach"),
            ("rest:ftp://host/r", WrittenKind::Restic, "HTTP"),
            ("rest:https://me:pw@host/r", WrittenKind::Restic, "password"),
            ("rest:https://host/r", WrittenKind::Borg, "of restic only"),
            ("ssh://me:pw@host/r", WrittenKind::Borg, "password"),
            ("ssh://-oProxyCommand=x/r", WrittenKind::Borg, "no host"),
            ("ssh://-l@host/r", WrittenKind::Borg, "no account"),
            ("ssh://host:ssh/r", WrittenKind::Borg, "no number"),
            ("ssh://host/", WrittenKind::Borg, "root"),
            ("sftp:host", WrittenKind::Restic, "no path"),
        ] {
            let said = read(text, kind).expect_err(text);
            assert!(said.contains(because), "{text}: {said}");
        }
    }
}
