//! Servers elsewhere that a drill stands in for: their names lead to an address in the machine where the harness answers.
//!
//! What connects there is carried to a unix socket in the machine's directory, which is served for as long as the machine
//! lives: by `guestfwd` in a virtual machine, by the probe in a container.

use std::net::Ipv4Addr;
use std::path::Path;

use tokio::task::JoinHandle;

use crate::error::MachineError;
use crate::needs::Needs;
use crate::{acme, mail};

/// Where they answer inside a machine: no address of the machine itself, which may want the ports for servers of its own.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 4);
/// Their sockets, in the machine's directory.
pub(crate) const SOCKETS: [&str; 2] = [mail::SOCKET, acme::SOCKET];

/// Every port that anything may answer at, and the socket behind it.
pub(crate) fn ports() -> impl Iterator<Item = (u16, &'static str)> {
    mail::PORTS.into_iter().map(|port| (port, mail::SOCKET)).chain([(acme::PORT, acme::SOCKET)])
}

/// The ports that this machine needs.
pub(crate) fn wanted(needs: &Needs) -> impl Iterator<Item = (u16, &'static str)> {
    let (mail, acme) = (needs.mail.is_some(), needs.acme.is_some());
    ports().filter(move |(_, socket)| if *socket == mail::SOCKET { mail } else { acme })
}

/// What the machine is told: every name once, and where it leads.
pub(crate) fn leads(needs: &Needs) -> Vec<(Ipv4Addr, String)> {
    let mail = needs.mail.iter().flat_map(|post| &post.names);
    let mut names: Vec<&String> = Vec::new();
    for name in mail.chain(needs.acme.iter().flat_map(|acme| &acme.names)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| (ADDRESS, name.clone())).collect()
}

/// Answers on the sockets in `at` until the returned tasks are dropped. What comes is that of the machine in `dir`.
pub(crate) fn serve(at: &Path, dir: &Path, needs: &Needs) -> Result<Vec<JoinHandle<()>>, MachineError> {
    let mut tasks = Vec::new();
    if let Some(post) = &needs.mail {
        let served = mail::serve(at, dir, post);
        tasks.push(served.map_err(MachineError::io("cannot serve the sink for mail"))?);
    }
    if let Some(acme) = &needs.acme {
        let served = acme::serve(at, dir, acme);
        tasks.push(served.map_err(MachineError::io("cannot serve the stand-in for ACME servers"))?);
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::MailNames;

    #[test]
    fn a_name_that_is_two_servers_leads_there_once_and_is_both() {
        let names = || vec!["one.test".to_owned(), "two.test".to_owned()];
        let acme = acme::tests::nobody_behind(names());
        let post = MailNames::new(vec!["one.test".to_owned()], drop);
        let needs = Needs { mail: Some(post), acme: Some(acme.clone()), ..Needs::default() };
        assert_eq!(leads(&needs).into_iter().map(|(_, name)| name).collect::<Vec<_>>(), names());
        assert_eq!(wanted(&needs).map(|(port, _)| port).collect::<Vec<_>>(), [25, 587, 443]);
        let needs = Needs { acme: Some(acme), ..Needs::default() };
        assert_eq!(wanted(&needs).collect::<Vec<_>>(), [(443, acme::SOCKET)]);
        assert_eq!(leads(&Needs::default()), []);
    }
}
