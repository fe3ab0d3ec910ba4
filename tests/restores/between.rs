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
        let events: Vec<serde_json::Value> =
            events.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        let pause = events.iter().position(|event| event["e"] == "pause").expect("a pause");
        let (before, after) = events.split_at(pause);
        let hosts = |events: &[serde_json::Value], what: &str| {
            let hosts = events.iter().filter(|event| event["e"] == what).map(|event| text(event, "host").to_owned());
            hosts.collect::<Vec<_>>()
        };
        let mut ended = hosts(before, "end");
        ended.sort();
        assert_eq!(ended, ["between.example.org", "other.example.org"], "behind the first operation, on every host");
        assert_eq!(hosts(before, "start").len(), 2, "and nowhere else: {events:#?}");
        assert!(hosts(after, "start").len() >= 3 && hosts(after, "start").len() == hosts(after, "end").len());
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
