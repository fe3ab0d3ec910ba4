//! QEMU's command line for one machine.

use std::path::{Path, PathBuf};

use redrill_model::{MachineSpec, Network};

use crate::host::Accel;
use crate::needs::Needs;
use crate::{ssh, stand_in};

/// Where the package mirror's relay answers inside the machine.
pub(crate) const RELAY: &str = "10.0.2.4:3128";
/// Names inside the machine's directory, which is QEMU's working directory.
pub(crate) const OVERLAY: &str = "overlay.qcow2";
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const MONITOR: &str = "qmp.sock";
pub(crate) const AGENT: &str = "agent.sock";
pub(crate) const RELAY_SOCKET: &str = "relay.sock";
/// The machine's end of the private network, and the switch's.
pub(crate) const LAN: &str = "lan.sock";
pub(crate) const SWITCH: &str = "switch.sock";

/// Guest memory, sparse.
pub(crate) const MEMORY: &str = "memory.ram";

/// The number of a machine that will be a template, see [`Needs::lease`].
pub(crate) const TEMPLATE: u8 = u8::MAX;

/// Where the two network cards sit on the PCI bus: the same in every machine, so that a frozen one finds them again.
pub(crate) const NET_SLOT: &str = "10";
pub(crate) const LAN_SLOT: &str = "11";

/// Where a machine's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Memory {
    /// A file that holds all of it and is written to: the machine can be frozen in no time.
    Shared(PathBuf),
    /// A frozen machine's file, of which written pages are copied: costs what changes, and cannot be frozen so again.
    Private(PathBuf),
    /// Nobody's.
    Own,
}

/// What starts the machine's kernel, and brings the agent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Boot {
    /// QEMU itself, with the agent in the initial RAM disk.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// Its initial RAM disk.
        initrd: PathBuf,
    },
    /// The bootloader on the machine's disk; cloud-init finds the agent on the seed.
    Disk {
        /// A disk of its own, which is only read.
        seed: PathBuf,
    },
}

/// Everything that the command line is made of.
pub(crate) struct CommandLine<'a> {
    pub(crate) spec: &'a MachineSpec,
    pub(crate) needs: &'a Needs,
    pub(crate) accel: Accel,
    pub(crate) boot: Boot,
    pub(crate) memory: Memory,
    /// Files with SMBIOS strings.
    pub(crate) credentials: &'a [PathBuf],
    /// The state of a frozen machine will be loaded.
    pub(crate) incoming: bool,
    /// This program.
    pub(crate) redrill: &'a Path,
}

/// The arguments.
pub(crate) fn arguments(shape: &CommandLine<'_>) -> Vec<String> {
    let CommandLine { spec, needs, .. } = shape;
    let mut args: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("-name", comma(&spec.name));
    match shape.accel {
        Accel::Kvm => {
            add("-accel", "kvm".to_owned());
            add("-cpu", "host".to_owned());
        }
        Accel::Tcg => {
            // The translation cache is reserved, not used: more of it saves translating twice.
            add("-accel", "tcg,thread=multi,tb-size=512".to_owned());
            add("-cpu", "max".to_owned());
        }
    }
    add("-smp", spec.cpus.to_string());
    add("-m", format!("{}M", spec.memory_mib));
    let file = |path: &Path, share: &str| {
        format!(
            "memory-backend-file,id=ram,size={}M,mem-path={},share={share}",
            spec.memory_mib,
            comma(&path.display().to_string())
        )
    };
    match &shape.memory {
        Memory::Shared(path) => add("-object", file(path, "on")),
        Memory::Private(path) => add("-object", file(path, "off")),
        Memory::Own => {}
    }
    let backed = if shape.memory == Memory::Own { "" } else { ",memory-backend=ram" };
    add("-machine", format!("q35{backed}"));
    // The disk ends with the machine: what a sync would cost buys nothing.
    add("-drive", format!("if=none,id=disk,file={OVERLAY},format=qcow2,cache=unsafe,discard=unmap"));
    match &shape.boot {
        Boot::Kernel { kernel, initrd } => {
            add("-device", "virtio-blk-pci,drive=disk,addr=0x04".to_owned());
            add("-kernel", kernel.display().to_string());
            add("-initrd", initrd.display().to_string());
            add("-append", command_line());
        }
        Boot::Disk { seed } => {
            add("-device", "virtio-blk-pci,drive=disk,addr=0x04,bootindex=1".to_owned());
            let seed = comma(&seed.display().to_string());
            add("-drive", format!("if=none,id=seed,file={seed},format=raw,readonly=on"));
            add("-device", "virtio-blk-pci,drive=seed,addr=0x05".to_owned());
            // Its bootloader, and a kernel that was told of no serial console, speak on the screen only.
            add("-device", "VGA,addr=0x06,vgamem_mb=4".to_owned());
        }
    }
    add("-netdev", netdev(needs, shape.redrill));
    add("-device", format!("virtio-net-pci,netdev=net,romfile=,addr=0x{NET_SLOT}"));
    add("-netdev", lan(needs));
    add("-device", format!("virtio-net-pci,netdev=lan,romfile=,addr=0x{LAN_SLOT}"));
    add("-device", "virtio-rng-pci,addr=0x12".to_owned());
    add("-device", "virtio-serial-pci,addr=0x13".to_owned());
    add("-chardev", format!("socket,id=agent,path={AGENT},server=on,wait=off"));
    add("-device", format!("virtserialport,chardev=agent,name={}", redrill_wire::PORT));
    // A new number at each start: the kernel of a fork learns that its random numbers are another machine's.
    add("-device", "vmgenid,guid=auto".to_owned());
    add("-chardev", format!("file,id=console,path={CONSOLE},append=on"));
    add("-serial", "chardev:console".to_owned());
    add("-qmp", format!("unix:{MONITOR},server=on,wait=off"));
    add("-display", "none".to_owned());
    if !shape.credentials.is_empty() {
        let files = shape.credentials.iter().map(|file| format!(",path={}", comma(&file.display().to_string())));
        add("-smbios", format!("type=11{}", files.collect::<String>()));
    }
    if shape.incoming {
        add("-incoming", "defer".to_owned());
    }
    args.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    args
}

/// A kernel that panics stays as it is, with its last words on the console, where they are looked for. Mitigations cost
/// most under emulation and protect a throw-away machine from nobody.
fn command_line() -> String {
    "root=/dev/vda rw console=ttyS0 panic=0 mitigations=off".to_owned()
}

/// The address that the machine will have once it has its own hardware address: the template's is the first of the
/// range, its own the second.
pub(super) fn address(lease: u8) -> String {
    format!("10.0.2.{}", first_address(lease) + 1)
}

/// Of the range that the machine's network gives out. A template's is nobody else's: a fork asks for the address that
/// it had, and must not get it.
fn first_address(lease: u8) -> u16 {
    if lease == TEMPLATE { 15 } else { 17 + 2 * u16::from(lease % 100) }
}

/// Ports of the host are picked by the kernel (port 0) and asked for afterwards: nobody can take one in between.
fn netdev(needs: &Needs, redrill: &Path) -> String {
    // SSH is reached like every other port, and asked for in any case.
    let mut ports = vec![ssh::PORT];
    ports.extend(needs.ports.iter().filter(|port| **port != ssh::PORT));
    ports.dedup();
    let mut value = format!("user,id=net,ipv6=off,dhcpstart=10.0.2.{}", first_address(needs.lease));
    if needs.network == Network::Mirror {
        value += ",restrict=on";
        let command = format!("'{}' relay {RELAY_SOCKET}", redrill.display());
        value += &format!(",guestfwd=tcp:{RELAY}-cmd:{}", comma(&command));
    }
    for (port, socket) in stand_in::wanted(needs) {
        let command = format!("'{}' relay {socket}", redrill.display());
        value += &format!(",guestfwd=tcp:{}:{port}-cmd:{}", stand_in::ADDRESS, comma(&command));
    }
    for port in ports {
        value += &format!(",hostfwd=tcp:127.0.0.1:0-{}:{port}", address(needs.lease));
    }
    value
}

/// A cable to the switch of the drill, or to nowhere.
fn lan(needs: &Needs) -> String {
    match needs.lan {
        Some(_) => {
            format!("dgram,id=lan,local.type=unix,local.path={LAN},remote.type=unix,remote.path={SWITCH}")
        }
        None => "hubport,id=lan,hubid=1".to_owned(),
    }
}

/// QEMU splits options at commas; a doubled one is a comma.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn netdev_for(network: Network) -> String {
        let needs = Needs { ports: vec![443, 22, 8000], network, lease: 3, ..Needs::default() };
        netdev(&needs, &PathBuf::from("/opt/a,b/redrill"))
    }

    #[test]
    fn a_machine_has_no_route_unless_it_was_asked_for() {
        let sealed = netdev_for(Network::Mirror);
        assert!(sealed.contains("restrict=on"), "{sealed}");
        assert!(sealed.contains("guestfwd=tcp:10.0.2.4:3128-cmd:'/opt/a,,b/redrill' relay relay.sock"), "{sealed}");
        let open = netdev_for(Network::Open);
        assert!(!open.contains("restrict") && !open.contains("guestfwd"), "{open}");
    }

    #[test]
    fn what_is_stood_in_for_is_carried_there_whatever_the_network() {
        for network in [Network::Mirror, Network::Open] {
            let post = crate::mail::MailNames::new(vec!["smtp.example.org".to_owned()], drop);
            let acme = crate::acme::tests::nobody_behind(vec!["acme.example.org".to_owned()]);
            let needs = Needs { network, mail: Some(post), acme: Some(acme), ..Needs::default() };
            let value = netdev(&needs, Path::new("redrill"));
            for (port, socket) in [(25, "mail.sock"), (587, "mail.sock"), (443, "acme.sock")] {
                let forward = format!("guestfwd=tcp:10.0.2.4:{port}-cmd:'redrill' relay {socket}");
                assert!(value.contains(&forward), "{value}");
            }
            let none = netdev_for(network);
            assert!(!none.contains("mail.sock") && !none.contains("acme.sock"), "nobody asked for it");
        }
    }

    #[test]
    fn a_disk_with_a_bootloader_is_booted_by_it_and_its_seed_is_only_read() {
        let text = "claims = ['rebuilds']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\n\
                    script = 'd'\n[[machine]]\nname = 'm'\nimage = 'i'\nmemory-mib = 1024\n";
        let spec = redrill_model::Scenario::parse(text).expect("valid").machines.remove(0);
        let shape = |boot| {
            let needs = Needs::default();
            let shape = CommandLine {
                spec: &spec,
                needs: &needs,
                accel: Accel::Tcg,
                boot,
                memory: Memory::Own,
                credentials: &[],
                incoming: false,
                redrill: Path::new("redrill"),
            };
            arguments(&shape).join(" ")
        };
        let disk = shape(Boot::Disk { seed: "/a,b/seed".into() });
        assert!(!disk.contains("-kernel") && !disk.contains("-append"), "{disk}");
        assert!(disk.contains("id=seed,file=/a,,b/seed,format=raw,readonly=on"), "{disk}");
        assert!(disk.contains("drive=disk,addr=0x04,bootindex=1"), "{disk}");
        let kernel = shape(Boot::Kernel { kernel: "k".into(), initrd: "i".into() });
        assert!(kernel.contains("-kernel k -initrd i") && !kernel.contains("seed"), "{kernel}");
        assert!(disk.contains("-device VGA,") && !kernel.contains("VGA"), "{disk}");
    }

    #[test]
    fn ports_are_on_loopback_and_each_once() {
        let value = netdev_for(Network::Open);
        assert_eq!(value.matches("hostfwd=").count(), 3, "{value}");
        assert_eq!(value.matches("hostfwd=tcp:127.0.0.1:0-10.0.2.24:").count(), 3, "{value}");
        assert!(value.contains("dhcpstart=10.0.2.23"), "{value}");
    }
}
