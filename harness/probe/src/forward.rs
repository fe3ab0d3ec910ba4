//! Leads a port to a unix socket that the harness has put into the machine.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

/// Serves until it is killed. A port alone is one of loopback.
pub(crate) fn serve(at: &str, socket: &str) -> io::Result<()> {
    let loopback = || Some(SocketAddr::from((Ipv4Addr::LOCALHOST, at.parse().ok()?)));
    let address = at.parse().ok().or_else(loopback).ok_or_else(|| io::Error::other(format!("`{at}` is no port")))?;
    let listener = TcpListener::bind(address)?;
    for client in listener.incoming() {
        let (client, socket) = (client?, socket.to_owned());
        thread::spawn(move || carry(&client, &socket));
    }
    Ok(())
}

/// A connection that breaks is the client's to notice.
fn carry(client: &TcpStream, socket: &str) -> io::Result<()> {
    let server = UnixStream::connect(socket)?;
    let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Write);
    });
    let (mut down_from, mut down_to) = (server, client.try_clone()?);
    io::copy(&mut down_from, &mut down_to)?;
    client.shutdown(Shutdown::Write)
}
