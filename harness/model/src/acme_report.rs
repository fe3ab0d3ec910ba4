//! Certificates that machines of a drill asked for, and that the drill's own authority issued: part of the report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Stage;

/// What the stand-in for ACME servers did. No request left the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcmeReport {
    /// ACME servers whose names led to the stand-in.
    pub names: Vec<String>,
    /// Certificates that the drill's machines were given.
    pub issued: usize,
    /// Certificates of copies of the machines: twins, forks with a planted fault, cuts.
    pub copies: usize,
    /// Whether anybody looked for the answers to challenges. Nobody outside can reach a machine: they are taken as met.
    pub challenges_verified: bool,
    /// The first of those that count as issued.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// When.
    pub at: String,
    /// The machine that asked for it.
    pub machine: String,
    /// What the drill was doing then.
    #[serde(flatten)]
    pub during: Stage,
    /// What it is for.
    pub names: Vec<String>,
}
