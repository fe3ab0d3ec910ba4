//! Programs that stand first in the PATH of the controller. OpenSSH reads the configuration in the home of the user that
//! the system knows, whatever `HOME` says: without these, `ssh web` in a script would go by the real user's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::ControllerError;

/// Whatever connects by SSH takes `-F`.
const CLIENTS: [&str; 3] = ["ssh", "scp", "sftp"];
const PLACES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Writes them to `bin`.
pub(super) fn install(bin: &Path, config: &Path, redrill: &Path, contacts: &Path) -> Result<(), ControllerError> {
    std::fs::create_dir_all(bin).map_err(ControllerError::io("cannot make the controller's tools"))?;
    for client in CLIENTS {
        let real = PLACES.iter().map(|place| Path::new(place).join(client)).find(|path| path.is_file());
        let real = real.unwrap_or_else(|| PathBuf::from("/usr/bin").join(client));
        let text = format!("#!/bin/sh\nexec '{}' -F '{}' \"$@\"\n", real.display(), config.display());
        write(&bin.join(client), &text)?;
    }
    let (contacts, redrill) = (contacts.display(), redrill.display());
    let text = format!("#!/bin/sh\necho \"$1\" >>'{contacts}'\nexec '{redrill}' relay \"$2\"\n");
    write(&contact(bin), &text)
}

/// The program that notes which machine is connected to.
pub(super) fn contact(bin: &Path) -> PathBuf {
    bin.join("redrill-contact")
}

fn write(file: &Path, text: &str) -> Result<(), ControllerError> {
    let written = std::fs::write(file, text)
        .and_then(|()| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)));
    written.map_err(ControllerError::io("cannot write the controller's tools"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_goes_by_our_configuration() {
        let bin = std::env::temp_dir().join(format!("redrill-shims-{}", std::process::id()));
        install(&bin, Path::new("/h/.ssh/config"), Path::new("/bin/redrill"), Path::new("/c/contacts"))
            .expect("written");
        let text = |name: &str| std::fs::read_to_string(bin.join(name)).expect("there");
        assert!(CLIENTS.iter().all(|client| text(client).contains("-F '/h/.ssh/config' \"$@\"")));
        assert!(text("redrill-contact").ends_with("exec '/bin/redrill' relay \"$2\"\n"));
        std::fs::remove_dir_all(&bin).expect("cleaned up");
    }
}
