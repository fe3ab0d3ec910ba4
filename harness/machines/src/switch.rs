//! The private network of a drill's machines: an Ethernet switch of our own, since it needs no rights on the host and
//! nobody else hears it. Each machine has a cable: two datagram sockets in its directory, one frame to a datagram.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

use crate::error::MachineError;

/// Larger than any frame that virtio sends with segmentation off-loaded (64 KiB and a head).
const LARGEST: usize = 70_000;

type Hardware = [u8; 6];

#[derive(Debug, Default)]
struct Cables {
    next: u64,
    cables: HashMap<u64, Arc<Cable>>,
    /// Behind which cable an address was last seen.
    seen: HashMap<Hardware, u64>,
}

#[derive(Debug)]
struct Cable {
    socket: UnixDatagram,
    /// Keeps the way to the machine's socket short.
    directory: std::fs::File,
    machine: String,
}

impl Cable {
    fn send(&self, frame: &[u8]) {
        let path = format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.machine);
        // A full or missing socket loses the frame, as a cable does; the machines' TCP sends it again.
        let _ = self.socket.try_send_to(frame, path);
    }
}

/// A switch. Machines that are plugged into the same one hear each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switch {
    table: Arc<Mutex<Cables>>,
}

/// A machine's cable. Dropping it pulls the plug.
#[derive(Debug)]
pub(crate) struct Plug {
    number: u64,
    table: Arc<Mutex<Cables>>,
    task: JoinHandle<()>,
}

impl Switch {
    /// Binds `own` in `dir`; frames for the machine go to `machine` there, once it listens.
    pub(crate) fn plug(&self, dir: &Path, own: &str, machine: &str) -> Result<Plug, MachineError> {
        let failed = || MachineError::io("cannot make the private network");
        let directory = std::fs::File::open(dir).map_err(failed())?;
        let _ = std::fs::remove_file(dir.join(own));
        let path = format!("/proc/self/fd/{}/{own}", directory.as_raw_fd());
        let socket = UnixDatagram::bind(path).map_err(failed())?;
        let cable = Arc::new(Cable { socket, directory, machine: machine.to_owned() });
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.next += 1;
        let number = table.next;
        table.cables.insert(number, Arc::clone(&cable));
        let task = tokio::spawn(carry(Arc::clone(&self.table), number, cable));
        Ok(Plug { number, table: Arc::clone(&self.table), task })
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.task.abort();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.cables.remove(&self.number);
        let number = self.number;
        table.seen.retain(|_, behind| *behind != number);
    }
}

async fn carry(table: Arc<Mutex<Cables>>, number: u64, cable: Arc<Cable>) {
    let mut buffer = vec![0; LARGEST];
    while let Ok((length, _)) = cable.socket.recv_from(&mut buffer).await {
        let frame = &buffer[..length];
        for target in targets(&table, number, frame) {
            target.send(frame);
        }
    }
}

/// The cable behind which the receiver was last seen, else all but the sender's own.
fn targets(table: &Mutex<Cables>, from: u64, frame: &[u8]) -> Vec<Arc<Cable>> {
    let (Some(to), Some(sender)) = (frame.get(..6), frame.get(6..12)) else { return Vec::new() };
    let (Ok(to), Ok(sender)) = (Hardware::try_from(to), Hardware::try_from(sender)) else { return Vec::new() };
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.seen.insert(sender, from);
    // The lowest bit of the first byte marks addresses of groups.
    let known = table.seen.get(&to).copied().filter(|_| to[0] & 1 == 0);
    let wanted = |number: &u64| *number != from && known.is_none_or(|known| known == *number);
    table.cables.iter().filter(|(number, _)| wanted(number)).map(|(_, cable)| Arc::clone(cable)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Machine {
        _dir: tempfile::TempDir,
        socket: UnixDatagram,
        to: std::path::PathBuf,
        _plug: Plug,
    }

    fn machine(switch: &Switch) -> Machine {
        let dir = tempfile::tempdir().expect("a directory");
        let plug = switch.plug(dir.path(), "switch.sock", "lan.sock").expect("plugged");
        let socket = UnixDatagram::bind(dir.path().join("lan.sock")).expect("bound");
        Machine { socket, to: dir.path().join("switch.sock"), _plug: plug, _dir: dir }
    }

    fn frame(to: u8, from: u8) -> Vec<u8> {
        [[to; 6], [from; 6]].concat()
    }

    async fn hears(machine: &Machine) -> Option<Vec<u8>> {
        let mut buffer = [0; 64];
        let heard = tokio::time::timeout(Duration::from_millis(200), machine.socket.recv(&mut buffer)).await;
        heard.ok().and_then(Result::ok).map(|length| buffer[..length].to_vec())
    }

    #[tokio::test]
    async fn frames_find_their_machine_and_no_other_drill() {
        let (switch, other) = (Switch::default(), Switch::default());
        let (a, b, c, stranger) = (machine(&switch), machine(&switch), machine(&switch), machine(&other));
        let everyone = frame(0xff, 2);
        a.socket.send_to(&everyone, &a.to).await.expect("sent");
        assert_eq!(hears(&b).await, Some(everyone.clone()));
        assert_eq!(hears(&c).await, Some(everyone));
        let answer = frame(2, 4);
        b.socket.send_to(&answer, &b.to).await.expect("sent");
        assert_eq!(hears(&a).await, Some(answer));
        assert_eq!(hears(&c).await, None, "the switch knows where the receiver is");
        assert_eq!(hears(&stranger).await, None, "machines of two drills don't hear each other");
    }
}
