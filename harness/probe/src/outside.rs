//! Connections to the machine as they come from outside: made in a network namespace that is the machine's only
//! neighbour, so that they pass its firewall, for whoever asks at a unix socket that the harness shares.
//!
//! Who asks sends a line, the port; a line is the answer, and after `open` the connection is theirs.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

/// Longer than any neighbour takes: the second try of the handshake comes after one second.
const CONNECT: Duration = Duration::from_secs(3);
/// What is copied at a time.
const PIECE: usize = 64 * 1024;
/// A port has at most five digits.
const LONGEST_LINE: usize = 6;

/// Serves until it is killed.
pub(crate) fn serve(machine: &str, socket: &str) -> io::Result<()> {
    let machine: IpAddr = machine.parse().map_err(io::Error::other)?;
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    // The harness may be a user that is nobody in here; the directory is closed to all others.
    fs::set_permissions(socket, Permissions::from_mode(0o666))?;
    for client in listener.incoming() {
        let client = client?;
        thread::spawn(move || answer(client, machine));
    }
    Ok(())
}

/// A connection that breaks is the client's to notice.
fn answer(mut client: UnixStream, machine: IpAddr) -> io::Result<()> {
    let Some(port) = port(&mut client)? else { return client.write_all(b"that is no port\n") };
    let server = match TcpStream::connect_timeout(&SocketAddr::new(machine, port), CONNECT) {
        Ok(server) => server,
        Err(error) => return client.write_all(format!("{}\n", word(&error)).as_bytes()),
    };
    server.set_nodelay(true)?;
    client.write_all(b"open\n")?;
    let (up_from, up_to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = copy(&up_from, &up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    copy(&server, &client)?;
    client.shutdown(Shutdown::Write)
}

/// What the machine made of a connection that did not come about.
fn word(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::TimedOut => "silent".to_owned(),
        _ => error.to_string(),
    }
}

/// Not a byte more than the line: what follows is for the machine.
fn port(client: &mut UnixStream) -> io::Result<Option<u16>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST_LINE && client.read(&mut byte)? == 1 {
        if byte == *b"\n" {
            return Ok(std::str::from_utf8(&line).ok().and_then(|text| text.parse().ok()));
        }
        line.extend(byte);
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn asked(port: &str) -> (UnixStream, String) {
        let (mut here, there) = UnixStream::pair().expect("a pair");
        thread::spawn(move || answer(there, IpAddr::from([127, 0, 0, 1])));
        here.write_all(format!("{port}\n").as_bytes()).expect("sent");
        let mut line = String::new();
        let mut byte = [0];
        while !line.ends_with('\n') && here.read(&mut byte).expect("answered") == 1 {
            line.push(char::from(byte[0]));
        }
        (here, line)
    }

    #[test]
    fn a_connection_is_carried_both_ways_after_the_word_that_it_is_open() {
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = service.local_addr().expect("bound").port();
        thread::spawn(move || {
            let (mut stream, _) = service.accept().expect("a client");
            let mut question = String::new();
            stream.read_to_string(&mut question).expect("read to its end");
            stream.write_all(question.to_uppercase().as_bytes()).expect("answered");
        });
        let (mut stream, line) = asked(&port.to_string());
        assert_eq!(line, "open\n");
        stream.write_all(b"hello").expect("sent");
        stream.shutdown(Shutdown::Write).expect("half closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert_eq!(answer, "HELLO");
    }

    #[test]
    fn a_port_where_nobody_listens_is_told_and_nonsense_too() {
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = service.local_addr().expect("bound").port();
        drop(service);
        assert_eq!(asked(&port.to_string()).1, "refused\n");
        for nonsense in ["70000", "", "x", "22 22", "123456789"] {
            assert_eq!(asked(nonsense).1, "that is no port\n", "{nonsense}");
        }
    }
}
