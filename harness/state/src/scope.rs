//! What a comparison of two captures covers, and what it does not: one table, from which the verdict's sentence, the
//! report, `redrill plan --scope` and the reference page are made.

use crate::sections::Section;

/// Something of a machine's state that no comparison covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCompared {
    /// What it is.
    pub what: &'static str,
    /// Why, and what becomes of it instead.
    pub why: &'static str,
    /// A virtual machine's comparison has less to leave out: it has a kernel of its own.
    pub only_shared_kernel: bool,
}

const fn not(what: &'static str, why: &'static str) -> NotCompared {
    NotCompared { what, why, only_shared_kernel: false }
}

const NOT_COMPARED: &[NotCompared] = &[
    not(
        "file systems in memory (/run, /dev/shm, tmpfs)",
        "no capture holds what no reboot keeps; what the deploy's own processes write there is told by the witness",
    ),
    not(
        "data of database engines other than PostgreSQL, MariaDB and SQLite",
        "no reader asks them; their files are compared as files where they lie on a disk",
    ),
    not("file systems of the network and of other hosts", "they are no part of the machine, and outlive it"),
    not("services of others", "what an API, a registry or a name server was told cannot be read back from the machine"),
    not("times of files", "every write makes a new one; content, owner, rights and attributes are compared"),
    not("secrets of processes", "environment and memory of what runs are not read; that it began anew is"),
    NotCompared {
        what: "kernel state that containers share with the host (modules, most of sysctl, the clock)",
        why: "it is the host's, and others change it; a virtual machine has its own",
        only_shared_kernel: true,
    },
];

/// What is compared, in the order of reports.
pub fn compared() -> Vec<&'static str> {
    Section::ALL.iter().map(|section| section.name()).collect()
}

/// What is not, for machines with or without a kernel of their own.
pub fn not_compared(own_kernel: bool) -> impl Iterator<Item = &'static NotCompared> {
    NOT_COMPARED.iter().filter(move |one| !own_kernel || !one.only_shared_kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_in_the_scope_and_a_shared_kernel_has_less_of_it() {
        assert_eq!(compared().len(), Section::ALL.len());
        assert_eq!(not_compared(false).count(), not_compared(true).count() + 1);
        assert!(not_compared(false).all(|one| !one.what.is_empty() && !one.why.is_empty()));
    }
}
