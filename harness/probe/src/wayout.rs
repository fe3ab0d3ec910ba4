//! Looks for a way out of the machine: every address of the host is tried, over every link, directly and by every
//! neighbour that might be a gateway. The host listens there, and knows us by a word.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A neighbour, and the host is no more than that, answers within a millisecond.
const CONNECT: Duration = Duration::from_millis(100);

/// Sends `word` to TCP and UDP `port` of each of the addresses, if that is possible at all. The network is then as it
/// was. Whether anything arrived, the host knows.
pub(crate) fn look(word: &str, port: &str, addresses: &[&str]) -> io::Result<()> {
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let addresses: Vec<IpAddr> =
        addresses.iter().map(|text| text.parse().map_err(io::Error::other)).collect::<io::Result<_>>()?;
    let links = links()?;
    knock(word, port, &addresses, &links);
    for link in &links {
        for gateway in std::iter::once(None).chain(gateways(&link.name)?.into_iter().map(Some)) {
            let ways: Vec<String> = addresses.iter().filter_map(|to| route(*to, &link.name, gateway)).collect();
            change("add", &ways)?;
            knock(word, port, &addresses, std::slice::from_ref(link));
            change("del", &ways)?;
        }
    }
    Ok(())
}

struct Link {
    name: String,
    index: u32,
}

/// All that are up, but loopback.
fn links() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = |what: &str| std::fs::read_to_string(entry.path().join(what)).unwrap_or_default();
        let flags = u32::from_str_radix(read("flags").trim().trim_start_matches("0x"), 16).unwrap_or_default();
        if name != "lo" && flags & 1 == 1 {
            links.push(Link { name, index: read("ifindex").trim().parse().unwrap_or_default() });
        }
    }
    Ok(links)
}

/// Who is likely to be a gateway: the first address of the link's networks, and each neighbour that was heard.
fn gateways(link: &str) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    let mut add = |address: IpAddr| {
        if !found.contains(&address) {
            found.push(address);
        }
    };
    for line in ip(&["-4", "-o", "address", "show", "dev", link])?.lines() {
        let network = line.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        if let Some((own, first)) = network.and_then(first_of) {
            [first].into_iter().filter(|first| *first != own).for_each(|first| add(first.into()));
        }
    }
    for line in ip(&["neighbour", "show", "dev", link])?.lines() {
        if let Some(address) = line.split(' ').next().and_then(|word| word.parse().ok()) {
            add(address);
        }
    }
    Ok(found)
}

/// An address, and the first of its network.
fn first_of(network: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (own, bits) = network.split_once('/')?;
    let (own, bits): (Ipv4Addr, u32) = (own.parse().ok()?, bits.parse().ok()?);
    let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
    Some((own, Ipv4Addr::from((u32::from(own) & mask).wrapping_add(1))))
}

/// `None` where there can be no such route.
fn route(to: IpAddr, link: &str, gateway: Option<IpAddr>) -> Option<String> {
    if gateway == Some(to) || is_link_local(to) {
        return None; // The first round goes there.
    }
    match (to, gateway) {
        (_, None) => Some(format!("{to} dev {link}")),
        (IpAddr::V4(_), Some(by @ IpAddr::V4(_))) => Some(format!("{to} via {by} dev {link} onlink")),
        (IpAddr::V6(_), Some(by @ IpAddr::V6(_))) => Some(format!("{to} via {by} dev {link} onlink")),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// One process for all of them; one that is refused (its own address, a second time) keeps no other.
fn change(verb: &str, ways: &[String]) -> io::Result<()> {
    if ways.is_empty() {
        return Ok(());
    }
    let text: String = ways.iter().map(|way| format!("route {verb} {way}\n")).collect();
    let mut child = Command::new("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    child.wait().map(drop)
}

fn ip(words: &[&str]) -> io::Result<String> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All at once. What is refused or lost is as it should be.
fn knock(word: &str, port: u16, addresses: &[IpAddr], links: &[Link]) {
    let to = |address: &IpAddr, link: &Link| match *address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(address, port, 0, link.index))
        }
        address => SocketAddr::new(address, port),
    };
    std::thread::scope(|scope| {
        for target in addresses.iter().flat_map(|address| links.iter().map(move |link| to(address, link))) {
            scope.spawn(move || {
                let any: IpAddr =
                    if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let _ = UdpSocket::bind((any, 0)).and_then(|socket| socket.send_to(word.as_bytes(), target));
                let _ = TcpStream::connect_timeout(&target, CONNECT)
                    .and_then(|mut stream| stream.write_all(word.as_bytes()));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn gateways_are_guessed_as_people_choose_them() {
        assert_eq!(first_of("172.18.0.7/16"), Some(([172, 18, 0, 7].into(), [172, 18, 0, 1].into())));
        assert_eq!(first_of("10.77.0.10/24"), Some(([10, 77, 0, 10].into(), [10, 77, 0, 1].into())));
        assert_eq!(first_of("192.0.2.5/32"), Some(([192, 0, 2, 5].into(), [192, 0, 2, 6].into())));
        assert_eq!(first_of("nonsense"), None);
        let (four, six): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), "fd00::1".parse().expect("an address"));
        assert_eq!(route(four, "eth0", Some(six)), None);
        assert_eq!(route(four, "eth0", Some(four)), None);
        assert_eq!(route(four, "eth0", None).as_deref(), Some("192.0.2.1 dev eth0"));
    }

    #[test]
    fn a_host_that_can_be_reached_hears_the_word() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let socket = UdpSocket::bind(address).expect("the same port");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let link = Link { name: "lo".to_owned(), index: 1 };
        knock("shibboleth", address.port(), &[address.ip()], &[link]);
        let mut heard = String::new();
        listener.accept().expect("a client").0.read_to_string(&mut heard).expect("read");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("a datagram");
        assert_eq!((heard.as_str(), &buffer[..length]), ("shibboleth", b"shibboleth".as_slice()));
    }
}
