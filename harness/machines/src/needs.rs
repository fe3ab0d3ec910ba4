//! What a drill wants of one machine beyond its [`MachineSpec`](redrill_model::MachineSpec).

use std::net::Ipv4Addr;

use redrill_model::Network;

use crate::acme::Acme;
use crate::mail::MailNames;

/// What a machine must be able to do beyond its [`MachineSpec`](redrill_model::MachineSpec).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Ports that are reached from outside.
    pub ports: Vec<u16>,
    /// What it may reach.
    pub network: Network,
    /// Its place in the private network of the drill, if there is one.
    pub lan: Option<Seat>,
    /// Its number in the drill: no two machines have the same address on the network that leads to the harness.
    pub lease: u8,
    /// It will be frozen: its memory is laid out so that this costs no time.
    pub freezable: bool,
    /// So may forks of it: each costs a copy of the memory where it would share it.
    pub forks_freezable: bool,
    /// Where its mail goes, if it is caught.
    pub mail: Option<MailNames>,
    /// Who gives it certificates, if ACME servers are stood in for.
    pub acme: Option<Acme>,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            network: Network::Mirror,
            lan: None,
            lease: 0,
            freezable: false,
            forks_freezable: false,
            mail: None,
            acme: None,
        }
    }
}

/// A machine's place in a private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Machines hear each other only within a group: twins have a network of their own.
    pub group: String,
    /// This machine's address.
    pub address: Ipv4Addr,
    /// All machines of the group.
    pub hosts: Vec<(Ipv4Addr, String)>,
}
