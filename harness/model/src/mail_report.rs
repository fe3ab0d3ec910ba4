//! Mail that the machines of a drill sent, and that was caught: part of the report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What came to the sink. Nothing of it left the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MailReport {
    /// Mail servers whose names led to the sink.
    pub names: Vec<String>,
    /// Messages that the drill's machines sent.
    pub caught: usize,
    /// Of these: sent once a restore had begun, by what came back with the data.
    pub restored: usize,
    /// Messages of copies of the machines: twins, forks with a planted fault, cuts.
    pub copies: usize,
    /// The first of those that count as caught; all that were kept stand in `mail.jsonl`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Caught>,
}

/// One message. Its text was not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Caught {
    /// When.
    pub at: String,
    /// The machine, and for a copy of one which.
    pub machine: String,
    /// Of the envelope; empty for a notice of failure.
    pub from: String,
    /// The first recipients.
    pub to: Vec<String>,
    /// How many recipients there were.
    pub addressed: usize,
    /// Its subject.
    pub subject: String,
    /// Its size.
    pub bytes: u64,
}
