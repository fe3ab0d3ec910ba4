//! The sections of a capture, in one table: each with the record of its entries and its nouns.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::capture::{Gap, Header, Note, Same};
use crate::entries::{Facts, FileEntry, Group, Package, Socket, Unit, User};
use crate::network::{Address, HostName, Link, ManagerVariable, Neighbour, Queue, Route, RoutingRule, WireGuardPeer};
use crate::processes::Process;
use crate::settings::{
    Alternative, AptKey, AptSource, AuthorizedKey, Container, CronJob, DatabaseObject, Exposure, FirewallRule, Fstab,
    KernelModule, LocaleSetting, Mount, Shadow, SshdOption, SudoRule, Swap, Sysctl, TimeZone, Timer,
};

/// From one table: the sections, the lines of a capture on disk, and which belongs to which.
macro_rules! sections {
    ($($(#[$doc:meta])* $section:ident: $record:ident($entry:ty), $plural:literal, $singular:literal;)*) => {
        /// A section of a capture.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Section {
            $($(#[$doc])* $section,)*
        }

        impl Section {
            /// All of them, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$section,)*];

            /// The plural noun used in reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$section => $plural,)* }
            }

            /// What one entry is called before its name; empty for a file, whose path says enough.
            pub fn noun(self) -> &'static str {
                match self { $(Self::$section => $singular,)* }
            }
        }

        /// One line of a capture on disk.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Record {
            /// First line.
            Header(Header),
            $(#[doc = concat!("Entry of [`Section::", stringify!($section), "`].")] $record($entry),)*
            /// Files that are as an earlier capture has them.
            Same(Same),
            /// A section is not whole.
            Gap(Gap),
            /// Something about a section that is worth knowing and no gap.
            Note(Note),
            /// Last line: entries written, by section.
            End(BTreeMap<Section, usize>),
        }

        impl Record {
            /// The section it is an entry of, if it is one.
            pub fn section(&self) -> Option<Section> {
                self.entry().map(|(section, _)| section)
            }

            pub(crate) fn entry(&self) -> Option<(Section, &dyn Facts)> {
                match self {
                    $(Self::$record(entry) => Some((Section::$section, entry)),)*
                    Self::Header(_) | Self::Same(_) | Self::Gap(_) | Self::Note(_) | Self::End(_) => None,
                }
            }
        }

        $(impl From<$entry> for Record {
            fn from(entry: $entry) -> Self {
                Self::$record(entry)
            }
        })*
    };
}

sections! {
    /// Persistent file systems.
    Files: File(FileEntry), "files", "";
    /// Installed packages.
    Packages: Package(Package), "packages", "package";
    /// Accounts.
    Users: User(User), "users", "user";
    /// Groups.
    Groups: Group(Group), "groups", "group";
    /// systemd units.
    Units: Unit(Unit), "units", "unit";
    /// Listening sockets.
    Sockets: Socket(Socket), "sockets", "socket";
    /// Passwords and their aging.
    Shadow: Shadow(Shadow), "passwords", "password of";
    /// Keys that may sign in over SSH.
    AuthorizedKeys: AuthorizedKey(AuthorizedKey), "authorized keys", "authorized key of";
    /// Rules of sudo, in its order.
    Sudoers: SudoRule(SudoRule), "sudo rules", "sudo rule";
    /// What sshd really does, for each user.
    Sshd: SshdOption(SshdOption), "sshd options", "sshd option";
    /// systemd's timers.
    Timers: Timer(Timer), "timers", "timer";
    /// Jobs of cron.
    Crontabs: CronJob(CronJob), "cron jobs", "cron job";
    /// Rules of nftables and iptables.
    Firewall: FirewallRule(FirewallRule), "firewall rules", "firewall rule";
    /// Kernel settings: what files declare, and what the kernel has.
    Sysctl: Sysctl(Sysctl), "kernel settings", "kernel setting";
    /// What is mounted.
    Mounts: Mount(Mount), "mounts", "mount";
    /// What `/etc/fstab` says.
    Fstab: Fstab(Fstab), "fstab entries", "fstab entry";
    /// Containers of Docker and Podman.
    Containers: Container(Container), "containers", "container";
    /// Files that give away rights.
    Exposed: Exposure(Exposure), "set-id and world-writable files", "set-id or world-writable file";
    /// Where packages come from.
    AptSources: AptSource(AptSource), "apt sources", "apt source";
    /// Keys that packages are trusted by.
    AptKeys: AptKey(AptKey), "apt keys", "apt key";
    /// Debian's alternatives.
    Alternatives: Alternative(Alternative), "alternatives", "alternative";
    /// Language and its kin.
    Locale: LocaleSetting(LocaleSetting), "locale settings", "locale setting";
    /// The time zone.
    TimeZone: TimeZone(TimeZone), "time zones", "";
    /// Swap space in use.
    Swap: Swap(Swap), "swaps", "swap";
    /// Kernel modules: those that a file wants, and those that are loaded.
    Modules: KernelModule(KernelModule), "kernel modules", "kernel module";
    /// What database servers hold; of the data, how many rows and a digest of them for each table.
    Databases: DatabaseObject(DatabaseObject), "database objects", "database object";
    /// Processes that no unit's own life tells of.
    Processes: Process(Process), "processes", "process";
    /// What managers give to all that they start.
    ManagerVariables: ManagerVariable(ManagerVariable), "manager variables", "manager variable";
    /// Network interfaces.
    Links: Link(Link), "network links", "network link";
    /// Their addresses.
    Addresses: Address(Address), "network addresses", "network address";
    /// Where packets go.
    Routes: Route(Route), "routes", "route";
    /// Which packets go by which table.
    RoutingRules: RoutingRule(RoutingRule), "routing rules", "routing rule";
    /// Neighbours that somebody set.
    Neighbours: Neighbour(Neighbour), "permanent neighbours", "permanent neighbour";
    /// How packets wait.
    Queues: Queue(Queue), "queueing disciplines", "queueing discipline";
    /// Tunnels of WireGuard and their peers.
    WireGuard: WireGuardPeer(WireGuardPeer), "WireGuard peers", "WireGuard peer";
    /// The name that the kernel gives out.
    HostName: HostName(HostName), "host names", "";
}

impl Section {
    /// Whether two entries may have one name: a job that stands in a crontab twice runs twice.
    pub(crate) fn repeats(self) -> bool {
        !matches!(
            self,
            Self::Files
                | Self::Packages
                | Self::Users
                | Self::Groups
                | Self::Units
                | Self::Sockets
                | Self::Shadow
                | Self::Exposed
                | Self::Processes
        )
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
