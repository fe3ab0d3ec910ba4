//! `redrill warden`: stands between a sealed program and the world. It runs in the program's network, of which it is
//! root, and outside of the program's file system and processes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit, Signal};
use socket2::{Domain, Socket, Type};

use crate::cell::Cell;
use crate::ledger::{Attempt, Protocol, Writer};
use crate::means::Means;
use crate::names::{self, Asked};
use crate::watch::{Packets, Seen};
use crate::{absent, etc, filter, layout};

/// Nothing was started.
pub(crate) const NOT_STARTED: u8 = 126;
/// How long the watcher waits for the next packet before it looks whether the program has ended.
const PATIENCE: Duration = Duration::from_millis(20);

/// Runs `words` sealed, as the cell in `place` says, to its end: its exit status, 128 + the number of the signal that
/// ended it, or 126 if nothing could be started, which the ledger explains.
pub fn warden(place: &Path, words: &[OsString]) -> ExitCode {
    let Ok(ledger) = Writer::open(place) else { return ExitCode::from(NOT_STARTED) };
    let ledger = Arc::new(Mutex::new(ledger));
    let ended = run(place, words, &ledger);
    let mut ledger = ledger.lock().expect("no panic while it is held");
    match ended {
        Ok(code) => {
            // Without the last line whoever reads the ledger knows that it is not whole.
            let _ = ledger.over();
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = ledger.failed(&error.to_string());
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn run(place: &Path, words: &[OsString], ledger: &Arc<Mutex<Writer>>) -> io::Result<u8> {
    // The namespaces that `unshare` made may have taken it from us.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let cell = Cell::read(place)?;
    let means = Means::programs().map_err(io::Error::other)?;
    set_up(&means.ip)?;
    let mut asked = Asked::default();
    asked.know(&cell);
    let leads = Leads::of(&cell);
    leads.listen()?;
    answer_names(&cell, &asked)?;
    let packets = Packets::open()?;
    let over = Arc::new(AtomicBool::new(false));
    let watcher = watch(packets, &leads, &asked, ledger, &over);
    let root = place.join("root");
    let root = match absent::mount(layout::tree(&cell, place), &root, ledger) {
        Ok(()) => Some(root),
        Err(error) => {
            let why = format!("/dev/fuse: {error}");
            ledger.lock().expect("no panic while it is held").files_unseen(&why)?;
            None
        }
    };
    mount_devices(place)?;
    let status = start(&means, &cell, (place, root.as_deref()), words)?;
    over.store(true, Ordering::Release);
    watcher.join().map_err(|_| io::Error::other("the watcher of packets failed"))??;
    Ok(status)
}

/// Mounts the devices of a sealed program so that their modes and owners cannot be changed.
fn mount_devices(place: &Path) -> io::Result<()> {
    let place = place.join(layout::DEVICES_PLACE);
    std::fs::create_dir_all(&place)?;
    for name in layout::DEVICES {
        let (device, here) = (Path::new("/dev").join(name), place.join(name));
        std::fs::write(&here, "")?;
        rustix::mount::mount_bind(&device, &here)?;
        // What the host has taken from a mount stays taken.
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount_remount(&here, flags, "")?;
    }
    Ok(())
}

/// Every address is this network's own: what nobody listens for is refused at once, and seen.
pub(crate) fn set_up(ip: &Path) -> io::Result<()> {
    let mut ip = Command::new(ip);
    ip.args(["-batch", "-"]).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut ip = ip.spawn()?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(b"link set lo up\nroute add local 0.0.0.0/0 dev lo\n")?;
        if Path::new("/proc/net/if_inet6").exists() {
            stdin.write_all(b"route add local ::/0 dev lo\n")?;
        }
    }
    let output = ip.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Where connections lead: by address and port.
#[derive(Debug, Clone)]
pub(crate) struct Leads(Arc<BTreeMap<(IpAddr, u16), std::path::PathBuf>>);

impl Leads {
    pub(crate) fn of(cell: &Cell) -> Self {
        let each = cell.leads.iter().zip(cell.addresses());
        let each = each.flat_map(|(lead, addresses)| {
            addresses.into_iter().map(move |address| ((address.to_canonical(), lead.port), lead.socket.clone()))
        });
        let (mut leads, mut doubtful) = (BTreeMap::new(), BTreeSet::new());
        for (place, socket) in each {
            // Two hosts behind one address and port: neither is reached by it, rather than the wrong one.
            if leads.insert(place, socket.clone()).is_some_and(|other| other != socket) {
                doubtful.insert(place);
            }
        }
        leads.retain(|place, _| !doubtful.contains(place));
        Self(Arc::new(leads))
    }

    fn has(&self, attempt: &Attempt) -> bool {
        attempt.protocol == Protocol::Tcp
            && attempt.address.is_some_and(|address| self.0.contains_key(&(address.to_canonical(), attempt.port)))
    }

    /// Listens on each port at all addresses, and carries what comes for one of ours.
    pub(crate) fn listen(&self) -> io::Result<()> {
        let mut ports: Vec<u16> = self.0.keys().map(|(_, port)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            let listener = listener(port)?;
            let leads = self.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    // Without room for one more connection others end first.
                    let Ok(stream) = stream else {
                        std::thread::sleep(PATIENCE);
                        continue;
                    };
                    // Each in a thread of its own; what is not ours ends here, and the watcher has seen it.
                    if let Some(way) = leads.way(&stream) {
                        let _ = std::thread::Builder::new().spawn(move || carry(stream, way));
                    }
                }
            });
        }
        Ok(())
    }

    fn way(&self, stream: &TcpStream) -> Option<UnixStream> {
        let local = stream.local_addr().ok()?;
        connect(self.0.get(&(local.ip().to_canonical(), local.port()))?).ok()
    }
}

/// At every address of both families.
fn listener(port: u16) -> io::Result<TcpListener> {
    let six = Path::new("/proc/net/if_inet6").exists();
    let socket = Socket::new(if six { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None)?;
    if six {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    let any: IpAddr = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A socket's path has at most 107 bytes, a run directory may have more: by way of the open directory.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let directory = File::open(socket.parent().unwrap_or(Path::new("/")))?;
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn carry(client: TcpStream, server: UnixStream) {
    let _ = client.set_nodelay(true);
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
    let there = std::thread::Builder::new().spawn(move || {
        pump(from_client, &to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let Ok(there) = there else { return };
    pump(server, &client);
    let _ = client.shutdown(Shutdown::Write);
    let _ = there.join();
}

/// To the end, or until either side breaks: which the other sees.
fn pump(mut from: impl Read, mut to: impl Write) {
    let _ = io::copy(&mut from, &mut to);
}

pub(crate) fn answer_names(cell: &Cell, asked: &Asked) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::from(etc::RESOLVER), 53))?;
    let (mut known, asked) = (cell.names(), asked.clone());
    // Programs ask for an address of version 6 too, which no file says of it.
    known.insert(cell.host_name.to_lowercase(), vec![Ipv4Addr::new(127, 0, 1, 1).into()]);
    std::thread::spawn(move || names::serve(&socket, &known, &asked));
    Ok(())
}

/// Writes down what is tried until the program is over and all packets are read.
pub(crate) fn watch(
    mut packets: Packets,
    leads: &Leads,
    asked: &Asked,
    ledger: &Arc<Mutex<Writer>>,
    over: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<io::Result<()>> {
    let (leads, asked, ledger, over) = (leads.clone(), asked.clone(), Arc::clone(ledger), Arc::clone(over));
    std::thread::spawn(move || {
        let write = |attempt| ledger.lock().expect("no panic while it is held").attempt(attempt);
        let mut reached = Vec::new();
        // Ports of loopback: whoever waits for a server of its own is refused until it listens.
        let (mut refused, mut answered) = (BTreeMap::new(), BTreeSet::new());
        loop {
            // Looked at before the wait: what came until then is still read.
            let last = over.load(Ordering::Acquire);
            while let Some(seen) = packets.next(PATIENCE)? {
                let attempt = match seen {
                    Seen::Try(attempt) => attempt,
                    Seen::Refused(attempt) => {
                        refused.entry((attempt.address, attempt.port)).or_insert(attempt);
                        continue;
                    }
                    Seen::Answered(address, port) => {
                        answered.insert((Some(address), port));
                        continue;
                    }
                };
                let name = attempt.address.and_then(|address| asked.name(address));
                reached.extend(name.clone());
                if !leads.has(&attempt) {
                    write(Attempt { name, ..attempt })?;
                }
            }
            if last {
                break;
            }
        }
        for (_, attempt) in refused.into_iter().filter(|(place, _)| !answered.contains(place)) {
            write(attempt)?;
        }
        for (name, _, time) in asked.all() {
            if !reached.contains(&name) {
                write(Attempt { time, protocol: Protocol::Name, address: None, port: 0, name: Some(name) })?;
            }
        }
        Ok(())
    })
}

fn start(means: &Means, cell: &Cell, (place, root): (&Path, Option<&Path>), words: &[OsString]) -> io::Result<u8> {
    let filter = in_file(&filter::program().map_err(io::Error::other)?)?;
    let mut arguments: Vec<u8> = Vec::new();
    for word in layout::arguments(cell, place, root, filter.as_raw_fd()) {
        arguments.extend(std::os::unix::ffi::OsStrExt::as_bytes(word.as_os_str()));
        arguments.push(0);
    }
    // In a file and not in the list that every user of the host can read: environments hold secrets.
    let arguments = in_file(&arguments)?;
    bound_processes()?;
    let mut bwrap = Command::new(&means.bwrap);
    bwrap.arg("--args").arg(arguments.as_raw_fd().to_string()).arg("--").args(words);
    let status = bwrap.env_clear().stdin(Stdio::null()).status()?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// The most processes that a sealed program may have: what forks without an end fails, and not the host.
const PROCESSES: u64 = 8192;

/// The bound holds for the user namespace that is made next, and counts what runs there. The kernel excepts root's own
/// processes, whatever namespace they are in: of a drill that root makes they are as many as the host lets.
fn bound_processes() -> io::Result<()> {
    let known = rustix::process::getrlimit(Resource::Nproc);
    let least = |limit: Option<u64>| Some(limit.map_or(PROCESSES, |limit| limit.min(PROCESSES)));
    let bound = Rlimit { current: least(known.current), maximum: least(known.maximum) };
    Ok(rustix::process::setrlimit(Resource::Nproc, bound)?)
}

/// An open file without a name, which a child inherits.
fn in_file(content: &[u8]) -> io::Result<File> {
    let file = rustix::fs::memfd_create("redrill", rustix::fs::MemfdFlags::empty())?;
    let mut file = File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}
