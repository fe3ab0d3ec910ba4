//! Waits until the machine can be entered over the network.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::watch;

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
    while UdpSocket::bind((address, 0)).is_err() || !watch::listening()?.contains(&port) {
        if began.elapsed() > limit {
            return Err(io::Error::other(format!("nobody listens on port {port} of {address}")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
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
}
