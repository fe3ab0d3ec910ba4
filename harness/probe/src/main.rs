//! The program that runs inside a machine: it writes down the machine's state, and carries streams in and out.
//!
//! One static binary without needs in the machine. A capture reads and never changes anything but its own cache of
//! digests under `/run`, which is no part of a capture; only `identity` writes, into a new machine, before a drill
//! begins, and `close` plants a fault, into a fork.

mod accounts;
mod agent;
mod alternatives;
mod apt;
mod capture;
mod cgroups;
mod close;
mod connect;
mod containers;
mod contents;
mod cron;
mod databases;
mod files;
mod firewall;
mod forward;
mod found;
mod hashing;
mod identity;
mod keys;
mod known;
mod lan;
mod lives;
mod locale;
mod managers;
mod manifest;
mod modules;
mod mounted;
mod mounts;
mod network;
mod online;
mod outside;
mod packages;
mod processes;
mod record;
mod shadow;
mod sink;
mod sockets;
mod sshd;
mod stale;
mod sudoers;
mod sysctl;
mod timers;
mod trust;
mod units;
mod walk;
mod watch;
mod wayout;
mod wireguard;
mod witness;

use std::io::{BufRead, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: redrill-probe capture [--key] [--times] [--base=NAME]... | files ROOT LIST [NAME] | manifest TARGET... | contents | record | watch [MILLISECONDS PORT...] | witness DIRECTORY | clock | stamp | close PORT [MILLISECONDS] | reach HOST PORT | connect HOST PORT | agent [-] | still | identity | online ADDRESS PORT | forward [ADDRESS:]PORT SOCKET | outside ADDRESS SOCKET | lan SEAT SOCKET | wayout WORD PORT ADDRESS...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["capture", words @ ..] => match capture::Options::from(words) {
            Some(options) => capture::write(std::io::stdout().lock(), &options),
            None => Err(std::io::Error::other(USAGE)),
        },
        ["files", root, list] => capture::write_files(std::io::stdout().lock(), root, list, None),
        ["files", root, list, base] => capture::write_files(std::io::stdout().lock(), root, list, Some(base)),
        ["manifest", targets @ ..] => manifest::write(targets, std::io::stdout().lock()),
        ["clock"] => clock(),
        ["stamp"] => stamp(std::io::stdin().lock(), std::io::stdout().lock(), now),
        ["contents"] => contents::write(std::io::stdin().lock(), std::io::stdout().lock()),
        ["record"] => record::write(std::io::stdin().lock(), std::io::stdout().lock()),
        ["witness", place] => witness::watch(place),
        ["watch"] => watch::list(std::io::stdout().lock()),
        ["watch", milliseconds, ports @ ..] => watch::watch(milliseconds, ports, std::io::stdout().lock()),
        ["close", port] => close::once(port),
        ["close", port, milliseconds] => close::hold(port, milliseconds),
        ["agent"] => agent::serve(),
        ["agent", "-"] => agent::serve_pipe(),
        ["forward", at, socket] => forward::serve(at, socket),
        ["outside", machine, socket] => outside::serve(machine, socket),
        ["lan", seat, socket] => lan::join(seat, socket),
        ["wayout", word, port, addresses @ ..] => wayout::look(word, port, addresses),
        ["still"] => identity::still(),
        ["identity"] => identity::take(),
        ["online", address, port] => online::wait(address, port),
        ["reach", host, port] => connect::open(host, port).map(drop),
        ["connect", host, port] => connect::pump(host, port),
        _ => Err(std::io::Error::other(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "redrill-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers each line of input with the time, so that the harness can tell how far the two clocks are apart.
fn clock() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", now())?;
        out.flush()?;
    }
    Ok(())
}

/// Passes lines on, each with the time at which it came: what a script prints reaches the harness late.
fn stamp(mut from: impl BufRead, mut to: impl Write, now: impl Fn() -> i64) -> std::io::Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        write!(to, "{} ", now())?;
        to.write_all(&line)?;
        to.flush()?;
        line.clear();
    }
    Ok(())
}

/// The id of the kernel's boot.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
}

fn nanoseconds(time: rustix::time::Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_passed_on_with_their_time_and_as_they_are() {
        let mut out = Vec::new();
        stamp(&b"one\n\xff\nend"[..], &mut out, || 7).expect("written");
        assert_eq!(out, b"7 one\n7 \xff\n7 end");
    }
}
