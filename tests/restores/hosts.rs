//! Repositories on backup hosts.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use redrill_tests::{Ran, RestHost, Sandbox, SftpHost, processes_of, root};
use serde_json::Value;

use super::{codes, restored, restores, text};

/// Repositories of a real `sshd` and of a rest-server, in two drills: in the first one some transfers are cut.
pub(super) fn backup_hosts() {
    let hosts = Hosts::start();
    let before = everything(&hosts.repositories);
    hosts.budgets(1_500_000);
    first_drill(&hosts);
    hosts.budgets(u64::MAX);
    second_drill(&hosts);
    assert_eq!(everything(&hosts.repositories), before, "no repository was written to");
    nothing_but_reading(&hosts);
}

fn first_drill(hosts: &Hosts) {
    let report = hosts.drill("first");
    expect_codes(&report, &[("cut-sftp", "UNREACHABLE"), ("cut-rest", "UNREACHABLE")]);
    for name in ["restic-sftp", "restic-rest", "borg", "directory", "tar"] {
        let remote = &restored(&report, name)["repository"];
        assert_eq!(remote["remote"]["kept"], 0, "{remote:#}");
        assert_eq!(remote["before"], remote["after"], "{remote:#}");
        assert!(remote["remote"]["fetched_bytes"].as_u64() > Some(2_900_000), "{remote:#}");
    }
    for name in ["cut-sftp", "cut-rest"] {
        let place = text(&restored(&report, name)["repository"], "place");
        assert_eq!(hosts.files_of(place), [""; 0], "nothing of what was cut has a good name");
    }
    assert_eq!(restored(&report, "directory")["found"]["files"], 302);
}

fn second_drill(hosts: &Hosts) {
    let report = hosts.drill("second");
    expect_codes(&report, &[]);
    let fetched = |name: &str| restored(&report, name)["repository"]["remote"]["fetched_bytes"].as_u64();
    for name in ["restic-sftp", "borg", "directory", "tar"] {
        let remote = &restored(&report, name)["repository"]["remote"];
        assert_eq!(fetched(name), Some(0), "{name}: everything was there: {remote:#}");
        assert!(remote["kept"].as_u64() > Some(0), "{remote:#}");
    }
    let again = fetched("restic-rest");
    assert!(again < Some(1000), "of a rest-server only `config` has no name that tells its content: {again:?}");
    for name in ["cut-sftp", "cut-rest"] {
        let bytes = fetched(name);
        assert!(bytes > Some(1_000_000) && bytes < Some(2_500_000), "{name} went on where it was cut: {bytes:?}");
    }
}

fn nothing_but_reading(hosts: &Hosts) {
    let requests = hosts.rest.requests();
    assert!(requests.len() > 20 && requests.iter().all(|one| one.starts_with("GET ") || one.starts_with("HEAD ")));
    let asked = hosts.sftp.requests();
    assert!(asked.contains("open \"") && asked.contains("bytes read"), "{asked}");
    // A read-only server refuses some extensions when it greets, without being asked.
    let words =
        ["session ", "received ", "Refusing ", "stat ", "lstat ", "readlink ", "opendir ", "closedir ", "sent "];
    let reading = |line: &&str| {
        words.iter().any(|word| line.starts_with(word))
            || (line.starts_with("open ") && line.contains(" flags READ mode "))
            || (line.contains("close ") && line.ends_with(" written 0"))
            || line.contains("closedir ")
    };
    let others: Vec<&str> = asked.lines().filter(|line| !reading(line)).collect();
    assert_eq!(others, [""; 0], "nothing but reading was asked for");
}

const LOGIN: &str = "backup:a-password-that-nobody-may-see";
const WRONG_LOGIN: &str = "backup:another-password-that-is-wrong";

/// Backup hosts, and a scenario that names them.
struct Hosts {
    sandbox: Sandbox,
    repositories: PathBuf,
    sftp: SftpHost,
    rest: RestHost,
    scenario: String,
    /// Shares images and environments with the real one; its copies of repositories go with the test.
    cache: PathBuf,
}

impl Hosts {
    fn start() -> Self {
        let sandbox = Sandbox::new();
        let case = root().join("tests/cases/remote-restores");
        let repositories = sandbox.path().join("repositories");
        let made = Command::new(case.join("make-backups")).arg(&repositories).output().expect("bash is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (sftp, rest) = (SftpHost::start(), RestHost::start(&repositories, LOGIN));
        let key = |name| std::fs::read_to_string(sftp.key(name)).expect("made");
        for (name, text) in [
            ("right", key("right")),
            ("wrong", key("wrong")),
            ("known_hosts", sftp.known_hosts()),
            ("nobody", String::new()),
            ("passphrase", "right-passphrase\n".to_owned()),
            ("login", format!("{LOGIN}\n")),
            ("other-login", format!("{WRONG_LOGIN}\n")),
        ] {
            sandbox.file(&format!("scenario/keys/{name}"), &text);
        }
        let nobody = TcpListener::bind(("127.0.0.1", 0)).and_then(|port| port.local_addr()).expect("a free port");
        let words = [
            ("SFTP", sftp.address().to_string()),
            ("NARROW", sftp.narrow().to_string()),
            ("REST", rest.address().to_string()),
            ("NOBODY", nobody.to_string()),
            ("ROOT", repositories.display().to_string()),
            ("CASE", case.display().to_string()),
        ];
        let text = std::fs::read_to_string(case.join("scenario.toml")).expect("the case is there");
        let text = words.iter().fold(text, |text, (word, value)| text.replace(word, value));
        let scenario = sandbox.file("scenario/scenario.toml", &text).display().to_string();
        let cache = cache_beside_the_real_one(&sandbox);
        Self { sandbox, repositories, sftp, rest, scenario, cache }
    }

    /// What the narrow ways let through from now on.
    fn budgets(&self, bytes: u64) {
        self.sftp.budget().set(bytes);
        self.rest.budget().set(bytes);
    }

    /// The report of a drill; no secret of a login stands in anything that it leaves.
    fn drill(&self, state: &str) -> Value {
        let mut command = self.sandbox.command(&["run", &self.scenario, "--backend", "container", "--quiet"]);
        let state = self.sandbox.path().join(state);
        command.env("REDRILL_STATE_DIR", &state).env("REDRILL_CACHE_DIR", &self.cache);
        Ran::of(command.output().expect("redrill runs")).expect(1);
        assert_eq!(processes_of(&state), [0_u32; 0]);
        for (path, bytes) in everything(&state) {
            let told = String::from_utf8_lossy(&bytes);
            for secret in [&LOGIN[7..], &WRONG_LOGIN[7..], "OPENSSH PRIVATE KEY"] {
                assert!(!told.contains(secret), "a secret of a login stands in {}", path.display());
            }
        }
        only_report(&state)
    }

    /// Files that have their names in the copy of the repository at `place`.
    fn files_of(&self, place: &str) -> Vec<String> {
        let mut mirrors =
            std::fs::read_dir(self.cache.join("repositories")).expect("there").flatten().map(|one| one.path());
        let is_it = |mirror: &PathBuf| std::fs::read_to_string(mirror.join("place")).is_ok_and(|told| told == place);
        let mirror = mirrors.find(is_it).expect("it was begun");
        assert!(!everything(&mirror.join("partial")).is_empty(), "what came is kept");
        everything(&mirror.join("tree")).into_keys().map(|path| path.display().to_string()).collect()
    }
}

fn cache_beside_the_real_one(sandbox: &Sandbox) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let real = variable("REDRILL_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("redrill")))
        .unwrap_or_else(|| variable("HOME").expect("a home").join(".cache/redrill"));
    let cache = sandbox.path().join("cache");
    std::fs::create_dir_all(&cache).expect("made");
    for shared in ["images", "templates", "recipes", "venvs"] {
        std::fs::create_dir_all(real.join(shared)).expect("made");
        std::os::unix::fs::symlink(real.join(shared), cache.join(shared)).expect("linked");
    }
    cache
}

/// What both drills say of backups whose hosts or logins are wrong, and these codes beside.
fn expect_codes(report: &Value, more: &[(&str, &str)]) {
    let mut expected = BTreeMap::from([
        ("locked-sftp", "LOCKED"),
        ("locked-rest", "LOCKED"),
        ("nobody-sftp", "UNREACHABLE"),
        ("nobody-rest", "UNREACHABLE"),
        ("wrong-key", "NO_ACCESS"),
        ("unknown-host", "NO_ACCESS"),
        ("wrong-login", "NO_ACCESS"),
        ("not-there-sftp", "NO_REPOSITORY"),
        ("not-there-rest", "NO_REPOSITORY"),
    ]);
    expected.extend(more.iter().copied());
    let found = codes(report);
    let found: BTreeMap<&str, Vec<&str>> = found
        .iter()
        .filter(|(backup, _)| backup.as_str() != "deploy after the restore")
        .map(|(backup, codes)| (backup.as_str(), codes.iter().map(String::as_str).collect()))
        .collect();
    let expected: BTreeMap<&str, Vec<&str>> = expected.into_iter().map(|(backup, code)| (backup, vec![code])).collect();
    assert_eq!(found, expected, "{:#?}", restores(report));
}

fn only_report(state: &Path) -> Value {
    let runs: Vec<_> = std::fs::read_dir(state.join("runs")).expect("there").flatten().map(|run| run.path()).collect();
    let [run] = runs.as_slice() else { panic!("{runs:?}") };
    serde_json::from_slice(&std::fs::read(run.join("report.json")).expect("written")).expect("JSON")
}

/// Contents of all files below a directory, by path.
fn everything(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).expect("readable").flatten() {
            let kind = entry.file_type().expect("known");
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                all.insert(entry.path(), std::fs::read(entry.path()).expect("readable"));
            }
        }
    }
    all
}
