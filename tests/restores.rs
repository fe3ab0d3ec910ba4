//! Restores with the real tools, in containers: every kind made and restored, every fault with its own word, round trips
//! with their loss reports, planted faults, mail that what came back would send. Each trial is one whole drill, of a
//! scenario in `cases/` or of one that is shipped.

#[path = "restores/between.rs"]
mod between;
#[path = "restores/hosts.rs"]
mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Sandbox, has, has_qemu, has_sshd, processes_of, root, verdicts};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: [(&str, fn()); 13] = [
        ("restores::container::kinds", kinds),
        ("restores::container::faults", faults),
        ("restores::container::backup-hosts", hosts::backup_hosts),
        ("restores::container::between", between::between),
        ("restores::container::round-trip", round_trip),
        ("restores::container::losses", losses),
        ("restores::container::mail", || mail("container")),
        ("long::restores::qemu::mail", || mail("qemu")),
        ("long::restores::container::mutants-forge", || mutants_forge("container")),
        ("long::restores::qemu::mutants-forge", || mutants_forge("qemu")),
        ("long::restores::container::losses-postgres-app", losses_postgres_app),
        ("long::restores::container::losses-files", losses_files),
        ("long::restores::container::losses-forge", losses_forge),
    ];
    // CI promises an engine and the tools that make backups: there their absence is a failure.
    let promised = std::env::var_os("CI").is_some();
    let no_engine = redrill_machines::container::engine_version().is_err();
    let no_tools = ["restic", "borg", "sqlite3"].iter().any(|tool| !has(tool));
    let no_hosts = no_tools || !has_sshd();
    let trials = trials.into_iter().map(|(name, run)| {
        let no_backend = if name.contains("::qemu::") { !has_qemu() } else { no_engine };
        let lacking = no_backend || (no_tools && name.ends_with("faults")) || (no_hosts && name.ends_with("hosts"));
        Trial::test(name, move || caught(run)).with_ignored_flag(lacking && !promised)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
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
    judged(sandbox, status, &[&["run", path, "--backend", "container"], more].concat())
}

/// The same of a whole command.
fn judged(sandbox: &Sandbox, status: i32, words: &[&str]) -> Value {
    sandbox.run(&[words, &["--quiet"]].concat()).expect(status);
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

fn restored<'a>(report: &'a Value, backup: &str) -> &'a Value {
    list(report, "restores").iter().find(|one| text(one, "backup") == backup).expect("it was tried")
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

fn round_trip() {
    let report = drilled("round-trip", 0, &["--mutate"]);
    assert!(verdicts(&report).iter().all(|(_, verdict)| verdict == "PROVEN"), "{:?}", verdicts(&report));
    let losses = list(&report, "losses");
    assert_eq!(losses.len(), 1);
    assert!(list(&losses[0], "groups").iter().all(|group| text(group, "owner") != "nobody"), "{losses:#?}");
    assert!(losses[0]["compared"].as_u64() > Some(5000), "a whole machine was compared");
    let recovery = &list(&report, "restores")[0]["recovery"];
    assert!(recovery["seconds"].as_f64() > Some(1.0) && recovery["rto"] == 1200.0, "{recovery:#}");
    let kinds = ["table emptied", "service stopped", "dump of an empty database in place of the real one: notes"];
    all_noticed(&report, &[&COMMON[..], &kinds].concat());
}

/// Faults that every backup of files allows.
const COMMON: [&str; 5] = ["file missing", "file truncated", "wrong owner", "cut in half", "30 days ago"];

/// Of each kind there was a fault, and none has survived or could not be planted.
fn all_noticed(report: &Value, kinds: &[&str]) {
    let mutants = list(report, "mutants");
    let faults: Vec<&str> = mutants.iter().map(|mutant| text(mutant, "fault")).collect();
    for kind in kinds {
        assert!(faults.iter().any(|fault| fault.contains(kind)), "no {kind} among {faults:?}");
    }
    let survived = |mutant: &&Value| mutant["unknown"].is_string() || list(mutant, "killed_by").is_empty();
    let survivors: Vec<&Value> = mutants.iter().filter(survived).collect();
    assert!(survivors.is_empty(), "{survivors:#?}");
}

/// A scenario as it is shipped notices what is planted, by what its own repo and checks look at.
fn mutants_forge(backend: &str) {
    let report = judged(&Sandbox::new(), 0, &["run", "scenarios/forge", "--backend", backend, "--mutate"]);
    assert!(verdicts(&report).iter().all(|(_, verdict)| verdict == "PROVEN"), "{:?}", verdicts(&report));
    let kinds =
        ["port closed: 2222", "timer stopped", "service stopped", "emptied directories in place of the real one"];
    all_noticed(&report, &[&COMMON[..], &kinds].concat());
    for mutant in list(&report, "mutants") {
        let by_round_trip = |by: &Value| by.as_str().unwrap_or_default().contains("round trip");
        assert!(
            !list(mutant, "killed_by").iter().all(by_round_trip),
            "of the live backup nobody would notice: {mutant:#}"
        );
        assert!(mutant["suggestion"].is_null(), "{mutant:#}");
    }
    let closed = list(&report, "mutants").iter().find(|mutant| text(mutant, "fault").starts_with("port closed: 2222"));
    let by = list(closed.expect("planted"), "killed_by");
    assert!(by.iter().any(|by| by == "check `members reach the forge`"), "{by:?}");
    assert!(!by.iter().any(|by| by == "check `forge runs and starts at boot`"), "the service itself runs on: {by:?}");
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

/// A restored copy writes to people: the sink has it all, and what was told to keep quiet first says nothing.
fn mail(backend: &str) {
    let report = judged(&Sandbox::new(), 0, &["run", "tests/cases/restore-mail", "--backend", backend]);
    assert_eq!(verdicts(&report), [("restores".to_owned(), "PROVEN".to_owned())], "{:#}", restores(&report));
    let mail = &report["mail"];
    assert_eq!((&mail["caught"], &mail["restored"], &mail["copies"]), (&2.into(), &2.into(), &0.into()), "{mail:#}");
    let messages: Vec<(&str, &str, &str)> = list(mail, "messages")
        .iter()
        .map(|message| {
            (text(message, "machine"), message["to"][0].as_str().unwrap_or_default(), text(message, "subject"))
        })
        .collect();
    assert_eq!(messages[0], ("office.example.org", "ada@example.org", "The rent is due"));
    // A client encodes what is not ASCII; it is kept as it came.
    assert_eq!((messages[1].0, messages[1].1), ("office.example.org", "ben@example.org"));
    assert!(messages[1].2.starts_with("Der Garten wartet, =?utf-8?"), "{messages:?}");
}

/// A shipped scenario with the backup job that its repo keeps to show what it loses.
fn lossy(name: &str) -> Value {
    let (sandbox, shipped) = (Sandbox::new(), root().join("scenarios").join(name));
    let text = std::fs::read_to_string(shipped.join("scenario.toml")).expect("it is shipped");
    let lossy = text.replace("\n# env = {", "\nenv = {");
    assert_ne!(text, lossy, "the job is told by a line of `[deploy]`");
    let claims =
        |line: &str| if line.starts_with("claims = ") { "claims = ['restores']".into() } else { line.to_owned() };
    let lossy: Vec<String> = lossy.lines().map(claims).collect();
    let file = sandbox.file(&format!("{name}/scenario.toml"), &lossy.join("\n"));
    let directory = file.parent().expect("it lies in one");
    for part in ["servers", "keys"] {
        std::os::unix::fs::symlink(shipped.join(part), directory.join(part)).expect("linked");
    }
    std::os::unix::fs::symlink(root().join("images"), sandbox.path().join("images")).expect("linked");
    drilled_in(&sandbox, &directory.display().to_string(), 1, &[])
}

/// What a loss report lists of an owner.
fn entries<'a>(report: &'a Value, owner: &str) -> Vec<&'a str> {
    let group = list(&list(report, "losses")[0], "groups").iter().find(|group| text(group, "owner") == owner);
    group.map(|group| list(group, "entries")).unwrap_or_default().iter().filter_map(Value::as_str).collect()
}

/// Of these, what is not there any more: all of it is listed.
fn gone(report: &Value, owner: &str) -> BTreeSet<String> {
    entries(report, owner).iter().filter_map(|entry| entry.strip_suffix(" is gone")).map(str::to_owned).collect()
}

/// Of these, files with another content.
fn changed(report: &Value, owner: &str) -> BTreeSet<String> {
    let changed = entries(report, owner).into_iter().filter_map(|entry| entry.split_once(" content "));
    changed.map(|(path, _)| path.to_owned()).collect()
}

fn set(subjects: &[&str]) -> BTreeSet<String> {
    subjects.iter().map(|subject| (*subject).to_owned()).collect()
}

/// Mirrors have every commit. What is no part of a clone is gone, and named.
fn losses_forge() {
    let report = lossy("forge");
    // Mirrors keep their refs in one file.
    let gone: BTreeSet<String> =
        gone(&report, "backup").into_iter().filter(|path| !path.contains(".git/refs/")).collect();
    let descriptions =
        ["house-rules", "servers", "songs", "website"].map(|name| format!("/srv/git/{name}.git/description"));
    let by_hand = set(&["/srv/git/website.git/hooks/post-receive", "/srv/git/website.git/published"]);
    assert_eq!(gone, by_hand.into_iter().chain(descriptions).collect());
    let changed = changed(&report, "backup");
    for name in ["house-rules", "servers", "songs", "website"] {
        let config = format!("/srv/git/{name}.git/config");
        assert!(changed.contains(&config), "`receive.denyDeletes` is gone, a remote is new: {changed:#?}");
    }
    assert_eq!(entries(&report, "nobody"), [""; 0]);
    assert!(codes(&report)["forge"].contains("DATA_DIFFERS"));
}

/// The dump has the rows. Attachments, and a role that somebody made by hand, are gone.
fn losses_postgres_app() {
    let report = lossy("postgres-app");
    assert_eq!(entries(&report, "nobody"), ["PostgreSQL role reports is gone"]);
    let gone = gone(&report, "backup");
    let attachments: BTreeSet<&str> =
        gone.iter().filter_map(|path| path.strip_prefix("/var/lib/papers/attachments/")).collect();
    assert_eq!(attachments.len(), gone.len(), "nothing but attachments: {gone:#?}");
    let files = attachments.iter().filter(|path| path.len() == "01/".len() + 64).count();
    assert!((30..=40).contains(&files), "all of them, by digest: {gone:#?}");
    assert_eq!(entries(&report, "backup").len(), gone.len(), "no row is lost, and nothing is otherwise");
    let codes = codes(&report);
    let expected = set(&["CHECK_FAILED", "DATA_DIFFERS", "QUERY_DIFFERS", "TOO_FEW"]);
    assert!(codes["papers"] == expected && codes["app.example.org"].contains("LOST"), "{codes:#?}");
}

/// The files are back. What people set up in Syncthing is nobody's.
fn losses_files() {
    let report = lossy("files");
    assert_eq!(changed(&report, "nobody"), set(&["/var/lib/syncthing/config.xml"]));
    assert_eq!(entries(&report, "nobody").len(), 1, "nothing else");
    assert_eq!(entries(&report, "backup"), [""; 0], "the folders are whole");
    let identity = set(&["/var/lib/syncthing/https-cert.pem", "/var/lib/syncthing/https-key.pem"]);
    assert_eq!(changed(&report, "deploy"), identity, "made anew by each deploy");
    assert!(changed(&report, "image").contains("/etc/machine-id"));
    assert_eq!(codes(&report), BTreeMap::from([("files.example.org".to_owned(), set(&["LOST"]))]));
}
