//! What a deploy could notice of the controller. The second deploy runs from another one: what then differs in a
//! machine depends on who deploys, and would differ between two colleagues.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redrill_machines::process::Guard;
use redrill_model::{Deploy, Perturbation};
use tokio::process::Command;

/// Gives the process a host name of its own, and becomes the program. No program of the host is needed for it.
const RENAME: &str = r#"printf %s "$1" > /proc/sys/kernel/hostname && shift && exec "$@""#;
const HOST: &str = "redrill-elsewhere";

/// A place to deploy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// The checkout; the keys lie beside it.
    pub(crate) servers: PathBuf,
    /// `HOME`.
    pub(crate) home: PathBuf,
    user: &'static str,
    /// Another host name than the host's own.
    host: Option<&'static str>,
    time_zone: String,
    language: &'static str,
    hash_seed: &'static str,
}

impl Surroundings {
    /// Those of the first deploy.
    pub(super) fn first(directory: &Path) -> Self {
        Self {
            servers: directory.join("servers"),
            home: directory.join("home"),
            user: "redrill",
            host: None,
            time_zone: "UTC".to_owned(),
            language: "C.UTF-8",
            hash_seed: "0",
        }
    }

    /// Those of the second: as the first, but for all that the scenario lets differ. `rename` tells whether this host
    /// lets a process have a host name of its own.
    pub(super) fn second(directory: &Path, deploy: &Deploy, rename: bool, now: SystemTime) -> Self {
        let elsewhere = directory.join("elsewhere");
        let mut there = Self::first(directory);
        for perturbation in Perturbation::ALL.into_iter().filter(|p| !deploy.same.contains_key(p)) {
            match perturbation {
                Perturbation::Path => there.servers = elsewhere.join("work/servers"),
                Perturbation::Home => there.home = elsewhere.join("home"),
                Perturbation::User => there.user = "colleague",
                Perturbation::HostName => there.host = rename.then_some(HOST),
                Perturbation::TimeZone => there.time_zone = another_day(now),
                Perturbation::Language => there.language = "C",
                Perturbation::HashSeed => there.hash_seed = "1",
            }
        }
        there
    }

    /// What differs from `first`, in words.
    pub(super) fn differs(&self, first: &Self) -> Vec<&'static str> {
        let parts = [
            (self.servers != first.servers, "checkout path"),
            (self.home != first.home, "HOME"),
            (self.user != first.user, "user name"),
            (self.host != first.host, "host name"),
            (self.time_zone != first.time_zone, "time zone and day"),
            (self.language != first.language, "LANG"),
            (self.hash_seed != first.hash_seed, "PYTHONHASHSEED"),
        ];
        parts.into_iter().filter(|(other, _)| *other).map(|(_, name)| name).collect()
    }

    /// A guarded command in these surroundings, with nothing else in its environment.
    pub(super) fn command(&self, guard: &Guard, program: PathBuf) -> Command {
        let mut command = match self.host {
            None => guard.command(program),
            Some(host) => {
                let mut command = guard.command("unshare");
                command.args(unshare()).args(["sh", "-c", RENAME, "sh", host]).arg(program);
                command
            }
        };
        command.env_clear().current_dir(&self.servers);
        command.env("HOME", &self.home).env("LANG", self.language).env("TZ", &self.time_zone);
        command.env("USER", self.user).env("LOGNAME", self.user).env("PYTHONHASHSEED", self.hash_seed);
        command
    }
}

/// The arguments that let a process change its host name: only its own.
fn unshare() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        &["--uts"]
    } else {
        &["--user", "--map-current-user", "--keep-caps", "--uts"]
    }
}

/// Whether this host lets a process have a host name of its own: found by trying.
pub(super) async fn can_rename() -> bool {
    let mut trial = Command::new("unshare");
    trial.args(unshare()).args(["sh", "-c", RENAME, "sh", HOST, "uname", "-n"]);
    let output = trial.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await;
    output.is_ok_and(|output| output.status.success() && output.stdout.trim_ascii() == HOST.as_bytes())
}

/// A time zone in which it is another day than in UTC, as `TZ` spells it (POSIX: west is positive).
fn another_day(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86400;
    if seconds >= 10 * 3600 { "ELS-14".to_owned() } else { "ELS+12".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn deploy(same: &[Perturbation]) -> Deploy {
        let text = "claims = ['rebuilds']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\n[[machine]]\nname = 'w'\nimage = 'i'\n";
        let mut deploy = redrill_model::Scenario::parse(text).expect("valid").deploy;
        deploy.same = same.iter().map(|perturbation| (*perturbation, "because".to_owned())).collect::<BTreeMap<_, _>>();
        deploy
    }

    fn second(same: &[Perturbation], rename: bool) -> Vec<&'static str> {
        let there = Surroundings::second(Path::new("/c"), &deploy(same), rename, UNIX_EPOCH);
        there.differs(&Surroundings::first(Path::new("/c")))
    }

    #[test]
    fn all_differs_that_can_and_may() {
        assert_eq!(second(&[], true).len(), Perturbation::ALL.len());
        assert!(!second(&[], false).contains(&"host name"), "what the host cannot do is not claimed");
        assert!(!second(&[Perturbation::Path], true).contains(&"checkout path"));
        assert_eq!(second(&Perturbation::ALL, true), [""; 0]);
    }

    #[test]
    fn it_is_another_day_at_any_hour() {
        for hour in 0..24_i64 {
            let now = UNIX_EPOCH + Duration::from_secs(hour.unsigned_abs() * 3600 + 1800);
            let offset = if another_day(now) == "ELS-14" { 14 } else { -12 };
            assert!(!(0..24).contains(&(hour + offset)), "at {hour} o'clock");
        }
    }

    #[tokio::test]
    async fn a_command_runs_where_it_was_told_to() {
        if !can_rename().await {
            return; // Told in the report, and tested where CI promised it.
        }
        let mut trial = Command::new("unshare");
        trial.args(unshare()).args(["sh", "-c", RENAME, "sh", HOST, "sh", "-c", "uname -n; echo \"$0\"", "argument"]);
        let output = trial.output().await.expect("runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{HOST}\nargument\n"));
    }
}
