//! What every machine can do, and what makes one. Backends are in the folders beside this file.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redrill_model::{ImageUsed, MachineSpec};

use crate::command::{Exec, Output};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::machine_core::{Address, MachineCore, explain};
use crate::needs::Needs;
use crate::progress::Progress;

/// What became of a connection to a port of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It was accepted.
    Open,
    /// It was refused, or dropped.
    Closed(String),
}

/// How long a connection may stay unanswered before it counts as dropped, since a firewall says nothing. Even an emulated
/// kernel answers within milliseconds, and the second try of the handshake comes after one second.
pub(crate) const DROPPED: Duration = Duration::from_secs(3);
/// How often somebody who waits for an answer looks whether there is still a machine.
const LOOK: Duration = Duration::from_secs(1);

/// A running machine. A backend writes its common part and the five methods after it, and of the others those in which
/// its machines differ.
///
/// Ending is explicit and awaited; dropping one kills its processes all the same, since their guard's leash is dropped.
pub trait Machine: Send + Sync + Sized {
    /// What all machines have, and the methods below are made of.
    fn core(&self) -> &MachineCore;
    /// Why the machine will never answer again, if its console or its process tell. Cheap: asked every second.
    fn lost(&self) -> Option<MachineError>;
    /// Tries a connection from outside, and says what the machine made of it.
    fn reach(&self, port: u16, deadline: &Deadline) -> impl Future<Output = Result<Reach, MachineError>> + Send;
    /// Ends it and removes its disk.
    fn destroy(self) -> impl Future<Output = Result<(), MachineError>> + Send;
    /// Leaves it running after the harness ends; `redrill clean` ends it.
    fn keep(self) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// Inventory host.
    fn name(&self) -> &str {
        &self.core().address.host
    }
    /// What the boot reported, in seconds from start to the first answer.
    fn boot_seconds(&self) -> f64 {
        self.core().boot_seconds
    }
    /// Runs a command to its end. A status other than 0 is an answer and no error. One that prints more than
    /// [`Bounded::LIMIT`](crate::bounded::Bounded::LIMIT) is killed (status 137): then of its output there are the two
    /// ends. The probe's output is whole, or an error.
    fn exec(
        &self,
        command: &Exec,
        input: &[u8],
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Output, MachineError>> + Send {
        async move { while_it_lives(self, self.core().commands.exec(command, input, deadline)).await }
    }
    /// Like `exec`, with standard output in a file of the host: whole, or an error.
    fn exec_to_file(
        &self,
        command: &Exec,
        input: &[u8],
        to: &Path,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Output, MachineError>> + Send {
        async move { while_it_lives(self, self.core().commands.exec_to_file(command, input, to, deadline)).await }
    }
    /// Called once, after the capture of the clean machine: what was learnt about its image (content digests) may be
    /// kept for later machines of the same image. A failure costs time later, and is no error.
    fn learn(&self, _deadline: &Deadline) -> impl Future<Output = ()> + Send {
        async {}
    }
    /// Nanoseconds that the machine's clock is ahead of the host's.
    fn clock_offset(&self, deadline: &Deadline) -> impl Future<Output = Result<i64, MachineError>> + Send {
        async move { while_it_lives(self, self.core().commands.clock_offset(deadline)).await }
    }
    /// The loopback address that leads to this port as a user from outside would reach it; `None` if the port was not
    /// among the machine's [`Needs`].
    fn outside(&self, port: u16) -> Option<SocketAddr> {
        self.core().ports.get(&port).copied()
    }
    /// A loopback address, good for as long as the machine lives, that leads to `host:port` as seen from inside.
    fn inside(&self, host: &str, port: u16) -> impl Future<Output = Result<SocketAddr, MachineError>> + Send {
        self.core().tunnel(host, port)
    }
    /// Its address in the drill's private network, if there is one.
    fn lan_address(&self) -> Option<Ipv4Addr> {
        self.core().lan_address
    }
    /// For deploy tools.
    fn address(&self) -> Address {
        self.core().address.clone()
    }
    /// The serial console's log.
    fn console(&self) -> PathBuf {
        self.core().console.clone()
    }
    /// An orderly reboot, over when the machine has come to rest after it; an error if its kernel did not begin anew, or
    /// if it has none of its own.
    fn reboot(&self, _deadline: &Deadline) -> impl Future<Output = Result<(), MachineError>> + Send {
        async { Err(unable(self, "it has no kernel of its own to reboot")) }
    }
    /// Looks after the machine while somebody else works in it: one that reboots by itself gets its addresses back. Goes
    /// on until it is dropped; what it cannot mend, those who need the machine will tell. Without a kernel of its own a
    /// machine that ends does not come back.
    fn attend(&self, _deadline: &Deadline) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
    /// Cuts the power, and boots again: what was not synced is lost. An error if its files are the host's.
    fn power_cut(self, _deadline: &Deadline) -> impl Future<Output = Result<Self, MachineError>> + Send {
        async move { Err(unable(&self, "its files are the host's: a power cut of its own would lose nothing")) }
    }
}

/// The one of this name.
pub fn find_machine<'a, M: Machine>(machines: &'a [M], name: &str) -> Option<&'a M> {
    machines.iter().find(|machine| machine.name() == name)
}

fn unable(machine: &impl Machine, what: &str) -> MachineError {
    MachineError::Unable { machine: machine.name().to_owned(), what: what.to_owned() }
}

/// An answer, or the end of the machine: one that stands still would be waited for until the limit.
async fn while_it_lives<M: Machine, T>(
    machine: &M,
    work: impl Future<Output = Result<T, MachineError>> + Send,
) -> Result<T, MachineError> {
    let core = machine.core();
    let lost = async {
        loop {
            tokio::time::sleep(LOOK).await;
            if core.dies_silently
                && let Some(error) = machine.lost()
            {
                return error;
            }
        }
    };
    let error = tokio::select! {
        done = work => match done {
            Ok(done) => return Ok(done),
            Err(error) => explain(error, || machine.lost()).await,
        },
        error = lost => error,
    };
    Err(error.or_full("what a machine printed", &core.dir))
}

/// What the machines of a backend can do; a claim that needs more is UNPROVEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A frozen machine goes on in its forks: with its processes, and what they hold in memory.
    pub memory_fork: bool,
    /// A kernel of its own: it can be rebooted, loads modules, has its own firewall.
    pub own_kernel: bool,
}

/// Makes clean machines of one kind, freezes them, and makes more of what was frozen.
pub trait Backend: Send + Sync {
    /// What it makes.
    type Machine: Machine;
    /// A machine that stands still on the disk: any number of forks start from it.
    type Frozen: Send + Sync;
    /// What its machines can do.
    fn capabilities(&self) -> Capabilities;
    /// Of whom evidence can be taken, also while the backend is busy.
    fn witnesses(&self) -> Witnesses;
    /// Waits for what is still being made though nobody waits for it any more; told once, at the end.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
    /// Sees to it that these base images are there, building what is missing; told once, before the first boot.
    fn prepare(
        &mut self,
        images: &[String],
        progress: Progress,
    ) -> impl Future<Output = Result<Vec<ImageUsed>, MachineError>> + Send;
    /// Makes a clean machine that is at rest and answers, over SSH too. Its files lie in `dir`.
    fn boot(
        &self,
        spec: &MachineSpec,
        needs: &Needs,
        dir: &Path,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Machine, MachineError>> + Send;
    /// Freezes a machine whose [`Needs`] said so. It is gone afterwards; its forks go on.
    fn freeze(
        &self,
        machine: Self::Machine,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Frozen, MachineError>> + Send;
    /// Makes a machine that goes on where the frozen one stopped, with the same identity and the time of now. Forks of
    /// one machine in different groups do not hear each other. Its files lie in `dir`.
    fn fork(
        &self,
        frozen: &Self::Frozen,
        group: &str,
        dir: &Path,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Self::Machine, MachineError>> + Send;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::agent::tests::with_machine;

    /// Its agent says nothing, and it has died.
    struct Dead(MachineCore);

    impl Dead {
        fn new(dies_silently: bool) -> Self {
            let (dir, host) = (PathBuf::from("/nonexistent"), "web".to_owned());
            let address = Address { host, port: 22, key: dir.clone(), host_key: String::new() };
            Self(MachineCore {
                console: dir.clone(),
                dir,
                boot_seconds: 1.0,
                address,
                ports: BTreeMap::new(),
                lan_address: None,
                commands: Box::new(with_machine(|_| Vec::new())),
                dies_silently,
                tasks: Mutex::default(),
            })
        }

        async fn answer(&self) -> MachineError {
            let deadline = Deadline::root("the test", LOOK * 3, 1.0);
            self.exec(&Exec::new(["true"]), b"", &deadline).await.expect_err("it is dead")
        }
    }

    impl Machine for Dead {
        fn core(&self) -> &MachineCore {
            &self.0
        }

        fn lost(&self) -> Option<MachineError> {
            Some(MachineError::Engine("it has died".to_owned()))
        }

        async fn reach(&self, _port: u16, deadline: &Deadline) -> Result<Reach, MachineError> {
            Ok(Reach::Closed(deadline.error().to_string()))
        }

        async fn destroy(self) -> Result<(), MachineError> {
            Ok(())
        }

        async fn keep(self) -> Result<(), MachineError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_an_answer_of_a_machine_that_died_silently() {
        let began = std::time::Instant::now();
        assert_eq!(Dead::new(true).answer().await.to_string(), "the container engine: it has died");
        assert!(began.elapsed() < LOOK * 2);
        let told = Dead::new(false).answer().await;
        assert!(began.elapsed() >= LOOK * 3, "it is not looked at before its way in breaks");
        assert_eq!(told.to_string(), "the container engine: it has died", "and why it broke is told");
    }

    #[tokio::test]
    async fn what_needs_a_kernel_of_its_own_is_refused_by_default() {
        let deadline = Deadline::root("the test", LOOK, 1.0);
        let unable = |error: Result<(), MachineError>| matches!(error, Err(MachineError::Unable { .. }));
        assert!(unable(Dead::new(true).reboot(&deadline).await));
        assert!(unable(Dead::new(true).power_cut(&deadline).await.map(drop)));
    }
}
