//! Walks a plan: makes a controller and machines, deploys twice, captures, checks, and reaches verdicts.
//!
//! [`Drill::run`] in `drill.rs` is the page to read first. The engine tells what happens by [`Event`]s and ends in a
//! [`redrill_model::Report`]; it prints nothing.

mod acme;
mod capture;
mod captures;
mod causes;
mod checks;
mod compare;
mod context;
mod controller;
mod deploying;
mod details;
mod drill;
mod events;
mod facts;
mod fleet;
mod keys;
mod loaded;
mod mail;
mod outage;
mod outside;
mod problem;
mod process;
mod prove;
mod prove_restores;
mod redact;
mod restore;
mod resume;
mod services;
mod settle;
mod stages;
mod survey;
mod sweep;
mod tools;
mod trend;
mod writes;

pub use drill::{Drill, Keep, Stop};
pub use events::{Event, Events};
pub use loaded::{Loaded, ScenarioError, load};
pub use redact::Redactor;
pub use redrill_state::{Canonicaliser, canonicalisers};
pub use survey::{Host, Survey, SurveyError, survey, touched};
pub use sweep::{Cleaned, sweep_home, without_secrets};
pub use tools::{Found, Undecided, detect};
