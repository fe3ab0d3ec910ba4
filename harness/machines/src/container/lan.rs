//! The private networks of a drill's containers. The engine has no part in them: machines of a group meet in a network
//! namespace that one of them brought along, and that reaches nothing else. All that the harness does is hand it on.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::task::JoinHandle;

use crate::relay;

/// In what is shared with the machine.
pub(super) const SOCKET: &str = "lan.sock";
/// A machine sends at once when it has connected.
const PATIENCE: Duration = Duration::from_secs(5);

/// The namespaces in which groups meet, for as long as the drill.
#[derive(Debug, Clone, Default)]
pub(super) struct Lans(Arc<Mutex<HashMap<String, Arc<OwnedFd>>>>);

impl Lans {
    /// Answers a machine of `group` at the socket in `dir`, until the task is dropped.
    pub(super) fn serve(&self, dir: &Path, group: &str) -> io::Result<JoinHandle<()>> {
        let listener = relay::listen(dir, SOCKET)?;
        let (lans, group) = (self.clone(), group.to_owned());
        Ok(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (lans, group) = (lans.clone(), group.clone());
                // Whoever gets no answer does not come up, and says so.
                let _ = tokio::task::spawn_blocking(move || lans.answer(stream.into_std()?, &group)).await;
            }
        }))
    }

    /// Takes a namespace, and gives back the group's.
    fn answer(&self, stream: UnixStream, group: &str) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let brought = receive(&stream)?;
        let meeting = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(group.to_owned()).or_insert_with(|| Arc::new(brought)))
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [meeting.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&stream, &[IoSlice::new(b"n")], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// One descriptor; whatever else comes is closed.
fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let brought = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    brought.ok_or_else(|| io::Error::other("no network came along"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a machine of `group` is given that brings `own` along: an inode.
    fn meet(lans: &Lans, group: &str, own: &std::fs::File) -> u64 {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (lans, group) = (lans.clone(), group.to_owned());
        let answering = std::thread::spawn(move || lans.answer(there, &group));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [own.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&here, &[IoSlice::new(b"n")], &mut ancillary, SendFlags::empty()).expect("sent");
        let given = receive(&here).expect("given");
        answering.join().expect("no panic").expect("answered");
        rustix::fs::fstat(given).expect("there").st_ino
    }

    #[test]
    fn machines_of_a_group_meet_where_the_first_of_them_is() {
        let (lans, files) = (Lans::default(), [(); 3].map(|()| tempfile::tempfile().expect("a file")));
        let inode = |at: usize| rustix::fs::fstat(&files[at]).expect("there").st_ino;
        assert_eq!(meet(&lans, "main", &files[0]), inode(0));
        assert_eq!(meet(&lans, "main", &files[1]), inode(0));
        assert_eq!(meet(&lans, "twins", &files[2]), inode(2), "groups do not hear each other");
        assert_eq!(meet(&lans, "main", &files[2]), inode(0));
    }
}
