//! Restores with the real tools, in containers: every kind made and restored, every fault with its own word, a round trip
//! with its loss report, planted faults. Each trial is one whole drill of a scenario in `cases/`.

#[path = "restores/between.rs"]
mod between;
#[path = "restores/hosts.rs"]
mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Sandbox, has_sshd, processes_of, root, verdicts};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: [(&str, fn()); 6] = [
        ("restores::container::kinds", kinds),
        ("restores::container::faults", faults),
        ("restores::container::backup-hosts", hosts::backup_hosts),
        ("restores::container::between", between::between),
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
