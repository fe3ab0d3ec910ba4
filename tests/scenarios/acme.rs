//! Certificates by ACME: a real client asks by the real name, and one Pebble of the drill's own answers.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use redrill_tests::{Ran, Sandbox, leftovers, processes_of, root, wait_for};

use super::{claim, expect_verdicts, left_clean};

const NAME: &str = "acme-v02.api.letsencrypt.org";

pub(super) fn container() {
    issued("container");
}

pub(super) fn qemu() {
    issued("qemu");
}

/// One certificate, in the first deploy; the second asks for nothing. Who looks from outside trusts it.
fn issued(backend: &str) {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "tests/cases/acme", "--backend", backend]).expect(0);
    let report = sandbox.report();
    expect_verdicts(&report, ["PROVEN", "PROVEN", "PROVEN"]);
    let acme = &report["acme"];
    assert_eq!((&acme["issued"], &acme["copies"]), (&1.into(), &0.into()), "{acme:#}");
    assert_eq!((&acme["names"][0], &acme["challenges_verified"]), (&NAME.into(), &false.into()));
    let certificate = &acme["certificates"][0];
    let told = ["machine", "stage", "of"].map(|key| certificate[key].as_str().unwrap_or_default());
    assert_eq!(told, ["web.example.org", "deploy", "first"], "{certificate:#}");
    assert_eq!(certificate["names"], serde_json::json!(["web.example.org"]));
    assert!(ran.stdout.contains("challenges were taken as met and not verified"), "{}", ran.stdout);

    let run = sandbox.run_dir();
    let log = std::fs::read_to_string(run.join("acme/pebble.log")).expect("what Pebble said is kept");
    assert_eq!(log.matches("Issued certificate serial").count(), 1, "the second witness\n{log}");
    let requests = std::fs::read_to_string(run.join("machines/web.example.org/network.log")).expect("written down");
    assert!(requests.contains(&format!(" stood-in GET {NAME}/directory")), "{requests}");
    assert!(!run.join("acme/server.key").exists(), "no key is left");
    left_clean(&sandbox);
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
}

/// The small case, with another name declared, or with a deploy that waits before it asks.
fn asking(sandbox: &Sandbox, name: &str, seconds: &str) -> String {
    let case = root().join("tests/cases/acme-asks");
    let text = std::fs::read_to_string(case.join("scenario.toml")).expect("it is there");
    let text = text.replace(NAME, name).replace("args = [\"0\"]", &format!("args = [\"{seconds}\"]"));
    let file = sandbox.file("acme-asks/scenario.toml", &text);
    std::os::unix::fs::symlink(case.join("servers"), file.with_file_name("servers")).expect("linked");
    std::os::unix::fs::symlink(root().join("images"), sandbox.path().join("images")).expect("linked");
    file.display().to_string()
}

/// Only what is declared is stood in for: with the same deploy, another name leads nowhere.
pub(super) fn undeclared() {
    let sandbox = Sandbox::new();
    sandbox.run(&["run", "tests/cases/acme-asks", "--backend", "container"]).expect(0);
    expect_verdicts(&sandbox.report(), ["PROVEN", "UNDECLARED", "UNDECLARED"]);
    assert_eq!(sandbox.report()["acme"]["issued"], 0, "who only looks is given nothing");

    let sandbox = Sandbox::new();
    let path = asking(&sandbox, "acme-staging-v02.api.letsencrypt.org", "0");
    sandbox.run(&["run", &path, "--backend", "container"]).expect(1);
    let report = sandbox.report();
    expect_verdicts(&report, ["FAILED", "UNDECLARED", "UNDECLARED"]);
    let finding = &claim(&report, "rebuilds")["findings"][0];
    assert_eq!((&finding["code"], &finding["operation"]["name"]), (&"DEPLOY_FAILED".into(), &"Ask".into()));
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
}

/// A drill that waits in the middle of its deploy, and its Pebble.
fn waiting(sandbox: &Sandbox, seconds: &str) -> (Child, u32) {
    let path = asking(sandbox, NAME, seconds);
    let mut command = sandbox.command(&["run", &path, "--backend", "container"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let deploys = || {
        let runs = std::fs::read_dir(sandbox.state().join("runs")).into_iter().flatten().flatten();
        let logs = runs.map(|run| std::fs::read_to_string(run.path().join("deploy-1.log")).unwrap_or_default());
        logs.collect::<String>().contains("redrill-op: Wait")
    };
    assert!(wait_for(Duration::from_secs(180), deploys), "the deploy does not get so far");
    let is_pebble = |id: &u32| {
        let program = std::fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
        program.file_name() == Path::new("pebble").file_name()
    };
    let pebble = processes_of(&sandbox.state()).into_iter().find(is_pebble).expect("a Pebble of this drill");
    (child, pebble)
}

fn kill(id: u32) {
    let sent = std::process::Command::new("kill").args(["-KILL", &id.to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

/// A Pebble that is gone says nothing about the repo: the deploy that then fails is not blamed.
pub(super) fn lost() {
    let sandbox = Sandbox::new();
    let (child, pebble) = waiting(&sandbox, "5");
    kill(pebble);
    let ran = Ran::of(child.wait_with_output().expect("ends")).expect(3);
    let report = sandbox.report();
    expect_verdicts(&report, ["UNPROVEN", "UNDECLARED", "UNDECLARED"]);
    assert_eq!(claim(&report, "rebuilds")["findings"][0]["code"], "ACME_LOST", "{report:#}");
    assert!(ran.stdout.contains("Pebble, which stands in for ACME servers, ended ("), "{}", ran.stdout);
    assert_eq!(report["deploys"][0]["failed"], 1, "it had failed: {:#}", report["deploys"][0]);
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
}

/// A Pebble does not outlive its drill, however that ends.
pub(super) fn killed() {
    let sandbox = Sandbox::new();
    let (mut child, pebble) = waiting(&sandbox, "300");
    child.kill().expect("killed");
    child.wait().expect("ends");
    let gone = wait_for(Duration::from_secs(10), || processes_of(&sandbox.state()).is_empty());
    assert!(gone && !Path::new(&format!("/proc/{pebble}")).exists(), "{:?}", processes_of(&sandbox.state()));
    let swept = sandbox.run(&["doctor"]);
    assert!(swept.stderr.contains("swept what a killed run left"), "{}", swept.stderr);
    assert!(!sandbox.run_dir().join("acme/server.key").exists(), "no key is left");
    sandbox.run(&["clean", "--check"]).expect(0);
}
