//! What a deploy could notice of the controller. The second deploy runs from another one: what then differs in a
//! machine depends on who deploys, and would differ between two colleagues.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use redrill_model::{Deploy, Perturbation};
use redrill_sandbox::Cell;

const HOST: &str = "redrill";
const OTHER_HOST: &str = "redrill-elsewhere";
/// What `/etc/machine-id` says: of no host, and as long as one.
const MACHINE_ID: &str = "72656472696c6c000000000000000001";
const OTHER_MACHINE_ID: &str = "72656472696c6c000000000000000002";

/// A place to deploy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControllerEnvironment {
    /// The checkout; the keys lie beside it.
    pub(crate) servers: PathBuf,
    /// Where its home lies on the host.
    pub(crate) home: PathBuf,
    /// `HOME`, as its programs find it: short, since sockets are made below it.
    inside: &'static str,
    user: &'static str,
    /// Host name and machine id: never the host's own.
    host: (&'static str, &'static str),
    time_zone: String,
    language: &'static str,
    hash_seed: &'static str,
}

impl ControllerEnvironment {
    /// Those of the first deploy.
    pub(super) fn first(directory: &Path) -> Self {
        Self {
            servers: directory.join("servers"),
            home: directory.join("home"),
            inside: "/home/redrill",
            user: "redrill",
            host: (HOST, MACHINE_ID),
            time_zone: "UTC".to_owned(),
            language: "C.UTF-8",
            hash_seed: "0",
        }
    }

    /// Those of the second: as the first, but for all that the scenario lets differ.
    pub(super) fn second(directory: &Path, deploy: &Deploy, now: SystemTime) -> Self {
        let elsewhere = directory.join("elsewhere");
        let mut there = Self::first(directory);
        for perturbation in Perturbation::ALL.into_iter().filter(|p| !deploy.same.contains_key(p)) {
            match perturbation {
                Perturbation::Path => there.servers = elsewhere.join("work/servers"),
                Perturbation::Home => {
                    (there.home, there.inside) = (elsewhere.join("home"), "/home/colleague");
                }
                Perturbation::User => there.user = "colleague",
                Perturbation::HostName => there.host = (OTHER_HOST, OTHER_MACHINE_ID),
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
            (self.host != first.host, "host name and machine id"),
            (self.time_zone != first.time_zone, "time zone and day"),
            (self.language != first.language, "LANG"),
            (self.hash_seed != first.hash_seed, "PYTHONHASHSEED"),
        ];
        parts.into_iter().filter(|(other, _)| *other).map(|(_, name)| name).collect()
    }

    /// Where its programs find the home.
    pub(crate) fn inside_home(&self) -> PathBuf {
        PathBuf::from(self.inside)
    }

    /// A cell with this environment, and nothing else in it or in its environment.
    pub(super) fn cell(&self) -> Cell {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let environment = [
            ("HOME", text(&self.inside_home())),
            ("LANG", self.language.to_owned()),
            ("TZ", self.time_zone.clone()),
            ("USER", self.user.to_owned()),
            ("LOGNAME", self.user.to_owned()),
            ("PYTHONHASHSEED", self.hash_seed.to_owned()),
            ("TMPDIR", "/tmp".to_owned()),
        ];
        let keys = self.servers.parent().map(|above| above.join("keys")).filter(|keys| keys.is_dir());
        Cell {
            host_name: self.host.0.to_owned(),
            machine_id: self.host.1.to_owned(),
            user: self.user.to_owned(),
            home: self.inside_home(),
            directory: self.servers.clone(),
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            read_only: Vec::new(),
            writable: [Some(self.servers.clone()), keys].into_iter().flatten().collect(),
            moved: Vec::new(),
            moved_writable: vec![(self.home.clone(), self.inside_home())],
            leads: Vec::new(),
            ssh: None,
        }
    }
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

    fn second(same: &[Perturbation]) -> Vec<&'static str> {
        let there = ControllerEnvironment::second(Path::new("/c"), &deploy(same), UNIX_EPOCH);
        there.differs(&ControllerEnvironment::first(Path::new("/c")))
    }

    #[test]
    fn all_differs_that_may() {
        assert_eq!(second(&[]).len(), Perturbation::ALL.len());
        assert!(!second(&[Perturbation::Path]).contains(&"checkout path"));
        assert_eq!(second(&Perturbation::ALL), [""; 0]);
    }

    #[test]
    fn it_is_another_day_at_any_hour() {
        for hour in 0..24_i64 {
            let now = UNIX_EPOCH + Duration::from_secs(hour.unsigned_abs() * 3600 + 1800);
            let offset = if another_day(now) == "ELS-14" { 14 } else { -12 };
            assert!(!(0..24).contains(&(hour + offset)), "at {hour} o'clock");
        }
    }
}
