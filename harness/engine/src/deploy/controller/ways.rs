//! Ways out of the sandbox, one socket each: to a machine's SSH, and to what the scenario or pip's own configuration
//! names. The sockets are served here, outside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrill_sandbox::Lead;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{ControllerError, InventoryHost};

/// Where a sealed program finds the sockets.
pub(super) const INSIDE: &str = "/run/redrill/ways";
/// Longer than any proxy's answer to CONNECT.
const LONGEST_ANSWER: usize = 8 * 1024;

/// Where connections go, by machine and port, and which machines got one by SSH.
#[derive(Debug, Default)]
struct Contacts {
    ports: BTreeMap<(String, u16), u16>,
    contacts: BTreeSet<String>,
}

/// All ways of one controller.
#[derive(Debug)]
pub(crate) struct Ways {
    directory: PathBuf,
    table: Arc<Mutex<Contacts>>,
    leads: Vec<Lead>,
    /// Ports of machines, beside those of SSH.
    others: Vec<(String, u16)>,
    tasks: Vec<JoinHandle<()>>,
}

/// What stands in the table for a machine's SSH, whatever port the inventory gives it.
pub(super) const SSH: u16 = 22;

impl Drop for Ways {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Ways {
    /// None yet; sockets will lie in `directory`.
    pub(super) fn new(directory: PathBuf) -> Result<Self, ControllerError> {
        std::fs::create_dir_all(&directory).map_err(ControllerError::io("cannot make the ways out of the sandbox"))?;
        Ok(Self { directory, table: Arc::default(), leads: Vec::new(), others: Vec::new(), tasks: Vec::new() })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What leads out.
    pub(super) fn leads(&self) -> &[Lead] {
        &self.leads
    }

    /// A way to this host's machine, once it is connected: by its names, its addresses and its ports of SSH.
    pub(super) fn lead_to_machine(&mut self, host: &InventoryHost) -> Result<(), ControllerError> {
        let name = socket_of(&host.name);
        self.carry_to(&name, (host.name.clone(), SSH))?;
        let declared = host.port().and_then(|port| port.try_into().ok());
        let ports: BTreeSet<u16> = [Some(SSH), declared].into_iter().flatten().collect();
        ports.into_iter().for_each(|port| self.lead(host, port, &name));
        Ok(())
    }

    /// A way to another port of this host's machine.
    pub(super) fn lead_to_port(&mut self, host: &InventoryHost, port: u16) -> Result<(), ControllerError> {
        if self.leads.iter().any(|lead| lead.port == port && lead.names.contains(&host.name)) {
            return Ok(()); // Of SSH there is one.
        }
        let name = socket_of(&format!("{}:{port}", host.name));
        self.carry_to(&name, (host.name.clone(), port))?;
        self.others.push((host.name.clone(), port));
        self.lead(host, port, &name);
        Ok(())
    }

    fn lead(&mut self, host: &InventoryHost, port: u16, name: &str) {
        let (names, addresses) = host.known_as();
        self.leads.push(Lead { names, addresses, port, socket: self.directory.join(name) });
    }

    /// Carries what comes to a port of a machine, wherever that is when it comes.
    fn carry_to(&mut self, name: &str, place: (String, u16)) -> Result<(), ControllerError> {
        let (listener, table) = (self.listen(name)?, Arc::clone(&self.table));
        self.tasks.push(tokio::spawn(async move {
            loop {
                let Some(client) = next(&listener).await else { continue };
                let port = {
                    let mut table = table.lock().expect("no panic while it is held");
                    if place.1 == SSH {
                        table.contacts.insert(place.0.clone());
                    }
                    table.ports.get(&place).copied()
                };
                // One that is not there yet, or no more, is the client's to notice.
                if let Some(port) = port {
                    tokio::spawn(async move { carry(client, TcpStream::connect(("127.0.0.1", port)).await).await });
                }
            }
        }));
        Ok(())
    }

    /// Ports of machines that lead somewhere, beside those of SSH.
    pub(super) fn ports(&self) -> impl Iterator<Item = (String, u16)> {
        self.others.iter().cloned()
    }

    /// A way to a host that is no machine of the drill, and declared.
    pub(super) fn lead_to_outside(&mut self, host: &str, port: u16) -> Result<(), ControllerError> {
        if self.leads.iter().any(|lead| lead.port == port && lead.names == [host]) {
            return Ok(());
        }
        let name = socket_of(&format!("{host}:{port}"));
        let (listener, target) = (self.listen(&name)?, host.to_owned());
        self.tasks.push(tokio::spawn(async move {
            loop {
                let Some(client) = next(&listener).await else { continue };
                let target = target.clone();
                tokio::spawn(async move { carry(client, reach(&target, port).await).await });
            }
        }));
        let addresses = host.parse().into_iter().collect();
        self.leads.push(Lead { names: vec![host.to_owned()], addresses, port, socket: self.directory.join(name) });
        Ok(())
    }

    /// Lets the ways lead to these ports of the host's loopback from now on, by machine and its port.
    pub(super) fn connect(&self, places: BTreeMap<(String, u16), u16>) {
        self.table.lock().expect("no panic while it is held").ports = places;
    }

    /// Forgets which machines were connected to.
    pub(super) fn forget_contacts(&self) {
        self.table.lock().expect("no panic while it is held").contacts.clear();
    }

    /// Machines to which a connection was made since.
    pub(super) fn contacts(&self) -> BTreeSet<String> {
        self.table.lock().expect("no panic while it is held").contacts.clone()
    }

    fn listen(&self, name: &str) -> Result<UnixListener, ControllerError> {
        // A socket's path has at most 107 bytes, a run directory may have more: by way of the open directory.
        let listen = || {
            let _ = std::fs::remove_file(self.directory.join(name)); // Of another try.
            let directory = File::open(&self.directory)?;
            UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
        };
        listen().map_err(ControllerError::io("cannot make a way out of the sandbox"))
    }
}

/// The next client. Without room for one more connection others end first.
async fn next(listener: &UnixListener) -> Option<UnixStream> {
    match listener.accept().await {
        Ok((client, _)) => Some(client),
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// The socket's name: short, and plain whatever the host is called.
pub(super) fn socket_of(host: &str) -> String {
    format!("{}.sock", &blake3::hash(host.as_bytes()).to_hex()[..16])
}

/// Where a sealed program finds the way to this host.
pub(super) fn inside(host: &str) -> PathBuf {
    Path::new(INSIDE).join(socket_of(host))
}

async fn carry(mut client: UnixStream, server: std::io::Result<TcpStream>) {
    // What breaks, or cannot be reached, the client sees as the end of its connection.
    if let Ok(mut server) = server {
        let _ = server.set_nodelay(true);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// Connects as the host itself would: by its proxy, if its environment names one.
async fn reach(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let Some(proxy) = proxy(host, |name| std::env::var(name).ok()) else {
        return TcpStream::connect((host, port)).await;
    };
    let mut stream = TcpStream::connect(proxy).await?;
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < LONGEST_ANSWER {
        answer.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&answer);
    match text.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => Err(std::io::Error::other(format!("the proxy refuses: {}", text.lines().next().unwrap_or_default()))),
    }
}

/// `host:port` of the proxy that the host's environment names for `host`.
fn proxy(host: &str, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_uppercase())).filter(|text| !text.is_empty());
    let excepted = either("no_proxy").unwrap_or_default();
    let matches = |rule: &str| {
        let rule = rule.trim().trim_start_matches('.');
        rule == "*" || (!rule.is_empty() && (host == rule || host.ends_with(&format!(".{rule}"))))
    };
    if excepted.split(',').any(matches) {
        return None;
    }
    let proxy = either("https_proxy").or_else(|| either("http_proxy"))?;
    let address = proxy.strip_prefix("http://").unwrap_or(&proxy).trim_end_matches('/');
    Some(if address.contains(':') { address.to_owned() } else { format!("{address}:80") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_proxy_is_used_as_its_own_programs_would() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(proxy("pypi.org", with(&[])), None);
        let set = with(&[("https_proxy", "http://proxy.test:3128/"), ("NO_PROXY", "localhost,.lan.test")]);
        assert_eq!(proxy("pypi.org", set).as_deref(), Some("proxy.test:3128"));
        assert_eq!(proxy("git.lan.test", set), None);
        assert_eq!(proxy("pypi.org", with(&[("HTTP_PROXY", "proxy.test")])).as_deref(), Some("proxy.test:80"));
    }

    #[tokio::test]
    async fn a_way_leads_to_the_machine_that_is_connected_and_notes_who_came() {
        let place = tempfile::tempdir().expect("a directory");
        let mut ways = Ways::new(place.path().join("ways")).expect("made");
        let host: InventoryHost = serde_json::from_str(r#"{"name": "web"}"#).expect("a host");
        ways.lead_to_machine(&host).expect("listens");
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        ways.connect([(("web".to_owned(), SSH), server.local_addr().expect("bound").port())].into());
        assert!(ways.contacts().is_empty());
        let mut client = UnixStream::connect(&ways.leads()[0].socket).await.expect("connects");
        client.write_all(b"hello").await.expect("sent");
        let (mut there, _) = server.accept().await.expect("came");
        let mut hello = [0; 5];
        there.read_exact(&mut hello).await.expect("read");
        assert_eq!((&hello, ways.contacts().len()), (b"hello", 1));
    }
}
