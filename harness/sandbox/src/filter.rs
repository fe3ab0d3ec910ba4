//! System calls that reach past namespaces: refused in a sealed program.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Families of sockets that a network namespace holds. Others (vsock, Bluetooth, CAN) may lead to the host's world.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The kernel's keyrings are the host user's; io_uring makes sockets past any filter; the others look into the kernel.
const REFUSED: [i64; 7] = [
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
];

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
    let rules: BTreeMap<i64, Vec<SeccompRule>> = refused.chain([families]).collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, ARCH.try_into()?)?;
    Ok(filter.try_into()?)
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
