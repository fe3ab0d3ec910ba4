//! Real machines: shipped scenarios, and drills that must go wrong in a known way. Each trial is one whole drill, named
//! `SCENARIO::qemu::WHAT`.

#[path = "scenarios/acme.rs"]
mod acme;

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{
    Engine, Ran, Refusal, Sandbox, has, has_qemu, in_mount_namespace, leftovers, mount_small, processes_of, verdicts,
    wait_for,
};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: [(&str, fn()); 20] = [
        ("image::build", image),
        ("web::container::report", web),
        ("web-broken::container::redeploy", || web_broken("container")),
        ("long::web-broken::qemu::redeploy", || web_broken("qemu")),
        ("fails::qemu::deploy", fails),
        ("fails::container::kept", kept),
        ("halts::qemu::boot", halts),
        ("panics::qemu::deploy", panics),
        ("silent::qemu::boot", silent),
        ("silent::qemu::killed", killed),
        ("full::qemu::disk", || in_mount_namespace("full::qemu::disk", full)),
        ("since::container::idempotence", since),
        ("project::container::pinned", project),
        ("waits::container::engine_dies", engine_dies),
        ("waits::container::engine_refuses", engine_refuses),
        ("acme::container::issued", acme::container),
        ("acme::container::undeclared", acme::undeclared),
        ("acme::container::lost", acme::lost),
        ("long::acme::container::killed", acme::killed),
        ("long::acme::qemu::issued", acme::qemu),
    ];
    // CI promises them: there their absence is a failure, and not a trial that was left out.
    let promised = std::env::var_os("CI").is_some();
    let no_qemu = !has_qemu();
    let no_engine = redrill_machines::container::engine_version().is_err();
    let no_pebble = !has("pebble");
    let trials = trials.into_iter().map(|(name, run)| {
        let no_machine = if name.contains("::container::") { no_engine } else { no_qemu };
        let lacking = no_machine || (no_pebble && name.contains("acme::"));
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

/// What every drill must leave: no process, no disk, a report in both forms.
fn left_clean(sandbox: &Sandbox) {
    assert_eq!(processes_of(&sandbox.state()), [0_u32; 0]);
    let run = sandbox.run_dir();
    let machines = run.join("machines");
    for machine in std::fs::read_dir(&machines).into_iter().flatten().flatten() {
        assert!(!machine.path().join("overlay.qcow2").exists(), "a disk was left in {}", machine.path().display());
        assert!(machine.path().join("console.log").exists(), "the console is evidence");
    }
    assert!(run.join("report.txt").is_file() && !run.join("controller").exists());
}

fn claim<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["claims"].as_array().and_then(|claims| claims.iter().find(|c| c["claim"] == name)).expect("a claim")
}

/// Of `rebuilds`, `idempotent` and `serves`; no other claim may be declared.
fn expect_verdicts(report: &Value, expected: [&str; 3]) {
    let names = ["rebuilds", "idempotent", "serves"].map(str::to_owned);
    let declared = names.into_iter().zip(expected.map(str::to_owned)).filter(|(_, verdict)| verdict != "UNDECLARED");
    let expected: Vec<(String, String)> = declared.collect();
    assert_eq!(verdicts(report), expected, "{report:#}");
}

fn web() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "scenarios/web", "--backend", "container"]).expect(0);
    let report = sandbox.report();
    expect_verdicts(&report, ["PROVEN", "PROVEN", "PROVEN"]);
    for (name, least) in [("rebuilds", 20), ("idempotent", 20), ("serves", 9)] {
        let claim = claim(&report, name);
        assert!(claim["checked"].as_u64() >= Some(least) && claim["checked"] == claim["declared"], "{claim:#}");
    }
    assert_eq!(report["schema"], 1);
    assert_eq!(report["commit"].as_str().map(str::len), Some(40));
    let files = &report["machines"][0]["captures"]["s2-redeployed"]["files"];
    assert!(files.as_u64() > Some(5000), "a Debian has more files: {files}");
    let second = &report["deploys"][1];
    assert_eq!((&second["changed"], &second["failed"]), (&0.into(), &0.into()), "{second:#}");
    assert!(ran.stdout.contains("everything claimed is proven") && ran.stdout.contains("Repeat    redrill run"));
    let requests = std::fs::read_to_string(sandbox.run_dir().join("machines/web.example.org/network.log"));
    let requests = requests.expect("what the machine asked of the mirror is written down");
    assert!(requests.lines().count() > 5 && requests.lines().all(|line| line.contains(" allowed GET ")), "{requests}");
    left_clean(&sandbox);
}

fn web_broken(backend: &str) {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "scenarios/web-broken", "--backend", backend]).expect(1);
    let report = sandbox.report();
    expect_verdicts(&report, ["PROVEN", "FAILED", "PROVEN"]);
    let findings = claim(&report, "idempotent")["findings"].as_array().expect("findings");
    let failing: Vec<[&str; 3]> = findings
        .iter()
        .filter(|finding| finding["severity"] == "fails")
        .map(|f| [&f["code"], &f["subject"], &f["operation"]["name"]].map(|v| v.as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        failing,
        [
            ["REAL_CHANGE", "/etc/profile.d/banner.sh", "tasks/operators.py | Set the login banner"],
            ["DISRUPTIVE", "notes.service", "tasks/notes.py | Restart the notes service"],
        ]
    );
    for word in ["Set the login banner", "Restart the notes service", "/etc/profile.d/banner.sh", "notes.service"] {
        assert!(ran.stdout.contains(word), "{word} is not in\n{}", ran.stdout);
    }
    left_clean(&sandbox);
}

/// A failing deploy: its operation and its output are told, the rest is "not run", the machine can be entered.
fn fails() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "tests/cases/fails", "--backend", "qemu", "--keep-on-failure"]).expect(1);
    let report = sandbox.report();
    expect_verdicts(&report, ["FAILED", "UNPROVEN", "UNPROVEN"]);
    let finding = &claim(&report, "rebuilds")["findings"][0];
    assert_eq!(finding["operation"]["name"], "Migrate the database");
    assert!(finding["evidence"].to_string().contains("no such table: users"), "{finding:#}");
    assert!(!ran.stdout.contains("hunter2-hunter2"), "secrets are blanked out:\n{}", ran.stdout);
    assert!(!ran.stderr.contains("hunter2-hunter2") && ran.stderr.contains("[redacted]"), "{}", ran.stderr);
    let stages = report["stages"].as_array().expect("stages");
    let of = |name: &str| stages.iter().find(|s| s["stage"] == name).map(|s| s["status"].clone()).unwrap_or_default();
    assert_eq!((of("deploy"), of("check")), ("failed".into(), "not-run".into()));

    assert!(!processes_of(&sandbox.state()).is_empty(), "the machine was kept");
    let place = held(&sandbox);
    let inside = sandbox.run(&["shell", "--", "cat", "/srv/first"]).expect(0);
    assert_eq!(inside.stdout.trim(), "made by the first operation");
    sandbox.run(&["clean"]).expect(0);
    assert_eq!(processes_of(&sandbox.state()), [0_u32; 0]);
    assert!(place.try_lock().is_ok(), "and its place given back");
    left_clean(&sandbox);
}

/// The file of the only place in the budget, which kept machines hold.
#[track_caller]
fn held(sandbox: &Sandbox) -> std::fs::File {
    let places = std::fs::read_dir(sandbox.state().join("admission")).expect("books").flatten();
    let places: Vec<_> = places.map(|entry| entry.path()).filter(|path| path.extension().is_some()).collect();
    let place = std::fs::File::open(&places[0]).expect("a place");
    assert!(places.len() == 1 && place.try_lock().is_err(), "somebody holds it: {places:?}");
    let text = std::fs::read_to_string(&places[0]).expect("readable");
    assert!(text.contains(", kept") && text.contains(r#""memory_mib":1216,"#), "one machine, and no twin: {text}");
    place
}

/// A container is no process of ours: one that stays with it holds its place.
fn kept() {
    let sandbox = Sandbox::new();
    sandbox.run(&["run", "tests/cases/fails", "--backend", "container", "--keep-on-failure"]).expect(1);
    let place = held(&sandbox);
    assert_eq!(sandbox.run(&["shell", "--", "hostname"]).expect(0).stdout.trim(), "fails.example.org");
    sandbox.run(&["clean"]).expect(0);
    assert!(place.try_lock().is_ok(), "and gives it back");
    drop(place);
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
    sandbox.run(&["clean", "--check"]).expect(0);
}

/// A boot that stops is told at once, not when the limit has passed.
fn halts() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "tests/cases/halts", "--backend", "qemu"]).expect(3);
    let report = sandbox.report();
    expect_verdicts(&report, ["UNPROVEN", "UNPROVEN", "UNPROVEN"]);
    assert!(ran.stdout.contains("stopped at boot and waits for a person"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("run-init: /sbin/init: No such file or directory"),
        "the console's tail:\n{}",
        ran.stdout
    );
    assert!(ran.stdout.contains(&sandbox.run_dir().display().to_string()), "{}", ran.stdout);
    left_clean(&sandbox);
}

/// A kernel that gives up in the middle of a deploy says nothing about the repo.
fn panics() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "tests/cases/panics", "--backend", "qemu"]).expect(3);
    expect_verdicts(&sandbox.report(), ["UNPROVEN", "UNDECLARED", "UNDECLARED"]);
    assert!(ran.stdout.contains("kernel panic: ") && ran.stdout.contains("sysrq triggered crash"), "{}", ran.stdout);
    left_clean(&sandbox);
}

fn silent() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "tests/cases/silent", "--backend", "qemu"]).expect(3);
    expect_verdicts(&sandbox.report(), ["UNPROVEN", "UNDECLARED", "UNDECLARED"]);
    let because = claim(&sandbox.report(), "rebuilds")["summary"].as_str().unwrap_or_default().to_owned();
    assert!(because.contains("not ready") && because.contains("last seen: the SSH port is"), "{because}");
    assert!(because.contains("the limit for the boot of `silent.example.org`"), "{because}");
    assert!(ran.stdout.contains("Evidence  "), "{}", ran.stdout);
    let read = |name| std::fs::read_to_string(sandbox.run_dir().join("machines/silent.example.org").join(name));
    let (evidence, processes) = (read("evidence.txt").expect("taken"), read("processes.txt").expect("taken"));
    assert!(evidence.contains("screen     none: its console is the serial one"), "{evidence}");
    assert!(evidence.contains("console    console.log, ") && processes.contains("systemd-journald"), "{processes}");
    left_clean(&sandbox);
}

/// The host's disk fills up in the middle: what was not looked at any more is not proven, and nothing is left.
fn full() {
    let sandbox = Sandbox::new();
    mount_small(&sandbox.state(), 4096);
    let ran = sandbox.run(&["run", "tests/cases/full", "--backend", "qemu"]).expect(3);
    let report = sandbox.report();
    let idempotent = claim(&report, "idempotent");
    assert_eq!(idempotent["verdict"], "UNPROVEN", "{idempotent:#}");
    assert_eq!(idempotent["findings"][0]["code"], "HOST_FULL", "{idempotent:#}");
    assert!(ran.stdout.contains("no space left on `") && ran.stdout.contains("redrill image prune"), "{}", ran.stdout);
    assert!(ran.stdout.contains(&sandbox.state().display().to_string()), "{}", ran.stdout);
    left_clean(&sandbox);
    sandbox.run(&["clean", "--check"]).expect(0);
}

/// A repo without a requirements file: its pyproject.toml brings the tool, at the version that its lock has.
fn project() {
    const LOCK: &str = "version = 1\nrequires-python = '>=3.11'\n\n[[package]]\nname = 'servers'\nversion = '0'\n\
        source = { virtual = '.' }\n\n[[package]]\nname = 'pyinfra'\nversion = '3.9.2'\n\
        source = { registry = 'https://pypi.org/simple' }\n\n[[package]]\nname = 'idna'\nversion = '2.10'\n\
        resolution-markers = [\"python_full_version < '3.11'\"]\n\n[[package]]\nname = 'idna'\nversion = '3.4'\n\
        resolution-markers = [\"python_full_version >= '3.11'\"]\n";
    let sandbox = Sandbox::new();
    let project = "[project]\nname = 'servers'\nversion = '0'\ndependencies = ['pyinfra>=3.5', 'idna']\n";
    sandbox.file("repo/pyproject.toml", project);
    sandbox.file("repo/uv.lock", LOCK);
    sandbox.file("repo/inventory.py", "web = ['web.example.org']\n");
    // Of what the lock forks the deploy wants the version for its Python, which is not the newest.
    let deploy = "import sys\nimport idna\nfrom pyinfra.operations import files\n\n\
        assert idna.__version__ == ('3.4' if sys.version_info >= (3, 11) else '2.10'), idna.__version__\n\
        files.directory(name='Place', path='/srv/app')\n";
    sandbox.file("repo/deploy.py", deploy);
    sandbox.commit("repo");
    let repo = sandbox.path().join("repo").display().to_string();
    let ran = sandbox.run(&["idempotence", &repo, "--backend", "container"]).expect(0);
    assert!(ran.stderr.contains("comes from pyproject.toml, pinned by uv.lock"), "{}", ran.stderr);
    assert_eq!(sandbox.report()["tools"]["pyinfra"], "3.9.2");
    left_clean(&sandbox);
    // A lock that is behind is a mistake with what mends it, before anything boots.
    sandbox.file("repo/pyproject.toml", &project.replace("'idna'", "'idna', 'rich'"));
    sandbox.commit("repo");
    let ran = sandbox.run(&["idempotence", &repo, "--backend", "container"]).expect(2);
    assert!(
        ran.stderr.contains("`uv.lock` does not have `rich`") && ran.stderr.contains("`uv lock`"),
        "{}",
        ran.stderr
    );
}

/// The check before a merge looks at the host that the change touches, and says which it leaves out.
fn since() {
    const DEPLOY: &str = "from io import StringIO\n\nfrom pyinfra import host\nfrom pyinfra.operations import files, server\n\n\
        files.put(name='Motto', src=StringIO(host.data.motto + '\\n'), dest='/etc/motto')\n\
        if host.data.get('stamp'):\n    server.shell(name='Stamp', commands=['date >> /etc/stamp'])\n";
    let sandbox = Sandbox::new();
    let requirements =
        std::fs::read_to_string(redrill_tests::root().join("tests/cases/two-hosts/servers/requirements.txt"));
    sandbox.file("repo/requirements.txt", &requirements.expect("pinned"));
    sandbox.file("repo/inventory.py", "web = ['web.example.org']\ndatabases = ['db.example.org']\n");
    sandbox.file("repo/group_data/all.py", "motto = 'calm'\n");
    sandbox.file("repo/deploy.py", DEPLOY);
    sandbox.commit("repo");
    sandbox.file("repo/README.md", "For people.\n");
    sandbox.commit("repo");
    let repo = sandbox.path().join("repo").display().to_string();
    let check = |since: &str| sandbox.run(&["idempotence", &repo, "--since", since, "--backend", "container"]);
    let nothing = check("HEAD~1").expect(0);
    assert!(nothing.stdout.contains("Nothing was looked at: of 1 files changed"), "{}", nothing.stdout);
    sandbox.file("repo/group_data/databases.py", "stamp = True\n");
    sandbox.commit("repo");
    let ran = check("HEAD~1").expect(1);
    let report = sandbox.report();
    expect_verdicts(&report, ["PROVEN", "FAILED", "UNDECLARED"]);
    let machines: Vec<&str> =
        report["machines"].as_array().into_iter().flatten().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(machines, ["db.example.org"], "{}", ran.stdout);
    assert!(ran.stdout.contains("Stamp") && ran.stdout.contains("deploy.py:8"), "{}", ran.stdout);
    assert!(ran.stdout.contains("not looked at: web.example.org"), "{}", ran.stdout);
}

/// An engine that is gone says nothing about the repo. What it had made is removed once it is back.
fn engine_dies() {
    let sandbox = Sandbox::new();
    let engine = Engine::before(redrill_machines::container::engine_socket(), sandbox.path());
    let mut command = sandbox.command(&["run", "tests/cases/waits", "--backend", "container"]);
    command.env("DOCKER_HOST", engine.host()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("starts");
    let deploys = || {
        let runs = std::fs::read_dir(sandbox.state().join("runs")).into_iter().flatten().flatten();
        let logs = runs.map(|run| std::fs::read_to_string(run.path().join("deploy-1.log")).unwrap_or_default());
        logs.collect::<String>().contains("redrill-op: Wait")
    };
    assert!(wait_for(Duration::from_secs(180), deploys), "the deploy does not get so far");
    engine.die();
    let ran = Ran::of(child.wait_with_output().expect("ends")).expect(3);
    let report = sandbox.report();
    expect_verdicts(&report, ["UNPROVEN", "UNDECLARED", "UNDECLARED"]);
    assert_eq!(claim(&report, "rebuilds")["findings"][0]["code"], "MACHINE_LOST", "{report:#}");
    let told = "the container engine: it went away under `waits.example.org`";
    assert!(ran.stdout.contains(told), "{}", ran.stdout);
    assert_eq!(processes_of(&sandbox.state()), [0_u32; 0]);

    engine.revive();
    let check = sandbox.run(&["clean", "--check"]).expect(1);
    assert!(check.stdout.contains("1 containers"), "the container, which is in no network: {}", check.stdout);
    let swept = sandbox.run(&["doctor"]);
    assert!(swept.stderr.contains("swept what a killed run left: 0 processes, 1 containers"), "{}", swept.stderr);
    sandbox.run(&["clean", "--check"]).expect(0);
    assert_eq!(leftovers(&sandbox.state()), [""; 0]);
}

/// At both moments at which engines find out what they do not admit.
fn engine_refuses() {
    let docker = Refusal {
        starts: "POST /containers/create",
        ends: "/create",
        status: 403,
        message: "authorization denied by plugin policy: capability SYS_ADMIN",
    };
    let runtime = Refusal {
        starts: "POST /containers/",
        ends: "/start",
        status: 500,
        message: "OCI runtime create failed: runc create failed: unable to apply caps: operation not permitted",
    };
    for refusal in [docker, runtime] {
        let sandbox = Sandbox::new();
        let engine = Engine::before(redrill_machines::container::engine_socket(), sandbox.path());
        engine.refuse(refusal.clone());
        let mut command = sandbox.command(&["run", "tests/cases/waits", "--backend", "container"]);
        let ran = Ran::of(command.env("DOCKER_HOST", engine.host()).output().expect("runs")).expect(3);
        expect_verdicts(&sandbox.report(), ["UNPROVEN", "UNDECLARED", "UNDECLARED"]);
        let told =
            "the container engine refuses `waits.example.org` what systemd needs (SYS_ADMIN, NET_ADMIN, SYS_PTRACE";
        assert!(ran.stdout.contains(told) && ran.stdout.contains(refusal.message), "{}", ran.stdout);
        assert_eq!(leftovers(&sandbox.state()), [""; 0]);
        sandbox.run(&["clean", "--check"]).expect(0);
    }
}

/// Two builders of one recipe at once: one image, whole, with nothing in it that two machines must not share.
fn image() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path().join("cache");
    let build = || {
        let mut command = sandbox.command(&["image", "build", "debian-13"]);
        command.env("REDRILL_CACHE_DIR", &cache).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("starts")
    };
    let both = [build(), build()].map(|child| Ran::of(child.wait_with_output().expect("ends")).expect(0));
    assert_eq!(both[0].stdout, both[1].stdout, "the second found what the first had made");
    let images: Vec<_> = std::fs::read_dir(cache.join("images"))
        .expect("a store")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(images.len(), 1, "{images:?}");
    let manifest = std::fs::read_to_string(images[0].join("image.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert!(manifest["packages"]["openssh-server"].is_string() && manifest["tools"]["mmdebstrap"].is_string());

    let raw = sandbox.path().join("disk.raw");
    let mut convert = std::process::Command::new("qemu-img");
    convert.args(["convert", "-O", "raw"]).arg(images[0].join("disk.img")).arg(&raw);
    assert!(convert.status().expect("qemu-img runs").success());
    let ask = |request: &str| {
        let output = std::process::Command::new("debugfs").args(["-R", request]).arg(&raw).output();
        String::from_utf8_lossy(&output.expect("debugfs runs").stdout).into_owned()
    };
    assert_eq!(ask("cat /etc/machine-id"), "");
    assert!(ask("ls -p /etc/ssh").contains("/sshd_config/") && !ask("ls -p /etc/ssh").contains("ssh_host_"));
    assert!(!ask("ls -p /root/.ssh").contains("authorized_keys"));
    let passwords = ask("cat /etc/shadow");
    assert!(passwords.contains("root:"), "{passwords}");
    for line in passwords.lines() {
        let hash = line.split(':').nth(1).unwrap_or_default();
        assert!(hash.starts_with(['*', '!']), "an account has a password: {line}");
    }
}

/// SIGKILL and Ctrl-C while a machine boots.
fn killed() {
    for (signal, status) in [("KILL", None), ("INT", Some(3))] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&["run", "tests/cases/silent", "--backend", "qemu"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let booting = wait_for(Duration::from_secs(120), || {
            let runs = std::fs::read_dir(sandbox.state().join("runs")).into_iter().flatten().flatten();
            let mut consoles = runs.map(|run| run.path().join("machines/silent.example.org/console.log"));
            consoles.any(|console| std::fs::metadata(console).is_ok_and(|file| file.len() > 0))
        });
        assert!(booting, "no kernel came up");
        let id = child.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &id]).status().expect("kill runs");
        assert!(sent.success());
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), status, "{signal}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.signal().is_some(), status.is_none());
        let gone = wait_for(Duration::from_secs(10), || processes_of(&sandbox.state()).is_empty());
        assert!(gone, "{signal}: processes outlived redrill: {:?}", processes_of(&sandbox.state()));
        if status.is_some() {
            let ran = Ran::of(output);
            assert!(ran.stderr.contains("interrupted: cleaning up"), "{}", ran.stderr);
            assert!(ran.stdout.contains("interrupted by the user"), "what was learnt is told:\n{}", ran.stdout);
            let evidence = sandbox.run_dir().join("machines/silent.example.org/evidence.txt");
            assert!(evidence.is_file(), "a machine in the making is looked at too");
            left_clean(&sandbox);
        } else {
            let swept = sandbox.run(&["doctor"]);
            assert!(swept.stderr.contains("swept what a killed run left"), "{}", swept.stderr);
            assert!(!sandbox.run_dir().join("machines/silent.example.org/overlay.qcow2").exists());
        }
    }
}
