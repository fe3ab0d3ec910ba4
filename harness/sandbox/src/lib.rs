//! Seals a program of the repo: the deploy tool, pip, restore scripts on the controller.
//!
//! A sealed program has a network of its own in which nothing but loopback exists, a file system with what its [`Cell`]
//! names, its own processes, host name and `/etc`, no capabilities, and an environment that was chosen. What leads out is
//! named one by one ([`Lead`]): a connection to such an address, whoever makes it and however, is carried to a socket that
//! the harness serves. Whatever else it tries to reach is refused at once, and written down ([`Ledger`]).
//!
//! ```text
//! redrill guard -> unshare (user and network namespace) -> redrill warden CELL -> bwrap -> the program
//! ```
//!
//! The warden stands outside of the sealed file system and processes, so that what is sealed can neither see nor end it.
//!
//! Where the host refuses namespaces, an engine makes them:
//!
//! ```text
//! redrill guard -> redrill enclose CELL -> the engine -> a container: redrill enclosed -> setpriv -> redrill sealed ->
//! the program
//! ```
//!
//! There the warden is the container's first process, which no other in it can end, and the ledger is on the host.

mod absent;
mod cell;
mod enclosed;
mod enclosure;
mod etc;
mod filter;
mod layout;
mod ledger;
mod means;
mod names;
mod reading;
mod warden;
mod watch;

pub use absent::can_see_files;
pub use cell::{Cell, Lead};
pub use enclosed::{enclosed, sealed};
pub use enclosure::{Enclosure, Mount, PRIVATE, PROGRAM};
pub use ledger::{Attempt, Ledger, Protocol, failed};
pub use means::{Choice, Means, Unable, VARIABLE, find};
pub use reading::{read_back, write_anew};
pub use warden::warden;
