//! Real machines, without a deploy: forks, the agent, reboots, power cuts, and what goes wrong with them.

mod cloud;
mod faults;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_machines::host::{self, Accel};
use redrill_machines::image::{Catalog, Progress, Store};
use redrill_machines::process::Guard;
use redrill_machines::qemu::{Qemu, QemuMachine, QemuOptions, Stock, Templates};
use redrill_machines::{
    Backend, ClientKey, Containers, Deadline, Exec, Home, Machine, MachineError, Needs, PROBE, RunDir,
};
use redrill_model::{MachineSpec, Scenario};
use redrill_tests::{has_qemu, in_mount_namespace, leftovers, processes_of, program, root, wait_for};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    type Test = fn(&mut World) -> futures_util::future::LocalBoxFuture<'_, ()>;
    let trials: [(&str, Test); 13] = [
        ("forks::qemu::share_nothing_but_what_was_in_memory", |world| Box::pin(forks(world))),
        ("agent::qemu::answers_without_a_network", |world| Box::pin(agent(world))),
        ("reboot::qemu::is_proven_and_a_power_cut_loses_what_was_not_synced", |world| Box::pin(reboot(world))),
        ("template::qemu::another_maker_and_damage_are_noticed_and_mended", |world| Box::pin(faults::templates(world))),
        ("resume::qemu::a_fork_that_hangs_is_told", |world| Box::pin(faults::hang(world))),
        ("resume::qemu::a_clock_that_cannot_be_set_is_told", |world| Box::pin(faults::clock(world))),
        ("full::qemu::freezing_is_told", |world| Box::pin(faults::full(world))),
        ("full::qemu::a_machine_at_work_is_told", |world| Box::pin(faults::full_at_work(world))),
        ("long::full::qemu::a_template_is_told", |world| Box::pin(faults::full_cache(world))),
        ("port::qemu::one_that_is_taken_is_left_alone", |world| Box::pin(port(world))),
        ("cloud::qemu::a_published_image_becomes_forks", |world| Box::pin(cloud::forks(world))),
        ("long::forks::qemu::may_be_frozen_again", |world| Box::pin(again(world))),
        ("freeze::container::keeps_the_files", |world| Box::pin(commit(world))),
    ];
    let trials = trials.into_iter().map(|(name, test)| {
        let lacking = match name.contains("::container::") {
            true => redrill_machines::container::engine_version().is_err(),
            false => !has_qemu(),
        };
        let trial = Trial::test(name, move || match name.contains("full::") {
            true => caught(|| in_mount_namespace(name, || run(test).unwrap_or_else(|failed| panic!("{failed:?}")))),
            false => run(test),
        });
        trial.with_ignored_flag(lacking && std::env::var_os("CI").is_none())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(test: fn(&mut World) -> futures_util::future::LocalBoxFuture<'_, ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut world = runtime.block_on(World::new());
    let state = world.home.state.clone();
    let tested = caught(|| runtime.block_on(test(&mut world)));
    let World { _place: place, run, guard, .. } = world;
    drop((guard, runtime));
    // A guard needs a moment to end what it was let go with.
    wait_for(Duration::from_secs(10), || processes_of(&state).is_empty());
    let left = processes_of(&state);
    // As a drill does. Without its directory nobody would know what the engine has of it.
    run.close();
    let mut later = leftovers(&state);
    // Some tests have a cache of their own there; it goes with the place.
    later.retain(|left| !left.contains("/cache/"));
    drop(place);
    tested?;
    assert!(left.is_empty(), "processes were left: {left:?}");
    assert!(later.is_empty(), "after the run was closed there was left: {later:?}");
    Ok(())
}

fn caught(test: impl FnOnce()) -> Result<(), Failed> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default().into()
    })
}

/// Places, a guard, a client's key, and what is needed to make machines.
struct World {
    _place: tempfile::TempDir,
    home: Home,
    run: RunDir,
    guard: Guard,
    client: ClientKey,
    told: Arc<Mutex<Vec<String>>>,
    deadline: Deadline,
}

impl World {
    async fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let own = Home::from_environment(|name| std::env::var_os(name).map(PathBuf::from));
        let home = Home { cache: own.cache, state: place.path().join("state") };
        let run = RunDir::create(&home, "machines", SystemTime::now()).expect("a run directory");
        let guard = Guard::new(program(), run.path().to_owned());
        let client = ClientKey::make(run.path().join("client.key")).await.expect("a key");
        let deadline = Deadline::root("the test", Duration::from_secs(100), 8.0);
        Self { _place: place, home, run, guard, client, told: Arc::default(), deadline }
    }

    async fn qemu(&self, cache: &Path) -> Qemu {
        let accel = host::probe_acceleration(&self.guard, &self.home.cache).await.expect("a trial").choice;
        self.qemu_with(cache, accel).await
    }

    async fn qemu_with(&self, cache: &Path, accel: Accel) -> Qemu {
        let stores = (Store::new(&self.home.cache), Templates::new(cache));
        let mut qemu = self.backend(accel, &root(), stores).await;
        qemu.prepare(&["debian-13".to_owned()], self.tell()).await.expect("an image");
        qemu
    }

    /// With the images beside `place`, none of which is prepared.
    async fn backend(&self, accel: Accel, place: &Path, stores: (Store, Templates)) -> Qemu {
        let version = host::qemu_version().await.expect("QEMU");
        let options = QemuOptions { accel, version, fresh: false };
        let sources = Stock { catalog: Catalog::near(&[place]), images: stores.0, templates: stores.1 };
        Qemu::new(self.guard.clone(), options, sources, self.client.clone())
    }

    fn tell(&self) -> Progress {
        let told = Arc::clone(&self.told);
        Arc::new(move |text: &str| told.lock().expect("no panic").push(text.to_owned()))
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.run.dir(format!("machines/{name}")).expect("a directory")
    }

    async fn shell(&self, machine: &impl Machine, script: &str) -> String {
        let limit = self.deadline.child(script, Duration::from_secs(5));
        let output = machine.exec(&Exec::new(["sh", "-c", script]), b"", &limit).await.expect("answered");
        assert_eq!(output.status, 0, "{script}: {}", output.stderr);
        output.text().trim().to_owned()
    }
}

fn spec(name: &str) -> MachineSpec {
    spec_of(name, "debian-13")
}

fn spec_of(name: &str, image: &str) -> MachineSpec {
    let text = format!(
        "claims = ['rebuilds']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
         [[machine]]\nname = '{name}'\nimage = '{image}'\nmemory-mib = 1024\n"
    );
    Scenario::parse(&text).expect("valid").machines.remove(0)
}

fn needs(lease: u8, freezable: bool) -> Needs {
    Needs { lease, freezable, ..Needs::default() }
}

/// The witness of what runs leave, which finds nothing afterwards, finds each of these now.
fn sees(world: &World, wanted: &[&str]) {
    let found = leftovers(&world.home.state);
    for wanted in wanted {
        assert!(found.iter().any(|found| found.contains(wanted)), "no {wanted} among {found:#?}");
    }
}

/// A machine is frozen, its fork goes on in its place and is frozen too, and so on: as in a drill that plants faults into
/// what a second deploy left.
async fn again(world: &mut World) {
    let qemu = world.qemu(&world.home.cache).await;
    let (spec, dir) = (spec("m.example.org"), world.dir("m"));
    let needs = Needs { freezable: true, forks_freezable: true, ..Needs::default() };
    let mut machine = qemu.boot(&spec, &needs, &dir, &world.deadline).await.expect("boots");
    let mut frozen = Vec::new();
    for round in 1..=3 {
        world.shell(&machine, &format!("echo {round} >> /run/rounds; echo {round} >> /root/rounds; sync")).await;
        frozen.push(qemu.freeze(machine, &world.deadline).await.expect("frozen"));
        machine = qemu.fork(&frozen[round - 1], "main", &dir, &world.deadline).await.expect("forks");
    }
    assert_eq!(world.shell(&machine, "cat /run/rounds /root/rounds").await, "1\n2\n3\n1\n2\n3");
    let earlier = qemu.fork(&frozen[0], "other", &world.dir("m/other"), &world.deadline).await.expect("forks");
    assert_eq!(world.shell(&earlier, "cat /run/rounds /root/rounds").await, "1\n1", "it stands where it was frozen");
    for fork in [machine, earlier] {
        fork.destroy().await.expect("ends");
    }
}

/// Two forks of a template agree on nothing that tells machines apart; two forks of one machine hold what it had in
/// memory only, which no reboot would.
async fn forks(world: &mut World) {
    let qemu = world.qemu(&world.home.cache).await;
    let (a_dir, b_dir) = (world.dir("a"), world.dir("b"));
    let (a_spec, b_spec, a_needs, b_needs) =
        (spec("a.example.org"), spec("b.example.org"), needs(0, true), needs(1, false));
    let (a, b) = tokio::join!(
        qemu.boot(&a_spec, &a_needs, &a_dir, &world.deadline),
        qemu.boot(&b_spec, &b_needs, &b_dir, &world.deadline)
    );
    let (a, b) = (a.expect("boots"), b.expect("boots"));
    sees(world, &["process ", "a/overlay.qcow2", "a/memory.ram", "b/agent.sock", "lock"]);
    for what in [
        "hostname",
        "cat /etc/hostname",
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /sys/class/net/enp0s16/address",
        "networkctl status enp0s16 | grep 'DHCPv4 via'",
        "head -c 16 /dev/urandom | od -An -tx1",
        "cat /root/.ssh/authorized_keys | wc -l; uuidgen 2>/dev/null || cat /proc/sys/kernel/random/uuid",
    ] {
        assert_ne!(world.shell(&a, what).await, world.shell(&b, what).await, "{what}");
    }
    for machine in [&a, &b] {
        let offset = machine.clock_offset(&world.deadline).await.expect("a clock").abs();
        assert!(offset < 2_000_000_000, "the clock is {offset} ns off");
    }
    b.destroy().await.expect("ends");

    world.shell(&a, "echo nonce-4711 > /run/nonce; (setsid sleep 4711 > /dev/null 2>&1 &); sync").await;
    let boot = world.shell(&a, "cat /proc/sys/kernel/random/boot_id").await;
    let frozen = qemu.freeze(a, &world.deadline).await.expect("frozen");
    let (first_dir, second_dir) = (world.dir("a/first"), world.dir("a/second"));
    let (first, second) = tokio::join!(
        qemu.fork(&frozen, "first", &first_dir, &world.deadline),
        qemu.fork(&frozen, "second", &second_dir, &world.deadline)
    );
    let (first, second) = (first.expect("forks"), second.expect("forks"));
    for fork in [&first, &second] {
        assert_eq!(world.shell(fork, "cat /run/nonce; pgrep -f '[s]leep 4711' | wc -l").await, "nonce-4711\n1");
        assert_eq!(world.shell(fork, "cat /proc/sys/kernel/random/boot_id").await, boot, "a reboot would look alike");
    }
    world.shell(&first, "echo first > /run/nonce; echo first > /root/own").await;
    assert_eq!(world.shell(&second, "cat /run/nonce; ls /root/own 2>&1 | wc -l; ls /root").await, "nonce-4711\n1");
    let random = "head -c 16 /dev/urandom | od -An -tx1";
    assert_ne!(world.shell(&first, random).await, world.shell(&second, random).await, "random numbers after a fork");
    for fork in [first, second] {
        fork.destroy().await.expect("ends");
    }
}

async fn boot(world: &World, freezable: bool) -> (Qemu, QemuMachine) {
    let qemu = world.qemu(&world.home.cache).await;
    let (spec, dir) = (spec("m.example.org"), world.dir("m"));
    let machine = qemu.boot(&spec, &needs(0, freezable), &dir, &world.deadline).await.expect("boots");
    (qemu, machine)
}

/// The way in that is needed when a deploy has broken the others.
async fn agent(world: &mut World) {
    let (_qemu, machine) = boot(world, false).await;
    world.shell(&machine, "systemctl stop ssh.service ssh.socket 2>/dev/null; ip link set enp0s16 down; true").await;
    assert!(world.shell(&machine, "ip -br link show enp0s16").await.contains("DOWN"));
    let to = world.dir("m").join("capture.jsonl.gz");
    let taken =
        machine.exec_to_file(&Exec::new([PROBE, "capture"]), b"", &to, &world.deadline).await.expect("answered");
    assert_eq!(taken.status, 0, "{}", taken.stderr);
    assert!(std::fs::metadata(&to).expect("there").len() > 100_000, "a whole Debian");
    let echoed = machine.exec(&Exec::new(["cat"]), &vec![b'x'; 3_000_000], &world.deadline).await.expect("answered");
    assert_eq!(echoed.stdout.len(), 3_000_000, "more than any buffer holds, both ways");
    let units = world.shell(&machine, "systemctl show -p ActiveState redrill-agent.service").await;
    assert_eq!(units, "ActiveState=active");
    let listed = format!("zcat < /dev/null; {PROBE} capture | zcat | grep -c redrill-agent || true");
    assert_eq!(world.shell(&machine, &listed).await, "0", "the agent is no part of the machine");
    machine.destroy().await.expect("ends");
}

async fn reboot(world: &mut World) {
    let (_qemu, machine) = boot(world, false).await;
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = world.shell(&machine, boot_id).await;
    let identity = "hostname; cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub";
    let who = world.shell(&machine, identity).await;
    machine.reboot(&world.deadline).await.expect("reboots");
    let after = world.shell(&machine, boot_id).await;
    assert_ne!(before, after);
    assert_eq!(world.shell(&machine, identity).await, who, "the same machine");

    world.shell(&machine, "echo kept > /root/synced; sync; echo gone > /root/unsynced").await;
    let machine = machine.power_cut(&world.deadline).await.expect("boots again");
    assert_ne!(world.shell(&machine, boot_id).await, after);
    assert_eq!(world.shell(&machine, "cat /root/synced; cat /root/unsynced 2>/dev/null || true").await, "kept");
    assert_eq!(world.shell(&machine, identity).await, who);
    machine.destroy().await.expect("ends");
}

/// The directory's name makes its path longer than that of a socket can be.
async fn port(world: &mut World) {
    let qemu = world.qemu(&world.home.cache).await;
    faults::port(world, &qemu, world.dir(&"a-long-name".repeat(12))).await;
}

async fn commit(world: &mut World) {
    let (store, catalog) = (Store::new(&world.home.cache), Catalog::near(&[&root()]));
    let run = world.run.path().to_owned();
    let mut containers =
        Containers::new(world.guard.clone(), run, catalog, store, world.client.clone()).await.expect("an engine");
    containers.prepare(&["debian-13".to_owned()], Arc::new(|_| ())).await.expect("an image");
    faults::port(world, &containers, world.dir("p")).await;
    let (spec, dir) = (spec("c.example.org"), world.dir("c"));
    let machine = containers.boot(&spec, &needs(0, true), &dir, &world.deadline).await.expect("boots");
    assert_eq!(world.shell(&machine, "systemctl is-system-running").await, "running");
    assert!(matches!(machine.reboot(&world.deadline).await, Err(MachineError::Unable { .. })), "it has no kernel");
    sees(world, &["/containers/json?all=1 ", "process "]);
    sealed(world, &machine).await;
    world.shell(&machine, "echo kept > /root/kept; echo '192.0.2.9 named.by.the.deploy' >> /etc/hosts").await;
    let identity = "hostname; cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub";
    let who = world.shell(&machine, identity).await;
    let frozen = containers.freeze(machine, &world.deadline).await.expect("frozen");
    let fork = containers.fork(&frozen, "main", &world.dir("fork"), &world.deadline).await.expect("forks");
    assert_eq!(world.shell(&fork, "cat /root/kept").await, "kept");
    assert_eq!(world.shell(&fork, "grep -c named.by.the.deploy /etc/hosts; hostname -f").await, "1\nc.example.org");
    assert_eq!(world.shell(&fork, identity).await, who);
    sealed(world, &fork).await;
    fork.destroy().await.expect("ends");
    drop(frozen);
}

/// The machine does all that its rights allow to get out, and what this host serves hears nothing of it.
async fn sealed(world: &World, machine: &impl Machine) {
    let served = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    served.set_nonblocking(true).expect("set");
    let port = served.local_addr().expect("bound").port();
    let datagrams = std::net::UdpSocket::bind(("0.0.0.0", port)).expect("the same port");
    datagrams.set_nonblocking(true).expect("set");
    let table = std::fs::read_to_string("/proc/net/fib_trie").expect("read");
    let lines: Vec<&str> = table.lines().map(|line| line.trim().trim_start_matches("|-- ")).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL" && !pair[0].starts_with("127."));
    let mut own: Vec<&str> = local.map(|pair| pair[0]).collect();
    own.push("198.51.100.7");
    let interfaces = world.shell(machine, "ls /sys/class/net | grep -v '^lo$' | xargs").await;
    assert_eq!(interfaces, "eth0");
    assert_eq!(world.shell(machine, "ip route show default; ip -6 route show default").await, "");
    for gateway in ["10.0.2.2", "10.0.2.1", "172.17.0.1", "172.18.0.1"] {
        for address in &own {
            let script = format!(
                "ip route replace default via {gateway} dev eth0 onlink
                 timeout 0.2 bash -c '(echo GET / > /dev/tcp/{address}/{port}) 2> /dev/null'
                 timeout 0.2 bash -c '(echo x > /dev/udp/{address}/{port}) 2> /dev/null'
                 ip route del default"
            );
            world.shell(machine, &script).await;
        }
    }
    assert!(served.accept().is_err(), "the machine reached its host");
    assert!(datagrams.recv(&mut [0; 16]).is_err(), "a datagram of the machine reached its host");
    let neighbour = "nsenter --net=/proc/$(pgrep -f '[p]robe outside')/ns/net ip -o link | grep -vc ': lo:'";
    assert_eq!(world.shell(machine, neighbour).await, "1", "the neighbour has no other link");
}
