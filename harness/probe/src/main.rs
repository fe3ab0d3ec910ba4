//! The program that runs inside a machine: it writes down the machine's state, and carries streams in and out.
//!
//! One static binary without needs in the machine. A capture reads and never changes anything but its own cache of
//! digests under `/run`, which is no part of a capture; only `identity` writes, into a new machine, before a drill
//! begins.

mod accounts;
mod agent;
mod capture;
mod connect;
mod files;
mod forward;
mod hashing;
mod identity;
mod manifest;
mod mounts;
mod packages;
mod sink;
mod sockets;
mod units;

use std::io::{BufRead, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: redrill-probe capture | manifest TARGET... | clock | reach HOST PORT | connect HOST PORT | agent [-] | still | identity | forward PORT SOCKET";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["capture"] => capture::write(std::io::stdout().lock()),
        ["manifest", targets @ ..] => manifest::write(targets, std::io::stdout().lock()),
        ["clock"] => clock(),
        ["agent"] => agent::serve(),
        ["agent", "-"] => agent::serve_pipe(),
        ["forward", port, socket] => forward::serve(port, socket),
        ["still"] => identity::still(),
        ["identity"] => identity::take(),
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
