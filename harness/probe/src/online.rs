//! Waits until the machine can be entered over the network.

use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);
/// An answer to DHCP takes an emulated machine half a second.
const LIMIT: Duration = Duration::from_secs(3);

/// Up to the moment at which `address` is the machine's and somebody listens on `port`: whoever knocks earlier is heard
/// only seconds later, or costs an emulated machine a process for nothing.
pub(crate) fn wait(address: &str, port: &str) -> io::Result<()> {
    wait_for(address, port.parse().map_err(io::Error::other)?, LIMIT)
}

fn wait_for(address: &str, port: u16, limit: Duration) -> io::Result<()> {
    let address: IpAddr = address.parse().map_err(io::Error::other)?;
    let began = Instant::now();
    // The kernel lends ports of the machine's own addresses only.
    while UdpSocket::bind((address, 0)).is_err() || !listens(port) {
        if began.elapsed() > limit {
            return Err(io::Error::other(format!("nobody listens on port {port} of {address}")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn listens(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().any(|table| is_in(table, port))
}

/// Whether a table of the kernel's has a socket in state LISTEN (0A) on this port: proc(5), `/proc/net/tcp`.
fn is_in(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&end)) && words.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_is_there_is_not_waited_for_and_what_lacks_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let port = listener.local_addr().expect("it listens").port();
        wait("127.0.0.1", &port.to_string()).expect("it is there");
        let short = Duration::from_millis(30);
        let error = wait_for("192.0.2.1", port, short).expect_err("an address of documentation");
        assert_eq!(error.to_string(), format!("nobody listens on port {port} of 192.0.2.1"));
        drop(listener);
        assert!(wait_for("127.0.0.1", port, short).is_err());
        assert!(wait("m1.example.org", "22").is_err());
    }

    #[test]
    fn a_connection_is_no_listener() {
        let table = "  sl  local_address rem_address   st tx_queue\n   0: 00000000:0050 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:0016 0100007F:A2C4 01 00000000:00000000\n";
        assert!(is_in(table, 80));
        assert!(!is_in(table, 22));
    }
}
