//! Machines that exist only in memory, with answers prepared: for tests of what walks a plan.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use redrill_model::{ImageUsed, MachineSpec};
use tokio::task::JoinHandle;

use crate::command::{Commands, Exec, Output};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::machine::{Backend, Capabilities, Machine, Reach};
use crate::machine_core::{Address, MachineCore};
use crate::needs::Needs;
use crate::progress::Progress;
use crate::ssh;

/// Makes [`FakeMachine`]s.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    /// By the command's words joined with blanks: what it answers, in order; the last answer stays.
    pub answers: BTreeMap<String, Vec<Output>>,
    /// What it answers to everything else; without it nothing else is known.
    pub otherwise: Option<Output>,
    /// Where ports lead.
    pub ports: BTreeMap<u16, SocketAddr>,
    /// Why no machine boots, if none shall.
    pub boot_fails: Option<String>,
    /// Whether machines can be forked with their memory.
    pub memory_fork: bool,
    /// Every command that was run, by machine, and the machines destroyed.
    pub log: Arc<Mutex<Vec<String>>>,
}

/// A machine that answers what it was told to.
#[derive(Debug)]
pub struct FakeMachine {
    core: MachineCore,
    fake: Fake,
}

/// The table of answers, and how often each command was asked for.
struct Answers {
    name: String,
    fake: Fake,
    asked: Mutex<BTreeMap<String, usize>>,
}

impl Backend for Fake {
    type Machine = FakeMachine;
    type Frozen = String;

    fn capabilities(&self) -> Capabilities {
        Capabilities { memory_fork: self.memory_fork, own_kernel: false }
    }

    fn witnesses(&self) -> Witnesses {
        Witnesses::default()
    }

    async fn prepare(&mut self, images: &[String], _progress: Progress) -> Result<Vec<ImageUsed>, MachineError> {
        Ok(images.iter().map(|name| ImageUsed { name: name.clone(), digest: "0".repeat(64) }).collect())
    }

    async fn boot(
        &self,
        spec: &MachineSpec,
        _needs: &Needs,
        _dir: &Path,
        deadline: &Deadline,
    ) -> Result<FakeMachine, MachineError> {
        match &self.boot_fails {
            Some(last_seen) => Err(MachineError::NotReady {
                machine: spec.name.clone(),
                limit: deadline.error(),
                last_seen: last_seen.clone(),
                tail: vec!["the last line of the console".to_owned()],
            }),
            None => Ok(self.machine(&spec.name)),
        }
    }

    async fn freeze(&self, machine: FakeMachine, _deadline: &Deadline) -> Result<String, MachineError> {
        self.note(format!("{}: frozen", machine.name()));
        Ok(machine.name().to_owned())
    }

    async fn fork(
        &self,
        frozen: &String,
        group: &str,
        _dir: &Path,
        _deadline: &Deadline,
    ) -> Result<FakeMachine, MachineError> {
        self.note(format!("{frozen}: forked into {group}"));
        Ok(self.machine(frozen))
    }
}

impl Fake {
    fn machine(&self, name: &str) -> FakeMachine {
        let (nowhere, host) = (PathBuf::from("/nonexistent"), name.to_owned());
        let address = Address { host, port: ssh::PORT, key: nowhere.clone(), host_key: "ssh-ed25519 AAAA".to_owned() };
        let core = MachineCore {
            dir: nowhere.clone(),
            boot_seconds: 1.0,
            address,
            ports: self.ports.clone(),
            lan_address: Some(Ipv4Addr::new(10, 77, 0, 10)),
            console: nowhere,
            commands: Box::new(Answers { name: name.to_owned(), fake: self.clone(), asked: Mutex::default() }),
            dies_silently: false,
            tasks: Mutex::default(),
        };
        FakeMachine { core, fake: self.clone() }
    }

    fn note(&self, text: String) {
        self.log.lock().expect("no panic while it is held").push(text);
    }
}

impl Answers {
    fn answer(&self, command: &Exec) -> Output {
        let words = command.0.join(" ");
        self.fake.note(format!("{}: {words}", self.name));
        let mut asked = self.asked.lock().expect("no panic while it is held");
        let count = asked.entry(words.clone()).or_default();
        *count += 1;
        let otherwise = self.fake.otherwise.clone();
        let unknown = || Output { status: 127, stderr: format!("{words}: not prepared"), ..Output::default() };
        let answers = self.fake.answers.get(&words);
        answers.and_then(|list| list.get(*count - 1).or(list.last())).cloned().or(otherwise).unwrap_or_else(unknown)
    }
}

impl Commands for Answers {
    fn exec<'a>(
        &'a self,
        command: &'a Exec,
        _input: &'a [u8],
        _deadline: &'a Deadline,
    ) -> BoxFuture<'a, Result<Output, MachineError>> {
        Box::pin(async { Ok(self.answer(command)) })
    }

    fn exec_to_file<'a>(
        &'a self,
        command: &'a Exec,
        _input: &'a [u8],
        to: &'a Path,
        _deadline: &'a Deadline,
    ) -> BoxFuture<'a, Result<Output, MachineError>> {
        Box::pin(async move {
            let output = self.answer(command);
            std::fs::write(to, &output.stdout).map_err(MachineError::io("cannot write"))?;
            Ok(output)
        })
    }

    fn clock_offset<'a>(&'a self, _deadline: &'a Deadline) -> BoxFuture<'a, Result<i64, MachineError>> {
        Box::pin(async { Ok(0) })
    }

    /// Inside is outside: there is nothing between.
    fn tunnel<'a>(
        &'a self,
        _host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<(SocketAddr, JoinHandle<()>), MachineError>> {
        Box::pin(async move {
            let nowhere = || MachineError::Monitor(format!("port {port} leads nowhere"));
            let address = self.fake.ports.get(&port).copied().ok_or_else(nowhere)?;
            Ok((address, tokio::spawn(std::future::ready(()))))
        })
    }
}

impl Machine for FakeMachine {
    fn core(&self) -> &MachineCore {
        &self.core
    }

    fn lost(&self) -> Option<MachineError> {
        None
    }

    async fn reach(&self, port: u16, _deadline: &Deadline) -> Result<Reach, MachineError> {
        let open = self.core.ports.contains_key(&port);
        Ok(if open { Reach::Open } else { Reach::Closed("refused".to_owned()) })
    }

    async fn reboot(&self, _deadline: &Deadline) -> Result<(), MachineError> {
        self.fake.note(format!("{}: rebooted", self.name()));
        Ok(())
    }

    async fn power_cut(self, _deadline: &Deadline) -> Result<Self, MachineError> {
        self.fake.note(format!("{}: power cut", self.name()));
        Ok(self)
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.fake.note(format!("{}: destroyed", self.name()));
        Ok(())
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.fake.note(format!("{}: kept", self.name()));
        Ok(())
    }
}
