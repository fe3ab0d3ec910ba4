//! A larger fleet spreads over several runners: parts that together are all trials and none twice, and an archive that
//! holds all that a runner needs.

use std::collections::BTreeSet;
use std::process::Command;

use redrill_tests::{Ran, Sandbox, root};

/// Names of trials in what `cargo nextest list --message-format oneline` prints.
fn names(ran: &Ran) -> Vec<String> {
    let trials = ran.stdout.lines().filter_map(|line| line.split_once(' ').map(|(_, name)| name.to_owned()));
    trials.filter(|name| name.contains("::") || name.contains('_')).collect()
}

#[track_caller]
fn are_parts(whole: &[String], parts: [Vec<String>; 2]) {
    assert!(parts.iter().all(|part| !part.is_empty()), "{parts:?}");
    let count = parts.iter().map(Vec::len).sum::<usize>();
    let together: BTreeSet<&String> = parts.iter().flatten().collect();
    assert_eq!(together, whole.iter().collect(), "all of them");
    assert_eq!(count, whole.len(), "none twice");
}

#[test]
fn parts_of_the_drills_are_together_all_trials_and_none_twice() {
    let sandbox = Sandbox::new();
    let list = |more: &[&str]| {
        let words = ["test", "scenarios", "--list", "--", "--message-format", "oneline", "--run-ignored", "all"];
        let words: Vec<&str> = words.iter().chain(more).copied().collect();
        names(&Ran::of(alone(sandbox.command(&words)).output().expect("redrill runs")).expect(0))
    };
    let whole = list(&[]);
    assert!(whole.len() > 20 && whole.contains(&"web::container::rebuilds".to_owned()), "{whole:?}");
    for way in ["count", "slice"] {
        let part = |number: usize| list(&["--partition", &format!("{way}:{number}/2")]);
        are_parts(&whole, [part(1), part(2)]);
    }
}

/// What is needed of a suite is in its archive: the tests and `redrill` itself. It is unpacked elsewhere, and run there
/// in two parts. The tests were built before, by whoever runs this one.
#[test]
fn an_archive_runs_elsewhere_in_parts() {
    let sandbox = Sandbox::new();
    let archive = sandbox.path().join("tests.tar.zst");
    let mut pack =
        nextest(&["archive", "--workspace", "--locked", "--offline", "--test", "guard", "--zstd-level", "-7"]);
    Ran::of(pack.arg("--archive-file").arg(&archive).output().expect("cargo runs")).expect(0);
    let of_archive = |command: &str, more: &[&str]| {
        let mut nextest = nextest(&[command, "--profile", "default"]);
        nextest.arg("--archive-file").arg(&archive).arg("--workspace-remap").arg(root()).args(more);
        Ran::of(nextest.output().expect("cargo runs")).expect(0)
    };
    let list = |more: &[&str]| names(&of_archive("list", &[&["--message-format", "oneline"], more].concat()));
    let whole = list(&[]);
    let part = |number: usize| format!("count:{number}/2");
    are_parts(&whole, [1, 2].map(|number| list(&["--partition", &part(number)])));
    let run = [1, 2].map(|number| {
        let ran = of_archive("run", &["--partition", &part(number), "--status-level", "pass"]);
        let passed = ran.stderr.lines().filter(|line| line.trim_start().starts_with("PASS "));
        passed.filter_map(|line| line.rsplit(' ').next()).map(str::to_owned).collect::<Vec<String>>()
    });
    are_parts(&whole, run);
}

fn nextest(words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg("nextest").args(words).current_dir(root()).env("NO_COLOR", "1");
    alone(command)
}

/// As a user calls it, and not as the runner of this test does: that one names its own profile.
fn alone(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NEXTEST")) {
        command.env_remove(name);
    }
    command
}
