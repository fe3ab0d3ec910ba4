//! What the deploy's own processes wrote, as the third witness saw it: no class and no noise excuses it.

use crate::canonical::{OfDeploy, class_of};
use crate::diff::{Change, ChangeKind};
use crate::sections::Section;
use crate::witness::{Became, Witnessed, Written};

/// A change of a file that is the deploy's doing, whatever else may excuse it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Own<'a> {
    /// The deploy wrote it.
    Did(&'a Written),
    /// The deploy left a new file among those that anybody may remove.
    Left(&'a Written),
}

impl<'a> Own<'a> {
    /// What `witness` makes of a change; `None` leaves it to the classes and the control.
    pub(crate) fn of(change: &Change, witness: Option<&'a Witnessed>) -> Option<Self> {
        if change.section != Section::Files || change.kind == ChangeKind::Removed {
            return None;
        }
        let written = witness?.by_deploy(&change.subject)?;
        let Some(class) = class_of(&change.subject) else {
            // One that was only opened for writing may be the work of the other that also writes it.
            return written.modified.then_some(Self::Did(written));
        };
        let program = written.program.rsplit('/').next().unwrap_or_default();
        let counts = match class.of_deploy {
            OfDeploy::Excused => false,
            OfDeploy::Grows => !matches!(written.became, Became::Appended | Became::Same | Became::NotFollowed),
            OfDeploy::Counts => written.became != Became::Same,
            OfDeploy::CountsBut(servers) => !servers.contains(&program),
        };
        let new = change.kind == ChangeKind::Added;
        match (counts && written.modified, new && is_temporary(&change.subject)) {
            (true, true) => Some(Self::Left(written)),
            (true, false) => Some(Self::Did(written)),
            (false, _) => None,
        }
    }

    pub(crate) fn written(self) -> &'a Written {
        match self {
            Self::Did(written) | Self::Left(written) => written,
        }
    }
}

/// Programs that change what has no time of its own: the kernel's state, and what managers hold.
pub(crate) fn tools_of(section: Section) -> &'static [&'static str] {
    match section {
        Section::Sysctl => &["sysctl"],
        Section::Firewall => &["nft", "iptables", "ip6tables", "iptables-restore", "ip6tables-restore", "ipset", "ufw"],
        Section::Mounts => &["mount", "umount"],
        Section::ManagerVariables => &["systemctl"],
        Section::HostName => &["hostname", "hostnamectl"],
        Section::Modules => &["modprobe", "insmod", "rmmod"],
        Section::Links | Section::Addresses | Section::Routes | Section::RoutingRules | Section::Neighbours => {
            &["ip", "ifconfig", "route", "ifup", "ifdown"]
        }
        Section::Queues => &["tc"],
        Section::WireGuard => &["wg", "wg-quick"],
        _ => &[],
    }
}

/// Whether something is there now that was not there before a deploy, in a place that no capture holds.
pub(crate) fn is_in_memory(written: &Written) -> bool {
    written.modified && matches!(written.became, Became::New | Became::Changed | Became::Appended)
}

/// Whether a file there is nobody's for long.
pub(crate) fn is_temporary(path: &str) -> bool {
    path.starts_with("/tmp/") || path.starts_with("/var/tmp/")
}
