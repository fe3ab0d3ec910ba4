//! What a machine is told at its first boot, by systemd credentials in SMBIOS strings (systemd.exec(5),
//! smbios-type-11(7)): the image stays as it is.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::MachineError;
use crate::ssh::{ClientKey, write_private};

/// Writes a host key that lets sshd start, as a file in `dir`. Nobody ever trusts it: each machine gets its own before
/// anything connects.
pub(crate) async fn write(dir: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let path = dir.join("throw-away.key");
    let _ = std::fs::remove_file(&path);
    let host = ClientKey::make(path).await?;
    let files = format!(
        "f~ /etc/ssh/ssh_host_ed25519_key 0600 root root - {}\nf~ /etc/ssh/ssh_host_ed25519_key.pub 0644 root root - {}\n",
        STANDARD.encode(host.private()?),
        STANDARD.encode(format!("{}\n", host.public)),
    );
    let file = dir.join("tmpfiles.cred");
    let text = format!("io.systemd.credential.binary:tmpfiles.extra={}", STANDARD.encode(files));
    write_private(&file, text.as_bytes())?;
    Ok(vec![file])
}
