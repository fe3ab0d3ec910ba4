//! Connections to a machine from outside. Its network has one neighbour, a namespace in which the probe makes them for
//! whoever asks at a unix socket: no link leads from the machine to the host, and no packet needs one.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};

/// In what is shared with the machine.
pub(super) const SOCKET: &str = "outside.sock";
/// The neighbour's own limit is shorter.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is copied at a time.
const PIECE: usize = 64 * 1024;
/// Longer than any answer but an error of the system in words.
const LONGEST_LINE: usize = 200;

/// Asks for a connection to `port`; the neighbour's word on it, which is `open` if the stream leads there now.
pub(super) fn ask(socket: &Path, port: u16) -> io::Result<(UnixStream, String)> {
    let mut stream = connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{port}\n").as_bytes())?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST_LINE {
        match stream.read(&mut byte)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if byte == *b"\n" => break,
            _ => line.extend(byte),
        }
    }
    stream.set_read_timeout(None)?;
    Ok((stream, String::from_utf8_lossy(&line).into_owned()))
}

/// The machine can put into that directory what it likes: a link there must not lead to a socket of the host.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let inode = open(socket, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}", inode.as_raw_fd()))
}

/// A port of the host's loopback, picked by the kernel, that leads to `port` of the machine for as long as we live.
fn forward(socket: PathBuf, port: u16) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let here = listener.local_addr()?.port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let socket = socket.clone();
            // A connection that is refused or breaks is the client's to notice: it sees the end of the stream.
            thread::spawn(move || carry(&client, &socket, port));
        }
    });
    Ok(here)
}

fn carry(client: &TcpStream, socket: &Path, port: u16) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (server, word) = ask(socket, port)?;
    if word != "open" {
        return Ok(());
    }
    let (up_from, up_to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = copy(&up_from, &up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    copy(&server, client)?;
    client.shutdown(Shutdown::Write)
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length])?,
        }
    }
}

/// One order of the harness to its reaper, which outlives it where machines are kept: `PORT PATH`, a port of the
/// machine that has its neighbour's socket there. The answer is a port of loopback.
pub(super) fn order(socket: &Path, port: u16) -> Vec<u8> {
    [port.to_string().as_bytes(), b" ", socket.as_os_str().as_encoded_bytes(), b"\n"].concat()
}

/// Takes orders until their end, or a line that is none; returns that line.
pub(super) fn take_orders(mut from: impl BufRead, mut to: impl Write) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    loop {
        let mut line = Vec::new();
        let read = from.read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) || line.pop() != Some(b'\n') {
            return Vec::new();
        }
        let Some((port, path)) = line.iter().position(|byte| *byte == b' ').map(|at| (&line[..at], &line[at + 1..]))
        else {
            return line;
        };
        let port = std::str::from_utf8(port).ok().and_then(|text| text.parse().ok());
        let given = port.map(|port| forward(PathBuf::from(std::ffi::OsStr::from_bytes(path)), port));
        let answer = match given {
            Some(Ok(port)) => port.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "no port".to_owned(),
        };
        // Whoever gave the order is gone: the next line, which is none, says so too.
        let _ = writeln!(to, "{answer}").and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A neighbour that finds every port but 23 open, and answers with what it was sent.
    fn neighbour(dir: &Path) -> PathBuf {
        let path = dir.join(SOCKET);
        let listener = UnixListener::bind(&path).expect("bound");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut line = String::new();
                io::BufReader::with_capacity(1, &stream).read_line(&mut line).expect("a port");
                if line == "23\n" {
                    stream.write_all(b"refused\n").expect("answered");
                    continue;
                }
                stream.write_all(b"open\n").expect("answered");
                thread::spawn(move || {
                    let _ = copy(&stream, &stream);
                    let _ = stream.shutdown(Shutdown::Write);
                });
            }
        });
        path
    }

    #[test]
    fn orders_open_ports_of_loopback_that_lead_to_the_machine() {
        let dir = tempfile::tempdir().expect("a directory");
        // Its path is longer than that of a socket can be.
        let deep = dir.path().join("a run directory".repeat(9));
        std::fs::create_dir(&deep).expect("made");
        let path = neighbour(dir.path());
        std::fs::rename(&path, deep.join(SOCKET)).expect("moved");
        let path = deep.join(SOCKET);
        let mut answers = Vec::new();
        let orders = [order(&path, 22), order(&path, 23), b"k\n".to_vec()].concat();
        assert_eq!(take_orders(orders.as_slice(), &mut answers), b"k");
        let ports: Vec<u16> = answers.lines().map(|line| line.expect("text").parse().expect("a port")).collect();
        let exchange = |port: u16| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
            // One that the machine refuses may be closed before all is said.
            let _ = stream.write_all(b"hello").and_then(|()| stream.shutdown(Shutdown::Write));
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        };
        assert_eq!((exchange(ports[0]).as_str(), exchange(ports[1]).as_str()), ("hello", ""));
        assert_eq!(ask(&path, 23).expect("answered").1, "refused");
        assert_eq!(take_orders(b"".as_slice(), &mut Vec::new()), b"", "the leash was let go");
    }

    #[test]
    fn a_link_that_the_machine_puts_in_the_place_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = neighbour(dir.path());
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&engine, &link).expect("linked");
        assert!(ask(&engine, 22).is_ok());
        let error = ask(&link, 22).expect_err("it leads elsewhere");
        assert!(UnixStream::connect(&link).is_ok(), "anybody else would follow it: {error}");
    }
}
