//! SIGKILL at any moment leaves nothing that the next start does not sweep: of `redrill`, of whoever started it, and of
//! the whole process group, with either kind of machine. The count stands in the output.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Sandbox, leftovers, processes_of, wait_for};

/// Moments per kind of machine in the long suite, and in CI.
const MANY: u32 = 30;
const FEW: u32 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let backends: [&'static str; 2] = ["qemu", "container"];
    let trials = backends.into_iter().flat_map(|backend| {
        let lacking = match backend {
            "container" => redrill_machines::container::engine_version().is_err(),
            _ => !redrill_tests::has_qemu(),
        };
        let ignored = lacking && std::env::var_os("CI").is_none();
        [(format!("kills::{backend}::few"), FEW), (format!("long::kills::{backend}::many"), MANY)]
            .map(|(name, count)| Trial::test(name, move || kills(backend, count)).with_ignored_flag(ignored))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Whom the signal meets.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Redrill,
    Starter,
    Group,
}

fn kills(backend: &str, count: u32) -> Result<(), Failed> {
    let sandbox = Sandbox::new();
    let victims = [Victim::Redrill, Victim::Starter, Victim::Group];
    let mut leaks = 0;
    // A drill of this case takes 6 s with containers and 20 s with QEMU.
    let longest = if backend == "container" { 6_000 } else { 20_000 };
    for number in 0..count {
        let victim = victims[number as usize % victims.len()];
        let moment = Duration::from_millis(u64::from(random(longest)));
        let mut starter = start(&sandbox, backend);
        std::thread::sleep(moment);
        kill(&sandbox, &mut starter, victim);
        // Guards and reapers need a moment; what they cannot do, the next start does.
        wait_for(Duration::from_secs(20), || processes_of(&sandbox.state()).is_empty());
        let _ = sandbox.run(&["doctor"]);
        let check = sandbox.run(&["clean", "--check"]);
        let left = leftovers(&sandbox.state());
        if check.status != 0 || !left.is_empty() {
            leaks += 1;
            tell(&format!("{backend} {number}: {victim:?} after {moment:?} left {left:?}\n{}", check.stdout));
            sandbox.run(&["clean"]);
        }
    }
    tell(&format!("{backend}: {count} kills, {leaks} leaks"));
    if leaks == 0 { Ok(()) } else { Err(format!("{leaks} of {count} kills left something").into()) }
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A starter with a `redrill` below it, in a process group of their own.
fn start(sandbox: &Sandbox, backend: &str) -> Child {
    let redrill = sandbox.command(&[]);
    let script = format!(
        "{} run tests/cases/fails --backend {backend} --leash < \"$0\" & wait",
        redrill.get_program().to_string_lossy()
    );
    let fifo = sandbox.path().join("leash");
    let _ = std::fs::remove_file(&fifo);
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let mut shell = std::process::Command::new("sh");
    // The starter holds the other end of the leash.
    shell.args(["-c", &format!("exec 3<> \"$0\"; ({script}) & wait")]).arg(&fifo);
    for (name, value) in redrill.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.current_dir(redrill_tests::root()).process_group(0);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh starts")
}

fn kill(sandbox: &Sandbox, starter: &mut Child, victim: Victim) {
    let group = format!("-{}", starter.id());
    let signal = |target: &str| {
        let _ = std::process::Command::new("kill").args(["-KILL", "--", target]).stderr(Stdio::null()).status();
    };
    match victim {
        Victim::Group => signal(&group),
        Victim::Redrill => {
            for id in runs_of(sandbox) {
                signal(&id.to_string());
            }
        }
        Victim::Starter => {
            signal(&starter.id().to_string());
            // Its leash is let go with the group's other shells; redrill then ends in order.
            std::thread::sleep(Duration::from_millis(500));
            signal(&group);
        }
    }
    let _ = starter.wait();
}

/// The `redrill run` of this sandbox.
fn runs_of(sandbox: &Sandbox) -> Vec<u32> {
    let mark = [b"REDRILL_STATE_DIR=", sandbox.state().as_os_str().as_encoded_bytes()].concat();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |id: &u32| {
        let read = |name: &str| std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
        let words: Vec<Vec<u8>> = read("cmdline").split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let run = words.get(1).is_some_and(|word| word == b"run") && words[0].ends_with(b"redrill");
        run && read("environ").split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    ids.filter(ours).collect()
}

fn random(below: u32) -> u32 {
    let mut bytes = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").expect("there"), &mut bytes).expect("read");
    u32::from_le_bytes(bytes) % below
}
