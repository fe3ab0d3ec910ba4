//! Sees every packet of a sealed network. All of it passes over loopback, where each packet is seen twice: when it is
//! sent, and when it is received.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use etherparse::{Icmpv4Type, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use socket2::{Domain, Socket, Type};

use crate::ledger::{Attempt, Protocol};

/// Every protocol, in network order as the kernel wants it.
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
/// Headers are shorter.
const SEEN: usize = 512;
/// Packets that may lie between a packet and its second sight.
const BETWEEN: usize = 256;
/// A burst of tries must not be lost while one is written down.
const BUFFER: usize = 8 << 20;

/// Now, in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// All packets of this process's network namespace.
#[derive(Debug)]
pub(crate) struct Packets {
    socket: Socket,
    once: VecDeque<u64>,
}

impl Packets {
    /// Needs `CAP_NET_RAW` in the namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(i32::from(ALL).into()))?;
        socket.set_recv_buffer_size(BUFFER)?;
        Ok(Self { socket, once: VecDeque::new() })
    }

    /// The next try to reach something, or nothing within `patience`.
    pub(crate) fn next(&mut self, patience: Duration) -> io::Result<Option<Attempt>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; SEEN];
        loop {
            let length = match self.socket.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(attempt) = attempt(&buffer[..length])
                && self.first_sight(&buffer[..length])
            {
                return Ok(Some(attempt));
            }
        }
    }

    fn first_sight(&mut self, packet: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        packet.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(at) = self.once.iter().position(|known| *known == hash) {
            self.once.remove(at);
            return false;
        }
        self.once.push_back(hash);
        if self.once.len() > BETWEEN {
            self.once.pop_front();
        }
        true
    }
}

/// What this packet tries to reach, if it is the first of a try.
fn attempt(packet: &[u8]) -> Option<Attempt> {
    let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
    let (source, target) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr())),
        LaxNetSlice::Ipv6(ip) => (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr())),
        LaxNetSlice::Arp(_) => return None,
    };
    let try_of = |protocol, address: IpAddr, port| {
        Some(Attempt { time: now(), protocol, address: Some(address), port, name: None })
    };
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) if tcp.syn() && !tcp.ack() && !target.is_loopback() => {
            try_of(Protocol::Tcp, target, tcp.destination_port())
        }
        // Nothing listens there in the sandbox; on the operator's machine something may.
        Some(TransportSlice::Tcp(tcp))
            if tcp.rst() && tcp.ack() && tcp.sequence_number() == 0 && source.is_loopback() =>
        {
            try_of(Protocol::Tcp, source, tcp.source_port())
        }
        Some(TransportSlice::Udp(udp)) if !target.is_loopback() => {
            try_of(Protocol::Udp, target, udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) if matches!(icmp.icmp_type(), Icmpv4Type::EchoRequest(_)) => {
            (!target.is_loopback()).then(|| try_of(Protocol::Ping, target, 0))?
        }
        Some(TransportSlice::Icmpv6(icmp)) if matches!(icmp.icmp_type(), Icmpv6Type::EchoRequest(_)) => {
            (!target.is_loopback()).then(|| try_of(Protocol::Ping, target, 0))?
        }
        None if !target.is_loopback() && !target.is_multicast() => try_of(Protocol::Other, target, 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn target(packet: &[u8]) -> Option<String> {
        attempt(packet).map(|attempt| attempt.target())
    }

    fn tcp(
        to: [u8; 4],
        port: u16,
        more: impl Fn(etherparse::PacketBuilderStep<etherparse::TcpHeader>) -> Vec<u8>,
    ) -> Vec<u8> {
        more(PacketBuilder::ipv4([127, 0, 0, 1], to, 64).tcp(4000, port, 9, 1000))
    }

    fn bytes(builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>) -> Vec<u8> {
        let mut packet = Vec::new();
        builder.write(&mut packet, &[]).expect("written");
        packet
    }

    #[test]
    fn tries_are_told_from_what_follows_them() {
        let syn = tcp([203, 0, 113, 7], 443, |b| bytes(b.syn()));
        assert_eq!(target(&syn).as_deref(), Some("tcp 203.0.113.7:443"));
        assert_eq!(target(&tcp([203, 0, 113, 7], 443, |b| bytes(b.syn().ack(1)))), None);
        assert_eq!(target(&tcp([127, 0, 0, 1], 8200, |b| bytes(b.syn()))), None, "somebody may listen");
        let mut packet = Vec::new();
        let refusal = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64).tcp(8200, 4000, 0, 0).rst().ack(1);
        refusal.write(&mut packet, &[]).expect("written");
        assert_eq!(target(&packet).as_deref(), Some("tcp 127.0.0.1:8200"), "nobody did");
        let mut packet = Vec::new();
        let datagram = PacketBuilder::ipv6([0; 16], [0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 64);
        datagram.udp(5000, 53).write(&mut packet, b"x").expect("written");
        assert_eq!(target(&packet).as_deref(), Some("udp [2001:db8::1]:53"));
        assert_eq!(target(b"no packet"), None);
    }
}
