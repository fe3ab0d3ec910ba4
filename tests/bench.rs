//! Times the machines of the library: no deploy, no capture. Prints one JSON line about what it measures with, then one
//! for each run; `ci/bench machines` reads them.
//!
//! ```text
//! bench fork 5         clean machines, forked from the template
//! bench fresh 3        clean machines, booted cold
//! bench freeze 3       a machine is frozen, and forked twice
//! bench many 8         so many clean machines at once
//! bench container 3    clean machines that are containers
//! ```
//!
//! With `--paced` each run waits for a line on standard input, so that whoever compares can take turns with us.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use redrill_machines::host::{self, Acceleration};
use redrill_machines::image::{Catalog, Store};
use redrill_machines::process::Guard;
use redrill_machines::qemu::{Qemu, QemuMachine, QemuOptions, Stock, Templates};
use redrill_machines::{Backend, ClientKey, Containers, Deadline, Home, Machine, Needs, RunDir};
use redrill_model::{MachineSpec, Scenario};
use redrill_tests::{processes_of, program, root};
use serde_json::{Value, json};

const IMAGE: &str = "debian-13";
/// Before it is stretched for slow hosts.
const BOOT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (options, plain): (Vec<&str>, Vec<&str>) = words.iter().map(String::as_str).partition(|w| w.starts_with('-'));
    let (mode, count) = match plain[..] {
        [mode] => (mode, Some(1)),
        [mode, count] => (mode, count.parse::<u8>().ok()),
        _ => ("", None),
    };
    let known = ["fork", "fresh", "freeze", "many", "container"].contains(&mode);
    let (Some(count), true) = (count, known && options.iter().all(|option| *option == "--paced")) else {
        let _ = writeln!(std::io::stderr(), "usage: bench fork|fresh|freeze|many|container [N] [--paced]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let world = Bench::new(!options.is_empty()).await;
        match mode {
            "fork" => Box::pin(forks(&world, count)).await,
            "fresh" => Box::pin(fresh(&world, count)).await,
            "freeze" => Box::pin(freeze(&world, count)).await,
            "many" => Box::pin(many(&world, count)).await,
            _ => Box::pin(containers(&world, count)).await,
        }
        world.run.close();
    });
    ExitCode::SUCCESS
}

async fn forks(world: &Bench, count: u8) {
    let qemu = world.warm().await;
    for number in 0..count {
        if !world.turn() {
            return;
        }
        let made = world.boot(&qemu, &format!("m{number}"), 0, false).await;
        let mut line = login(&made);
        line["memory"] = memory(&world.process(&made.dir));
        tell(&line);
        made.machine.destroy().await.expect("ends");
    }
}

async fn fresh(world: &Bench, count: u8) {
    let (qemu, about) = world.qemu(true).await;
    tell(&about);
    for number in 0..count {
        if !world.turn() {
            return;
        }
        let made = world.boot(&qemu, &format!("m{number}"), 0, false).await;
        tell(&login(&made));
        made.machine.destroy().await.expect("ends");
    }
}

/// Times of a clean machine: `ssh` to its first login, `ready` to the end of what it is told afterwards.
fn login(made: &Booted<QemuMachine>) -> Value {
    let login = made.machine.login_seconds().expect("a clean machine");
    json!({ "first_answer": made.machine.boot_seconds(), "ssh": login, "ready": made.seconds })
}

async fn freeze(world: &Bench, count: u8) {
    let qemu = world.warm().await;
    for number in 0..count {
        if !world.turn() {
            return;
        }
        let name = format!("m{number}");
        let made = world.boot(&qemu, &name, 0, true).await;
        let boot = made.times();
        let began = Instant::now();
        let frozen = Box::pin(qemu.freeze(made.machine, &world.deadline)).await.expect("frozen");
        let seconds = began.elapsed().as_secs_f64();
        let (mut machines, mut forks) = (Vec::new(), Vec::new());
        for group in ["first", "second"] {
            let dir = world.dir(&format!("{name}/{group}"));
            let limit = world.deadline.child("a fork", BOOT);
            let began = Instant::now();
            let machine = Box::pin(qemu.fork(&frozen, group, &dir, &limit)).await.expect("forks");
            let whole = began.elapsed().as_secs_f64();
            let memory = memory(&world.process(&dir));
            forks.push(json!({ "first_answer": machine.boot_seconds(), "whole": whole, "memory": memory }));
            machines.push(machine);
        }
        tell(&json!({ "boot": boot, "freeze": seconds, "forks": forks }));
        for machine in machines {
            machine.destroy().await.expect("ends");
        }
    }
}

async fn many(world: &Bench, count: u8) {
    let qemu = world.warm().await;
    if !world.turn() {
        return;
    }
    let names: Vec<(u8, String)> = (0..count).map(|number| (number, format!("m{number}"))).collect();
    let boots = names.iter().map(|(lease, name)| Box::pin(world.boot(&qemu, name, *lease, false)));
    let began = Instant::now();
    let made = join_all(boots).await;
    let whole = began.elapsed().as_secs_f64();
    // Each counts from its own start: they all start within what it takes to make a key.
    let first_answer = made.iter().map(|made| made.machine.boot_seconds()).fold(0.0, f64::max);
    let memory: Vec<Value> = made.iter().map(|made| memory(&world.process(&made.dir))).collect();
    tell(&json!({ "first_answer": first_answer, "ssh": whole, "memory": memory }));
    for made in made {
        made.machine.destroy().await.expect("ends");
    }
}

async fn containers(world: &Bench, count: u8) {
    if let Err(why) = redrill_machines::container::engine_version() {
        tell(&json!({ "unable": why }));
        return;
    }
    let (store, catalog) = (Store::new(&world.home.cache), Catalog::near(&[&root()]));
    let (guard, run) = (world.guard.clone(), world.run.path().to_owned());
    let backend = Containers::new(guard, run, catalog, store, world.client.clone()).await;
    let mut backend = backend.expect("an engine");
    let used = backend.prepare(&[IMAGE.to_owned()], Arc::new(note)).await.expect("an image");
    // Makes the network too.
    world.boot(&backend, "warm", 0, false).await.machine.destroy().await.expect("ends");
    // As the engine knows it.
    tell(&json!({ "image": format!("redrill/{IMAGE}:{}", &used[0].digest[..16]) }));
    for number in 0..count {
        if !world.turn() {
            return;
        }
        let made = world.boot(&backend, &format!("m{number}"), 0, false).await;
        tell(&made.times());
        made.machine.destroy().await.expect("ends");
    }
}

/// Places, a guard, a client's key.
struct Bench {
    _place: tempfile::TempDir,
    home: Home,
    run: RunDir,
    guard: Guard,
    client: ClientKey,
    deadline: Deadline,
    paced: bool,
}

/// A machine, and seconds to the end of its boot.
struct Booted<M> {
    machine: M,
    dir: PathBuf,
    seconds: f64,
}

impl<M: Machine> Booted<M> {
    fn times(&self) -> Value {
        json!({ "first_answer": self.machine.boot_seconds(), "ssh": self.seconds })
    }
}

impl Bench {
    async fn new(paced: bool) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let own = Home::from_environment(|name| std::env::var_os(name).map(PathBuf::from));
        let home = Home { cache: own.cache, state: place.path().join("state") };
        std::fs::create_dir_all(&home.cache).expect("a cache");
        let run = RunDir::create(&home, "bench", SystemTime::now()).expect("a run directory");
        let guard = Guard::new(program(), run.path().to_owned());
        let client = ClientKey::make(run.path().join("client.key")).await.expect("a key");
        let deadline = Deadline::root("the benchmark", Duration::from_secs(3600), 8.0);
        Self { _place: place, home, run, guard, client, deadline, paced }
    }

    /// Whether to go on.
    fn turn(&self) -> bool {
        !self.paced || matches!(std::io::stdin().read_line(&mut String::new()), Ok(1..))
    }

    async fn qemu(&self, fresh: bool) -> (Qemu, Value) {
        let accel = acceleration(&self.guard, &self.home.cache).await.choice;
        let version = host::qemu_version().await.expect("QEMU");
        let about = json!({ "acceleration": accel.name(), "qemu": version });
        let options = QemuOptions { accel, version, fresh };
        let (images, templates) = (Store::new(&self.home.cache), Templates::new(&self.home.cache));
        let sources = Stock { catalog: Catalog::near(&[&root()]), images, templates };
        let mut qemu = Qemu::new(self.guard.clone(), options, sources, self.client.clone());
        qemu.prepare(&[IMAGE.to_owned()], Arc::new(note)).await.expect("an image");
        (qemu, about)
    }

    /// With a template, whose files are in the page cache. Tells the command line of a fork's QEMU.
    async fn warm(&self) -> Qemu {
        let (qemu, mut about) = self.qemu(false).await;
        let made = self.boot(&qemu, "warm", 0, false).await;
        let line = std::fs::read_to_string(self.process(&made.dir).join("cmdline")).expect("a running process");
        about["arguments"] = line.trim_end_matches('\0').split('\0').collect();
        made.machine.destroy().await.expect("ends");
        tell(&about);
        qemu
    }

    async fn boot<B: Backend>(&self, backend: &B, name: &str, lease: u8, freezable: bool) -> Booted<B::Machine> {
        let (spec, dir) = (spec(&format!("{name}.example.org")), self.dir(name));
        let needs = Needs { lease, freezable, ..Needs::default() };
        let limit = self.deadline.child("a boot", BOOT);
        let began = Instant::now();
        let machine = Box::pin(backend.boot(&spec, &needs, &dir, &limit)).await.expect("boots");
        Booted { machine, dir, seconds: began.elapsed().as_secs_f64() }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.run.dir(format!("machines/{name}")).expect("a directory")
    }

    /// The QEMU that works in this directory, as a directory of `/proc`.
    fn process(&self, dir: &Path) -> PathBuf {
        let dir = dir.canonicalize().expect("a directory");
        let mut places = processes_of(self.run.path()).into_iter().map(|id| PathBuf::from(format!("/proc/{id}")));
        let ours = |place: &PathBuf| {
            let name = std::fs::read_to_string(place.join("comm")).unwrap_or_default();
            name.starts_with("qemu-system") && std::fs::read_link(place.join("cwd")).is_ok_and(|cwd| cwd == dir)
        };
        places.find(ours).expect("a QEMU runs there")
    }
}

/// The trial that `redrill run` made since the host's boot, or a new one.
async fn acceleration(guard: &Guard, cache: &Path) -> Acceleration {
    let text = std::fs::read(cache.join("acceleration.json")).unwrap_or_default();
    let mut known: Value = serde_json::from_slice(&text).unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if known["boot_id"] == boot
        && let Ok(found) = serde_json::from_value(known["found"].take())
    {
        return found;
    }
    host::probe_acceleration(guard, cache).await.expect("a trial")
}

/// Memory of a process, in MiB. `own`: pages that no file stands behind, those it wrote to among them; what a fork adds
/// to the host, and what cannot be dropped. `private`: also pages of files that nobody else happens to map: those of a
/// frozen machine's memory count here for its only fork, and for none of two.
fn memory(process: &Path) -> Value {
    let text = std::fs::read_to_string(process.join("smaps_rollup")).expect("a running process");
    let mib = |name: &str| {
        let number = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok();
        text.lines().find_map(number).expect("a number") / 1024.0
    };
    json!({ "private_mib": mib("Private_Clean:") + mib("Private_Dirty:"), "own_mib": mib("Anonymous:") })
}

fn spec(name: &str) -> MachineSpec {
    let text = format!(
        "claims = ['rebuilds']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
         [[machine]]\nname = '{name}'\nimage = '{IMAGE}'\nmemory-mib = 1024\n"
    );
    Scenario::parse(&text).expect("valid").machines.remove(0)
}

fn tell(line: &Value) {
    writeln!(std::io::stdout(), "{line}").expect("somebody listens");
}

fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
