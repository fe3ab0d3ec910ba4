//! Waits for an address of the machine's own.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);
/// An answer to DHCP takes an emulated machine half a second.
const LIMIT: Duration = Duration::from_secs(3);

/// Up to the moment at which `address` is the machine's: whoever asks earlier is asked again only after seconds.
pub(crate) fn wait(address: &str) -> io::Result<()> {
    wait_for(address, LIMIT)
}

fn wait_for(address: &str, limit: Duration) -> io::Result<()> {
    let address: IpAddr = address.parse().map_err(io::Error::other)?;
    let began = Instant::now();
    // The kernel lends ports of the machine's own addresses only.
    while UdpSocket::bind((address, 0)).is_err() {
        if began.elapsed() > limit {
            return Err(io::Error::other(format!("the machine has not got the address {address}")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_there_is_not_waited_for_and_another_is_told() {
        wait("127.0.0.1").expect("loopback is there");
        let error = wait_for("192.0.2.1", Duration::from_millis(30)).expect_err("an address of documentation");
        assert_eq!(error.to_string(), "the machine has not got the address 192.0.2.1");
        assert!(wait("m1.example.org").is_err());
    }
}
