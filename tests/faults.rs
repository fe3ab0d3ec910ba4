//! What goes wrong with real machines, and must be told as what it is: a full disk, a template of another QEMU, a
//! machine that hangs, a clock that cannot be set, a port that is taken.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_machines::{Backend, Deadline, Exec, Machine, MachineError, PROBE, Reach, host};
use redrill_tests::{fill, mount_small, processes_of};

use super::{World, boot, needs, spec};

/// What may be needed at most of it: memory and disk of a machine.
const SMALL_MIB: u64 = 3072;

/// Freezing, and making a fork, on a file system that is full. This is run in a mount namespace of its own.
pub(super) async fn full(world: &mut World) {
    let small = world.dir("small");
    mount_small(&small, SMALL_MIB);
    let dir = |name: &str| {
        let dir = small.join(name);
        std::fs::create_dir_all(&dir).expect("made");
        dir
    };
    let (frozen_dir, fork_dir) = (dir("m"), dir("fork"));
    let qemu = world.qemu(&world.home.cache).await;
    let machine =
        qemu.boot(&spec("m.example.org"), &needs(0, true), &frozen_dir, &world.deadline).await.expect("boots");
    fill(&small, 0);
    let Err(error) = qemu.freeze(machine, &world.deadline).await.map(drop) else { panic!("it cannot be whole") };
    is_full(&error, &small);

    let booted = qemu.boot(&spec("n.example.org"), &needs(1, true), &fork_dir, &world.deadline).await;
    let Err(error) = booted.map(drop) else { panic!("its memory cannot be there") };
    is_full(&error, &small);
    let gone = || processes_of(&world.home.state).iter().all(|id| !is_qemu(*id));
    assert!(redrill_tests::wait_for(Duration::from_secs(10), gone), "a QEMU was left");
}

/// The disk fills up under a machine at work: QEMU stops it, which would look like a machine that hangs.
pub(super) async fn full_at_work(world: &mut World) {
    let small = world.dir("small");
    mount_small(&small, SMALL_MIB);
    let qemu = world.qemu(&world.home.cache).await;
    let machine = qemu.boot(&spec("m.example.org"), &needs(0, false), &small, &world.deadline).await.expect("boots");
    fill(&small, 0);
    let write = Exec::new(["sh", "-c", "head -c 200000000 /dev/urandom > /root/large; sync"]);
    let error = machine.exec(&write, b"", &world.deadline).await.expect_err("there is no room");
    is_full(&error, &small);
    machine.destroy().await.expect("ends");
}

/// The cache has no room for a template.
pub(super) async fn full_cache(world: &mut World) {
    let cache = world.dir("cache");
    mount_small(&cache, 64);
    let qemu = world.qemu(&cache).await;
    let booted = qemu.boot(&spec("m.example.org"), &needs(0, false), &world.dir("m"), &world.deadline).await;
    let Err(error) = booted.map(drop) else { panic!("a template is larger") };
    is_full(&error, &cache);
    let entries = std::fs::read_dir(cache.join("templates")).expect("there").flatten();
    let left: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    assert!(left.is_empty(), "half a template: {left:?}");
    assert!(!world.dir("m").join("template").exists(), "nor does the frozen machine stay");
}

#[track_caller]
fn is_full(error: &MachineError, place: &Path) {
    let MachineError::DiskFull { place: told, .. } = error else { panic!("{error:?}") };
    assert!(told.starts_with(&place.display().to_string()), "{told}");
    assert!(error.to_string().starts_with("no space left on `/"), "{error}");
}

fn is_qemu(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("qemu-system"))
}

/// Templates of another QEMU and damaged ones are noticed, told and made anew. In a cache of its own, so that no other
/// test meets them.
pub(super) async fn templates(world: &mut World) {
    let cache = world.run.path().join("cache");
    // As many cold boots as it may come to.
    world.deadline = Deadline::root("the test", Duration::from_secs(200), 8.0);
    let version = host::qemu_version().await.expect("QEMU");
    let boot = async |cache: &Path, name: &str| {
        let (spec, dir) = (spec("m.example.org"), world.dir(name));
        let qemu = world.qemu(cache).await;
        let machine = qemu.boot(&spec, &needs(0, false), &dir, &world.deadline).await.expect("boots");
        machine.destroy().await.expect("ends");
        std::mem::take(&mut *world.told.lock().expect("no panic")).join("\n")
    };
    boot(&world.home.cache, "shared").await;
    // The records of the templates that there are, as an older QEMU would have left them.
    let records = templates_of(&world.home.cache).into_iter().filter_map(|path| {
        let record = std::fs::read_to_string(path.join("template.json")).ok()?;
        Some((path.file_name()?.to_owned(), record.replace(&format!("\"{version}\""), "\"9.0.4\"")))
    });
    for (name, record) in records {
        let place = cache.join("templates").join(format!("older-{}", name.display()));
        std::fs::create_dir_all(&place).expect("made");
        std::fs::write(place.join("template.json"), record).expect("written");
    }

    let told = boot(&cache, "first").await;
    let said = format!("the template of `debian-13` was made by QEMU 9.0.4, and this is {version}");
    assert!(told.contains(&said), "{told}");
    assert_eq!(told.matches("booting `debian-13` once").count(), 1, "made anew: {told}");
    let told = boot(&cache, "again").await;
    assert!(!told.contains("booting"), "and used from then on: {told}");

    let made = templates_of(&cache).into_iter().find(|path| path.join("memory.ram").exists()).expect("made");
    let memory = made.join("memory.ram");
    let file = std::fs::OpenOptions::new().write(true).open(&memory).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, b"damaged", 64 << 20).expect("written");
    let told = boot(&cache, "third").await;
    assert!(told.contains("is damaged: `memory.ram` is not what was frozen"), "{told}");
    assert_eq!(told.matches("booting `debian-13` once").count(), 1, "made anew: {told}");
}

fn templates_of(cache: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache.join("templates")).expect("there").flatten().map(|entry| entry.path());
    entries.filter(|path| path.join("template.json").is_file()).collect()
}

/// A machine that stands still when it is resumed: told within the limit for its first answer, and not waited for.
pub(super) async fn hang(world: &mut World) {
    let (qemu, machine) = boot(world, true).await;
    let deadline = Deadline::root("an order", Duration::from_secs(3), 1.0);
    // The agent cannot answer that it has stopped: the order comes when the answer is through.
    let stop = "setsid sh -c 'sleep 1; kill -STOP $(pgrep -f \"probe [a]gent\")' > /dev/null 2>&1 &";
    world.shell(&machine, stop).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(machine.exec(&Exec::new(["true"]), b"", &deadline).await.is_err(), "the agent stands still");
    let frozen = qemu.freeze(machine, &world.deadline).await.expect("frozen");
    let short = Deadline::root("the boot", Duration::from_secs(5), 1.0);
    let dir = world.dir("fork");
    let Err(error) = qemu.fork(&frozen, "main", &dir, &short).await.map(drop) else {
        panic!("it must not count as ready");
    };
    let MachineError::NotReady { machine, last_seen, .. } = &error else { panic!("{error:?}") };
    assert_eq!((machine.as_str(), last_seen.as_str()), ("m.example.org", "no answer from the agent"));
    let gone = || processes_of(&world.home.state).iter().all(|id| !is_qemu(*id));
    assert!(redrill_tests::wait_for(Duration::from_secs(10), gone), "it is not left running");
}

/// A machine that lives in the past is not used: certificates and tokens would be judged by the wrong time.
pub(super) async fn clock(world: &mut World) {
    let (qemu, machine) = boot(world, true).await;
    let script = format!(
        "cd /run/redrill && cp probe whole && \
         printf '#!/bin/sh\\nexec setpriv --bounding-set=-sys_time --inh-caps=-sys_time /run/redrill/whole \"$@\"\\n' > less && \
         chmod 755 less && mount --bind less {PROBE} && {PROBE} clock < /dev/null"
    );
    world.shell(&machine, &script).await;
    let frozen = qemu.freeze(machine, &world.deadline).await.expect("frozen");
    let Err(error) = qemu.fork(&frozen, "main", &world.dir("fork"), &world.deadline).await.map(drop) else {
        panic!("it has the time of the freeze");
    };
    assert!(matches!(error, MachineError::Program { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("`m.example.org` could not be made a machine of its own"), "{text}");
    assert!(text.contains("cannot set the clock: Operation not permitted"), "{text}");
}

/// Somebody has the very port on the host that a machine serves: it gets another one, and nobody is disturbed.
pub(super) async fn port(world: &World, backend: &impl Backend, dir: PathBuf) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let needs = redrill_machines::Needs { ports: vec![port], ..needs(0, false) };
    let machine = backend.boot(&spec("p.example.org"), &needs, &dir, &world.deadline).await.expect("boots");
    let outside = machine.outside(port).expect("a way in");
    assert!(outside.port() != port && outside.ip().is_loopback(), "{outside}");
    let reached = machine.reach(port, &world.deadline).await.expect("an answer");
    assert_eq!(reached, Reach::Closed("refused".to_owned()), "the machine, where nobody listens, and not the host");
    taken.set_nonblocking(true).expect("set");
    assert!(taken.accept().is_err(), "nobody came to the host's own port");
    machine.destroy().await.expect("ends");
}
