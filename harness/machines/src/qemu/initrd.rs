//! Brings the agent into a machine that boots from our own kernel and initrd: a second archive behind the image's own,
//! which the kernel unpacks over it (Documentation/driver-api/early-userspace/buffer-format.rst). The image stays as it
//! is, and whatever init system version it has, the agent runs before the first service does.
//!
//! Debian's initramfs reads `/conf/param.conf` after each of its scripts, and hands `/run` on to the machine.

use std::path::{Path, PathBuf};

use crate::command::PROBE_BINARY;
use crate::error::MachineError;
use crate::image::Image;

/// `/run` of a current Debian admits no programs: the probe gets a small file system of its own, in memory too.
const PARAM: &str = r"if [ -d /run/initramfs ] && ! [ -d /run/redrill ]; then
    mkdir -p /run/redrill /run/systemd/system/sysinit.target.wants /run/systemd/network
    mount -t tmpfs -o mode=0755,nosuid,nodev,size=64m redrill /run/redrill
    (cd /run/redrill && cpio -i < /redrill/probe.cpio)
    cat /redrill/agent.service > /run/systemd/system/redrill-agent.service
    ln -s ../redrill-agent.service /run/systemd/system/sysinit.target.wants/redrill-agent.service
    cat /redrill/lan.network > /run/systemd/network/10-redrill-lan.network
fi
";

/// As early as can be, and until the very end of a shutdown.
pub(crate) const UNIT: &str = "[Unit]
Description=redrill's agent
DefaultDependencies=no
IgnoreOnIsolate=yes

[Service]
ExecStart=/run/redrill/probe agent
Restart=always
RestartSec=100ms
OOMScoreAdjust=-1000
TasksMax=infinity
";

/// The private network is the harness's to set up.
pub(super) fn lan() -> String {
    format!("[Match]\nPath=pci-0000:00:{}.0\n\n[Link]\nUnmanaged=yes\nRequiredForOnline=no\n", super::args::LAN_SLOT)
}

/// Digest of what is brought in: a template made with another agent is another template.
pub(crate) fn digest() -> String {
    let mut hasher = blake3::Hasher::new();
    [PROBE_BINARY, PARAM.as_bytes(), UNIT.as_bytes(), lan().as_bytes()].iter().for_each(|part| {
        hasher.update(part);
    });
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The image's initrd with the agent behind it; made once per image and agent.
pub(crate) fn with_agent(image: &Image) -> Result<PathBuf, MachineError> {
    let path = image.directory().join(format!("initrd-{}", digest()));
    if path.exists() {
        return Ok(path);
    }
    let make = || {
        let mut bytes = std::fs::read(image.initrd())?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(archive());
        // Whole or not at all: two drills may begin at once.
        let new = image.directory().with_file_name(format!("tmp-{}-{}", std::process::id(), crate::random::hex()));
        std::fs::write(&new, bytes)?;
        std::fs::rename(&new, &path)
    };
    make().map_err(MachineError::io("cannot write the initrd"))?;
    Ok(path)
}

fn archive() -> Vec<u8> {
    let probe = Archive::default().file("probe", 0o100_755, PROBE_BINARY).end();
    Archive::default()
        .file("conf", 0o040_755, b"")
        .file("conf/param.conf", 0o100_644, PARAM.as_bytes())
        .file("redrill", 0o040_755, b"")
        .file("redrill/probe.cpio", 0o100_644, &probe)
        .file("redrill/agent.service", 0o100_644, UNIT.as_bytes())
        .file("redrill/lan.network", 0o100_644, lan().as_bytes())
        .end()
}

/// A cpio archive of the "new ASCII" kind, cpio(5).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn file(mut self, name: impl AsRef<Path>, mode: u32, content: &[u8]) -> Self {
        self.count += 1;
        let name = name.as_ref().to_string_lossy().into_owned();
        let size = u32::try_from(content.len()).expect("a few megabytes");
        let length = u32::try_from(name.len() + 1).expect("a short name");
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        let head: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.bytes.extend(format!("070701{head}{name}\0").bytes());
        self.pad();
        self.bytes.extend(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(self) -> Vec<u8> {
        self.file("TRAILER!!!", 0, b"").bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one_that_others_read() {
        let bytes = Archive::default().file("a", 0o100_755, b"xyz").end();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("000081ed") && text.contains("a\0") && text.contains("TRAILER!!!\0"), "{text}");
        assert_eq!(&bytes[112..115], b"xyz", "110 bytes of head, a name of two, padded to four");
    }
}
