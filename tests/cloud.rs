//! A published cloud image, as far as one can be had without the network: built here with cloud-init and GRUB, served on
//! loopback over a bad connection.

use std::path::{Path, PathBuf};
use std::process::Command;

use redrill_machines::image::{Mirror, Store};
use redrill_machines::qemu::Templates;
use redrill_machines::{Backend, Exec, Machine, MachineError, PROBE, host};
use redrill_tests::{FileServer, Manner, root};

use super::{World, needs, spec_of};

/// More than the image has.
const DISK_MIB: u64 = 3072;

/// From a download that is cut to forks that agree on nothing that tells machines apart.
pub(super) async fn forks(world: &mut World) {
    let file = published(&world.home.cache).await;
    let content = std::fs::read(&file).expect("built");
    let (length, sum) = (u64::try_from(content.len()).expect("small"), sha512(&file));
    let server = FileServer::start(content, Manner { cuts: vec![length / 2], ..Manner::default() });
    let place = world.run.path().join("published");
    let image = |name: &str, sum: &str| {
        let url = server.url("debian-13-genericcloud-amd64.qcow2");
        let directory = place.join("images").join(name);
        std::fs::create_dir_all(&directory).expect("made");
        let text = format!("url = '{url}'\nsha512 = '{sum}'\ndisk-mib = {DISK_MIB}\n");
        std::fs::write(directory.join("image.toml"), text).expect("written");
    };
    image("cloud", &sum);
    image("other", &"0".repeat(128));
    // In a cache of its own: the server has another port each time, and so the image another digest.
    let cache = world.run.path().join("cache");
    let accel = host::probe_acceleration(&world.guard, &world.home.cache).await.expect("a trial").choice;
    let mut qemu = world.backend(accel, &place, (Store::new(&cache), Templates::new(&cache))).await;

    qemu.prepare(&["cloud".to_owned()], world.tell()).await.expect("an image");
    assert_eq!(server.sent(), length, "cut in the middle, and each byte came once");
    assert_eq!(server.ranges(), [String::new(), format!("bytes={}-", length / 2)]);
    let error = qemu.prepare(&["other".to_owned()], world.tell()).await.expect_err("another file");
    let MachineError::Image { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains(&sum), "what was found is told: {source}");
    assert_eq!(Store::new(&cache).list().len(), 1, "the good one");
    let partial = std::fs::read_dir(cache.join("images")).expect("there").flatten();
    let partial = partial.filter(|entry| entry.file_name().to_string_lossy().starts_with("partial"));
    assert_eq!(partial.count(), 0, "nothing of the other was kept");

    let (a_dir, b_dir) = (world.dir("a"), world.dir("b"));
    let (a_spec, b_spec) = (spec_of("a.example.org", "cloud"), spec_of("b.example.org", "cloud"));
    let (a_needs, b_needs) = (needs(0, true), needs(1, false));
    let (a, b) = tokio::join!(
        qemu.boot(&a_spec, &a_needs, &a_dir, &world.deadline),
        qemu.boot(&b_spec, &b_needs, &b_dir, &world.deadline)
    );
    let (a, b) = (a.expect("boots"), b.expect("boots"));
    for what in [
        "hostname",
        "cat /etc/machine-id",
        "cat /etc/ssh/ssh_host_ed25519_key.pub",
        "cat /sys/class/net/enp0s16/address",
        "ip -4 -br address show enp0s16",
        "head -c 16 /dev/urandom | od -An -tx1",
    ] {
        assert_ne!(world.shell(&a, what).await, world.shell(&b, what).await, "{what}");
    }
    // A machine with a bootloader has a screen.
    qemu.witnesses().take().await;
    let screen = std::fs::read(a_dir.join("screen.png")).expect("a picture");
    assert!(screen.starts_with(b"\x89PNG\r\n") && screen.len() < 1 << 20, "{} bytes", screen.len());
    let evidence = std::fs::read_to_string(a_dir.join("evidence.txt")).expect("told");
    assert!(
        evidence.contains("screen     screen.png, ") && evidence.contains("processes  processes.txt, "),
        "{evidence}"
    );

    for machine in [&a, &b] {
        // `boot` ends with a login over SSH from outside, before the journal is that of the new machine.
        let logins = "journalctl --merge --unit ssh | grep --count 'Accepted publickey for root from 10.0.2.2'";
        assert_ne!(world.shell(machine, logins).await, "0");
        is_as_published(world, machine).await;
    }

    world.shell(&a, "echo nonce-4711 > /run/nonce").await;
    let frozen = qemu.freeze(a, &world.deadline).await.expect("frozen");
    let fork = qemu.fork(&frozen, "main", &world.dir("a/fork"), &world.deadline).await.expect("forks");
    assert_eq!(world.shell(&fork, "cat /run/nonce; hostname").await, "nonce-4711\na.example.org");
    fork.destroy().await.expect("ends");

    // cloud-init brings the agent in at every boot.
    let identity = "hostname; cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub";
    let (boot_id, who) = ("cat /proc/sys/kernel/random/boot_id", world.shell(&b, identity).await);
    let before = world.shell(&b, boot_id).await;
    b.reboot(&world.deadline).await.expect("reboots");
    assert_ne!(world.shell(&b, boot_id).await, before);
    assert_eq!(world.shell(&b, identity).await, who, "the same machine");
    b.destroy().await.expect("ends");
}

/// By its own bootloader, grown to the disk it was given, with nothing of the harness in sight.
async fn is_as_published(world: &World, machine: &impl Machine) {
    let command_line = world.shell(machine, "cat /proc/cmdline").await;
    assert!(command_line.contains("root=LABEL=cloudroot") && !command_line.contains("mitigations"), "{command_line}");
    assert_eq!(world.shell(machine, "cloud-init status").await, "status: done");
    let mirror = Mirror::find(None, "trixie").await.expect("a mirror");
    let archives = world.shell(machine, "cat /etc/apt/sources.list.d/*.sources").await;
    assert!(archives.contains(&mirror.sources[0].uri), "apt knows the mirror: {archives}");
    let size = world.shell(machine, "df --block-size=1M --output=size / | tail -n 1").await;
    assert!(size.parse::<u64>().expect("a number") > 2500, "it grew: {size} MiB");
    assert_eq!(world.shell(machine, "grep --count redrill-seed /proc/mounts || true").await, "0");
    let own = format!("{PROBE} capture | zcat | grep --count -E 'redrill-(agent|seed)' || true");
    let capture = machine.exec(&Exec::new(["sh", "-c", &own]), b"", &world.deadline).await.expect("answered");
    assert_eq!(capture.text().trim(), "0", "the harness is no part of the machine");
}

/// The image, built once for as long as the script and the mirror stay the same.
async fn published(cache: &Path) -> PathBuf {
    let script = root().join("tests/images/cloud/build");
    let mirror = Mirror::find(None, "trixie").await.expect("a mirror");
    let made_of = std::fs::read_to_string(&script).expect("there") + &format!("{mirror:?}");
    let directory = cache.join("tests");
    let (image, note) = (directory.join("cloud.qcow2"), directory.join("cloud.made-of"));
    if image.is_file() && std::fs::read_to_string(&note).is_ok_and(|note| note == made_of) {
        return image;
    }
    std::fs::create_dir_all(&directory).expect("made");
    let _ = std::fs::remove_file(&note);
    let mut build = Command::new(script);
    build.arg(&image).arg(mirror.proxy.as_deref().unwrap_or("-")).args(mirror.lines());
    let built = build.output().expect("the script runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::write(note, made_of).expect("written");
    image
}

fn sha512(file: &Path) -> String {
    let output = Command::new("sha512sum").arg(file).output().expect("sha512sum runs");
    String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a sum").to_owned()
}
