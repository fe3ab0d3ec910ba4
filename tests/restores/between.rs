//! Deploys that wait for a restore between two operations.

use redrill_tests::{Sandbox, root, verdicts};

use super::{drilled_in, list, restored, restores, text};

/// A deploy that needs the data waits for it, by pyinfra and by Ansible.
pub(super) fn between() {
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
