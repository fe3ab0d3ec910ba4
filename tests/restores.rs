//! Restores with the real tools, in containers: every kind made and restored, every fault with its own word, a round trip
//! with its loss report, planted faults. Each trial is one whole drill of a scenario in `cases/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Ran, RestHost, Sandbox, SftpHost, has_sshd, processes_of, root, verdicts};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: [(&str, fn()); 6] = [
        ("restores::container::kinds", kinds),
        ("restores::container::faults", faults),
        ("restores::container::backup-hosts", backup_hosts),
        ("restores::container::between", between),
        ("restores::container::round-trip", round_trip),
        ("restores::container::losses", losses),
    ];
    // CI promises an engine and the tools that make backups: there their absence is a failure.
    let promised = std::env::var_os("CI").is_some();
    let no_engine = redrill_machines::container::engine_version().is_err();
    let no_tools = ["restic", "borg", "sqlite3"].iter().any(|tool| !has(tool));
    let no_hosts = no_tools || !has_sshd();
    let trials = trials.into_iter().map(|(name, run)| {
        let lacking = no_engine || (no_tools && name.ends_with("faults")) || (no_hosts && name.ends_with("hosts"));
        Trial::test(name, move || caught(run)).with_ignored_flag(lacking && !promised)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|directory| Path::new(directory).join(program).is_file())
}

fn caught(run: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(run).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default().into()
    })
}

/// The report of a drill that ends with this status.
fn drilled(case: &str, status: i32, more: &[&str]) -> Value {
    drilled_in(&Sandbox::new(), &format!("tests/cases/{case}"), status, more)
}

fn drilled_in(sandbox: &Sandbox, path: &str, status: i32, more: &[&str]) -> Value {
    sandbox.run(&[&["run", path, "--backend", "container", "--quiet"], more].concat()).expect(status);
    assert_eq!(processes_of(&sandbox.state()), [0_u32; 0]);
    let report = sandbox.report();
    for restored in list(&report, "restores") {
        let repository = &restored["repository"];
        assert_eq!(repository["before"], repository["after"], "no restore may change a repository: {restored:#}");
    }
    report
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn restores(report: &Value) -> &Value {
    list(report, "claims").iter().find(|claim| claim["claim"] == "restores").expect("it is claimed")
}

/// Codes of findings that leave the claim unproven, by backup.
fn codes(report: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut codes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let bad =
        list(restores(report), "findings").iter().filter(|f| f["severity"] == "fails" || f["severity"] == "unknown");
    for finding in bad {
        codes.entry(text(finding, "subject").to_owned()).or_default().insert(text(finding, "code").to_owned());
    }
    codes
}

fn kinds() {
    let report = drilled("restore-kinds", 0, &[]);
    assert_eq!(verdicts(&report), [("restores".to_owned(), "PROVEN".to_owned())], "{:#}", restores(&report));
    let restored = list(&report, "restores");
    let kinds: BTreeSet<&str> = restored.iter().map(|one| text(one, "kind")).collect();
    assert_eq!(kinds, ["borg", "directory", "mariadb", "postgres", "restic", "script", "sqlite", "tar"].into());
    for one in restored {
        assert!(list(one, "oracles").len() >= 2, "the round trip and a floor: {one:#}");
        assert!(list(one, "oracles").iter().all(|oracle| oracle["holds"] == true), "{one:#}");
        let (files, rows) = (one["found"]["files"].as_u64(), one["found"]["rows"].as_object());
        let rows: u64 = rows.into_iter().flat_map(|rows| rows.values()).filter_map(Value::as_u64).sum();
        let phases: BTreeSet<&str> = list(one, "phases").iter().map(|phase| text(phase, "name")).collect();
        if text(one, "backup") == "pg-base" {
            assert!(files > Some(500) && phases.contains("verify"), "{one:#}");
        } else {
            assert!(files == Some(3) || rows == 20, "{one:#}");
        }
        assert!(phases.is_superset(&["fetch", "load", "look"].into()), "{one:#}");
    }
    let tar = restored.iter().find(|one| text(one, "kind") == "tar").expect("there is one");
    assert!(tar["point"]["seed"].is_u64() && text(&tar["point"], "id") == "day-1.tar.gz", "an older one: {tar:#}");
}

fn faults() {
    let case = root().join("tests/cases/restore-faults");
    let made = Command::new(case.join("make-backups")).arg(case.join("backups")).output().expect("bash is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let report = drilled("restore-faults", 1, &[]);
    let found = codes(&report);
    let expected = [
        ("locked", "LOCKED"),
        ("damaged", "DAMAGED"),
        ("no-snapshots", "NO_POINTS"),
        ("empty-snapshot", "EMPTY_POINT"),
        ("wrong-passphrase", "WRONG_PASSPHRASE"),
        ("borg-wrong-passphrase", "WRONG_PASSPHRASE"),
        ("borg-damaged", "DAMAGED"),
        ("borg-empty", "NO_POINTS"),
        ("empty-repository", "EMPTY_REPOSITORY"),
        ("unreachable", "UNREACHABLE"),
        ("not-empty", "NOT_EMPTY"),
        ("disk-full", "DISK_FULL"),
        ("in-the-future", "CLOCK_IN_FUTURE"),
        ("too-old", "TOO_OLD"),
        ("canary", "CANARY_MISSING"),
        ("wrong-manifest", "DATA_DIFFERS"),
        ("restores-nothing", "EMPTY_RESTORE"),
        ("speaks-of-trouble", "ERROR_TEXT"),
        ("writes", "RESTORE_FAILED"),
        ("tar-cut", "CUT"),
        ("sqlite-damaged", "DAMAGED"),
        ("dump-cut", "CUT"),
        ("dump-newer", "NEWER_SERVER"),
    ];
    for (backup, code) in expected {
        assert!(found.get(backup).is_some_and(|codes| codes.contains(code)), "`{backup}` is not {code}: {found:#?}");
    }
    for backup in ["good", "borg-good"] {
        assert_eq!(found.get(backup), None, "what is right is not blamed");
        let restored = list(&report, "restores").iter().find(|one| text(one, "backup") == backup).expect("restored");
        assert_eq!(restored["found"]["files"], 2, "{restored:#}");
    }
    let declared = list(&report, "restores").len();
    assert_eq!(declared, expected.len() + 2, "every backup of the case is expected to be something");
}

/// Repositories of a real `sshd` and of a rest-server, in two drills: in the first one some transfers are cut.
fn backup_hosts() {
    let sandbox = Sandbox::new();
    let case = root().join("tests/cases/remote-restores");
    let repositories = sandbox.path().join("repositories");
    let made = Command::new(case.join("make-backups")).arg(&repositories).output().expect("bash is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = everything(&repositories);
    let login = "backup:a-password-that-nobody-may-see";
    let (sftp, rest) = (SftpHost::start(), RestHost::start(&repositories, login));
    let keys = [
        ("right", std::fs::read_to_string(sftp.key("right")).expect("made")),
        ("wrong", std::fs::read_to_string(sftp.key("wrong")).expect("made")),
        ("known_hosts", sftp.known_hosts()),
        ("nobody", String::new()),
        ("passphrase", "right-passphrase\n".to_owned()),
        ("login", format!("{login}\n")),
        ("other-login", "backup:another-password-that-is-wrong\n".to_owned()),
    ];
    for (name, text) in &keys {
        sandbox.file(&format!("scenario/keys/{name}"), text);
    }
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|port| port.local_addr()).expect("a free port");
    let mut scenario = std::fs::read_to_string(case.join("scenario.toml")).expect("the case is there");
    for (word, address) in
        [("SFTP", sftp.address()), ("NARROW", sftp.narrow()), ("REST", rest.address()), ("NOBODY", nobody)]
    {
        scenario = scenario.replace(word, &address.to_string());
    }
    scenario =
        scenario.replace("ROOT", &repositories.display().to_string()).replace("CASE", &case.display().to_string());
    let scenario = sandbox.file("scenario/scenario.toml", &scenario);
    let scenario = scenario.parent().expect("a directory").display().to_string();
    let cache = Cache::beside_the_real_one(&sandbox);
    let drill = |state: &str| {
        let mut command = sandbox.command(&["run", &scenario, "--backend", "container", "--quiet"]);
        let state = sandbox.path().join(state);
        let ran = Ran::of(
            command.env("REDRILL_STATE_DIR", &state).env("REDRILL_CACHE_DIR", &cache.0).output().expect("runs"),
        );
        ran.expect(1);
        assert_eq!(processes_of(&state), [0_u32; 0]);
        let told =
            everything(&state).values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect::<String>();
        for secret in ["a-password-that-nobody-may-see", "another-password-that-is-wrong", "OPENSSH PRIVATE KEY"] {
            assert!(!told.contains(secret), "a secret of the login stands in what the drill left");
        }
        only_report(&state)
    };

    sftp.budget().set(1_500_000);
    rest.budget().set(1_500_000);
    let first = drill("first");
    expect_codes(&first, &[("cut-sftp", "UNREACHABLE"), ("cut-rest", "UNREACHABLE")]);
    for name in ["restic-sftp", "restic-rest", "borg", "directory", "tar"] {
        let remote = &restored(&first, name)["repository"];
        assert_eq!(remote["remote"]["kept"], 0, "{remote:#}");
        assert_eq!(remote["before"], remote["after"], "{remote:#}");
        assert!(remote["remote"]["fetched_bytes"].as_u64() > Some(2_900_000), "{remote:#}");
    }
    for name in ["cut-sftp", "cut-rest"] {
        let place = text(&restored(&first, name)["repository"], "place").to_owned();
        assert_eq!(cache.files_of(&place), [""; 0], "nothing of what was cut has a good name");
    }
    assert_eq!(restored(&first, "directory")["found"]["files"], 302);
    let found = text(&restored(&first, "directory")["found"], "newest");
    assert!(!found.is_empty());

    sftp.budget().set(u64::MAX);
    rest.budget().set(u64::MAX);
    let second = drill("second");
    expect_codes(&second, &[]);
    for name in ["restic-sftp", "borg", "directory", "tar"] {
        let remote = &restored(&second, name)["repository"]["remote"];
        assert_eq!(remote["fetched_bytes"], 0, "{name}: everything was there: {remote:#}");
        assert!(remote["kept"].as_u64() > Some(0), "{remote:#}");
    }
    let again = restored(&second, "restic-rest")["repository"]["remote"]["fetched_bytes"].as_u64();
    assert!(again < Some(1000), "of a rest-server only `config` has no name that tells its content: {again:?}");
    for name in ["cut-sftp", "cut-rest"] {
        let bytes = restored(&second, name)["repository"]["remote"]["fetched_bytes"].as_u64();
        assert!(bytes > Some(1_000_000) && bytes < Some(2_500_000), "{name} went on where it was cut: {bytes:?}");
    }

    assert_eq!(everything(&repositories), before, "no repository was written to");
    let requests = rest.requests();
    assert!(requests.len() > 20 && requests.iter().all(|one| one.starts_with("GET ") || one.starts_with("HEAD ")));
    let asked = sftp.requests();
    assert!(asked.contains("open \"") && asked.contains("bytes read"), "{asked}");
    // A read-only server refuses some extensions when it greets, without being asked.
    let reads =
        ["session ", "received ", "Refusing ", "stat ", "lstat ", "readlink ", "opendir ", "closedir ", "sent "];
    let reading = |line: &&str| {
        reads.iter().any(|start| line.starts_with(start))
            || (line.starts_with("open ") && line.contains(" flags READ mode "))
            || (line.contains("close ") && line.ends_with(" written 0"))
            || line.contains("closedir ")
    };
    let others: Vec<&str> = asked.lines().filter(|line| !reading(line)).collect();
    assert_eq!(others, [""; 0], "nothing but reading was asked for");
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

fn restored<'a>(report: &'a Value, backup: &str) -> &'a Value {
    list(report, "restores").iter().find(|one| text(one, "backup") == backup).expect("it was tried")
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

/// A cache that shares images and environments with the real one, and whose copies of repositories go with the test.
struct Cache(PathBuf);

impl Cache {
    fn beside_the_real_one(sandbox: &Sandbox) -> Self {
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
        Self(cache)
    }

    /// Files that have their names in the copy of the repository at `place`.
    fn files_of(&self, place: &str) -> Vec<String> {
        let mirrors = std::fs::read_dir(self.0.join("repositories")).expect("there").flatten().map(|one| one.path());
        let mirror = mirrors
            .filter(|mirror| std::fs::read_to_string(mirror.join("place")).is_ok_and(|told| told == place))
            .next()
            .expect("it was begun");
        assert!(!everything(&mirror.join("partial")).is_empty(), "what came is kept");
        everything(&mirror.join("tree")).into_keys().map(|path| path.display().to_string()).collect()
    }
}

/// A deploy that needs the data waits for it, by pyinfra and by Ansible.
fn between() {
    for (case, claims) in [("restore-between", 3), ("restore-between-ansible", 2)] {
        let sandbox = Sandbox::new();
        let report = drilled_in(&sandbox, &format!("tests/cases/{case}"), 0, &[]);
        let proven = verdicts(&report).iter().filter(|(_, verdict)| verdict == "PROVEN").count();
        assert_eq!(proven, claims, "{case}: {:?}", verdicts(&report));
        assert_eq!(restored(&report, "notes")["found"]["files"], 2);
        let events = std::fs::read_to_string(sandbox.run_dir().join("deploy-1.events.jsonl")).expect("kept");
        let at = |part: &[&str]| {
            let line = events.lines().position(|line| part.iter().all(|part| line.contains(part)));
            line.unwrap_or_else(|| panic!("no {part:?} in\n{events}"))
        };
        let (pause, ends) = (at(&["\"pause\""]), at(&["\"e\": \"end\""]));
        let starts: Vec<usize> =
            events.lines().enumerate().filter(|(_, line)| line.contains("\"start\"")).map(|(at, _)| at).collect();
        assert!(starts[0] < ends && ends < pause && pause < starts[1], "between the two, and nowhere else:\n{events}");
    }
    let sandbox = Sandbox::new();
    let case = root().join("tests/cases/restore-between");
    let scenario = std::fs::read_to_string(case.join("scenario.toml")).expect("there");
    let scenario = scenario.replace("\"servers\"", &format!("\"{}\"", case.join("servers").display()));
    let scenario = scenario.replace("\"backup\"", &format!("\"{}\"", case.join("backup").display()));
    let wrong = sandbox.file("scenario/scenario.toml", &scenario.replace("directory of notes", "shelf of notes"));
    let report = drilled_in(&sandbox, &wrong.display().to_string(), 3, &[]);
    let finding = &list(restores(&report), "findings")[0];
    assert_eq!(text(finding, "code"), "NO_OPERATION", "{finding:#}");
    for part in ["`Make the shelf of notes`", "Make the directory of notes", "Keep a copy of the journal"] {
        assert!(text(finding, "summary").contains(part), "{part}: {finding:#}");
    }
}

fn round_trip() {
    let report = drilled("round-trip", 0, &["--mutate"]);
    assert!(verdicts(&report).iter().all(|(_, verdict)| verdict == "PROVEN"), "{:?}", verdicts(&report));
    let losses = list(&report, "losses");
    assert_eq!(losses.len(), 1);
    assert!(list(&losses[0], "groups").iter().all(|group| text(group, "owner") != "nobody"), "{losses:#?}");
    assert!(losses[0]["compared"].as_u64() > Some(5000), "a whole machine was compared");
    let recovery = &list(&report, "restores")[0]["recovery"];
    assert!(recovery["seconds"].as_f64() > Some(1.0) && recovery["rto"] == 1200.0, "{recovery:#}");
    let mutants = list(&report, "mutants");
    let faults: Vec<&str> = mutants.iter().map(|mutant| text(mutant, "fault")).collect();
    for kind in ["table emptied", "file missing", "file truncated", "wrong owner", "service stopped", "cut in half"] {
        assert!(faults.iter().any(|fault| fault.contains(kind)), "no {kind} among {faults:?}");
    }
    let survived = |mutant: &&Value| mutant["unknown"].is_string() || list(mutant, "killed_by").is_empty();
    let survivors: Vec<&Value> = mutants.iter().filter(survived).collect();
    assert!(survivors.is_empty(), "{survivors:#?}");
}

fn losses() {
    let report = drilled("round-trip-loses", 1, &[]);
    let groups = list(&list(&report, "losses")[0], "groups");
    let of = |owner: &str| {
        let group = groups.iter().find(|group| text(group, "owner") == owner);
        let entries = group.map(|group| list(group, "entries")).unwrap_or_default();
        entries.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("nobody"), ["/srv/by-hand is gone", "user by-hand is gone", "group by-hand is gone"], "{groups:#?}");
    let attachments = [1, 2, 3].map(|number| format!("/var/lib/notes/attachments/{number}.txt is gone"));
    assert_eq!(
        of("backup").iter().filter(|entry| entry.contains("attachments/")).cloned().collect::<Vec<_>>(),
        attachments
    );
    let codes = codes(&report);
    assert!(codes["notes"].contains("DATA_DIFFERS") && codes["notes.example.org"].contains("LOST"), "{codes:?}");
}
