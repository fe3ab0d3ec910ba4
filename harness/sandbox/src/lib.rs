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

mod absent;
mod cell;
mod etc;
mod filter;
mod layout;
mod ledger;
mod means;
mod names;
mod reading;
mod warden;
mod watch;

pub use cell::{Cell, Lead};
pub use ledger::{Attempt, Ledger, Protocol};
pub use means::{Means, Unable, find};
pub use reading::{read_back, write_anew};
pub use warden::warden;
