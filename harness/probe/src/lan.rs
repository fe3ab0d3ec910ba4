//! The private network of machines that are containers: a bridge in a network namespace that belongs to none of them and
//! has no other link, so that it leads to neighbours and nowhere else.
//!
//! Started in a namespace of its own. The harness, asked at a unix socket, takes that namespace and gives back the one
//! in which all machines of the group meet: the first one's. Holding it is what keeps it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long the harness may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives the first process of the machine an `eth1`, and stays for as long as the machine.
pub(crate) fn join(seat: &str, socket: &str) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let meeting = exchange(&stream, &File::open("/proc/self/ns/net")?)?;
    move_into_link_name_space(meeting.as_fd(), Some(LinkNameSpaceType::Network))?;
    // The first of the group makes it; what fails here for another reason, the next lines tell.
    let _ = ip("link add lan type bridge");
    ip("link set lan up")?;
    // A machine that was here before, and whose end the kernel has not seen to yet.
    let _ = ip(&format!("link del m{seat}"));
    ip(&format!("link add m{seat} type veth peer name eth1 netns 1"))?;
    ip(&format!("link set m{seat} master lan up"))?;
    loop {
        std::thread::park();
    }
}

fn exchange(stream: &UnixStream, own: &File) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [own.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(stream, &[IoSlice::new(b"n")], &mut ancillary, SendFlags::empty())?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let given = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    given.ok_or_else(|| io::Error::other("the harness gave no network"))
}

fn ip(words: &str) -> io::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
