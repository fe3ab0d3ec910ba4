//! The deploy: where it runs from, the tool that runs it, and what is seen meanwhile.

pub(crate) mod controller;
pub(crate) mod leftovers;
pub(crate) mod pyproject;
mod run;
pub(crate) mod tools;

pub(crate) use run::{Deployer, Followed, stops, told};
