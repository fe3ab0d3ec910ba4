//! `image.toml`: how a clean base image is made.

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use crate::input::InputError;

/// A recipe that `redrill image build` follows. Its canonical JSON is part of the image's digest, so that a changed
/// recipe is another image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageRecipe {
    /// Debian suite, such as `trixie`.
    pub suite: String,
    /// Packages beside the essential ones, sorted.
    pub packages: Vec<String>,
    /// Size of the machine's disk, in MiB. The file on the host is sparse.
    pub disk_mib: u64,
    /// Mirror to use instead of the one that the host's apt uses.
    pub mirror: Option<String>,
    /// systemd units enabled in the image, sorted.
    pub enable: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RecipeFile {
    suite: Spanned<String>,
    packages: Spanned<Vec<Spanned<String>>>,
    disk_mib: Spanned<u64>,
    mirror: Option<Spanned<String>>,
    #[serde(default)]
    enable: Vec<Spanned<String>>,
}

/// Below this Debian with a kernel does not fit.
const SMALLEST_DISK_MIB: u64 = 1024;

impl ImageRecipe {
    /// Reads the text of an `image.toml`.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let file: RecipeFile = toml::from_str(text)?;
        if *file.disk_mib.get_ref() < SMALLEST_DISK_MIB {
            return Err(InputError::new(
                file.disk_mib.span(),
                "`disk-mib` is too small for a Debian system",
                format!("at least {SMALLEST_DISK_MIB}"),
            ));
        }
        if let Some(mirror) = &file.mirror
            && !(mirror.get_ref().starts_with("http://") || mirror.get_ref().starts_with("https://"))
        {
            return Err(InputError::new(mirror.span(), "`mirror` is no URL", "http://HOST/debian"));
        }
        let plain = |word: &Spanned<String>| is_plain_name(word.get_ref());
        let words = file.packages.get_ref().iter().chain(&file.enable).chain([&file.suite]);
        if let Some(odd) = words.into_iter().find(|word| !plain(word)) {
            return Err(InputError::new(
                odd.span(),
                format!("`{}` is no package, unit or suite name", odd.get_ref()),
                "letters, digits and `+-.@_`",
            ));
        }
        Ok(Self {
            suite: file.suite.into_inner(),
            packages: sorted(file.packages.into_inner()),
            disk_mib: file.disk_mib.into_inner(),
            mirror: file.mirror.map(Spanned::into_inner),
            enable: sorted(file.enable),
        })
    }
}

fn sorted(words: Vec<Spanned<String>>) -> Vec<String> {
    let mut words: Vec<String> = words.into_iter().map(Spanned::into_inner).collect();
    words.sort();
    words.dedup();
    words
}

/// Names from a recipe end up as arguments of programs: nothing that begins like an option or holds white space.
fn is_plain_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "+-.@_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_the_same_whatever_the_order_of_its_packages() {
        let one = ImageRecipe::parse("suite = 'trixie'\ndisk-mib = 4096\npackages = ['b', 'a', 'b']").expect("valid");
        let two = ImageRecipe::parse("suite = 'trixie'\ndisk-mib = 4096\npackages = ['a', 'b']").expect("valid");
        assert_eq!(one, two);
    }

    #[test]
    fn mistakes_are_placed() {
        let wrong = |text: &str| {
            let error = ImageRecipe::parse(text).expect_err("must be refused");
            (error.position(text).line, error.message)
        };
        let (line, message) = wrong("suite = 'trixie'\npackages = []\ndisk-mib = 12");
        assert_eq!((line, message.contains("too small")), (3, true));
        let (line, message) = wrong("suite = 'trixie'\npackages = ['-oDir=/']\ndisk-mib = 4096");
        assert_eq!((line, message.contains("-oDir=/")), (2, true));
        let (line, message) = wrong("suite = 'trixie'\npackages = []\ndisk-mib = 4096\nsize = 1");
        assert_eq!((line, message.contains("unknown field `size`")), (4, true), "{message}");
    }
}
