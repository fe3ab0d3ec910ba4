//! Closes a TCP port under the service that listens there: a fault planted into a fork.
//!
//! The service's own socket is borrowed (pidfd_getfd(2)) and shut down, by which it listens no more; its process runs
//! on, and nothing else about it changes. What opens the port again is closed again for as long as was asked.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::sockets::listening;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `TCP_LISTEN` in the kernel's tables.
const LISTEN: &str = "0A";
/// Between two looks: shorter than anybody needs to connect.
const PAUSE: Duration = Duration::from_millis(2);

/// An error if nobody listened, or one of those still does. Who opens the port again at once has another socket.
pub(crate) fn once(port: &str) -> io::Result<()> {
    let port = number(port)?;
    let before = listeners(port);
    if before.is_empty() {
        return Err(io::Error::other(format!("nobody listens on port {port}")));
    }
    close(port)?;
    match listeners(port).iter().filter(|inode| before.contains(inode)).count() {
        0 => Ok(()),
        left => Err(io::Error::other(format!("{left} sockets still listen on port {port}"))),
    }
}

/// Closes it again and again, for so long.
pub(crate) fn hold(port: &str, milliseconds: &str) -> io::Result<()> {
    let port = number(port)?;
    let long = Duration::from_millis(number(milliseconds)?);
    let began = Instant::now();
    while began.elapsed() < long {
        // Whoever opened it may have gone meanwhile.
        let _ = close(port);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn number<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| io::Error::other(format!("`{word}` is no number for `close`")))
}

/// Inodes of the sockets that listen on a port.
fn listeners(port: u16) -> Vec<u64> {
    let tables = TABLES.iter().map(|table| fs::read_to_string(table).unwrap_or_default());
    let all = tables.flat_map(|table| listening(&table, LISTEN));
    all.filter(|(address, _)| address.port() == port).map(|(_, inode)| inode).collect()
}

fn close(port: u16) -> io::Result<()> {
    listeners(port).into_iter().try_for_each(|inode| {
        let (pid, fd) = holder(inode).ok_or_else(|| io::Error::other("no process holds the socket"))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let socket = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
        // The last word on a socket that listens is its end.
        TcpStream::from(socket).shutdown(Shutdown::Both)
    })
}

/// A process that has the socket, and its number for it.
fn holder(inode: u64) -> Option<(Pid, RawFd)> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        let descriptors = fs::read_dir(process.path().join("fd")).ok()?;
        let held = descriptors
            .flatten()
            .find(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy() == wanted))?;
        Some((pid, held.file_name().to_str()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_was_closed_refuses_while_its_service_runs_on() {
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = service.local_addr().expect("bound");
        let port = address.port().to_string();
        TcpStream::connect(address).expect("it listens");
        once(&port).expect("closed");
        let refused = TcpStream::connect(address).map_err(|error| error.kind());
        assert_eq!(refused.map(drop), Err(io::ErrorKind::ConnectionRefused));
        assert!(service.local_addr().is_ok(), "the service still has its socket");
        let again = once(&port).expect_err("nobody is there").to_string();
        assert!(again.contains("nobody listens"), "{again}");
    }

    #[test]
    fn one_that_is_opened_again_is_closed_again() {
        let first = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = first.local_addr().expect("bound");
        let port = address.port().to_string();
        let holding = std::thread::spawn({
            let port = port.clone();
            move || hold(&port, "400")
        });
        while !listeners(address.port()).is_empty() {
            std::thread::sleep(PAUSE);
        }
        drop(first);
        let again = TcpListener::bind(address).expect("bound again");
        let began = Instant::now();
        while !listeners(address.port()).is_empty() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(PAUSE);
        }
        assert!(listeners(address.port()).is_empty(), "{again:?} listens");
        holding.join().expect("no panic").expect("held");
    }
}
