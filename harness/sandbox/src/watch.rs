//! Sees every packet of a sealed network. All of it passes over loopback, where each packet is seen twice: when it is
//! sent, and when it is received.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use etherparse::{Icmpv4Type, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use socket2::{Domain, SockFilter, Socket, Type};

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

/// What a packet shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Something is tried to be reached.
    Try(Attempt),
    /// Nobody listens at a port of loopback.
    Refused(Attempt),
    /// Somebody does.
    Answered(IpAddr, u16),
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
        let telling = TELLING.map(|(code, yes, no, number)| SockFilter::new(code, yes, no, number));
        socket.attach_filter(&telling)?;
        Ok(Self { socket, once: VecDeque::new() })
    }

    /// The next thing that is seen, or nothing within `patience`.
    pub(crate) fn next(&mut self, patience: Duration) -> io::Result<Option<Seen>> {
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
            if let Some(seen) = seen(&buffer[..length])
                && self.first_sight(&buffer[..length])
            {
                return Ok(Some(seen));
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

/// The kernel's codes of the steps below.
mod code {
    pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    pub(super) const LOAD_BEHIND: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    pub(super) const HEADER: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    pub(super) const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    pub(super) const ANY: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    pub(super) const GO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
    pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
}

const TCP: u32 = 6;
const SYN: u32 = 0x02;
/// RST with ACK.
const REFUSAL: u32 = 0x14;

/// Lets only packets into the buffer that may tell of a try: what a connection carries would fill it. Of TCP those with
/// SYN, and refusals; of other protocols those that go further than loopback. Code, steps to skip if it holds and if not,
/// and the number.
const TELLING: [(u16, u8, u8, u32); 18] = [
    (code::LOAD, 0, 0, 0),
    (code::AND, 0, 0, 0xf0),
    (code::EQUAL, 0, 7, 0x40),
    // Version 4: the protocol, then the flags behind a header of its own length; else the target.
    (code::LOAD, 0, 0, 9),
    (code::EQUAL, 0, 3, TCP),
    (code::HEADER, 0, 0, 0),
    (code::LOAD_BEHIND, 0, 0, 13),
    (code::GO, 0, 0, 5),
    (code::LOAD, 0, 0, 16),
    (code::EQUAL, 7, 6, 127),
    // Version 6: flags behind a header of 40 bytes. What has others between is let through.
    (code::LOAD, 0, 0, 6),
    (code::EQUAL, 0, 4, TCP),
    (code::LOAD, 0, 0, 53),
    // Flags of TCP.
    (code::ANY, 2, 0, SYN),
    (code::AND, 0, 0, REFUSAL),
    (code::EQUAL, 0, 1, REFUSAL),
    (code::RETURN, 0, 0, u32::MAX),
    (code::RETURN, 0, 0, 0),
];

/// What this packet shows, if it is the first of a try, or the answer to one.
fn seen(packet: &[u8]) -> Option<Seen> {
    let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
    let (source, target) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr())),
        LaxNetSlice::Ipv6(ip) => (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr())),
        LaxNetSlice::Arp(_) => return None,
    };
    let attempt =
        |protocol, address: IpAddr, port| Attempt { time: now(), protocol, address: Some(address), port, name: None };
    let try_of = |protocol, address, port| Some(Seen::Try(attempt(protocol, address, port)));
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) if tcp.syn() && !tcp.ack() && !target.is_loopback() => {
            try_of(Protocol::Tcp, target, tcp.destination_port())
        }
        // Nothing listens there in the sandbox; on the operator's machine something may.
        Some(TransportSlice::Tcp(tcp))
            if tcp.rst() && tcp.ack() && tcp.sequence_number() == 0 && source.is_loopback() =>
        {
            Some(Seen::Refused(attempt(Protocol::Tcp, source, tcp.source_port())))
        }
        Some(TransportSlice::Tcp(tcp)) if tcp.syn() && tcp.ack() && source.is_loopback() => {
            Some(Seen::Answered(source, tcp.source_port()))
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
        match seen(packet)? {
            Seen::Try(attempt) => Some(attempt.target()),
            Seen::Refused(attempt) => Some(format!("refused {}", attempt.target())),
            Seen::Answered(address, port) => Some(format!("answered {address}:{port}")),
        }
    }

    /// As the kernel runs the filter.
    fn lets_through(packet: &[u8]) -> bool {
        let (mut at, mut value, mut header) = (0, 0, 0);
        let byte = |at: u32| u32::from(packet.get(at as usize).copied().unwrap_or_default());
        loop {
            let (code, yes, no, number) = TELLING[at];
            at += 1;
            let skip = |holds: bool| usize::from(if holds { yes } else { no });
            match code {
                code::LOAD => value = byte(number),
                code::LOAD_BEHIND => value = byte(header + number),
                code::HEADER => header = (byte(number) & 0xf) * 4,
                code::AND => value &= number,
                code::EQUAL => at += skip(value == number),
                code::ANY => at += skip(value & number != 0),
                code::GO => at += number as usize,
                _ => return number != 0,
            }
        }
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

    fn tcp_from(from: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        let answer = PacketBuilder::ipv4(from, [127, 0, 0, 1], 64).tcp(port, 4000, 7, 1000).syn().ack(1);
        answer.write(&mut packet, &[]).expect("written");
        packet
    }

    #[test]
    fn what_a_connection_carries_is_not_looked_at() {
        let carried = tcp([203, 0, 113, 7], 443, |b| bytes(b.ack(9)));
        assert!(!lets_through(&carried));
        let datagram = |to: [u8; 4]| {
            let mut packet = Vec::new();
            PacketBuilder::ipv4([127, 0, 0, 1], to, 64).udp(5000, 53).write(&mut packet, b"x").expect("written");
            packet
        };
        assert!(lets_through(&datagram([8, 8, 8, 8])) && !lets_through(&datagram([127, 0, 0, 53])));
    }

    #[test]
    fn tries_are_told_from_what_follows_them() {
        let syn = tcp([203, 0, 113, 7], 443, |b| bytes(b.syn()));
        assert_eq!(target(&syn).as_deref(), Some("tcp 203.0.113.7:443"));
        assert_eq!(target(&tcp_from([203, 0, 113, 7], 443)), None, "the answer to a try");
        assert_eq!(target(&tcp([127, 0, 0, 1], 8200, |b| bytes(b.syn()))), None, "somebody may listen");
        let mut packet = Vec::new();
        let refusal = PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64).tcp(8200, 4000, 0, 0).rst().ack(1);
        refusal.write(&mut packet, &[]).expect("written");
        assert_eq!(target(&packet).as_deref(), Some("refused tcp 127.0.0.1:8200"), "nobody did");
        assert!(lets_through(&packet));
        let answer = tcp_from([127, 0, 0, 1], 8200);
        assert_eq!(target(&answer).as_deref(), Some("answered 127.0.0.1:8200"));
        assert!(lets_through(&answer) && lets_through(&syn));
        let mut packet = Vec::new();
        let datagram = PacketBuilder::ipv6([0; 16], [0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 64);
        datagram.udp(5000, 53).write(&mut packet, b"x").expect("written");
        assert_eq!(target(&packet).as_deref(), Some("udp [2001:db8::1]:53"));
        assert_eq!(target(b"no packet"), None);
    }
}
