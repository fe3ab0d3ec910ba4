//! What exit statuses mean, as data: the manual and the reference page are drawn from it.

/// Every status with which `redrill` ends, and what it means.
pub(crate) const STATUSES: &[(&str, &str)] = &[
    ("0", "Every declared claim is PROVEN or WAIVED. Of `idempotence --since`: or the change concerns no host."),
    ("1", "A claim FAILED. Of `clean --check`: something is left. Of `canary find`: there is none, or it is too old."),
    ("2", "The scenario or the command line is wrong."),
    ("3", "redrill could not tell: a claim is UNPROVEN. Of `doctor`: something is missing."),
    ("130", "redrill was left at the second Ctrl-C."),
    ("others", "Of `test`: those of cargo-nextest, such as 100 when a trial failed."),
];
