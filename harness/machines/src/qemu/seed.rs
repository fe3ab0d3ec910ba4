//! Brings the agent into a machine that boots from its image's own bootloader: a disk that cloud-init takes its
//! configuration from (its data source NoCloud), with the probe beside that. cloud-init runs `bootcmd` at every boot,
//! once the network is up and before anything of the machine's users.
//!
//! The same image, mirror and agent make the same seed, byte by byte. Nothing in it is secret, and nothing one machine's.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Value, json};

use super::args::NET_SLOT;
use super::console::NO_AGENT;
use super::initrd::{UNIT, lan};
use crate::command::PROBE_BINARY;
use crate::error::MachineError;
use crate::image::Image;

/// cloud-init looks for a file system of this name.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// The probe and a few texts.
const SIZE: usize = 8 << 20;
/// The seed is mounted for as long as this runs. `/run` of a current Debian admits no programs: the probe gets a small
/// file system of its own, in memory too. What goes wrong stands on the console, since there is no agent to ask.
const BRING_IN: &str = r"set -e
exec 2> /dev/console
mkdir -p /run/redrill /run/systemd/system /run/systemd/network
mountpoint -q /run/redrill || mount -t tmpfs -o mode=0755,nosuid,nodev,size=64m redrill /run/redrill
cp /run/redrill-seed/probe /run/redrill/probe.new
chmod 755 /run/redrill/probe.new
mv /run/redrill/probe.new /run/redrill/probe
cp /run/redrill-seed/agent.service /run/systemd/system/redrill-agent.service
cp /run/redrill-seed/lan.network /run/systemd/network/10-redrill-lan.network
systemctl start --no-block redrill-agent.service
";
/// networkd reads its files before the seed is there, and takes orders only when the boot is further on.
pub(super) const RELOAD: &str = "! systemctl --quiet is-active systemd-networkd.service || networkctl reload";

/// The command of `bootcmd`.
fn mount() -> String {
    let seed = "/run/redrill-seed";
    format!(
        "mkdir -p {seed} && mount -o ro LABEL=CIDATA {seed} && sh {seed}/bring-in || echo '{NO_AGENT}' > /dev/console; \
         umount {seed}; rmdir {seed}"
    )
}

/// One machine's name is no other's: it comes with its identity. So do its keys; the one that is made here lets sshd
/// start, and nobody ever trusts it.
fn user_data(image: &Image) -> String {
    let mut config = json!({
        "bootcmd": [["sh", "-c", mount()]],
        "preserve_hostname": true,
        "disable_root": false,
        "ssh_deletekeys": true,
        "ssh_genkeytypes": ["ed25519"],
    });
    if let [base, security] = image.manifest.mirror.sources.as_slice() {
        let uri = |uri: &str| json!([{ "arches": ["default"], "uri": uri }]);
        config["apt"] = json!({
            "preserve_sources_list": false, "primary": uri(&base.uri), "security": uri(&security.uri),
        });
    }
    format!("#cloud-config\n{config:#}\n")
}

/// The network card that leads to the harness; the other is the harness's to set up.
fn network_config() -> Value {
    let slot = u32::from_str_radix(NET_SLOT, 16).expect("a number");
    json!({ "version": 2, "ethernets": { format!("enp0s{slot}"): { "dhcp4": true } } })
}

fn files(image: &Image) -> [(&'static str, Vec<u8>); 7] {
    [
        ("meta-data", b"instance-id: redrill\n".to_vec()),
        ("user-data", user_data(image).into_bytes()),
        ("network-config", format!("{:#}\n", network_config()).into_bytes()),
        ("bring-in", BRING_IN.as_bytes().to_vec()),
        ("agent.service", UNIT.as_bytes().to_vec()),
        ("lan.network", lan().into_bytes()),
        ("probe", PROBE_BINARY.to_vec()),
    ]
}

/// Digest of what is brought in: a template made with another seed is another template.
pub(super) fn digest(image: &Image) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, content) in files(image) {
        hasher.update(name.as_bytes()).update(blake3::hash(&content).as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The seed beside the image; made once per agent.
pub(super) fn disk(image: &Image) -> Result<PathBuf, MachineError> {
    let path = image.directory().join(format!("seed-{}", digest(image)));
    if path.exists() {
        return Ok(path);
    }
    let make = || {
        // Whole or not at all: two drills may begin at once.
        let new = image.directory().with_file_name(format!("tmp-{}-{}", std::process::id(), crate::random::hex()));
        std::fs::write(&new, file_system(&files(image))?)?;
        std::fs::rename(&new, &path)
    };
    make().map_err(MachineError::io("cannot write the seed for cloud-init"))?;
    Ok(path)
}

/// FAT, which needs no root to make and which every kernel of a cloud image reads.
fn file_system(files: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; SIZE]);
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL).volume_id(0x7265_6472))?;
    let volume = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, content) in files {
        let mut file = volume.root_dir().create_file(name)?;
        file.write_all(content)?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(disk.into_inner())
}

/// What cloud-init says of the first boot: `Err` is why it failed, `Ok` what it complains of. Its exit status tells less,
/// and other things in each version.
pub(super) fn judge(status: &str) -> Result<Vec<String>, String> {
    let status: Value = serde_json::from_str(status).map_err(|_| format!("it says `{}`", status.trim()))?;
    let errors: Vec<String> = status["errors"].as_array().into_iter().flatten().map(plain).collect();
    match status["status"].as_str() {
        Some("done") if errors.is_empty() => {
            let recoverable = status["recoverable_errors"].as_object().into_iter().flatten();
            Ok(recoverable.flat_map(|(_, said)| said.as_array().into_iter().flatten().map(plain)).collect())
        }
        word => {
            let detail = status["detail"].as_str().unwrap_or_default();
            let said = if errors.is_empty() { detail.to_owned() } else { errors.join("; ") };
            Err(format!("status `{}`: {said}", word.unwrap_or_default()))
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_seed_is_a_file_system_with_the_agent_and_its_label() {
        let files = [("meta-data", b"instance-id: x\n".to_vec()), ("probe", PROBE_BINARY.to_vec())];
        let bytes = file_system(&files).expect("made");
        assert_eq!(bytes, file_system(&files).expect("made"), "the same content is the same file");
        let volume = FileSystem::new(Cursor::new(bytes), FsOptions::new()).expect("a file system");
        assert_eq!(volume.volume_label(), "CIDATA");
        assert_eq!(volume.read_volume_label_from_root_dir().expect("read").as_deref(), Some("CIDATA"));
        for (name, content) in files {
            let mut found = Vec::new();
            volume.root_dir().open_file(name).expect("there").read_to_end(&mut found).expect("read");
            assert!(found == content, "{name}");
        }
    }

    #[test]
    fn the_machine_is_told_how_to_bring_the_agent_in_and_where_packages_are() {
        let (_place, image) = Image::for_tests(&["http://m.test/debian/", "http://s.test/security/"]);
        let text = user_data(&image);
        let config: Value =
            serde_json::from_str(text.strip_prefix("#cloud-config\n").expect("its mark")).expect("JSON");
        let command = config["bootcmd"][0][2].as_str().expect("a command");
        assert!(command.contains("mount -o ro LABEL=CIDATA") && command.contains("umount"), "{command}");
        assert!(command.contains(NO_AGENT), "what goes wrong is told on the console: {command}");
        assert_eq!(config["apt"]["primary"][0]["uri"], "http://m.test/debian/");
        assert_eq!(config["apt"]["security"][0]["uri"], "http://s.test/security/");
        assert_eq!(config["ssh_genkeytypes"], json!(["ed25519"]));
        assert_eq!(network_config()["ethernets"]["enp0s16"]["dhcp4"], true);
        let (_place, other) = Image::for_tests(&["http://other.test/debian/", "http://s.test/security/"]);
        assert_ne!(digest(&image), digest(&other), "another template");
    }

    #[test]
    fn a_failed_first_boot_is_told_from_one_that_complains() {
        // Printed by cloud-init 25.1, shortened.
        let done = r#"{"errors": [], "extended_status": "degraded done", "recoverable_errors": {"DEPRECATED": ["old"]},
            "status": "done"}"#;
        assert_eq!(judge(done), Ok(vec!["old".to_owned()]));
        let failed = r#"{"detail": "x", "errors": ["('bootcmd', exit 1)"], "status": "error"}"#;
        assert_eq!(judge(failed), Err("status `error`: ('bootcmd', exit 1)".to_owned()));
        let off = r#"{"detail": "disabled by marker", "errors": [], "status": "disabled"}"#;
        assert!(judge(off).is_err_and(|said| said.contains("disabled by marker")));
        assert!(judge("sh: cloud-init: not found").is_err());
        assert!(judge(r#"{"status": "done", "errors": ["late"]}"#).is_err(), "an error is one, whatever the word");
    }
}
