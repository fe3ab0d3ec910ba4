//! What a sealed program finds, as data.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The user that a sealed program is, whoever the caller is: nobody's of the host.
pub(crate) const USER_ID: u32 = 1000;
/// With its group.
pub(crate) const USER: (u32, u32) = (USER_ID, USER_ID);
/// Addresses of names for which the inventory knows none (RFC 2544: no host on the internet has them).
const NAMED: [u8; 2] = [198, 18];

const SPEC: &str = "cell.json";

/// All that one sealed program sees and reaches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// Its host name.
    pub host_name: String,
    /// Its `/etc/machine-id`: 32 hexadecimal digits.
    pub machine_id: String,
    /// Its user's name.
    pub user: String,
    /// Its user's home, which must be among `writable`, or what is moved.
    pub home: PathBuf,
    /// Where it starts.
    pub directory: PathBuf,
    /// Its environment, whole.
    pub environment: BTreeMap<String, String>,
    /// Files and directories of the host that it sees at their own place.
    pub read_only: Vec<PathBuf>,
    /// The same, and it may write there.
    pub writable: Vec<PathBuf>,
    /// Files and directories of the host, and where it finds them.
    pub moved: Vec<(PathBuf, PathBuf)>,
    /// The same, and it may write there.
    pub moved_writable: Vec<(PathBuf, PathBuf)>,
    /// Where connections lead.
    pub leads: Vec<Lead>,
    /// Text of its `/etc/ssh/ssh_config` and `/etc/ssh/ssh_known_hosts`.
    pub ssh: Option<(String, String)>,
}

/// An address that leads somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// Names that stand for it.
    pub names: Vec<String>,
    /// Its addresses; one is made up where there is none.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
    /// The socket of the host to which connections are carried.
    pub socket: PathBuf,
}

impl Cell {
    /// Writes it to `place`, which it makes: private, since environments hold secrets.
    pub fn write(&self, place: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(place)?;
        crate::etc::write(self, USER, &place.join("etc"))?;
        let text = serde_json::to_vec(self)?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(place.join(SPEC))?;
        io::Write::write_all(&mut file, &text)
    }

    /// What [`Cell::write`] wrote.
    pub(crate) fn read(place: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(place.join(SPEC))?)?)
    }

    /// Every name with its addresses: given, or made up.
    pub(crate) fn names(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (lead, addresses) in self.leads.iter().zip(self.addresses()) {
            for name in &lead.names {
                let known = names.entry(name.to_lowercase()).or_default();
                known.extend(addresses.iter().filter(|address| !known.contains(address)).copied().collect::<Vec<_>>());
            }
        }
        names
    }

    /// The addresses of each lead, in their order. Leads of one name share what was made up for it.
    pub(crate) fn addresses(&self) -> Vec<Vec<IpAddr>> {
        let mut made: BTreeMap<&str, IpAddr> = BTreeMap::new();
        let address = |lead: &'_ Lead, made: &mut BTreeMap<&str, IpAddr>| {
            let name = lead.names.first().map_or("", String::as_str);
            if let Some(known) = made.get(name) {
                return *known;
            }
            let number = u16::try_from(made.len() + 1).unwrap_or(u16::MAX).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(NAMED[0], NAMED[1], number[0], number[1]))
        };
        let mut all = Vec::new();
        for lead in &self.leads {
            if lead.addresses.is_empty() {
                let own = address(lead, &mut made);
                made.insert(lead.names.first().map_or("", String::as_str), own);
                all.push(vec![own]);
            } else {
                all.push(lead.addresses.clone());
            }
        }
        all
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn lead(name: &str, addresses: &[&str], port: u16) -> Lead {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        Lead { names: vec![name.to_owned()], addresses, port, socket: format!("/ways/{name}").into() }
    }

    pub(crate) fn cell(leads: Vec<Lead>) -> Cell {
        Cell {
            host_name: "controller".to_owned(),
            machine_id: "0".repeat(32),
            user: "redrill".to_owned(),
            home: "/h".into(),
            directory: "/h".into(),
            environment: BTreeMap::new(),
            read_only: Vec::new(),
            writable: Vec::new(),
            moved: Vec::new(),
            moved_writable: Vec::new(),
            leads,
            ssh: None,
        }
    }

    #[test]
    fn names_without_an_address_get_one_each() {
        let cell =
            cell(vec![lead("a", &[], 22), lead("b", &["203.0.113.7"], 22), lead("c", &[], 22), lead("a", &[], 443)]);
        let names = cell.names();
        assert_eq!(names["b"], ["203.0.113.7".parse::<IpAddr>().expect("valid")]);
        assert_eq!(names["a"].len(), 1, "one for both ports");
        assert_ne!(names["a"], names["c"]);
    }
}
