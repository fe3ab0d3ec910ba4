//! Recipes by name: `images/NAME/image.toml`.

use std::path::{Path, PathBuf};

use redrill_model::{ImageSource, InputError};
use thiserror::Error;

/// Recipes by name.
const BUILT_IN: [(&str, &str); 2] = [
    ("debian-12", include_str!("../../../../images/debian-12/image.toml")),
    ("debian-13", include_str!("../../../../images/debian-13/image.toml")),
];

/// The directories in which recipes lie; an earlier one wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    directories: Vec<PathBuf>,
}

/// What an `image.toml` says, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The directory's name.
    pub name: String,
    /// Its `image.toml`.
    pub path: PathBuf,
    /// What it says.
    pub source: ImageSource,
}

/// A recipe could not be had.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// No such directory.
    #[error("there is no image `{name}`; known: {known}")]
    Unknown {
        /// Asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A mistake in the recipe.
    #[error("{path}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its text, to show the line.
        text: String,
        /// The mistake.
        #[source]
        error: InputError,
    },
    /// It could not be read.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Catalog {
    /// Looks upward from the scenario and from the working directory for a directory `images`.
    pub fn near(places: &[&Path]) -> Self {
        let above = places.iter().flat_map(|place| place.ancestors());
        let mut directories: Vec<PathBuf> = Vec::new();
        for images in above.map(|place| place.join("images")).filter(|images| images.is_dir()) {
            if !directories.contains(&images) {
                directories.push(images);
            }
        }
        Self { directories }
    }

    /// The same, and after all others the recipes that redrill itself brings, laid out in `cache`: for a servers repo
    /// that has no `images`.
    pub fn with_built_in(mut self, cache: &Path) -> std::io::Result<Self> {
        let images = cache.join("recipes").join(env!("CARGO_PKG_VERSION"));
        for (name, text) in BUILT_IN {
            let directory = images.join(name);
            std::fs::create_dir_all(&directory)?;
            let file = directory.join("image.toml");
            if std::fs::read_to_string(&file).ok().as_deref() != Some(text) {
                // Whole or not at all: another redrill may read it now.
                let new = directory.join(format!("tmp-{}", std::process::id()));
                std::fs::write(&new, text)?;
                std::fs::rename(&new, &file)?;
            }
        }
        self.directories.push(images);
        Ok(self)
    }

    /// The names there are, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = self.directories.iter().flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten());
        let recipes = entries.flatten().filter(|entry| entry.path().join("image.toml").is_file());
        let mut names: Vec<String> = recipes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Reads a recipe.
    pub fn get(&self, name: &str) -> Result<Recipe, CatalogError> {
        let files = self.directories.iter().map(|directory| directory.join(name).join("image.toml"));
        let Some(path) = files.into_iter().find(|file| file.is_file()) else {
            let known = match self.names().join("`, `") {
                none if none.is_empty() => "none (no directory `images` above the scenario)".to_owned(),
                names => format!("`{names}`"),
            };
            return Err(CatalogError::Unknown { name: name.to_owned(), known });
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(CatalogError::Unreadable { path, source }),
        };
        match ImageSource::parse(&text) {
            Ok(source) => Ok(Recipe { name: name.to_owned(), path, source }),
            Err(error) => Err(CatalogError::Invalid { path, text, error }),
        }
    }
}
