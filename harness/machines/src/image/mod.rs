//! Clean base images: made by recipe or taken from elsewhere, named by the digest of all that went in, cached.

mod build;
mod catalog;
mod download;
mod elsewhere;
mod format;
mod mirror;
mod store;

pub use crate::progress::Progress;
pub use build::{BuildError, ImageBuilder};
pub use catalog::{Catalog, CatalogError, Recipe};
pub use download::FetchError;
pub use format::Format;
pub use mirror::{AptSource, Mirror, MirrorError};
pub(crate) use store::keep_digests;
pub use store::{Image, ImageManifest, ImageOrigin, Store};
