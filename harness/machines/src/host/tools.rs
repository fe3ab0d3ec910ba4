//! The programs that the harness drives, with what mends a missing one.

use std::ffi::OsString;
use std::process::Stdio;

use futures_util::future::join_all;
use tokio::process::Command;

/// A program that the harness needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTool {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// First line of what it says of its version; `None` if it is missing.
    pub version: Option<String>,
    /// Debian's package.
    pub package: &'static str,
    /// Why it cannot be used although it is there.
    pub trouble: Option<String>,
}

/// QEMU 9 brought what later releases rely on; Debian 12 has it in its backports.
const OLDEST_QEMU: u32 = 9;

const TOOLS: &[(&str, &str, &str, &[&str])] = &[
    ("qemu-system-x86_64", "runs the machines", "qemu-system-x86", &["--version"]),
    ("qemu-img", "makes their disks", "qemu-utils", &["--version"]),
    ("mmdebstrap", "builds images", "mmdebstrap", &["--version"]),
    ("mke2fs", "builds images", "e2fsprogs", &["-V"]),
    ("git", "checks the servers repo out", "git", &["--version"]),
    ("ssh", "reaches the machines", "openssh-client", &["-V"]),
    ("bwrap", "seals the deploy tool", "bubblewrap", &["--version"]),
    ("ip", "seals the deploy tool", "iproute2", &["-V"]),
    ("python3", "runs the deploy tool", "python3", &["--version"]),
];

/// Asks every tool for its version, all at once.
pub async fn find_tools() -> Vec<HostTool> {
    join_all(TOOLS.iter().map(|(name, purpose, package, args)| async move {
        let version = first_line(name, args).await;
        let trouble = match (*name, version.as_deref()) {
            ("qemu-system-x86_64", Some(version)) => old_qemu(version),
            ("python3", Some(_)) => no_venv().await,
            _ => None,
        };
        HostTool { name, purpose, version, package, trouble }
    }))
    .await
}

/// QEMU's version, such as `10.0.2`.
pub async fn qemu_version() -> Option<String> {
    first_line("qemu-system-x86_64", &["--version"]).await.and_then(|line| version_in(&line).map(str::to_owned))
}

/// The package of Pebble, which only drills with ACME servers need.
pub const PEBBLE: &str = "pebble";

/// Pebble's version, as far as the package manager knows it. `Err` says why there is none.
pub async fn pebble() -> Result<String, String> {
    let ask = async |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(args).env("PATH", search_path()).stdin(Stdio::null()).output().await.ok()?;
        Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let help = ask(PEBBLE, &["-h"]).await.ok_or("missing")?;
    // A manager of services has the same name.
    if !help.contains("Pebble configuration") {
        return Err("another program of this name".to_owned());
    }
    let version = ask("dpkg-query", &["--show", "--showformat=${Version}", PEBBLE]).await;
    Ok(version.filter(|text| text.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_else(|| "not a package".into()))
}

fn old_qemu(line: &str) -> Option<String> {
    let major = version_in(line)?.split('.').next()?.parse::<u32>().ok()?;
    (major < OLDEST_QEMU).then(|| format!("too old: at least {OLDEST_QEMU} is needed"))
}

fn version_in(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

async fn no_venv() -> Option<String> {
    let found = Command::new("python3").args(["-c", "import venv, ensurepip"]).stdin(Stdio::null()).output().await;
    let works = found.is_ok_and(|output| output.status.success());
    (!works).then(|| "cannot make virtual environments: the package python3-venv is missing".to_owned())
}

/// PATH with the places of system programs, which a Debian user's own does not name: mke2fs lies there.
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

async fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(args).env("PATH", search_path()).stdin(Stdio::null()).output().await.ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_qemu_is_noticed() {
        assert_eq!(old_qemu("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), None);
        assert_eq!(old_qemu("QEMU emulator version 9.0.0"), None);
        assert!(
            old_qemu("QEMU emulator version 7.2.11 (Debian)").is_some_and(|trouble| trouble.contains("at least 9"))
        );
    }
}
