//! Walks a plan: makes a controller and machines, deploys twice, captures, checks, and reaches verdicts.
//!
//! [`Drill::run`] in `drill.rs` is the page to read first. The engine tells what happens by [`Event`]s and ends in a
//! [`redrill_model::Report`]; it prints nothing.

mod captures;
mod claims;
mod context;
mod deploy;
mod drill;
mod drill_state;
mod error_chain;
mod events;
mod facts;
mod fleet;
mod keys;
mod loaded;
mod outside;
mod problem;
mod process;
mod redact;
mod scenario_error;
mod services;
mod stages;
mod survey;
mod sweep;

pub use deploy::controller::Workplace;
pub use deploy::tools::{Found, Undecided, detect};
pub use drill::{Drill, Keep};
pub use drill_state::Stop;
pub use events::{Event, Events};
pub use loaded::{Loaded, load};
pub use redact::Redactor;
pub use redrill_state::{Canonicaliser, NotCompared, canonicalisers, compared, not_compared};
pub use scenario_error::ScenarioError;
pub use survey::{RepoHost, Survey, SurveyError, survey, touched};
pub use sweep::{Cleaned, sweep_home, without_secrets};
