//! Watches the kernel's list of listening sockets: times in which nobody listens on a port are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `TCP_LISTEN` in the kernel's tables.
const LISTEN: &str = "0A";

/// Prints the ports on which somebody listens.
pub(crate) fn list(mut out: impl Write) -> io::Result<()> {
    let ports: Vec<String> = listening()?.iter().map(ToString::to_string).collect();
    writeln!(out, "{}", ports.join(" "))
}

/// Watches `ports` for so long, then prints the gaps, one JSON object a line.
pub(crate) fn watch(milliseconds: &str, ports: &[&str], mut out: impl Write) -> io::Result<()> {
    let number = |_| io::Error::new(io::ErrorKind::InvalidInput, "watch: a number was expected");
    let long = Duration::from_millis(milliseconds.parse().map_err(number)?);
    let mut gaps = Gaps::new(ports.iter().map(|port| port.parse().map_err(number)).collect::<Result<_, _>>()?);
    let began = Instant::now();
    while began.elapsed() < long {
        gaps.look(crate::now(), &listening()?);
        std::thread::sleep(PAUSE);
    }
    gaps.look(crate::now(), &listening()?);
    for (port, from, to) in gaps.end(crate::now()) {
        writeln!(out, r#"{{"port":{port},"from":{from},"to":{to}}}"#)?;
    }
    out.flush()
}

/// Ports on which somebody listens, on whatever address.
pub(crate) fn listening() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for table in TABLES {
        match std::fs::read_to_string(table) {
            Ok(text) => ports.extend(text.lines().filter_map(listener)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // A kernel without IPv6.
            Err(error) => return Err(error),
        }
    }
    Ok(ports)
}

/// `sl local_address rem_address st ...`, addresses as `HEX:PORT`.
fn listener(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace().skip(1);
    let (_, port) = words.next()?.rsplit_once(':')?;
    words.next()?;
    (words.next()? == LISTEN).then(|| u16::from_str_radix(port, 16).ok()).flatten()
}

struct Gaps {
    ports: Vec<u16>,
    /// Since when nobody listens.
    open: BTreeMap<u16, i64>,
    done: Vec<(u16, i64, i64)>,
}

impl Gaps {
    fn new(ports: Vec<u16>) -> Self {
        Self { ports, open: BTreeMap::new(), done: Vec::new() }
    }

    fn look(&mut self, now: i64, listening: &BTreeSet<u16>) {
        for port in &self.ports {
            if !listening.contains(port) {
                self.open.entry(*port).or_insert(now);
            } else if let Some(from) = self.open.remove(port) {
                self.done.push((*port, from, now));
            }
        }
    }

    fn end(mut self, now: i64) -> Vec<(u16, i64, i64)> {
        self.done.extend(self.open.into_iter().map(|(port, from)| (port, from, now)));
        self.done.sort_by_key(|(_, from, _)| *from);
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_are_listed() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(listener(head), None);
        assert_eq!(listener("   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000"), Some(8000));
        assert_eq!(listener("   1: 0100007F:1F40 0100007F:D431 01 00000000:00000000 02:000A7214"), None);
        assert_eq!(listener("   0: 00000000000000000000000000000000:0016 0000:0000 0A 0"), Some(22));
    }

    #[test]
    fn a_gap_lasts_until_somebody_listens_again_or_to_the_end() {
        let mut gaps = Gaps::new(vec![22, 443]);
        let both = BTreeSet::from([22, 443]);
        gaps.look(1, &both);
        gaps.look(2, &BTreeSet::from([22]));
        gaps.look(3, &BTreeSet::from([22]));
        gaps.look(4, &both);
        gaps.look(5, &BTreeSet::from([443]));
        assert_eq!(gaps.end(6), [(443, 2, 4), (22, 5, 6)]);
    }
}
