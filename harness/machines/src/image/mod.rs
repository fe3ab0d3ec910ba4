//! Clean base images: made by recipe, named by the digest of all that went in, cached.

mod build;
mod catalog;
mod mirror;
mod store;

pub use build::{BuildError, Builder, Progress};
pub use catalog::{Catalog, CatalogError, Recipe};
pub use mirror::{Mirror, MirrorError, Source};
pub use store::{Image, Manifest, Store};
