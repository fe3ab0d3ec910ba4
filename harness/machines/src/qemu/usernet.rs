//! What QEMU's user-mode network says of itself (`info usernet`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A connection or a forwarding rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    /// `HOST_FORWARD` for a rule, else the state of the connection to the machine.
    pub(crate) state: String,
    /// QEMU's file descriptor: tells two connections to one port apart.
    pub(crate) fd: u32,
    /// The host's listening port, of the rule and of every connection that came through it.
    pub(crate) source_port: u16,
    /// Port in the machine.
    pub(crate) port: u16,
}

/// Reads lines such as `TCP[ESTABLISHED] 16 10.0.2.2 40874 10.0.2.15 22 0 0`.
pub(crate) fn flows(text: &str) -> Vec<Flow> {
    let flow = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = words.first()?.strip_prefix("TCP[")?.strip_suffix(']')?.to_owned();
        let fd = words.get(1)?.parse().ok()?;
        Some(Flow { state, fd, source_port: words.get(3)?.parse().ok()?, port: words.get(5)?.parse().ok()? })
    };
    text.lines().filter_map(flow).collect()
}

/// The loopback addresses that lead to ports of the machine, by these.
pub(crate) fn forwards(flows: &[Flow]) -> BTreeMap<u16, SocketAddr> {
    let rules = flows.iter().filter(|flow| flow.state == "HOST_FORWARD");
    rules.map(|flow| (flow.port, SocketAddr::from(([127, 0, 0, 1], flow.source_port)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_connections_are_told_apart() {
        // Printed by QEMU 10.0.2.
        let text = "VLAN -1 (n):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[ESTABLISHED]   17       127.0.0.1 40874       10.0.2.15    22     0     0\r\n  \
                    TCP[SYN_SENT]      18       127.0.0.1 40880       10.0.2.15  8000     0     0\r\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 34567       10.0.2.15    22     0     0\r\n  \
                    UDP[236 sec]       19       10.0.2.15 57621        10.0.2.3    53     0     0\r\n";
        let flows = flows(text);
        assert_eq!(flows.len(), 3);
        let expected = BTreeMap::from([(22, ([127, 0, 0, 1], 34567).into())]);
        assert_eq!(forwards(&flows), expected, "a connection is no rule");
        assert_eq!((flows[1].state.as_str(), flows[1].source_port), ("SYN_SENT", 40880));
    }
}
