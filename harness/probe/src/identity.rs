//! Makes a fork a machine of its own: the time, names, keys, addresses that no two machines share.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use redrill_wire::{Identity, Lan, PlacedFile};
use rustix::process::{Pid, Signal};
use rustix::time::{ClockId, Timespec};

use crate::trust::trust;

/// Where systemd notes when a persistent timer last fired. A stamp of the template's time would make it overdue.
const STAMPS: &str = "/var/lib/systemd/timers";
/// The timers that start with the system.
const WANTED: [&str; 2] = ["/etc/systemd/system/timers.target.wants", "/usr/lib/systemd/system/timers.target.wants"];
const HOSTS: &str = "/etc/hosts";
/// Above our own lines in [`HOSTS`].
const MARK: &str = "# The machines of this drill";
/// Above names that lead elsewhere than in life.
const LEADS: &str = "# Caught by this drill";

/// Takes the identity from standard input.
pub(crate) fn take() -> io::Result<()> {
    let identity: Identity = serde_json::from_reader(io::stdin().lock())?;
    identity.clock.map_or(Ok(()), set_clock)?;
    // The kernel mixes it into what it gives out; QEMU's generation id makes it begin anew at the same moment.
    if !identity.seed.is_empty() {
        fs::write("/dev/urandom", &identity.seed)?;
    }
    // An answer from the network takes longest: ask first.
    if let Some(mac) = &identity.mac {
        new_hardware_address(mac)?;
    }
    if let Some(name) = &identity.hostname {
        rustix::system::sethostname(name.as_bytes())?;
        fs::write("/etc/hostname", format!("{name}\n"))?;
    }
    if let Some(id) = &identity.machine_id {
        fs::write("/etc/machine-id", format!("{id}\n"))?;
    }
    identity.files.iter().try_for_each(place)?;
    trust(&identity.trust.iter().map(String::as_str).collect::<Vec<_>>())?;
    identity.hang_up.iter().for_each(|file| hang_up(file));
    if let Some(lan) = &identity.lan {
        join(lan)?;
    }
    if !identity.leads.is_empty() {
        let old = fs::read_to_string(HOSTS).unwrap_or_default();
        fs::write(HOSTS, with_leads(&old, &identity.leads))?;
    }
    systemctl("restart", &identity.restart)?;
    if identity.timers { start_timers() } else { Ok(()) }
}

/// `redrill-probe still`: the last thing before a freeze. Timers are stopped, since the clock will stand still and then
/// jump; what is in memory only and belongs on the disk goes there.
pub(crate) fn still() -> io::Result<()> {
    systemctl("stop", &["*.timer".to_owned()])?;
    rustix::fs::sync();
    Ok(())
}

fn set_clock(nanoseconds: i64) -> io::Result<()> {
    let time =
        Timespec { tv_sec: nanoseconds.div_euclid(1_000_000_000), tv_nsec: nanoseconds.rem_euclid(1_000_000_000) };
    rustix::time::clock_settime(ClockId::Realtime, time)
        .map_err(|error| io::Error::other(format!("cannot set the clock: {error}")))
}

fn place(file: &PlacedFile) -> io::Result<()> {
    let path = Path::new(&file.path);
    let Some(content) = &file.content else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent)?;
        if file.mode & 0o077 == 0 {
            fs::set_permissions(parent, Permissions::from_mode(0o700))?;
        }
    }
    // Never readable by others, not even for a moment.
    let new = path.with_extension("redrill-new");
    let mut out = fs::File::create(&new)?;
    out.set_permissions(Permissions::from_mode(file.mode))?;
    out.write_all(content.as_bytes())?;
    fs::rename(new, path)
}

/// Interfaces with hardware, by name, and the PCI device each sits on.
fn interfaces() -> Vec<(String, String)> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut found: Vec<(String, String)> = entries
        .filter_map(|entry| {
            // ../../devices/pci0000:00/0000:00:03.0/virtio1/net/enp0s3
            let link = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            let device = link.split('/').rev().find(|part| part.starts_with("0000:"))?.to_owned();
            Some((entry.file_name().to_string_lossy().into_owned(), device))
        })
        .collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found
}

/// The first interface leads to the harness. Its lease goes with its address: networkd asks for one when it changes.
fn new_hardware_address(mac: &str) -> io::Result<()> {
    let Some((name, _)) = interfaces().into_iter().next() else { return Err(io::Error::other("no interface")) };
    run("ip", &["link", "set", "dev", &name, "address", mac]).map(drop)
}

/// The second network card is the private network, where there is one. It is set up by hand and not by the machine's own
/// configuration, which is the image's and the deploy's business.
fn join(lan: &Lan) -> io::Result<()> {
    let address = format!("{}/24", lan.address);
    match &lan.mac {
        Some(mac) => {
            let second = interfaces().into_iter().nth(1);
            let (name, _) = second.ok_or_else(|| io::Error::other("no second interface"))?;
            run("ip", &["link", "set", "dev", &name, "address", mac, "up"])?;
            run("ip", &["address", "replace", &address, "dev", &name])?
        }
        None => {
            // A container has a second one, unless its network is open: then the engine's leads to the neighbours too.
            let name = if Path::new("/sys/class/net/eth1").exists() { "eth1" } else { "eth0" };
            run("ip", &["link", "set", "dev", name, "up"])?;
            run("ip", &["address", "replace", &address, "dev", name])?
        }
    };
    let old = fs::read_to_string(HOSTS).unwrap_or_default();
    fs::write(HOSTS, with_hosts(&old, lan))
}

/// The names of the drill after what the image says.
fn with_hosts(old: &str, lan: &Lan) -> String {
    let kept = old.split(MARK).next().unwrap_or_default();
    format!("{kept}{MARK}\n{}", lines(&lan.hosts))
}

/// Before the machines of the drill, which may be told anew.
fn with_leads(old: &str, leads: &[(Ipv4Addr, String)]) -> String {
    let (image, machines) = old.find(MARK).map_or((old, ""), |at| old.split_at(at));
    let kept = image.split(LEADS).next().unwrap_or_default();
    format!("{kept}{LEADS}\n{}{machines}", lines(leads))
}

fn lines(hosts: &[(Ipv4Addr, String)]) -> String {
    hosts.iter().map(|(address, name)| format!("{address} {name}\n")).collect()
}

/// `systemctl reload ssh` would do the same and take half a second in an emulated machine.
fn hang_up(pid_file: &str) {
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    // Without the daemon nobody holds the old files in memory.
    let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::HUP));
}

fn start_timers() -> io::Result<()> {
    let now = rustix::fs::Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        last_modification: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
    };
    for stamp in fs::read_dir(STAMPS).into_iter().flatten().flatten() {
        rustix::fs::utimensat(rustix::fs::CWD, stamp.path(), &now, rustix::fs::AtFlags::empty())?;
    }
    // Exactly what a boot would have started.
    let wanted = WANTED.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    let mut names: Vec<String> = wanted.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.dedup();
    systemctl("start", &names)
}

fn systemctl(verb: &str, units: &[String]) -> io::Result<()> {
    if units.is_empty() {
        return Ok(());
    }
    let mut args = vec![verb, "--no-block"];
    args.extend(units.iter().map(String::as_str));
    run("systemctl", &args).map(drop)
}

/// Runs it to a good end; returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {}: {said}", args.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_earlier_drill_do_not_stay() {
        let lan = |last: u8, name: &str| Lan {
            mac: None,
            address: Ipv4Addr::new(10, 77, 0, last),
            hosts: vec![(Ipv4Addr::new(10, 77, 0, last), name.to_owned())],
        };
        let once = with_hosts("127.0.0.1 localhost\n", &lan(10, "web"));
        assert_eq!(once, "127.0.0.1 localhost\n# The machines of this drill\n10.77.0.10 web\n");
        let twice = with_hosts(&once, &lan(11, "db"));
        assert_eq!(twice, "127.0.0.1 localhost\n# The machines of this drill\n10.77.0.11 db\n");
    }

    #[test]
    fn names_that_lead_elsewhere_come_before_the_machines_and_once() {
        let lead = [(Ipv4Addr::new(10, 0, 2, 4), "smtp.example.org".to_owned())];
        let image = "127.0.0.1 localhost\n";
        let alone = with_leads(image, &lead);
        assert_eq!(alone, "127.0.0.1 localhost\n# Caught by this drill\n10.0.2.4 smtp.example.org\n");
        assert_eq!(with_leads(&alone, &lead), alone);
        let lan = Lan { mac: None, address: lead[0].0, hosts: vec![(Ipv4Addr::new(10, 77, 0, 10), "web".to_owned())] };
        let both = with_hosts(&alone, &lan);
        assert_eq!(both, format!("{alone}# The machines of this drill\n10.77.0.10 web\n"));
        assert_eq!(with_leads(&both, &lead), both);
        assert_eq!(with_leads(&with_hosts(image, &lan), &lead), both);
    }

    #[test]
    fn a_file_is_placed_whole_with_its_mode() {
        let dir = std::env::temp_dir().join(format!("redrill-identity-{}", std::process::id()));
        let path = dir.join("a/key");
        let file =
            PlacedFile { path: path.to_string_lossy().into_owned(), mode: 0o600, content: Some("secret".to_owned()) };
        place(&file).expect("placed");
        assert_eq!(fs::read_to_string(&path).expect("there"), "secret");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        place(&PlacedFile { content: None, ..file.clone() }).expect("removed");
        assert!(!path.exists());
        place(&PlacedFile { content: None, ..file }).expect("removing nothing is no error");
        fs::remove_dir_all(&dir).expect("cleaned up");
    }
}
