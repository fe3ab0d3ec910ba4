//! Whether a machine that was started has a way to its host, by trying: before anything of a repo runs in it, the host
//! listens on all of its addresses, and the probe in the machine tries to reach each.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket};

use crate::agent::Agent;
use crate::command::{Exec, PROBE};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::random;

/// The probe waits for a tenth of a second at each of a few gateways.
const LIMIT: Duration = Duration::from_secs(20);
/// How long something may take that was sent.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// More addresses than this differ in nothing that matters here.
const MOST: usize = 256;
/// How long a caller that says nothing is listened to.
const LISTENS: Duration = Duration::from_secs(2);

/// An error if the machine reaches its host, or it could not be found out.
pub(super) async fn hold(agent: &Arc<Agent>, machine: &str, deadline: &Deadline) -> Result<(), MachineError> {
    let open = |what: String| MachineError::NotSealed { machine: machine.to_owned(), what };
    let addresses = host_addresses().map_err(MachineError::io("cannot tell the host's addresses"))?;
    let (tcp, udp) = listen().await.map_err(MachineError::io("cannot listen for a machine that gets out"))?;
    let port = tcp.local_addr().map_err(MachineError::io("cannot listen for a machine that gets out"))?.port();
    let word = random::hex();
    let mut words = vec![PROBE.to_owned(), "wayout".to_owned(), word.clone(), port.to_string()];
    words.extend(addresses.iter().map(ToString::to_string));
    let limit = deadline.child("looking for a way out", LIMIT);
    let command = Exec(words);
    let mut hearing = std::pin::pin!(hear(&tcp, &udp, &word));
    let heard = tokio::select! {
        heard = &mut hearing => Some(heard),
        tried = agent.exec(&command, b"", &limit) => match tried? {
            tried if tried.status == 0 => tokio::time::timeout(ON_ITS_WAY, hearing).await.ok(),
            tried => return Err(open(format!("it could not be tried: {}", tried.stderr.trim()))),
        },
    };
    match heard {
        Some(from) => Err(open(format!("a connection came from {from} to port {port} of this host"))),
        None => Ok(()),
    }
}

/// TCP and UDP on one port, on every address of either family.
async fn listen() -> std::io::Result<(TcpListener, UdpSocket)> {
    let mut last = std::io::Error::other("no port");
    for _ in 0..10 {
        let tcp = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(tcp) => tcp,
            Err(_) => TcpListener::bind("0.0.0.0:0").await?, // A host without IPv6.
        };
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits for somebody who knows the word.
async fn hear(tcp: &TcpListener, udp: &UdpSocket, word: &str) -> SocketAddr {
    let mut callers = tokio::task::JoinSet::new();
    let mut datagram = [0; 256];
    loop {
        tokio::select! {
            Ok((mut stream, from)) = tcp.accept() => {
                let length = word.len();
                callers.spawn(async move {
                    let mut said = vec![0; length];
                    let read = tokio::time::timeout(LISTENS, stream.read_exact(&mut said)).await;
                    (from, matches!(read, Ok(Ok(_))).then_some(said))
                });
            }
            Some(Ok((from, said))) = callers.join_next() => {
                if said.is_some_and(|said| said == word.as_bytes()) {
                    return from;
                }
            }
            Ok((length, from)) = udp.recv_from(&mut datagram) => {
                if &datagram[..length] == word.as_bytes() {
                    return from;
                }
            }
            // No more descriptors, for a moment: who is waiting is heard later.
            else => tokio::time::sleep(ON_ITS_WAY / 10).await,
        }
    }
}

/// All addresses of this host but those of loopback, which are the machine's own in there.
fn host_addresses() -> std::io::Result<Vec<IpAddr>> {
    let four = std::fs::read_to_string("/proc/net/fib_trie")?;
    let six = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut all: Vec<IpAddr> = of_trie(&four).chain(six.lines().filter_map(of_line)).collect();
    all.retain(|address| !address.is_loopback());
    all.sort_unstable();
    all.dedup();
    all.truncate(MOST);
    Ok(all)
}

/// Format: net/ipv4/fib_trie.c; an address, and below it `/32 host LOCAL`.
fn of_trie(text: &str) -> impl Iterator<Item = IpAddr> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let local = |pair: &[&str]| (pair[1] == "/32 host LOCAL").then(|| pair[0].strip_prefix("|-- ")?.parse().ok());
    let found: Vec<IpAddr> = lines.windows(2).filter_map(|pair| local(pair).flatten()).collect();
    found.into_iter()
}

/// 32 hexadecimal digits, and more.
fn of_line(line: &str) -> Option<IpAddr> {
    let digits = line.split(' ').next().filter(|digits| digits.len() == 32)?;
    Some(Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::tests::with_machine;
    use redrill_wire::Frame;

    /// A machine in which the probe does so with what it is told.
    fn probing(does: impl Fn(&[String]) -> i32 + Send + Copy + 'static) -> Arc<Agent> {
        with_machine(move |frame| match frame {
            Frame::Exec(channel, words) => vec![Frame::Exit(channel, does(&words))],
            _ => vec![],
        })
    }

    async fn held(does: impl Fn(&[String]) -> i32 + Send + Copy + 'static) -> Result<(), MachineError> {
        hold(&probing(does), "web", &Deadline::root("test", Duration::from_secs(20), 1.0)).await
    }

    fn call(words: &[String], word: &str) -> i32 {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{}", words[3])).expect("it listens");
        stream.write_all(word.as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(300));
        0
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_machine_that_reaches_its_host_is_told_and_so_is_one_that_could_not_be_asked() {
        held(|_| 0).await.expect("nobody came");
        held(|words| call(words, "nobody in particular, but long enough")).await.expect("somebody else came");
        let error = held(|words| call(words, &words[2])).await.expect_err("it came").to_string();
        assert!(error.contains("a connection came from"), "{error}");
        let error = held(|words| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.send_to(words[2].as_bytes(), format!("127.0.0.1:{}", words[3])).expect("sent");
            std::thread::sleep(Duration::from_millis(300));
            0
        });
        assert!(matches!(error.await, Err(MachineError::NotSealed { .. })), "by UDP");
        let error = held(|_| 1).await.expect_err("not tried").to_string();
        assert!(error.contains("could not be tried"), "{error}");
    }

    #[test]
    fn the_hosts_addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.0.2.2\n        \
                    /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(of_trie(trie).collect::<Vec<_>>(), [IpAddr::from([192, 0, 2, 2])]);
        let line = "fe8000000000000000fc00fffe000001 03 40 20 80     eth0";
        assert_eq!(of_line(line).map(|address| address.to_string()).as_deref(), Some("fe80::fc:ff:fe00:1"));
        assert_eq!(of_line(""), None);
        let own = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        assert!(!host_addresses().expect("read").contains(&own.local_addr().expect("bound").ip()));
    }
}
