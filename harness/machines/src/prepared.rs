//! The images that the machines of a drill are made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::MachineError;
use crate::image::{Catalog, Image, ImageBuilder, Recipe, Store};
use crate::progress::Progress;

/// Images by name, each there once it has been prepared.
pub(crate) struct Prepared {
    catalog: Catalog,
    store: Store,
    /// The `redrill` program, which guards what builds an image.
    program: PathBuf,
    images: BTreeMap<String, Image>,
}

impl Prepared {
    /// None yet; they will be those of `catalog`.
    pub(crate) fn new(catalog: Catalog, store: Store, program: PathBuf) -> Self {
        Self { catalog, store, program, images: BTreeMap::new() }
    }

    /// Finds or builds the image of this name. `usable` says of a recipe why the backend has no use for it.
    pub(crate) async fn prepare(
        &mut self,
        name: &str,
        usable: impl Fn(&Recipe) -> Result<(), String>,
        progress: &Progress,
    ) -> Result<&Image, MachineError> {
        let failed =
            |source: Box<dyn std::error::Error + Send + Sync>| MachineError::Image { image: name.to_owned(), source };
        let (store, program, progress) = (self.store.clone(), self.program.clone(), progress.clone());
        let builder = ImageBuilder { store, program, mirror: None, progress };
        let recipe = self.catalog.get(name).map_err(|error| failed(error.into()))?;
        usable(&recipe).map_err(|why| failed(why.into()))?;
        let image = builder.image(&recipe, false).await.map_err(|error| failed(error.into()))?;
        self.images.insert(name.to_owned(), image);
        self.get(name)
    }

    /// One that has been prepared.
    pub(crate) fn get(&self, name: &str) -> Result<&Image, MachineError> {
        self.images.get(name).ok_or_else(|| MachineError::Program {
            program: "image".to_owned(),
            said: format!("`{name}` has not been built"),
        })
    }
}
