//! A scenario on disk: read, and compared with what lies around it.

use std::path::{Path, PathBuf};

use redrill_machines::image::{Catalog, CatalogError};
use redrill_model::{CheckKind, InputError, Scenario};
use thiserror::Error;

use crate::redact::{self, Redactor};

/// A scenario and where it lies.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The directory's name.
    pub name: String,
    /// The directory, absolute: paths in the scenario start here.
    pub directory: PathBuf,
    /// The file.
    pub file: PathBuf,
    /// What it says.
    pub scenario: Scenario,
    /// Where redrill's own recipes may be laid out, if the scenario brings no images.
    pub recipes: Option<PathBuf>,
}

/// A scenario that cannot be run as it is: exit status 2.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// No file.
    #[error("cannot read the scenario `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A mistake in a file, with its place.
    #[error("{}", error.message)]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
        /// The mistake.
        error: InputError,
    },
    /// What the scenario names does not fit the world.
    #[error("{message}")]
    Mismatch {
        /// What does not fit.
        message: String,
        /// What would.
        expected: String,
    },
}

impl ScenarioError {
    pub(crate) fn mismatch(message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Mismatch { message: message.into(), expected: expected.into() }
    }
}

/// Reads `scenario.toml` in `place`, or `place` itself if it is a file, and looks at what it names: images, keys,
/// certificates.
pub fn load(place: &Path) -> Result<Loaded, ScenarioError> {
    let file = if place.is_dir() { place.join("scenario.toml") } else { place.to_owned() };
    let unreadable = |source| ScenarioError::Unreadable { path: file.clone(), source };
    let text = std::fs::read_to_string(&file).map_err(unreadable)?;
    let invalid = |error| ScenarioError::Invalid { path: file.clone(), text: text.clone(), error };
    let scenario = Scenario::parse(&text).map_err(invalid)?;
    let file = file.canonicalize().map_err(unreadable)?;
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let name = directory.file_name().map_or_else(|| "scenario".to_owned(), |name| name.to_string_lossy().into_owned());
    let loaded = Loaded { name, directory, file: file.clone(), scenario, recipes: None };
    loaded.look_around(&text)?;
    Ok(loaded)
}

impl Loaded {
    /// A scenario that lies in no file. Relative paths in `text` start at `directory`; redrill's own recipes for images
    /// are laid out below `cache`.
    pub fn from_text(name: &str, directory: &Path, text: &str, cache: &Path) -> Result<Self, ScenarioError> {
        let file = directory.join("scenario.toml");
        let invalid = |error| ScenarioError::Invalid { path: file.clone(), text: text.to_owned(), error };
        let scenario = Scenario::parse(text).map_err(invalid)?;
        let (name, directory, recipes) = (name.to_owned(), directory.to_owned(), Some(cache.to_owned()));
        let loaded = Self { name, directory, file: file.clone(), scenario, recipes };
        loaded.look_around(text)?;
        Ok(loaded)
    }

    /// Recipes that this scenario may name.
    pub fn catalog(&self) -> Catalog {
        let here = std::env::current_dir().unwrap_or_default();
        let catalog = Catalog::near(&[&self.directory, &here]);
        match &self.recipes {
            // Without them an unknown image is told as such.
            Some(cache) => catalog.clone().with_built_in(cache).unwrap_or(catalog),
            None => catalog,
        }
    }

    fn look_around(&self, text: &str) -> Result<(), ScenarioError> {
        let catalog = self.catalog();
        for machine in &self.scenario.machines {
            match catalog.get(machine.image.get_ref()) {
                Ok(_) => {}
                Err(CatalogError::Unknown { name, known }) => {
                    let message = format!("there is no image `{name}`");
                    let error = InputError { span: machine.image.span(), message, expected: Some(known) };
                    return Err(ScenarioError::Invalid { path: self.file.clone(), text: text.to_owned(), error });
                }
                Err(CatalogError::Invalid { path, text, error }) => {
                    return Err(ScenarioError::Invalid { path, text, error });
                }
                Err(CatalogError::Unreadable { path, source }) => {
                    return Err(ScenarioError::Unreadable { path, source });
                }
            }
        }
        if let Some(error) = redact::wrong_pattern(self) {
            return Err(ScenarioError::Invalid { path: self.file.clone(), text: text.to_owned(), error });
        }
        let servers = self.directory.join(&self.scenario.servers.path);
        if !servers.is_dir() {
            let message = format!("the servers repo `{}` does not exist", servers.display());
            return Err(ScenarioError::mismatch(message, "a git repository, or a directory inside one"));
        }
        if let Some(keys) = self.keys().filter(|keys| !keys.is_dir()) {
            let message = format!("the keys `{}` do not exist", keys.display());
            return Err(ScenarioError::mismatch(message, "a directory"));
        }
        for check in &self.scenario.checks {
            if let CheckKind::Http(http) = &check.kind
                && let Some(ca) = http.ca.as_ref().map(|ca| self.directory.join(ca)).filter(|ca| !ca.is_file())
            {
                let message = format!("check `{}`: there is no file `{}`", check.name, ca.display());
                return Err(ScenarioError::mismatch(message, "certificates in PEM"));
            }
        }
        Ok(())
    }

    /// What knows the scenario's secrets: whatever lies in its keys now.
    pub fn redactor(&self) -> Result<Redactor, ScenarioError> {
        redact::redactor(self).map_err(|error| ScenarioError::mismatch(error.to_string(), "another pattern"))
    }

    /// The directory of the keys.
    pub fn keys(&self) -> Option<PathBuf> {
        self.scenario.keys.as_ref().map(|keys| self.directory.join(keys))
    }
}
