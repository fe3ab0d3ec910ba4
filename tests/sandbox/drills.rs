//! Whole drills of repos that want out, and of one that does not.

use std::process::Command;

use redrill_tests::{Sandbox, leftovers, program, verdicts};
use serde_json::Value;
const SCRIPT: &str = "#!/bin/bash
set -eu
echo ran > \"$MARKER\" || true
echo 'redrill-op: Deploy'
ssh root@web.example.org 'echo deployed > /srv/deployed'
echo 'redrill-op: Ask'
curl -s -m 5 https://203.0.113.7/ || true
cat /root/x || true
";

/// What people's scripts do: connections that are shared, a server of its own that is waited for, git, what everybody may
/// read of the host, and a look at the service that was deployed.
const HEALTHY: &str = "#!/bin/bash
set -eu
echo 'redrill-op: Deploy'
ssh -o ControlMaster=auto -o ControlPersist=5 -o ControlPath=~/.ssh/cm-%C root@web.example.org 'cat > /root/serve.py' <<'P'
import http.server
http.server.HTTPServer(('', 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
P
ssh -o ControlPath=~/.ssh/cm-%C root@web.example.org 'perl -MIO::Socket::INET -e '\\''
my $l = IO::Socket::INET->new(LocalPort => 8000, Listen => 5, ReuseAddr => 1) or die; exit if fork;
while (my $c = $l->accept) { sysread($c, my $b, 2000); print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n\"; close $c }'\\'' \
>/dev/null 2>&1 </dev/null'
echo 'redrill-op: Look'
curl -sf -m 10 http://web.example.org:8000/ | grep -q hello
(sleep 0.5; exec python3 -m http.server 7799 --bind 127.0.0.1 >/dev/null 2>&1) &
until curl -s -o /dev/null http://127.0.0.1:7799/; do sleep 0.1; done
cat /etc/mtab /etc/login.defs /etc/iproute2/rt_tables >/dev/null 2>&1 || true
git init -q /tmp/x && getent hosts \"$(hostname)\" >/dev/null
";

pub(crate) fn a_healthy_controller_is_not_blamed() {
    let sandbox = Sandbox::new();
    let way = "[network]\ncontroller = [{ to = 'web.example.org:8000', why = 'a smoke test' }]\n";
    let (status, report) = drill_of(&sandbox, HEALTHY, "namespaces", way);
    assert_eq!((status, findings(&report)), (0, Vec::new()), "{:#}", report["remarks"]);
    assert!(report["remarks"].to_string().contains("a smoke test"), "{:#}", report["remarks"]);
}

/// A local project whose build puts a link to a file of the host where redrill may write.
pub(crate) fn a_package_leaves_no_mark() {
    let sandbox = Sandbox::new();
    let victim = sandbox.file("victim", "precious");
    let backend = format!(
        "import os, sys\nfor name in ('whole', 'pyvenv.cfg'):\n    at = os.path.join(sys.prefix, name)\n    \
         try: os.unlink(at)\n    except OSError: pass\n    os.symlink('{}', at)\nraise SystemExit('no wheel')\n",
        victim.display()
    );
    sandbox.file("scenario/servers/lib/backend.py", &backend);
    let project =
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n[project]\nname = 'x'\n";
    sandbox.file("scenario/servers/lib/pyproject.toml", project);
    sandbox.file("scenario/servers/requirements.txt", "--no-build-isolation\n./lib\n");
    let text = "claims = ['rebuilds']\n[servers]\npath = 'servers'\n[deploy]\ntool = 'shell'\nscript = 'deploy.sh'\n\
                on = 'controller'\nrequirements = 'requirements.txt'\n[[machine]]\nname = 'web.example.org'\n\
                image = 'debian-13'\n";
    sandbox.file("scenario/servers/deploy.sh", "#!/bin/sh\nssh root@web.example.org true\n");
    let (cache, scenario) = (sandbox.path().join("cache"), commit(&sandbox, text));
    let mut command = sandbox.command(&["run", &scenario, "--backend", "container"]);
    let ran = redrill_tests::Ran::of(command.env("REDRILL_CACHE_DIR", &cache).output().expect("redrill runs"));
    assert_ne!(ran.status, 0, "{}", ran.stdout);
    assert_eq!(std::fs::read_to_string(victim).expect("there"), "precious", "{}", ran.stderr);
    let left = std::fs::read_dir(cache.join("venvs")).into_iter().flatten().flatten();
    assert!(!left.into_iter().any(|entry| entry.path().is_dir()), "nothing half-made stays");
}

/// A drill of a script that wants out, in containers.
fn drill(sandbox: &Sandbox, means: &str, more: &str) -> (i32, Value) {
    drill_of(sandbox, SCRIPT, means, more)
}

/// Writes the scenario, commits its servers, and tells where it lies.
fn commit(sandbox: &Sandbox, text: &str) -> String {
    let scenario = sandbox.file("scenario/scenario.toml", text);
    let images = sandbox.path().join("scenario/images");
    let _ = std::os::unix::fs::symlink(redrill_tests::root().join("images"), images);
    for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "a script"]] {
        let mut git = Command::new("git");
        git.arg("-C").arg(sandbox.path().join("scenario/servers"));
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]).args(words);
        assert!(git.status().expect("git runs").success());
    }
    scenario.display().to_string()
}

fn drill_of(sandbox: &Sandbox, script: &str, means: &str, more: &str) -> (i32, Value) {
    let marker = sandbox.path().join("marker");
    let text = format!(
        "claims = ['rebuilds']\n[servers]\npath = 'servers'\n[deploy]\ntool = 'shell'\nscript = 'deploy.sh'\n\
         on = 'controller'\nenv = {{ MARKER = '{}' }}\n[[machine]]\nname = 'web.example.org'\nimage = 'debian-13'\n{more}",
        marker.display()
    );
    sandbox.file("scenario/servers/deploy.sh", script);
    let path = commit(sandbox, &text);
    let mut command = sandbox.command(&["run", &path, "--backend", "container"]);
    let ran = redrill_tests::Ran::of(command.env("REDRILL_SANDBOX", means).output().expect("redrill runs"));
    assert!([0, 1, 3].contains(&ran.status), "\n{}\n{}", ran.stdout, ran.stderr);
    assert!(!marker.exists(), "it ran outside of a sandbox:\n{}", ran.stderr);
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
    (ran.status, sandbox.report())
}

/// Codes and subjects.
fn findings(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let claims = report["claims"].as_array().into_iter().flatten();
    let findings = claims.flat_map(|claim| claim["findings"].as_array()).flatten();
    findings.map(|finding| (text(&finding["code"]), text(&finding["subject"]))).collect()
}

pub(crate) fn either_kind_comes_to_the_same_verdict() {
    let (status, first) = drill(&Sandbox::new(), "namespaces", "");
    let (again, second) = drill(&Sandbox::new(), "engine", "");
    assert_eq!((status, again), (3, 3));
    assert_eq!(verdicts(&first), [("rebuilds".to_owned(), "UNPROVEN".to_owned())]);
    assert_eq!(verdicts(&first), verdicts(&second));
    let network = |report: &Value| {
        let mut all = findings(report);
        all.retain(|(_, subject)| !subject.starts_with("the host's file"));
        all
    };
    assert_eq!(network(&first), [("OUTSIDE".to_owned(), "tcp 203.0.113.7:443".to_owned())]);
    assert_eq!(network(&first), network(&second));
    let remarks = |report: &Value| report["remarks"].to_string().contains("sealed in containers of the engine");
    assert_eq!((remarks(&first), remarks(&second)), (false, true));
}

pub(crate) fn what_cannot_be_sealed_is_not_run() {
    let sandbox = Sandbox::new();
    let (status, report) = drill(&sandbox, "none", "");
    assert_eq!((status, verdicts(&report)), (3, vec![("rebuilds".to_owned(), "UNPROVEN".to_owned())]));
    assert_eq!(findings(&report), [("UNSEALED".to_owned(), "sandbox".to_owned())]);
    assert!(report["claims"].to_string().contains("unset REDRILL_SANDBOX"), "what mends it: {report}");
    assert!(!sandbox.run_dir().join("controller").exists());
}

pub(crate) fn not_to_run_it_can_be_waived() {
    let waiver = "[[waiver]]\nclaim = 'rebuilds'\npath = 'sandbox'\nreason = 'CI has neither'\nby = 'ann'\n\
                  until = 2999-01-01\n";
    let (status, report) = drill(&Sandbox::new(), "none", waiver);
    assert_eq!((status, verdicts(&report)), (0, vec![("rebuilds".to_owned(), "WAIVED".to_owned())]));
    assert!(report["claims"].to_string().contains("CI has neither"), "{report}");
}

/// A user namespace in which no more can be made is a host that refuses them.
pub(crate) fn where_namespaces_are_refused_an_engine_seals() {
    let sandbox = Sandbox::new();
    let refuse = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", refuse]).arg(program()).current_dir(sandbox.path());
    let output = command.env("REDRILL_STATE_DIR", sandbox.state()).env("NO_COLOR", "1").output().expect("unshare runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(" sandbox ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.starts_with("limited") && line.contains("a container of the engine (this host refuses"), "{line}");
    assert!(text.contains("max_user_namespaces=10000"), "what mends it: {text}");
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
}

pub(crate) fn doctor() {
    for (means, health) in [("namespaces", "good"), ("engine", "limited"), ("none", "missing")] {
        let sandbox = Sandbox::new();
        let output = sandbox.command(&["doctor"]).env("REDRILL_SANDBOX", means).output().expect("redrill runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains(" sandbox ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.starts_with(health), "{means}: {line}");
        assert_eq!(leftovers(&sandbox.state()), [""; 0]);
        let runs = std::fs::read_dir(sandbox.state().join("runs")).map_or(0, Iterator::count);
        assert_eq!(runs, 0, "its own run directory is gone");
    }
}
