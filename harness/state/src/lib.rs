//! What a machine is: captures, the difference of two, the noise between them, and what a second deploy did.
//!
//! Pure: text and values in, values out. The probe writes captures, the engine reads them; neither knows the other.

mod canonical;
mod capture;
mod catching_up;
mod diff;
mod entries;
mod files;
mod flips;
mod judge;
mod manifest;
mod network;
mod observed;
mod own;
mod path;
mod processes;
mod resume;
mod scope;
mod sections;
mod settings;
#[cfg(test)]
mod testing;
mod trend;
mod witness;

pub use canonical::{CLASSES, Canonicaliser, Class, OfDeploy, canonicalisers, class_of, moves_by_itself};
pub use capture::{Capture, CaptureError, Gap, Header, Note, Reader, Same};
pub use diff::{Change, ChangeKind, Difference, counts, diff};
pub use entries::{Digest, Facts, FileEntry, FileKind, Group, Package, Socket, Unit, User};
pub use files::{Files, walk_order};
pub use flips::{PACKAGE, Seen, flip_flops};
pub use judge::{Between, Control, Judgement, Observation, Outcome, Window, is_without_effect, judge};
pub use manifest::{Disagreement, Leaf, MANIFEST_SCHEMA, Manifest, Table};
pub use network::{Address, HostName, Link, ManagerVariable, Neighbour, Queue, Route, RoutingRule, WireGuardPeer};
pub use observed::{Observed, Weight};
pub use path::escape;
pub use processes::{Process, Run};
pub use resume::{Resumed, resume};
pub use scope::{NotCompared, compared, not_compared};
pub use sections::{Record, Section};
pub use settings::{
    Alternative, AptKey, AptSource, AuthorizedKey, Container, CronJob, DatabaseObject, Exposure, FirewallRule, Fstab,
    KernelModule, LocaleSetting, Mount, Shadow, SshdOption, SudoRule, Swap, Sysctl, TimeZone, Timer,
};
pub use trend::{Trend, Trends};
pub use witness::{Became, Pending, RanProgram, Told, Witnessed, Writer, Written, is_another_run};
