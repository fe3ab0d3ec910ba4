//! SIGKILL at any moment leaves nothing that the next start does not sweep: of `redrill`, of whoever started it, and of
//! the whole process group, with either kind of machine. The drilled deploy leaves daemons on the controller that have an
//! empty environment, a session of their own and no ear for signals: they end too. The count stands in the output.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Sandbox, leftovers, processes_of, root, wait_for};

/// Moments in the long suite, and in CI. A drill in QEMU takes three times as long as one in containers.
const MANY: [(&str, u32); 2] = [("qemu", 30), ("container", 60)];
const FEW: u32 = 3;
/// By these ends of their argument the daemons of the inventory and of the deploy are told apart.
const INVENTORY: &str = "1";
const DEPLOY: &str = "2";
/// Longer than any drill takes to its deploy, on a busy host without hardware virtualization.
const START: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = MANY.into_iter().flat_map(|(backend, many)| {
        let lacking = match backend {
            "container" => redrill_machines::container::engine_version().is_err(),
            _ => !redrill_tests::has_qemu(),
        };
        let ignored = lacking && std::env::var_os("CI").is_none();
        [(format!("kills::{backend}::few"), FEW), (format!("long::kills::{backend}::many"), many)]
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
    let case = FailingCase::new(&sandbox);
    let (mut leaks, mut stayed) = (0, 0);
    let victims = [Victim::Redrill, Victim::Starter, Victim::Group];
    // A drill of this case takes 6 s with containers and 20 s with QEMU.
    let longest = if backend == "container" { 6_000 } else { 20_000 };
    for number in 0..count {
        let victim = victims[number as usize % victims.len()];
        let mut starter = start(&sandbox, &case, backend);
        // Half of them while daemons run, which is a part of a drill only; of a few, all.
        let waits = count == FEW || number % 2 == 0;
        if waits && !wait_for(START, || !case.started_by(DEPLOY).is_empty()) {
            kill(&sandbox, &mut starter, Victim::Group);
            return Err("the deploy has started no daemon".into());
        }
        let moment = Duration::from_millis(u64::from(random(if waits { 2_500 } else { longest })));
        std::thread::sleep(moment);
        stayed += u32::from(!case.daemons().is_empty());
        kill(&sandbox, &mut starter, victim);
        // Guards and reapers need a moment; what they cannot do, the next start does.
        wait_for(Duration::from_secs(20), || processes_of(&sandbox.state()).is_empty() && case.daemons().is_empty());
        let _ = sandbox.run(&["doctor"]);
        let check = sandbox.run(&["clean", "--check"]);
        let mut left = leftovers(&sandbox.state());
        left.extend(case.daemons().iter().map(|id| format!("daemon {id}")));
        if check.status != 0 || !left.is_empty() {
            leaks += 1;
            tell(&format!("{backend} {number}: {victim:?} after {moment:?} left {left:?}\n{}", check.stdout));
            sandbox.run(&["clean"]);
            case.daemons().iter().for_each(|id| signal(&id.to_string()));
        }
    }
    if stayed == 0 {
        return Err("no kill met a daemon: nothing was shown".into());
    }
    tell(&format!("{backend}: {count} kills, {stayed} of them with daemons on the controller, {leaks} leaks"));
    if leaks == 0 { Ok(()) } else { Err(format!("{leaks} of {count} kills left something").into()) }
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `cases/fails`, with daemons that its inventory and its deploy start.
struct FailingCase {
    path: PathBuf,
    /// An argument that no other process has: the daemons' environment is empty.
    mark: String,
}

impl FailingCase {
    fn new(sandbox: &Sandbox) -> Self {
        let (from, path) = (root().join("tests/cases/fails"), sandbox.path().join("fails"));
        let mark = format!("98765.{:010}", random(u32::MAX));
        let copied = Command::new("cp").arg("-r").arg(&from).arg(&path).status();
        assert!(copied.expect("cp runs").success());
        for (name, end) in [("inventory.py", INVENTORY), ("deploy.py", DEPLOY)] {
            let own = format!("{mark}{end}");
            let daemon = format!("trap \"\" TERM HUP INT; while :; do sleep {own}; done");
            let line = format!(
                // A list with a name would be a group of the inventory.
                "import subprocess\n[subprocess.Popen(['env', '-i', 'setsid', *way], stdin=-3, stdout=-3, stderr=-3) \
                 for way in (['sleep', '{own}'], ['sh', '-c', '{daemon}'])]\n"
            );
            let file = path.join("servers").join(name);
            let text = fs::read_to_string(&file).expect("a case has both");
            // Time for a kill to meet them: the deploy itself takes less than a second.
            let wait = if end == DEPLOY { "import time\ntime.sleep(3)\n" } else { "" };
            fs::write(file, format!("{line}{wait}{text}")).expect("written");
        }
        for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "Daemons"]] {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=k", "-c", "user.email=k@example.org", "-c", "commit.gpgSign=false"]);
            assert!(git.args(words).current_dir(path.join("servers")).status().expect("git runs").success());
        }
        Self { path, mark }
    }

    /// Those that run.
    fn daemons(&self) -> Vec<u32> {
        self.started_by("")
    }

    fn started_by(&self, end: &str) -> Vec<u32> {
        let mark = format!("{}{end}", self.mark);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |id: &u32| {
            let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            words.windows(mark.len()).any(|window| window == mark.as_bytes())
        };
        ids.filter(ours).collect()
    }
}

/// A starter with a `redrill` below it, in a process group of their own.
fn start(sandbox: &Sandbox, case: &FailingCase, backend: &str) -> Child {
    let redrill = sandbox.command(&[]);
    let script = format!(
        "{} run {} --backend {backend} --leash < \"$0\" & wait",
        redrill.get_program().to_string_lossy(),
        case.path.display()
    );
    let fifo = sandbox.path().join("leash");
    let _ = fs::remove_file(&fifo);
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let mut shell = Command::new("sh");
    // The starter holds the other end of the leash.
    shell.args(["-c", &format!("exec 3<> \"$0\"; ({script}) & wait")]).arg(&fifo);
    for (name, value) in redrill.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.current_dir(root()).process_group(0);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh starts")
}

fn kill(sandbox: &Sandbox, starter: &mut Child, victim: Victim) {
    let group = format!("-{}", starter.id());
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

fn signal(target: &str) {
    let _ = Command::new("kill").args(["-KILL", "--", target]).stderr(Stdio::null()).status();
}

/// The `redrill run` of this sandbox.
fn runs_of(sandbox: &Sandbox) -> Vec<u32> {
    let mark = [b"REDRILL_STATE_DIR=", sandbox.state().as_os_str().as_encoded_bytes()].concat();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |id: &u32| {
        let read = |name: &str| fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
        let words: Vec<Vec<u8>> = read("cmdline").split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let run = words.get(1).is_some_and(|word| word == b"run") && words[0].ends_with(b"redrill");
        run && read("environ").split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    ids.filter(ours).collect()
}

fn random(below: u32) -> u32 {
    let mut bytes = [0; 4];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").expect("there"), &mut bytes).expect("read");
    u32::from_le_bytes(bytes) % below
}
