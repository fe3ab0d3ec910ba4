//! What a machine is: captures, the difference of two, the noise between them, and what a second deploy did.
//!
//! Pure: text and values in, values out. The probe writes captures, the engine reads them; neither knows the other.

mod canonical;
mod capture;
mod diff;
mod entries;
mod judge;
mod manifest;
mod path;
#[cfg(test)]
mod testing;

pub use canonical::{CLASSES, Class, moves_by_itself};
pub use capture::{Capture, CaptureError, Gap, Header, Reader, Record, Section};
pub use diff::{Change, ChangeKind, Difference, counts, diff};
pub use entries::{FileEntry, FileKind, Group, Package, Socket, Unit, User};
pub use judge::{Control, Judgement, Observation, Outcome, Weight, Window, judge};
pub use manifest::{Disagreement, Leaf, MANIFEST_SCHEMA, Manifest, Table};
pub use path::escape;
