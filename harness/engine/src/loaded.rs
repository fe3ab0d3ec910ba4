//! A scenario on disk: read, and compared with what lies around it.

use std::path::{Path, PathBuf};

use redrill_machines::Amount;
use redrill_machines::image::{Catalog, CatalogError};
use redrill_model::{BackendKind, CheckKind, Claim, InputError, Scenario};

use crate::keys;
use crate::redact::{self, Redactor};
use crate::scenario_error::ScenarioError;

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

impl ScenarioError {
    /// A mismatch with its place in the scenario: the value of this key, or the head of the table that lacks it.
    pub(crate) fn at(self, loaded: &Loaded, key: &[&str]) -> Self {
        let Self::Mismatch { message, expected } = self else { return self };
        // A scenario that lies in no file has no place to name.
        let text = std::fs::read_to_string(&loaded.file).unwrap_or_default();
        match redrill_model::span_of(&text, key) {
            Some(span) => {
                let error = InputError { span, message, expected: Some(expected) };
                Self::Invalid { path: loaded.file.clone(), text, error }
            }
            None => Self::Mismatch { message, expected },
        }
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
        if let Some(error) = redact::wrong_pattern(&self.scenario) {
            return Err(ScenarioError::Invalid { path: self.file.clone(), text: text.to_owned(), error });
        }
        let servers = self.directory.join(&self.scenario.servers.path);
        if !servers.is_dir() {
            let message = format!("the servers repo `{}` does not exist", servers.display());
            let error = ScenarioError::mismatch(message, "a git repository, or a directory inside one");
            return Err(error.at(self, &["servers", "path"]));
        }
        if let Some(keys) = self.keys() {
            let looked_at = if keys.is_dir() {
                // Before anybody reads them.
                keys::check(&keys)
            } else {
                let message = format!("the keys `{}` do not exist", keys.display());
                Err(ScenarioError::mismatch(message, "a directory"))
            };
            looked_at.map_err(|error| error.at(self, &["keys", "path"]))?;
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

    /// Whether this host could ever hold the machines, with nothing else on it. `there` is its memory for drills in MiB.
    pub fn fits(&self, backend: BackendKind, there: u64) -> Result<(), ScenarioError> {
        let machines = &self.scenario.machines;
        let twins = backend == BackendKind::Qemu && self.scenario.claims.contains(&Claim::Idempotent);
        let wanted = Amount::of(machines, twins).memory_mib;
        if wanted <= there {
            return Ok(());
        }
        let largest = (0..machines.len()).max_by_key(|at| machines[*at].memory_mib).unwrap_or_default();
        let message = format!("the machines need {wanted} MiB of memory, and this host has {there} MiB for drills");
        let expected = "machines that fit, or REDRILL_MEMORY_MIB with what drills may take";
        Err(ScenarioError::mismatch(message, expected).at(self, &["machine", &largest.to_string(), "memory-mib"]))
    }

    /// What knows the scenario's secrets: whatever lies in its keys now.
    pub fn redactor(&self) -> Result<Redactor, ScenarioError> {
        redact::redactor(&self.scenario, &self.file, self.keys().as_deref())
            .map_err(|error| ScenarioError::mismatch(error.to_string(), "another pattern"))
    }

    /// The directory of the keys.
    pub fn keys(&self) -> Option<PathBuf> {
        self.scenario.keys.as_ref().map(|keys| self.directory.join(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(place: &Path, text: &str) -> Loaded {
        let file = place.join("scenario.toml");
        std::fs::write(&file, text).expect("written");
        let scenario = Scenario::parse(text).expect("valid");
        Loaded { name: "s".into(), directory: place.to_owned(), file, scenario, recipes: None }
    }

    /// Line, column and text of a mistake.
    fn told(error: ScenarioError) -> String {
        match error {
            ScenarioError::Invalid { text, error, .. } => {
                let position = error.position(&text);
                format!("{}:{}: {}", position.line, position.column, error.message)
            }
            other => panic!("no place: {other:?}"),
        }
    }

    #[test]
    fn machines_that_no_host_holds_are_a_mistake_with_its_place() {
        let place = tempfile::tempdir().expect("a directory");
        let text = "claims = ['idempotent']\nbackend = 'qemu'\n[servers]\npath = '.'\n[[machine]]\nname = 'a'\nimage = 'i'\n\
                    [[machine]]\nname = 'b'\nimage = 'i'\nmemory-mib = 4096\n";
        let qemu = loaded(place.path(), text);
        let need = Amount::of(&qemu.scenario.machines, true).memory_mib;
        assert!(need > 2 * (1024 + 4096) && qemu.fits(BackendKind::Qemu, need).is_ok());
        let said = told(qemu.fits(BackendKind::Qemu, need - 1).expect_err("too large"));
        assert!(said.starts_with(&format!("11:14: the machines need {need} MiB")), "{said}");
        assert!(qemu.fits(BackendKind::Container, need - 1).is_ok(), "they have no twins");
        let whole = loaded(place.path(), &text.replace("4096", "16777216"));
        assert!(told(whole.fits(BackendKind::Auto, 1 << 20).expect_err("too large")).starts_with("11:14: "));
    }

    #[test]
    fn keys_that_cannot_be_used_are_a_mistake_with_its_place() {
        let place = tempfile::tempdir().expect("a directory");
        let text = "claims = ['rebuilds']\n[servers]\npath = '.'\n[keys]\npath = 'keys'\n[[machine]]\nname = 'a'\nimage = 'i'\n";
        let images = place.path().join("images/i");
        std::fs::create_dir_all(&images).expect("made");
        std::fs::write(images.join("image.toml"), "suite = 'trixie'\npackages = []\ndisk-mib = 4096\n")
            .expect("written");
        let keys = place.path().join("keys");
        loaded(place.path(), text);
        assert!(told(load(place.path()).expect_err("no keys")).starts_with("5:8: the keys `"));
        std::fs::create_dir(&keys).expect("made");
        load(place.path()).expect("fine");
        assert!(std::process::Command::new("mkfifo").arg(keys.join("x")).status().expect("runs").success());
        assert_eq!(told(load(place.path()).expect_err("a FIFO")), "5:8: the keys cannot be used: `x` is a FIFO");
    }
}
