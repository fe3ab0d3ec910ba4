//! The command line without machines: what is wrong is said before anything runs, with its place and its mending.

use redrill_tests::{Sandbox, root};

const HEAD: &str =
    "[servers]\npath = 'servers'\n[deploy]\ntool = 'pyinfra'\ninventory = 'inventory.py'\nscript = 'deploy.py'\n";
const MACHINE: &str = "[[machine]]\nname = 'web.example.org'\nimage = 'debian-13'\n";

/// Runs `redrill run` on this scenario.toml; the servers repo beside it is empty and no repository.
fn run_scenario(sandbox: &Sandbox, text: &str) -> redrill_tests::Ran {
    let file = sandbox.file("scenario/scenario.toml", text);
    std::fs::create_dir_all(sandbox.path().join("scenario/servers")).expect("made");
    sandbox.run(&["run", &file.display().to_string()])
}

#[test]
fn a_mistake_in_a_scenario_names_file_line_column_and_what_was_expected() {
    let head = format!("claims = ['rebuilds']\n{HEAD}");
    let check = "[[check.http]]\nname = 'n'\nwhy = 'w'\nurl = 'http://web/'\n";
    for (text, place, said) in [
        (format!("{head}{MACHINE}memory = 1\n"), "scenario.toml:11:1: ", "unknown field `memory`"),
        (format!("{head}{MACHINE}cpus = 'two'\n"), "scenario.toml:11:8: ", "expected u32"),
        (format!("{head}{MACHINE}[limits]\nboot = 90\n"), "scenario.toml:12:8: ", "a duration with its unit"),
        (format!("{HEAD}{MACHINE}"), "scenario.toml:1:1: ", "no checks"),
        (format!("{head}{MACHINE}{check}"), "scenario.toml:11:1: ", "asserts nothing"),
        (format!("{head}{MACHINE}{MACHINE}"), "scenario.toml:12:8: ", "twice"),
        (format!("{head}{MACHINE}[[[\n"), "scenario.toml:11:3: ", ""),
        (format!("{head}{MACHINE}[network]\nacme = ['ca.test', 'a b']\n"), "scenario.toml:12:20: ", "no host name"),
        (format!("{head}{MACHINE}[network]\nacme = ['web.example.org']\n"), "scenario.toml:12:9: ", "of this drill"),
    ] {
        let ran = run_scenario(&Sandbox::new(), &text).expect(2);
        assert!(ran.stderr.contains(place) && ran.stderr.contains(said), "{text}\n---\n{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn an_unknown_image_is_shown_where_it_is_written_with_those_there_are() {
    let text = format!("claims = ['rebuilds']\n{HEAD}{}", MACHINE.replace("debian-13", "debian-99"));
    let ran = run_scenario(&Sandbox::new(), &text).expect(2);
    assert!(ran.stderr.contains("scenario.toml:10:9: there is no image `debian-99`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`debian-13`"), "{}", ran.stderr);
}

#[test]
fn a_mistake_in_an_image_names_its_own_file() {
    let sandbox = Sandbox::new();
    sandbox.file("images/cloud/image.toml", "# A cloud image.\nurl = 'https://cloud.test/a/i.qcow2'\n");
    let text = format!("claims = ['rebuilds']\n{HEAD}{}", MACHINE.replace("debian-13", "cloud"));
    let ran = run_scenario(&sandbox, &text).expect(2);
    assert!(ran.stderr.contains("images/cloud/image.toml:2:7: an image from elsewhere needs"), "{}", ran.stderr);
    assert!(ran.stderr.contains("curl -fsS https://cloud.test/a/SHA512SUMS"), "{}", ran.stderr);
}

#[test]
fn an_image_from_elsewhere_is_built_and_listed_like_the_others() {
    let sandbox = Sandbox::new();
    let disk = sandbox.file("disk.raw", "");
    let mut content = vec![0; 1024];
    content[510..512].copy_from_slice(b"\x55\xaa");
    std::fs::write(&disk, content).expect("written");
    let sum = "0".repeat(64);
    let image = |sum: &str| {
        sandbox.file("images/cloud/image.toml", &format!("url = 'file://{}'\nsha256 = '{sum}'\n", disk.display()));
        let mut command = sandbox.command(&["image", "build", "--mirror", "http://mirror.test/debian"]);
        command.current_dir(sandbox.path()).env("REDRILL_CACHE_DIR", sandbox.path().join("cache"));
        redrill_tests::Ran::of(command.output().expect("redrill runs"))
    };
    let refused = image(&sum).expect(3);
    let found = refused.stderr.split("found ").nth(1).and_then(|rest| rest.split(';').next()).expect("what was found");
    assert!(refused.stderr.contains(&format!("expected sha256 {sum}")), "{}", refused.stderr);
    let built = image(found).expect(0);
    let mut list = sandbox.command(&["image", "list"]);
    list.env("REDRILL_CACHE_DIR", sandbox.path().join("cache"));
    let listed = redrill_tests::Ran::of(list.output().expect("redrill runs")).expect(0).stdout;
    assert_eq!(listed, built.stdout, "one image, and nothing of the one that was refused");
    assert!(listed.starts_with("cloud ") && listed.contains(&disk.display().to_string()), "{listed}");
}

#[test]
fn a_disk_from_elsewhere_is_no_container_and_that_is_told_before_anything_starts() {
    let sandbox = Sandbox::new();
    let image = format!("url = 'http://127.0.0.1:1/i'\nsha256 = '{}'\n", "0".repeat(64));
    sandbox.file("images/cloud/image.toml", &image);
    let head = "claims = ['rebuilds']\nbackend = 'container'\n";
    let ran = run_scenario(&sandbox, &format!("{head}{HEAD}{}", MACHINE.replace("debian-13", "cloud"))).expect(3);
    assert!(ran.stderr.contains("`cloud` is a disk from elsewhere"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--backend qemu"), "{}", ran.stderr);
    let runs = std::fs::read_dir(sandbox.state().join("runs")).into_iter().flatten();
    assert_eq!(runs.count(), 0, "no run was begun");
}

#[test]
fn a_scenario_that_is_not_there_is_the_users_mistake() {
    let ran = Sandbox::new().run(&["run", "scenarios/nowhere"]).expect(2);
    assert!(ran.stderr.contains("scenarios/nowhere") && ran.stderr.contains("scenario.toml"), "{}", ran.stderr);
}

#[test]
fn a_servers_repo_that_is_no_git_repo_is_refused_before_anything_boots() {
    let sandbox = Sandbox::new();
    let ran = run_scenario(&sandbox, &format!("claims = ['rebuilds']\n{HEAD}{MACHINE}")).expect(2);
    assert!(ran.stderr.contains("is no git repository"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("boot clean machines"), "{}", ran.stderr);
}

#[test]
fn a_commit_that_does_not_exist_is_refused() {
    let sandbox = Sandbox::new();
    let servers = root().join("scenarios/web/servers");
    let head = HEAD.replace("path = 'servers'", &format!("path = '{}'\ncommit = 'v99'", servers.display()));
    let ran = run_scenario(&sandbox, &format!("claims = ['rebuilds']\n{head}{MACHINE}")).expect(2);
    assert!(ran.stderr.contains("there is no commit `v99`"), "{}", ran.stderr);
}

#[test]
fn an_inventory_host_without_a_machine_is_refused_before_anything_boots() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["run", "tests/cases/two-hosts"]).expect(2);
    assert!(ran.stderr.contains("host `db.example.org` has no machine"), "{}", ran.stderr);
    assert!(ran.stderr.contains("[[machine]] with name = \"db.example.org\""), "{}", ran.stderr);
    assert!(!ran.stderr.contains("boot clean machines"), "{}", ran.stderr);
}

#[test]
fn what_no_host_has_is_said_at_its_place_before_it_is_tried() {
    let sandbox = Sandbox::new();
    for (line, said) in [
        ("memory-mib = 99999999", "`memory-mib` is too large"),
        ("memory-mib = 16000000", "the machines need 16000192 MiB of memory, and this host has"),
        ("memory-mib = 9223372036854775807", "`memory-mib` is too large"),
        ("cpus = 4294967295", "`cpus` is too large"),
    ] {
        let text = format!("claims = ['rebuilds']\n{HEAD}{MACHINE}{line}\n");
        let column = line.find("= ").expect("a value") + 3;
        let ran = run_scenario(&sandbox, &text).expect(2);
        let planned = sandbox.run(&["plan", &sandbox.path().join("scenario").display().to_string()]).expect(2);
        for stderr in [ran.stderr, planned.stderr] {
            assert!(stderr.contains(&format!("scenario.toml:11:{column}: {said}")), "{stderr}");
        }
    }
    assert!(!sandbox.state().join("runs").exists(), "nothing was begun");
}

#[test]
fn keys_that_would_be_waited_for_or_lead_out_are_said_at_their_place() {
    for (said, plant) in [
        ("`x` is a FIFO", "mkfifo x"),
        ("`x` is a link that leads out of the keys", "ln -s /etc/shadow x"),
        ("leads in a circle", "ln -s . x"),
        ("`x` is a link that leads nowhere", "ln -s x x"),
    ] {
        let sandbox = Sandbox::new();
        let one = sandbox.file("scenario/keys/one", "secret");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", plant]).current_dir(one.parent().expect("the keys"));
        assert!(shell.status().expect("sh runs").success(), "{plant}");
        let text = format!("claims = ['rebuilds']\n{HEAD}[keys]\npath = 'keys'\n{MACHINE}");
        let ran = run_scenario(&sandbox, &text).expect(2);
        let planned = sandbox.run(&["plan", &sandbox.path().join("scenario").display().to_string()]).expect(2);
        for stderr in [ran.stderr, planned.stderr] {
            assert!(stderr.contains("scenario.toml:9:8: ") && stderr.contains(said), "{stderr}");
        }
    }
}

#[test]
fn a_half_made_environment_is_counted_and_removed() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path().join("cache");
    let (half, whole) = (cache.join("venvs/0123"), cache.join("venvs/4567"));
    let clean = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.env("REDRILL_CACHE_DIR", &cache);
        redrill_tests::Ran::of(command.output().expect("redrill runs"))
    };
    std::fs::create_dir_all(half.join("bin")).and_then(|()| std::fs::create_dir_all(&whole)).expect("made");
    std::fs::write(whole.with_extension("whole"), "").expect("written");
    let told = clean(&["clean", "--check"]).expect(1);
    let told = format!("{}{}", told.stdout, told.stderr);
    assert!(told.contains("venvs/0123") && !told.contains("venvs/4567"), "{told}");
    assert!(half.exists(), "a check removes nothing");
    clean(&["clean"]).expect(0);
    clean(&["clean", "--check"]).expect(0);
    assert!(!half.exists() && whole.exists());
}

/// A PATH with everything but `without`.
fn path_without(sandbox: &Sandbox, without: &str) -> std::path::PathBuf {
    let bin = sandbox.path().join("bin");
    std::fs::create_dir_all(&bin).expect("made");
    for directory in std::env::var("PATH").expect("a PATH").split(':') {
        for program in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if program.file_name() != without {
                let _ = std::os::unix::fs::symlink(program.path(), bin.join(program.file_name()));
            }
        }
    }
    bin
}

#[test]
fn a_missing_qemu_is_said_before_it_is_tried_with_what_mends_it() {
    let sandbox = Sandbox::new();
    let path = path_without(&sandbox, "qemu-system-x86_64");
    let run = ["run", "scenarios/web", "--backend", "qemu"];
    let output = sandbox.command(&run).env("PATH", &path).output().expect("runs");
    let ran = redrill_tests::Ran::of(output).expect(3);
    assert!(ran.stderr.contains("qemu-system-x86_64: missing"), "{}", ran.stderr);
    assert!(ran.stderr.contains("apt-get install qemu-system-x86"), "{}", ran.stderr);
    let output = sandbox.command(&["doctor"]).env("PATH", &path).output().expect("runs");
    let ran = redrill_tests::Ran::of(output).expect(3);
    assert!(ran.stdout.contains("missing  qemu-system-x86_64"), "{}", ran.stdout);
}

#[test]
fn a_missing_pebble_is_said_before_it_is_tried_and_only_where_it_is_needed() {
    let sandbox = Sandbox::new();
    let path = path_without(&sandbox, "pebble");
    let text = format!("claims = ['rebuilds']\n{HEAD}{MACHINE}[network]\nacme = ['ca.test']\n");
    let file = sandbox.file("scenario/scenario.toml", &text).display().to_string();
    std::fs::create_dir_all(sandbox.path().join("scenario/servers")).expect("made");
    let output = sandbox.command(&["run", &file]).env("PATH", &path).output().expect("runs");
    let ran = redrill_tests::Ran::of(output).expect(3);
    assert!(ran.stderr.contains("`pebble`, which stands in for the ACME servers"), "{}", ran.stderr);
    assert!(ran.stderr.contains("apt-get install pebble"), "{}", ran.stderr);
    assert!(!sandbox.state().join("runs").exists(), "nothing was begun");
    // With no program at all there is no hardware virtualization to be tried, which takes its time.
    let output = sandbox.command(&["doctor"]).env("PATH", sandbox.path().join("nothing")).output().expect("runs");
    let ran = redrill_tests::Ran::of(output).expect(3);
    assert!(ran.stdout.contains("limited  pebble") && ran.stdout.contains("apt-get install pebble"), "{}", ran.stdout);
}

/// A host on which a trial of QEMU found no use for KVM, or which has none to try.
#[test]
fn a_drill_that_needs_kvm_is_told_and_left_out_on_a_laptop_and_fails_in_ci() {
    let sandbox = Sandbox::new();
    let text = format!("claims = ['rebuilds']\nbackend = 'qemu'\n{HEAD}{MACHINE}[needs]\nkvm = true\n");
    sandbox.file("drills/fast/scenario.toml", &text);
    std::fs::create_dir_all(sandbox.path().join("drills/fast/servers")).expect("made");
    std::os::unix::fs::symlink(root().join("images"), sandbox.path().join("images")).expect("linked");
    // This version of QEMU is nobody's: what is remembered is of this boot, and no trial is made anew.
    let version = "#!/bin/sh\necho 'QEMU emulator version 99.0.0'\n";
    let path = path_without(&sandbox, "qemu-system-x86_64");
    let qemu = sandbox.file("bin/qemu-system-x86_64", version);
    std::fs::set_permissions(qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    let found = serde_json::json!({
        "choice": "tcg", "reason": "no hardware virtualization: refused", "slowness": 8.0,
        "kvm": { "Refused": "refused" }, "tcg": { "Ran": 0.2 }
    });
    let known = serde_json::json!({ "boot_id": boot, "qemu": "99.0.0", "found": found });
    sandbox.file("cache/acceleration.json", &known.to_string());
    let run = |words: &[&str], ci: &str| {
        let mut command = sandbox.command(words);
        command.current_dir(sandbox.path()).env("PATH", &path).env("CI", ci).env_remove("NEXTEST_RUN_ID");
        command.env("REDRILL_CACHE_DIR", sandbox.path().join("cache")).env_remove("NEXTEST_PROFILE");
        redrill_tests::Ran::of(command.output().expect("runs"))
    };
    let told = "not run here: fast::qemu::rebuilds (it needs hardware virtualization: ";
    let laptop = run(&["test", "drills", "--", "--no-tests", "pass"], "false");
    assert!(laptop.status == 0 && laptop.stderr.contains(told), "{}", laptop.stderr);
    let ci = run(&["test", "drills"], "true").expect(100);
    assert!(ci.stderr.contains("this host was promised to run it: it needs hardware virtualization"), "{}", ci.stderr);
    let drill = run(&["run", "drills/fast"], "false").expect(3);
    assert!(drill.stderr.contains("mend it: a host with KVM"), "{}", drill.stderr);
}

#[test]
fn a_plan_is_printed_and_nothing_is_made() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["plan", "scenarios/web"]).expect(0);
    let line = |text: &str| ran.stdout.find(text).unwrap_or_else(|| panic!("no {text:?} in\n{}", ran.stdout));
    assert!(line("first deploy") < line("capture after the first deploy"));
    assert!(line("twins") < line("second deploy") && line("second deploy") < line("checks"));
    assert!(ran.stdout.contains("site answers over TLS"));
    assert!(!sandbox.state().exists());
    let json = sandbox.run(&["plan", "scenarios/web", "--format", "json"]).expect(0).stdout;
    let plan: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(plan["stages"][0]["stage"], "controller");
}

#[test]
fn what_is_left_out_of_comparisons_is_told_with_its_hits() {
    let sandbox = Sandbox::new();
    let list = || sandbox.run(&["plan", "--canonicalisers"]).expect(0).stdout;
    assert!(list().contains("logs: logs grow by themselves\n  hits    never\n  places  /var/log/\n"), "{}", list());
    let run = sandbox.state().join("runs/web-20260101-000000");
    std::fs::create_dir_all(&run).expect("made");
    let report =
        r#"{"machines": [{"left_out": {"logs grow by themselves": 3}}, {"left_out": {"logs grow by themselves": 4}}]}"#;
    std::fs::write(run.join("report.json"), report).expect("written");
    assert!(list().contains("logs: logs grow by themselves\n  hits    7\n"), "{}", list());
    assert!(list().contains("never hit in 1 reports"), "{}", list());
    let json = sandbox.run(&["plan", "--canonicalisers", "--format", "json"]).expect(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["reports"], &json["canonicalisers"][0]["hits"]), (&1.into(), &7.into()));
    sandbox.run(&["plan"]).expect(2);
}

#[test]
fn every_shipped_scenario_can_be_planned() {
    for entry in std::fs::read_dir(root().join("scenarios")).expect("scenarios") {
        let path = entry.expect("an entry").path();
        Sandbox::new().run(&["plan", &path.display().to_string()]).expect(0);
        assert!(path.join("README.md").is_file(), "{} has no README", path.display());
    }
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let sandbox = Sandbox::new();
    for command in [
        vec![],
        vec!["run"],
        vec!["plan"],
        vec!["doctor"],
        vec!["image"],
        vec!["image", "build"],
        vec!["image", "list"],
        vec!["image", "prune"],
        vec!["test"],
        vec!["shell"],
        vec!["clean"],
    ] {
        let args: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let help = sandbox.run(&args).expect(0).stdout;
        assert!(help.contains("Example") && help.contains("redrill "), "{command:?}:\n{help}");
    }
}

#[test]
fn wrong_words_on_the_command_line_are_status_2() {
    let sandbox = Sandbox::new();
    sandbox.run(&["frobnicate"]).expect(2);
    sandbox.run(&["run"]).expect(2);
    sandbox.run(&["run", "scenarios/web", "--format", "xml"]).expect(2);
    let ran = sandbox.run(&["shell"]).expect(2);
    assert!(ran.stderr.contains("no machines are kept"), "{}", ran.stderr);
    let ran = sandbox.run(&["clean", "no-such-run"]).expect(2);
    assert!(ran.stderr.contains("there is no run `no-such-run`"), "{}", ran.stderr);
}

#[test]
fn faults_are_planted_only_where_something_is_restored() {
    let ran = Sandbox::new().run(&["idempotence", ".", "--mutate"]).expect(2);
    assert!(
        ran.stderr.contains("nothing is restored here") && ran.stderr.contains("redrill run SCENARIO"),
        "{}",
        ran.stderr
    );
}
