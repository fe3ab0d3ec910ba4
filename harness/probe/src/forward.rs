//! Leads a port on the machine's loopback to a unix socket that the harness has put into the machine.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

/// Serves until it is killed.
pub(crate) fn serve(port: &str, socket: &str) -> io::Result<()> {
    let port: u16 = port.parse().map_err(|_| io::Error::other(format!("`{port}` is no port")))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
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
