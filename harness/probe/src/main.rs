//! The program that runs inside a machine: it writes down the machine's state, and carries streams in and out.
//!
//! One static binary without needs in the machine. A capture reads and never changes anything but its own cache of
//! digests under `/run`, which is no part of a capture; only `identity` writes, into a new machine, before a drill
//! begins, and `close` plants a fault, into a fork.

mod accounts;
mod agent;
mod alternatives;
mod apt;
mod capture;
mod cgroups;
mod close;
mod connect;
mod containers;
mod contents;
mod cron;
mod databases;
mod files;
mod firewall;
mod forward;
mod found;
mod hashing;
mod identity;
mod keys;
mod known;
mod lan;
mod lives;
mod locale;
mod managers;
mod manifest;
mod modules;
mod mounted;
mod mounts;
mod network;
mod online;
mod outside;
mod packages;
mod processes;
mod record;
mod shadow;
mod sink;
mod sockets;
mod sshd;
mod stale;
mod sudoers;
mod sysctl;
mod timers;
mod trust;
mod units;
mod walk;
mod watch;
mod wayout;
mod wireguard;
