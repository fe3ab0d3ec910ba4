//! The helpers that run inside the tools, run by the host's Python with as much of a tool as they meet.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::helper_events::{self, Said, Told};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/helpers")
}

fn helper(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/deploy/tools/helpers").join(name)
}

/// Python in the fixture's checkout, with the file that its helper tells its events to.
fn python(args: &[PathBuf]) -> (Command, PathBuf) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let events = std::env::temp_dir().join(format!("redrill-helpers-{}-{count}", std::process::id()));
    let servers = fixtures().join("servers");
    let mut python = Command::new("python3");
    python.args(args).current_dir(&servers).env("PYTHONPATH", fixtures()).env("PYTHONDONTWRITEBYTECODE", "1");
    python.env("REDRILL_EVENTS", &events).env("REDRILL_ROOT", &servers);
    (python, events)
}

/// Runs it; returns what the helper told, and whether Python came to its own end.
fn run(args: &[PathBuf], cut: Option<usize>) -> (Told, bool) {
    let (mut python, events) = python(args);
    python.envs(cut.map(|cut| ("REDRILL_CUT", cut.to_string())));
    let output = python.output().expect("python3 runs");
    let text = std::fs::read_to_string(&events).expect("events were told");
    std::fs::remove_file(events).expect("cleaned up");
    let whole = output.status.code().is_some();
    assert!(!whole || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (helper_events::read(&text), whole)
}

fn pyinfra_words() -> [PathBuf; 2] {
    [helper("pyinfra_events.py"), "deploy.py".into()]
}

fn ansible_words() -> [PathBuf; 2] {
    [fixtures().join("ansible_run.py"), helper("ansible_events.py")]
}

fn pyinfra(cut: Option<usize>) -> (Told, bool) {
    run(&pyinfra_words(), cut)
}

fn ansible(cut: Option<usize>) -> (Told, bool) {
    run(&ansible_words(), cut)
}

#[test]
fn pyinfra_is_told_with_places_conditions_and_what_commands_hide() {
    let (told, _) = pyinfra(None);
    assert_eq!((told.version.as_deref(), told.over, told.broken), (Some("3.99"), true, None));
    let [packages, guarded, left_out, fails] = told.executions.as_slice() else { panic!("{:?}", told.executions) };
    assert_eq!((packages.place.as_deref(), packages.said), (Some("tasks/base.py:2"), Said::Unchanged));
    assert_eq!((guarded.place.as_deref(), guarded.said), (Some("deploy.py:6"), Said::Changed));
    assert!(guarded.condition.is_some() && packages.condition.is_none() && fails.condition.is_none());
    assert_eq!(guarded.hidden_error.as_deref(), Some("no such file"));
    assert_eq!((left_out.said, left_out.depends), (Said::Skipped, true), "pyinfra says that it had nothing to do");
    assert_eq!((fails.said, fails.depends, fails.output.len()), (Said::Failed, true, 1));
}

#[test]
fn pyinfras_document_is_kept_apart_from_what_a_deploy_prints() {
    let place = tempfile::tempdir().expect("a directory");
    let (mut python, events) = python(&pyinfra_words());
    let output = python.env("REDRILL_RESULTS", place.path().join("results")).output().expect("python3 runs");
    std::fs::remove_file(events).expect("cleaned up");
    let kept = std::fs::read_to_string(place.path().join("results")).expect("kept");
    assert_eq!(kept, r#"{"plan": [], "results": {"operations": [], "failed_hosts": ["web"]}}"#);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains(&kept) && printed.ends_with("at exit"), "{printed}");
    assert_eq!(std::fs::read_dir(place.path()).expect("there").count(), 1);
}

/// With paramiko's own method a deploy that reboots its machine may stand still for ever.
#[test]
fn the_end_of_a_proxys_stream_is_an_end_and_a_late_answer_is_none() {
    const ENDS: &str = "import socket, subprocess\n\
        from pyinfra_events import end_with_the_stream\n\
        from paramiko.proxy import ProxyCommand\n\
        end_with_the_stream()\n\
        said = ProxyCommand(subprocess.Popen(['printf', 'hi'], stdout=subprocess.PIPE), 5)\n\
        print(said.recv(10), said.recv(10))\n\
        late = ProxyCommand(subprocess.Popen(['sleep', '5'], stdout=subprocess.PIPE), 0.05)\n\
        try:\n    print(late.recv(10))\n\
        except socket.timeout:\n    print('late')\n\
        late.process.kill()\n";
    let path = std::env::join_paths([fixtures(), helper("")]).expect("no colons");
    let output = Command::new("python3")
        .args(["-c", ENDS])
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "b'hi' b''\nlate\n", "{error}");
}

#[test]
fn ansible_is_told_with_places_handlers_and_without_secrets() {
    let (told, _) = ansible(None);
    assert_eq!((told.version.as_deref(), told.over, told.broken), (Some("2.99"), true, None));
    let [packages, secret, hides, facts, note, restart] = told.executions.as_slice() else {
        panic!("{:?}", told.executions)
    };
    assert_eq!((packages.place.as_deref(), packages.said), (Some("site.yml:3"), Said::Changed));
    assert_eq!((secret.said, secret.output.clone()), (Said::Failed, vec!["(hidden by no_log)".to_owned()]));
    assert_eq!(hides.hidden_error.as_deref(), Some("mv: cannot stat"), "it failed, and `failed_when` says otherwise");
    assert!(facts.looks && facts.place_of_work().is_none() && !packages.looks);
    assert_eq!((note.looks, note.place_of_work()), (false, Some(helper_events::CONTROLLER)));
    assert!(restart.optional && restart.depends && !packages.optional);
}

#[test]
fn a_cut_ends_the_tool_right_before_the_operation() {
    for (told, whole) in [pyinfra(Some(2)), ansible(Some(2))] {
        assert!(!whole && !told.over, "killed as a controller would be");
        assert_eq!((told.cut, told.executions.len()), (Some(2), 1));
    }
}

#[test]
fn a_pause_lasts_until_the_gate_opens_and_nothing_goes_on_meanwhile() {
    for (words, after_last) in [(pyinfra_words(), "fails"), (ansible_words(), "restart")] {
        let (mut python, events) = python(&words);
        let gate = events.with_extension("gate");
        std::fs::create_dir(&gate).expect("made");
        let pauses = serde_json::to_string(&["never", "packages", after_last]).expect("text");
        python.env("REDRILL_PAUSE", pauses).env("REDRILL_GATE", &gate);
        let mut running = python.spawn().expect("python3 runs");
        let mut executed = Vec::new();
        for number in [2, 3] {
            let told = loop {
                let told = helper_events::read(&std::fs::read_to_string(&events).unwrap_or_default());
                if told.paused.contains(&number) {
                    break told;
                }
                assert!(running.try_wait().expect("known").is_none(), "it ended without a pause {number}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            };
            executed.push(told.executions.len());
            assert!(!told.over);
            std::fs::write(gate.join(number.to_string()), "").expect("opened");
        }
        assert!(running.wait().expect("ended").success());
        let told = helper_events::read(&std::fs::read_to_string(&events).expect("told"));
        assert_eq!((executed[0], executed[1]), (1, told.executions.len()), "behind the first, and behind the last");
        assert!(told.over && told.broken.is_none() && told.paused == [2, 3], "{:?}", told.paused);
        std::fs::remove_dir_all(gate).and_then(|()| std::fs::remove_file(events)).expect("cleaned up");
    }
}
