//! Machines that exist only in memory, with answers prepared: for tests of what walks a plan.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redrill_model::{ImageUsed, MachineSpec};

use crate::command::{Exec, Output};
use crate::deadline::Deadline;
use crate::error::MachineError;
use crate::evidence::Witnesses;
use crate::machine::{Address, Backend, Capabilities, Machine, Reach};
use crate::needs::Needs;
use crate::progress::Progress;

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
        self.log.lock().expect("no panic while it is held").push(format!("{}: frozen", machine.name));
        Ok(machine.name)
    }

    async fn fork(
        &self,
        frozen: &String,
        group: &str,
        _dir: &Path,
        _deadline: &Deadline,
    ) -> Result<FakeMachine, MachineError> {
        self.log.lock().expect("no panic while it is held").push(format!("{frozen}: forked into {group}"));
        Ok(self.machine(frozen))
    }
}

impl Fake {
    fn machine(&self, name: &str) -> FakeMachine {
        FakeMachine { name: name.to_owned(), fake: self.clone(), asked: Mutex::default() }
    }
}

impl FakeMachine {
    fn answer(&self, command: &Exec) -> Output {
        let words = command.0.join(" ");
        self.fake.log.lock().expect("no panic while it is held").push(format!("{}: {words}", self.name));
        let mut asked = self.asked.lock().expect("no panic while it is held");
        let count = asked.entry(words.clone()).or_default();
        *count += 1;
        let otherwise = self.fake.otherwise.clone();
        let unknown = || Output { status: 127, stderr: format!("{words}: not prepared"), ..Output::default() };
        let answers = self.fake.answers.get(&words);
        answers.and_then(|list| list.get(*count - 1).or(list.last())).cloned().or(otherwise).unwrap_or_else(unknown)
    }
}

impl Machine for FakeMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn boot_seconds(&self) -> f64 {
        1.0
    }

    async fn exec(&self, command: &Exec, _input: &[u8], _deadline: &Deadline) -> Result<Output, MachineError> {
        Ok(self.answer(command))
    }

    async fn exec_to_file(
        &self,
        command: &Exec,
        _input: &[u8],
        to: &Path,
        _deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        let output = self.answer(command);
        let written = std::fs::File::create(to).and_then(|mut file| file.write_all(&output.stdout));
        written.map_err(MachineError::io("cannot write"))?;
        Ok(output)
    }

    fn lost(&self) -> Option<MachineError> {
        None
    }

    async fn learn(&self, _deadline: &Deadline) {}

    async fn clock_offset(&self, _deadline: &Deadline) -> Result<i64, MachineError> {
        Ok(0)
    }

    fn outside(&self, port: u16) -> Option<SocketAddr> {
        self.fake.ports.get(&port).copied()
    }

    async fn inside(&self, _host: &str, port: u16) -> Result<SocketAddr, MachineError> {
        self.outside(port).ok_or_else(|| MachineError::Monitor(format!("port {port} leads nowhere")))
    }

    fn lan_address(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(10, 77, 0, 10))
    }

    async fn reach(&self, port: u16, _deadline: &Deadline) -> Result<Reach, MachineError> {
        let open = self.fake.ports.contains_key(&port);
        Ok(if open { Reach::Open } else { Reach::Closed("refused".to_owned()) })
    }

    fn address(&self) -> Address {
        let key = PathBuf::from("/nonexistent");
        Address { host: self.name.clone(), port: 22, key, host_key: "ssh-ed25519 AAAA".to_owned() }
    }

    fn console(&self) -> PathBuf {
        PathBuf::from("/nonexistent")
    }

    async fn reboot(&self, _deadline: &Deadline) -> Result<(), MachineError> {
        self.fake.log.lock().expect("no panic while it is held").push(format!("{}: rebooted", self.name));
        Ok(())
    }

    async fn attend(&self, _deadline: &Deadline) {
        std::future::pending().await
    }

    async fn power_cut(self, _deadline: &Deadline) -> Result<Self, MachineError> {
        self.fake.log.lock().expect("no panic while it is held").push(format!("{}: power cut", self.name));
        Ok(self)
    }

    async fn destroy(self) -> Result<(), MachineError> {
        self.fake.log.lock().expect("no panic while it is held").push(format!("{}: destroyed", self.name));
        Ok(())
    }

    async fn keep(self) -> Result<(), MachineError> {
        self.fake.log.lock().expect("no panic while it is held").push(format!("{}: kept", self.name));
        Ok(())
    }
}
