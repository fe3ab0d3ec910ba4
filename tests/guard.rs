//! Nothing that redrill starts outlives it, however it ends.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redrill_tests::{Sandbox, processes_of, program, wait_for};

const SOON: Duration = Duration::from_secs(10);

/// `redrill guard` around a shell that has a child of its own, and an orphan in a session of its own.
fn guarded(sandbox: &Sandbox) -> Child {
    let script = "setsid sleep 1000 & (setsid sh -c 'sleep 1000 & exec sleep 1000' &) ; sleep 1000";
    let child = Command::new(program())
        .args(["guard", "--", "sh", "-c", script])
        .env("REDRILL_RUN", sandbox.state())
        .stdin(Stdio::piped())
        .spawn()
        .expect("the guard starts");
    assert!(wait_for(SOON, || processes_of(&sandbox.state()).len() >= 6), "{:?}", processes_of(&sandbox.state()));
    child
}

#[test]
fn letting_the_leash_go_kills_everything_that_came_of_it() {
    // Often: two of the guard's threads see its child end.
    for _ in 0..20 {
        let sandbox = Sandbox::new();
        let mut guard = guarded(&sandbox);
        drop(guard.stdin.take());
        let status = guard.wait().expect("ends");
        assert!(wait_for(SOON, || processes_of(&sandbox.state()).is_empty()), "{:?}", processes_of(&sandbox.state()));
        assert_eq!(status.code(), Some(137));
    }
}

#[test]
fn killing_the_guard_kills_its_child() {
    let sandbox = Sandbox::new();
    let mut guard = Command::new(program())
        .args(["guard", "--", "sleep", "1000"])
        .env("REDRILL_RUN", sandbox.state())
        .stdin(Stdio::piped())
        .spawn()
        .expect("the guard starts");
    assert!(wait_for(SOON, || processes_of(&sandbox.state()).len() >= 2));
    guard.kill().expect("SIGKILL");
    guard.wait().expect("ends");
    assert!(wait_for(SOON, || processes_of(&sandbox.state()).is_empty()), "{:?}", processes_of(&sandbox.state()));
}

/// As cron's `flock -n 9` does it, with as many other descriptors as a large program has. The shell ends; what it started
/// stays for as long as its standard input.
fn started_with_a_lock(sandbox: &Sandbox, words: &str) -> (Child, std::path::PathBuf) {
    let lock = sandbox.path().join("lock");
    let script = "exec 8<&0 9> \"$1\"; flock -n 9 || exit 1; for fd in {10..900}; do eval \"exec $fd>&9\"; done
                  program=$2; shift 2; \"$program\" \"$@\" <&8 > /dev/null 2>&1 & ";
    let shell = Command::new("bash")
        .args(["-c", script, "bash"])
        .args([lock.as_os_str(), program().as_os_str()])
        .args(words.split(' '))
        .env("REDRILL_RUN", sandbox.state())
        .stdin(Stdio::piped())
        .spawn()
        .expect("bash starts");
    (shell, lock)
}

#[test]
fn a_lock_of_the_caller_is_not_held_by_what_stays() {
    for (words, count) in [("guard -- sleep 1000", 2), ("reap STATE", 1)] {
        let sandbox = Sandbox::new();
        let words = words.replace("STATE", &sandbox.state().display().to_string());
        let (mut shell, lock) = started_with_a_lock(&sandbox, &words);
        let leash = shell.stdin.take();
        assert!(shell.wait().expect("ends").success(), "{words}");
        assert!(wait_for(SOON, || processes_of(&sandbox.state()).len() >= count), "{words}");
        let free = || std::fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_ok());
        assert!(wait_for(SOON, free), "{words} holds the lock");
        let stays = processes_of(&sandbox.state());
        assert_eq!(stays.len(), count, "{words}");
        for pid in stays {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("ours");
            assert!(fds.count() < 20, "{words} has descriptors that it did not open");
        }
        drop(leash);
        assert!(wait_for(SOON, || processes_of(&sandbox.state()).is_empty()), "{words}");
    }
}

#[test]
fn the_programs_status_is_passed_on() {
    for (script, code) in [("exit 7", 7), ("kill -TERM $$", 128 + 15), ("true", 0)] {
        let mut guard = Command::new(program())
            .args(["guard", "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the guard starts");
        // `wait` would close the leash.
        let leash = guard.stdin.take();
        assert_eq!(guard.wait().expect("ends").code(), Some(code), "{script}");
        drop(leash);
    }
}

#[test]
fn the_next_start_sweeps_what_a_killed_run_left_and_says_so() {
    let sandbox = Sandbox::new();
    let run = sandbox.state().join("runs/web-20260101-000000");
    for name in ["lock", "unclean", "machines/web/overlay.qcow2", "machines/web/console.log", "controller/keys/secret"]
    {
        sandbox.file(&format!("state/runs/web-20260101-000000/{name}"), "");
    }
    let mut left = Command::new("sleep").arg("1000").env("REDRILL_RUN", &run).spawn().expect("sleep starts");
    let ran = sandbox.run(&["doctor"]);
    assert!(ran.stderr.contains("swept what a killed run left: 1 processes"), "{}", ran.stderr);
    left.wait().expect("it was killed");
    assert!(!run.join("machines/web/overlay.qcow2").exists() && !run.join("controller").exists());
    assert!(run.join("machines/web/console.log").exists(), "evidence stays");
    assert!(!sandbox.run(&["doctor"]).stderr.contains("swept"), "once");
}
