//! QEMU's command line for one machine.

use std::path::Path;

use redrill_model::{MachineSpec, Network};

use crate::host::Accel;
use crate::image::Image;
use crate::machine::Needs;

/// Where the package mirror's relay answers inside the machine.
pub(crate) const RELAY: &str = "10.0.2.100:3128";
/// Names inside the machine's directory, which is QEMU's working directory.
pub(crate) const OVERLAY: &str = "overlay.qcow2";
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const MONITOR: &str = "qmp.sock";
pub(crate) const RELAY_SOCKET: &str = "relay.sock";

/// SSH is reached like every other port, and asked for in any case.
pub(crate) const SSH: u16 = 22;

/// The arguments. `credentials` are names of files in the machine's directory; `redrill` is this program.
pub(crate) fn arguments(
    spec: &MachineSpec,
    needs: &Needs,
    image: &Image,
    accel: Accel,
    credentials: &[String],
    redrill: &Path,
) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("-name", comma(&spec.name));
    add("-machine", "q35".to_owned());
    match accel {
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
    add("-kernel", image.kernel().display().to_string());
    add("-initrd", image.initrd().display().to_string());
    add("-append", command_line());
    // The disk ends with the machine: what a sync would cost buys nothing.
    add("-drive", format!("if=none,id=disk,file={OVERLAY},format=qcow2,cache=unsafe,discard=unmap"));
    add("-device", "virtio-blk-pci,drive=disk".to_owned());
    add("-netdev", netdev(needs, redrill));
    add("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
    add("-device", "virtio-rng-pci".to_owned());
    add("-serial", format!("file:{CONSOLE}"));
    add("-qmp", format!("unix:{MONITOR},server=on,wait=off"));
    add("-display", "none".to_owned());
    let files: String = credentials.iter().map(|file| format!(",path={}", comma(file))).collect();
    add("-smbios", format!("type=11{files}"));
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    args
}

/// `panic=-1` with `-no-reboot` ends QEMU on a panic. Mitigations cost most under emulation and protect a throw-away
/// machine from nobody.
fn command_line() -> String {
    "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off".to_owned()
}

/// Ports of the host are picked by the kernel (port 0) and asked for afterwards: nobody can take one in between.
fn netdev(needs: &Needs, redrill: &Path) -> String {
    let mut ports = vec![SSH];
    ports.extend(needs.ports.iter().filter(|port| **port != SSH));
    ports.dedup();
    let mut value = "user,id=net,ipv6=off".to_owned();
    if needs.network == Network::Mirror {
        value += ",restrict=on";
        let command = format!("'{}' relay {RELAY_SOCKET}", redrill.display());
        value += &format!(",guestfwd=tcp:{RELAY}-cmd:{}", comma(&command));
    }
    for port in ports {
        value += &format!(",hostfwd=tcp:127.0.0.1:0-:{port}");
    }
    value
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
        netdev(&Needs { ports: vec![443, 22, 8000], network }, &PathBuf::from("/opt/a,b/redrill"))
    }

    #[test]
    fn a_machine_has_no_route_unless_it_was_asked_for() {
        let sealed = netdev_for(Network::Mirror);
        assert!(sealed.contains("restrict=on"), "{sealed}");
        assert!(sealed.contains("guestfwd=tcp:10.0.2.100:3128-cmd:'/opt/a,,b/redrill' relay relay.sock"), "{sealed}");
        let open = netdev_for(Network::Open);
        assert!(!open.contains("restrict") && !open.contains("guestfwd"), "{open}");
    }

    #[test]
    fn ports_are_on_loopback_and_each_once() {
        let value = netdev_for(Network::Open);
        assert_eq!(value.matches("hostfwd=").count(), 3, "{value}");
        assert_eq!(value.matches("hostfwd=tcp:127.0.0.1:0-:").count(), 3, "{value}");
    }
}
