//! Answers questions for names. Every name has an address, so that what is done with it can be seen.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use crate::cell::Cell;
use crate::watch::now;

/// Made up for names that are no part of the drill (RFC 2544, the upper half).
const ELSEWHERE: [u8; 2] = [198, 19];
/// Shorter than any deploy: it is asked again.
const SECONDS: u32 = 5;

/// Names that were asked for, with the address that was made up and the time.
type Questions = BTreeMap<String, (IpAddr, i64)>;

/// Names for which addresses were made up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    questions: Arc<Mutex<Questions>>,
    /// Those of the drill, which are found without a question.
    of_drill: BTreeMap<IpAddr, String>,
}

impl Asked {
    /// Learns the names of a cell whose addresses were made up.
    pub(crate) fn know(&mut self, cell: &Cell) {
        for (lead, addresses) in cell.leads.iter().zip(cell.addresses()).filter(|(lead, _)| lead.addresses.is_empty()) {
            let name = lead.names.first().cloned();
            self.of_drill.extend(addresses.into_iter().zip(name));
        }
    }

    /// The name for which this address was made up.
    pub(crate) fn name(&self, address: IpAddr) -> Option<String> {
        let names = self.questions.lock().expect("no panic while it is held");
        let asked = names.iter().find(|(_, (known, _))| *known == address).map(|(name, _)| name.clone());
        asked.or_else(|| self.of_drill.get(&address).cloned())
    }

    /// Every name, with its address and when it was first asked for.
    pub(crate) fn all(&self) -> Vec<(String, IpAddr, i64)> {
        let names = self.questions.lock().expect("no panic while it is held");
        names.iter().map(|(name, (address, time))| (name.clone(), *address, *time)).collect()
    }

    fn address(&self, name: &str) -> Ipv4Addr {
        let mut names = self.questions.lock().expect("no panic while it is held");
        let number = u16::try_from(names.len() + 1).unwrap_or(u16::MAX).to_be_bytes();
        let fresh = Ipv4Addr::new(ELSEWHERE[0], ELSEWHERE[1], number[0], number[1]);
        match names.entry(name.to_owned()).or_insert((IpAddr::V4(fresh), now())).0 {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => fresh,
        }
    }
}

/// Answers on `socket` for ever. `known` are the names that lead somewhere.
pub(crate) fn serve(socket: &UdpSocket, known: &BTreeMap<String, Vec<IpAddr>>, asked: &Asked) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        reply(socket, &buffer[..length], from, known, asked);
    }
}

fn reply(socket: &UdpSocket, question: &[u8], from: SocketAddr, known: &BTreeMap<String, Vec<IpAddr>>, asked: &Asked) {
    if let Some(answer) = answer(question, known, asked) {
        let _ = socket.send_to(&answer, from); // Who has gone asks no more.
    }
}

/// `None` of what is no question.
fn answer(question: &[u8], known: &BTreeMap<String, Vec<IpAddr>>, asked: &Asked) -> Option<Vec<u8>> {
    let packet = Packet::parse(question).ok()?;
    let first = packet.questions.first()?;
    let name = first.qname.to_string().to_lowercase();
    let mut reply = Packet::new_reply(packet.id());
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    reply.questions.push(first.clone());
    let a = matches!(first.qtype, QTYPE::TYPE(TYPE::A) | QTYPE::ANY);
    match known.get(&name) {
        // Reverse questions name nothing, and are asked by any program that looks for its own name.
        None if name.ends_with(".arpa") || name == "localhost" => *reply.rcode_mut() = RCODE::NameError,
        None => {
            let address = asked.address(&name);
            if a {
                reply.answers.push(record(first.qname.clone(), address));
            }
        }
        Some(addresses) => {
            for address in addresses.iter().filter(|_| a) {
                if let IpAddr::V4(address) = address {
                    reply.answers.push(record(first.qname.clone(), *address));
                }
            }
        }
    }
    reply.build_bytes_vec().ok()
}

fn record(name: simple_dns::Name<'_>, address: Ipv4Addr) -> ResourceRecord<'_> {
    ResourceRecord::new(name, CLASS::IN, SECONDS, RData::A(A::from(address)))
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, QCLASS, Question};

    use crate::cell::tests::lead;

    use super::*;

    fn ask(name: &str, kind: TYPE, asked: &Asked) -> Vec<IpAddr> {
        let mut packet = Packet::new_query(7);
        let name = Name::new(name).expect("a name");
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        let known = BTreeMap::from([("web.test".to_owned(), vec!["203.0.113.7".parse().expect("valid")])]);
        let bytes = answer(&packet.build_bytes_vec().expect("built"), &known, asked).expect("answered");
        let reply = Packet::parse(&bytes).expect("an answer");
        assert_eq!(reply.id(), 7);
        let address = |record: &ResourceRecord<'_>| match &record.rdata {
            RData::A(a) => IpAddr::V4(Ipv4Addr::from(a.address)),
            other => panic!("{other:?}"),
        };
        reply.answers.iter().map(address).collect()
    }

    #[test]
    fn every_name_has_an_address_and_foreign_ones_are_remembered() {
        let asked = Asked::default();
        assert_eq!(ask("web.test", TYPE::A, &asked), ["203.0.113.7".parse::<IpAddr>().expect("valid")]);
        assert_eq!(asked.all(), [], "it leads to a machine");
        let github = ask("GitHub.example", TYPE::A, &asked);
        assert_eq!(asked.name(github[0]).as_deref(), Some("github.example"));
        assert_eq!(ask("github.example", TYPE::A, &asked), github);
        assert_eq!(ask("github.example", TYPE::AAAA, &asked), [] as [IpAddr; 0]);
        assert_eq!(ask("7.113.0.203.in-addr.arpa", TYPE::PTR, &asked), [] as [IpAddr; 0]);
        assert_eq!(asked.all().len(), 1);
        assert_eq!(answer(b"no question", &BTreeMap::new(), &asked), None);
    }

    #[test]
    fn a_made_up_address_of_the_drill_has_its_name_without_a_question() {
        let cell = crate::cell::tests::cell(vec![lead("web.test", &[], 22), lead("db.test", &["203.0.113.7"], 22)]);
        let mut asked = Asked::default();
        asked.know(&cell);
        assert_eq!(asked.name(cell.addresses()[0][0]).as_deref(), Some("web.test"));
        assert_eq!(asked.name(cell.addresses()[1][0]), None, "that address is its own word");
    }
}
