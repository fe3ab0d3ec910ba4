//! What makes a fork a machine of its own.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Given to `redrill-probe identity` as JSON on standard input. What is `None` stays as it was: a twin keeps everything
/// but the time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Nanoseconds since 1970: the clock stood still while the machine was frozen.
    pub clock: Option<i64>,
    /// Host name.
    pub hostname: Option<String>,
    /// 32 hexadecimal digits.
    pub machine_id: Option<String>,
    /// Hardware address of the interface that leads to the harness.
    pub mac: Option<String>,
    /// Bytes for the kernel's random numbers, as hexadecimal digits.
    pub seed: String,
    /// The private network.
    pub lan: Option<Lan>,
    /// Names of others, and where they lead instead.
    pub leads: Vec<(Ipv4Addr, String)>,
    /// Files to write whole.
    pub files: Vec<PlacedFile>,
    /// Of the files, the certificates that the machine is to trust, if it knows how.
    pub trust: Vec<String>,
    /// Files with the process id of a daemon that reads its files again when it is hung up on.
    pub hang_up: Vec<String>,
    /// Units to restart when everything else is done.
    pub restart: Vec<String>,
    /// Timers to start, which were stopped before the freeze: with the old clock they would all be overdue.
    pub timers: bool,
}

/// A machine's place in the private network of its drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lan {
    /// Hardware address of the second network card; `None` where the only one leads to the neighbours too.
    pub mac: Option<String>,
    /// Its own address, in a network of 24 bits.
    pub address: Ipv4Addr,
    /// Names of all machines of the drill, and where they are.
    pub hosts: Vec<(Ipv4Addr, String)>,
}

/// A file of a new identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFile {
    /// Where; directories are made.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content; `None` removes the file.
    pub content: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_the_way_into_the_machine() {
        let identity = Identity {
            clock: Some(1),
            hostname: Some("web".to_owned()),
            lan: Some(Lan {
                mac: Some("52:54:00:00:00:01".to_owned()),
                address: Ipv4Addr::new(10, 77, 0, 10),
                hosts: vec![(Ipv4Addr::new(10, 77, 0, 11), "db".to_owned())],
            }),
            leads: vec![(Ipv4Addr::new(10, 0, 2, 4), "smtp.example.org".to_owned())],
            files: vec![PlacedFile { path: "/f".to_owned(), mode: 0o600, content: None }],
            ..Identity::default()
        };
        let text = serde_json::to_string(&identity).expect("plain data");
        assert_eq!(serde_json::from_str::<Identity>(&text).expect("the same"), identity);
    }
}
