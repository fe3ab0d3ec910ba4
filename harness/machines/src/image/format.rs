//! What kind of disk a file is, told by its first bytes and not by its name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How a disk lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's own, as most cloud images are.
    Qcow2,
    /// Sector by sector.
    Raw,
}

impl Format {
    /// As QEMU calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A disk that can be booted, by what its file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) format: Format,
    /// Of the disk that the machine sees, in bytes.
    pub(super) size: u64,
}

/// Beginnings of files that people take for images.
const OTHERS: [(&[u8], &str); 8] = [
    (b"\xfd7zXZ\0", "packed by xz: unpack it, and name the checksum of what comes out"),
    (b"\x1f\x8b", "packed by gzip: unpack it, and name the checksum of what comes out"),
    (b"BZh", "packed by bzip2: unpack it, and name the checksum of what comes out"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it, and name the checksum of what comes out"),
    (b"PK\x03\x04", "a zip archive"),
    (b"KDMV", "a VMDK disk: qemu-img convert -O qcow2 makes it one that can be used"),
    (b"vhdxfile", "a VHDX disk: qemu-img convert -O qcow2 makes it one that can be used"),
    (b"<", "a web page"),
];
/// Bit of qcow2's incompatible features: the data lies in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// `Err` says what is wrong with it.
pub(super) fn disk(path: &Path) -> io::Result<Result<Disk, String>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head)?;
    let length = file.seek(SeekFrom::End(0))?;
    Ok(judge(&head, length))
}

fn judge(head: &[u8], length: u64) -> Result<Disk, String> {
    if head.starts_with(b"QFI\xfb") {
        return qcow2(head);
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(format!("it is {what}"));
    }
    if head.len() == 512 && head.ends_with(b"\x55\xaa") && length.is_multiple_of(512) {
        return Ok(Disk { format: Format::Raw, size: length });
    }
    Err("it is neither qcow2 nor a raw disk with a boot sector".to_owned())
}

/// Format: QEMU's docs/interop/qcow2.rst. An image that names other files would read those of this host.
fn qcow2(head: &[u8]) -> Result<Disk, String> {
    let number = |at: usize| head.get(at..at + 8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight")));
    let version = head.get(4..8).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
    let (Some(version @ 2..=3), Some(backing), Some(size)) = (version, number(8), number(24)) else {
        return Err("its qcow2 header is damaged, or of a version that is not known here".to_owned());
    };
    if backing != 0 {
        return Err("its qcow2 header names a backing file, which could be any file of this host".to_owned());
    }
    if version == 3 && number(72).is_none_or(|features| features & EXTERNAL_DATA != 0) {
        return Err("its qcow2 header names a data file, which could be any file of this host".to_owned());
    }
    Ok(Disk { format: Format::Qcow2, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(backing: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[4..8].copy_from_slice(&3_u32.to_be_bytes());
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[24..32].copy_from_slice(&(3_u64 << 30).to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    #[test]
    fn disks_are_told_by_their_first_bytes() {
        assert_eq!(judge(&header(0, 0), 9), Ok(Disk { format: Format::Qcow2, size: 3 << 30 }));
        let mut raw = vec![0; 510];
        raw.extend([0x55, 0xaa]);
        assert_eq!(judge(&raw, 1024), Ok(Disk { format: Format::Raw, size: 1024 }));
        for (head, because) in [
            (&b"\xfd7zXZ\0..."[..], "xz"),
            (b"<!DOCTYPE html>", "a web page"),
            (b"QFI\xfb", "damaged"),
            (b"", "neither"),
            (&[0; 512], "neither"),
        ] {
            let error = judge(head, 512).expect_err("no disk");
            assert!(error.contains(because), "{error}");
        }
        assert!(judge(&raw, 1023).is_err(), "cut in the middle of a sector");
    }

    #[test]
    fn an_image_cannot_make_us_read_other_files() {
        assert!(judge(&header(104, 0), 9).expect_err("refused").contains("backing file"));
        assert!(judge(&header(0, EXTERNAL_DATA), 9).expect_err("refused").contains("data file"));
    }
}
