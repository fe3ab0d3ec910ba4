//! System calls that reach past namespaces: refused in a sealed program.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Families of sockets that a network namespace holds. Others (vsock, Bluetooth, CAN) may lead to the host's world.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The kernel's keyrings are the host user's; io_uring makes sockets past any filter; the others look into the kernel.
const REFUSED: [i64; 8] = [
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // Its mode lies in memory, where no filter looks; programs do without.
    libc::SYS_openat2,
];

/// Calls that give a file its mode, and which argument that is. Where the caller is root, what a sealed program writes is
/// root's on the host's own file system.
const MODES: &[(i64, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
    (libc::SYS_openat, 3),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];
/// Linux 6.6; the same number on every architecture.
const FCHMODAT2: i64 = 452;

/// The filter as `bwrap --seccomp` reads it: the kernel's `struct sock_filter`, one after the other.
pub(crate) fn program() -> Result<Vec<u8>, seccompiler::Error> {
    Ok(steps()?.iter().flat_map(bytes).collect())
}

/// Sets the filter for this thread and what it becomes; it can gain no privileges any more.
pub(crate) fn apply() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&steps()?)
}

fn steps() -> Result<BpfProgram, seccompiler::Error> {
    let refused = REFUSED.into_iter().map(|call| (call, Vec::new()));
    let families = (libc::SYS_socket, vec![other_families()?]);
    let modes = MODES.iter().map(|(call, argument)| Ok((*call, raised(*argument)?)));
    let modes = modes.collect::<Result<Vec<_>, seccompiler::Error>>()?;
    let rules: BTreeMap<i64, Vec<SeccompRule>> = refused.chain([families]).chain(modes).collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// A mode with which a file would run as its owner, or as its group.
fn raised(argument: u8) -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let with = |bit: u32| {
        let compare = SeccompCmpOp::MaskedEq(u64::from(bit));
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, u64::from(bit))?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    [libc::S_ISUID, libc::S_ISGID].into_iter().map(with).collect()
}

fn other_families() -> Result<SeccompRule, seccompiler::Error> {
    let not = |family: i32| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()))
    };
    let conditions = FAMILIES.into_iter().map(not).collect::<Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

fn bytes(step: &seccompiler::sock_filter) -> Vec<u8> {
    let mut bytes = step.code.to_ne_bytes().to_vec();
    bytes.extend([step.jt, step.jf]);
    bytes.extend(step.k.to_ne_bytes());
    bytes
}
