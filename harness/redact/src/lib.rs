//! Takes the secrets of a drill's keys out of whatever leaves the harness: by value, by the usual parts of a value, and
//! in the forms that programs print values in.
//!
//! It promises that no secret it knows stands in what it returns, neither at once nor broken over lines, and that it
//! never changes the structure of a JSON document. What it knows, it reads from the directory of the keys; it leaves
//! writing to others.

mod collect;
mod flat;
mod forms;
mod json;
mod lines;
mod pairs;
mod parse;
mod public;
mod redactor;
mod stream;
mod words;

pub use redactor::{Builder, PatternError, Redactor, Style, check_pattern};
pub use stream::{Lines, Stream};

/// What stands in a text where a secret stood.
pub const MARK: &str = "[redacted]";
