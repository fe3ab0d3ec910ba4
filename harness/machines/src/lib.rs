//! Makes and ends disposable machines: base images, QEMU, and the host's means.
//!
//! Nothing here knows what a deploy or a check is. Every process started lies under a guard ([`process`]) that ends it
//! when the harness is gone, and every file in the [`RunDir`] of its drill or in the [`Home`]'s cache.

mod acme;
mod admission;
mod agent;
mod blueprint;
pub mod bounded;
mod command;
pub mod container;
mod deadline;
pub mod environments;
mod error;
mod evidence;
mod fake;
pub mod host;
pub mod image;
mod lock;
mod machine;
mod machine_core;
mod mail;
mod needs;
mod personal;
pub mod plain;
mod prepared;
pub mod process;
mod progress;
pub mod qemu;
mod random;
pub mod relay;
mod run_dir;
mod sealing;
mod ssh;
mod stand_in;
mod switch;

pub use acme::{Acme, AcmeError, Issued, Pebble};
pub use admission::{Admission, AdmissionError, Amount, Ticket};
pub use command::{Exec, Output, PROBE, PROBE_BINARY};
pub use container::{Containers, reap};
pub use deadline::{Deadline, TimedOut};
pub use error::MachineError;
pub use evidence::Witnesses;
pub use fake::{Fake, FakeMachine};
pub use machine::{Backend, Capabilities, Machine, Reach, find_machine};
pub use machine_core::{Address, MachineCore};
pub use mail::{Mail, MailNames};
pub use needs::{Needs, Seat};
pub use random::run_key;
pub use relay::pump as relay_pump;
pub use run_dir::{Home, Left, RunDir, RunDirError, Swept};
pub use sealing::Sealing;
pub use ssh::ClientKey;
