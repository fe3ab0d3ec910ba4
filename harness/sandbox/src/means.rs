//! Whether this host can seal a program: found by trying.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// Where programs of the system lie, whatever a caller's PATH says.
const PLACES: [&str; 6] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/run/current-system/sw/bin"];

/// A program of the host, by its absolute path.
pub fn find(program: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(program)).find(|path| path.is_file())
}

/// The programs that seal others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Means {
    /// util-linux: makes the network namespace.
    pub unshare: PathBuf,
    /// bubblewrap: makes the others.
    pub(crate) bwrap: PathBuf,
    /// iproute2: sets the network up.
    pub(crate) ip: PathBuf,
}

/// Why nothing can be sealed here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unable {
    /// A program is missing; its name and Debian's package.
    #[error("`{0}` is missing (package {1})")]
    Missing(&'static str, &'static str),
    /// The kernel, a security module or a container around us refuses; what was said.
    #[error("this host refuses the namespaces that a sandbox is made of: {0}")]
    Refused(String),
    /// No engine seals here either; what was said.
    #[error("{namespaces}; and no container of an engine can be the sandbox: {engine}")]
    Neither {
        /// Why the host itself does not.
        namespaces: Box<Unable>,
        /// Why the engine does not.
        engine: String,
    },
    /// No container of an engine can be the sandbox, and nothing else was to be tried.
    #[error("no container of an engine can be the sandbox: {0}")]
    Engine(String),
    /// It was asked for.
    #[error("`{VARIABLE}` is `{0}`")]
    Unwanted(String),
}

/// Says which means may be used: `namespaces`, `engine` or `none`; both by default.
pub const VARIABLE: &str = "REDRILL_SANDBOX";

/// Which means may be used. None of them is weaker than what is used without a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Namespaces, and an engine where the host refuses them.
    Any,
    /// No engine.
    Namespaces,
    /// Nothing else.
    Engine,
}

impl Choice {
    /// What [`VARIABLE`] says. An error if it says that nothing may be used, or nothing that is known.
    pub fn from_environment() -> Result<Self, Unable> {
        Self::of(std::env::var_os(VARIABLE).map(|choice| choice.to_string_lossy().into_owned()))
    }

    fn of(said: Option<String>) -> Result<Self, Unable> {
        match said.as_deref() {
            None | Some("") => Ok(Self::Any),
            Some("namespaces") => Ok(Self::Namespaces),
            Some("engine") => Ok(Self::Engine),
            Some(_) => Err(Unable::Unwanted(said.unwrap_or_default())),
        }
    }
}

impl Unable {
    /// The command, or the setting, that mends it.
    pub fn mend(&self) -> String {
        match self {
            Self::Missing(_, package) => format!("apt-get install {package}"),
            Self::Refused(_) => "as root: sysctl -w kernel.unprivileged_userns_clone=1 \
                                 kernel.apparmor_restrict_unprivileged_userns=0 user.max_user_namespaces=10000; in a \
                                 container: a job with --privileged, or --security-opt seccomp=unconfined and \
                                 --security-opt apparmor=unconfined"
                .to_owned(),
            Self::Engine(_) => ENGINE.to_owned(),
            Self::Neither { namespaces, .. } => format!("{}; or: {ENGINE}", namespaces.mend()),
            Self::Unwanted(_) => format!("unset {VARIABLE}"),
        }
    }
}

/// What gives a host an engine that can seal.
const ENGINE: &str = "apt-get install docker.io, and a user in the group docker; its daemon must run where redrill runs, \
                      and see the same files";

/// As an error of the system.
pub(crate) fn missing(program: &'static str, package: &'static str) -> io::Error {
    io::Error::other(Unable::Missing(program, package))
}

impl Means {
    /// The programs, without trying them.
    pub(crate) fn programs() -> Result<Self, Unable> {
        let need = |name: &'static str, package| find(name).ok_or(Unable::Missing(name, package));
        Ok(Self {
            bwrap: need("bwrap", "bubblewrap")?,
            unshare: need("unshare", "util-linux")?,
            ip: need("ip", "iproute2")?,
        })
    }

    /// The arguments of `unshare` before the warden.
    pub fn namespaces(&self) -> [&'static str; 4] {
        NAMESPACES
    }

    /// The programs, if a trial in a sandbox succeeds. Takes some hundredths of a second.
    pub fn probe() -> Result<Self, Unable> {
        let means = Self::programs()?;
        let mut trial = Command::new(&means.unshare);
        trial.args(NAMESPACES).args(["sh", "-c", TRIAL, "sh"]).arg(&means.ip).arg(&means.bwrap);
        trial.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        let output = trial.output().map_err(|error| Unable::Refused(error.to_string()))?;
        if output.status.success() && output.stdout.trim_ascii() == b"sealed" {
            return Ok(means);
        }
        Err(Unable::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Arguments of `unshare` for a network and mounts of its own, of which the caller is root.
const NAMESPACES: [&str; 4] = ["--user", "--map-root-user", "--net", "--mount"];

/// As the warden does it.
const TRIAL: &str = "\"$1\" link set lo up && \"$1\" route add local 0.0.0.0/0 dev lo && exec \"$2\" --unshare-user \
    --unshare-pid --unshare-uts --unshare-ipc --disable-userns --uid 1000 --gid 1000 --cap-drop ALL --ro-bind / / --proc /proc \
    --dev /dev echo sealed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_never_opens_what_is_sealed() {
        let of = |said: &str| Choice::of(Some(said.to_owned()));
        assert_eq!(Choice::of(None), Ok(Choice::Any));
        assert_eq!((of("engine"), of("namespaces")), (Ok(Choice::Engine), Ok(Choice::Namespaces)));
        for word in ["none", "off", "NAMESPACES", "namespaces,none"] {
            assert_eq!(of(word), Err(Unable::Unwanted(word.to_owned())));
        }
    }

    #[test]
    fn what_mends_it_names_both_ways() {
        let namespaces = Box::new(Unable::Missing("bwrap", "bubblewrap"));
        let neither = Unable::Neither { namespaces, engine: "nobody answers".to_owned() };
        assert_eq!(
            neither.to_string(),
            "`bwrap` is missing (package bubblewrap); and no container of an engine can be the sandbox: nobody answers"
        );
        assert!(neither.mend().starts_with("apt-get install bubblewrap; or: apt-get install docker.io"));
    }
}
