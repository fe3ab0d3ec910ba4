//! Reads the serial console for signs that a boot went wrong.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What the console tells about a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The kernel gave up; its line.
    Panic(String),
    /// The boot waits for a person; the telling line.
    Emergency(String),
    /// Our own first step in a published image failed; what it said.
    NoAgent(String),
}

/// What that step says then.
pub(super) const NO_AGENT: &str = "redrill: the agent could not be brought in";

/// Lines that mean that no boot goes on by itself.
const WAITS: &[&str] = &[
    "You are in emergency mode",
    "You are in rescue mode",
    "Cannot open access to console, the root account is locked",
    "Gave up waiting for root",
    "Target filesystem doesn't have requested",
    "(initramfs)",
];

/// The first bad sign in the console's text.
pub(crate) fn sign(text: &str) -> Option<Sign> {
    let mut before = "";
    text.lines().find_map(|line| {
        let previous = std::mem::replace(&mut before, line);
        if line.contains(NO_AGENT) {
            return Some(Sign::NoAgent(format!("{} ({})", plain(line), plain(previous))));
        }
        if line.contains("Kernel panic - not syncing") || line.contains("---[ end Kernel panic") {
            Some(Sign::Panic(plain(line)))
        } else if WAITS.iter().any(|wait| line.contains(wait)) {
            Some(Sign::Emergency(plain(line)))
        } else {
            None
        }
    })
}

/// What is read of a console at most: it is asked for every second, and a machine may write without an end.
const READ: u64 = 1 << 20;

/// The end of the console's text, whatever bytes the machine wrote.
pub(crate) fn read(path: &Path) -> String {
    let end = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(READ)))?;
        let mut bytes = Vec::new();
        file.take(READ).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    end().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The last lines, without colours.
pub(crate) fn tail(text: &str, lines: usize) -> Vec<String> {
    let all: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

/// The line without control sequences: ECMA-48 colours, carriage returns.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            for skipped in characters.by_ref() {
                if skipped.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if !character.is_control() {
            out.push(character);
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_signs_are_seen_early() {
        let panic =
            "[    1.2] VFS: unable to mount\r\n[    1.3] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        assert_eq!(
            sign(panic),
            Some(Sign::Panic("[    1.3] Kernel panic - not syncing: VFS: Unable to mount root fs".into()))
        );
        let emergency = "\u{1b}[0;1;31mYou are in emergency mode.\u{1b}[0m After logging in\r\n";
        assert_eq!(sign(emergency), Some(Sign::Emergency("You are in emergency mode. After logging in".into())));
        assert_eq!(sign("[  OK  ] Started ssh.service\n"), None);
        let seed = "mount: unknown filesystem type 'vfat'\r\nredrill: the agent could not be brought in\r\n";
        let Some(Sign::NoAgent(line)) = sign(seed) else { panic!("no agent will ever answer") };
        assert_eq!(line, "redrill: the agent could not be brought in (mount: unknown filesystem type 'vfat')");
    }

    #[test]
    fn of_a_console_without_an_end_the_end_is_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "x".repeat(usize::try_from(READ).expect("small")) + "the end").expect("written");
        let text = read(file.path());
        assert!(text.ends_with("xthe end") && text.len() as u64 == READ, "{}", text.len());
    }

    #[test]
    fn the_tail_is_readable() {
        assert_eq!(tail("a\r\n\r\n\u{1b}[32mb\u{1b}[0m\r\nc", 2), ["b", "c"]);
    }
}
