//! `image.toml`: how a clean base image is made, or where it is taken from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::elsewhere::{self, Elsewhere};
use crate::input::InputError;
use crate::spanned::Spanned;

/// What an `image.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ImageSource {
    /// The image is built here.
    Recipe(ImageRecipe),
    /// Somebody else built and published it.
    Elsewhere(Elsewhere),
}

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

/// How a base image is made, or where it is taken from: either a recipe (`suite`, `packages`, `disk-mib`) or a published
/// image (`url` and one checksum).
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "Image", extend("oneOf" = [
    {"required": ["suite", "packages", "disk-mib"]},
    {"required": ["url", "sha256"]},
    {"required": ["url", "sha512"]},
]))]
pub(crate) struct ImageFile {
    /// The Debian suite. A recipe needs it.
    #[schemars(example = &"trixie")]
    suite: Option<Spanned<String>>,
    /// Packages beside the essential ones. A recipe needs it.
    #[schemars(extend("examples" = [["iproute2", "linux-image-cloud-amd64", "openssh-server", "systemd-sysv"]]))]
    packages: Option<Spanned<Vec<Spanned<String>>>>,
    /// systemd units to enable. For recipes.
    #[schemars(extend("default" = [], "examples" = [["systemd-networkd.service"]]))]
    enable: Option<Spanned<Vec<Spanned<String>>>>,
    /// A published image in qcow2 or raw form, by `https`, `http` or `file`. It needs `sha256` or `sha512`.
    #[schemars(example = &"https://images.example.org/debian-13.qcow2")]
    url: Option<Spanned<String>>,
    /// The checksum of the published image, as its publisher lists it.
    #[schemars(example = &"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    sha256: Option<Spanned<String>>,
    /// The same, with SHA-512. One of the two is enough.
    #[schemars(example = &"cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e")]
    sha512: Option<Spanned<String>>,
    /// Size of the machine's disk in MiB, from 1024. A recipe needs it; a published image keeps its own size without it.
    #[schemars(example = 8192)]
    disk_mib: Option<Spanned<u64>>,
    /// The mirror for the machine's apt; if absent, the one that the host's apt uses.
    #[schemars(example = &"http://deb.debian.org/debian")]
    mirror: Option<Spanned<String>>,
}

/// Below this Debian with a kernel does not fit.
const SMALLEST_DISK_MIB: u64 = 1024;
/// 16 TiB, as ext4 has it with blocks of 4 KiB.
const LARGEST_DISK_MIB: u64 = 16 << 20;

impl ImageSource {
    /// Reads the text of an `image.toml`.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let file: ImageFile = toml::from_str(text)?;
        if let Some(size) = file.disk_mib.as_ref().filter(|size| *size.get_ref() < SMALLEST_DISK_MIB) {
            let message = "`disk-mib` is too small for a Debian system";
            return Err(InputError::new(size.span(), message, format!("at least {SMALLEST_DISK_MIB}")));
        }
        if let Some(size) = file.disk_mib.as_ref().filter(|size| *size.get_ref() > LARGEST_DISK_MIB) {
            let message = "`disk-mib` is too large for a disk";
            return Err(InputError::new(size.span(), message, format!("at most {LARGEST_DISK_MIB}")));
        }
        if let Some(mirror) = &file.mirror
            && !(mirror.get_ref().starts_with("http://") || mirror.get_ref().starts_with("https://"))
        {
            return Err(InputError::new(mirror.span(), "`mirror` is no URL", "http://HOST/debian"));
        }
        let span = |key: &Option<Spanned<String>>| key.as_ref().map(Spanned::span);
        let list = |key: &Option<Spanned<Vec<Spanned<String>>>>| key.as_ref().map(Spanned::span);
        let expected = "either a recipe (`suite`, `packages`, `disk-mib`) or an image from elsewhere (`url`, `sha512`)";
        let stray = |keys: [(&str, Option<std::ops::Range<usize>>); 3], why: &str| {
            let mut there = keys.into_iter().filter_map(|(name, span)| Some((name, span?)));
            there.next().map(|(name, span)| InputError::new(span, format!("`{name}` {why}"), expected))
        };
        let of_recipe =
            [("suite", span(&file.suite)), ("packages", list(&file.packages)), ("enable", list(&file.enable))];
        let checksums = [("sha256", span(&file.sha256)), ("sha512", span(&file.sha512)), ("", None)];
        let Some(url) = &file.url else {
            if let Some(error) = stray(checksums, "is for an image from elsewhere, and there is no `url`") {
                return Err(error);
            }
            return ImageRecipe::from_file(file, expected).map(Self::Recipe);
        };
        if let Some(error) = stray(of_recipe, "is for a recipe, and `url` names an image that is not built here") {
            return Err(error);
        }
        let (disk_mib, mirror) = (file.disk_mib.map(Spanned::into_inner), file.mirror.map(Spanned::into_inner));
        elsewhere::check_url(url)?;
        let checksum = elsewhere::checksum_of(url, file.sha256, file.sha512)?;
        Ok(Self::Elsewhere(Elsewhere { url: url.get_ref().clone(), checksum, disk_mib, mirror }))
    }
}

impl ImageRecipe {
    fn from_file(file: ImageFile, expected: &str) -> Result<Self, InputError> {
        let missing = |key: &str| InputError::new(0..0, format!("missing field `{key}`"), expected);
        let suite = file.suite.ok_or_else(|| missing("suite"))?;
        let packages = file.packages.ok_or_else(|| missing("packages"))?.into_inner();
        let disk_mib = file.disk_mib.ok_or_else(|| missing("disk-mib"))?.into_inner();
        let enable = file.enable.map(Spanned::into_inner).unwrap_or_default();
        let plain = |word: &Spanned<String>| is_plain_name(word.get_ref());
        let words = packages.iter().chain(&enable).chain([&suite]);
        if let Some(odd) = words.into_iter().find(|word| !plain(word)) {
            return Err(InputError::new(
                odd.span(),
                format!("`{}` is no package, unit or suite name", odd.get_ref()),
                "letters, digits and `+-.@_`",
            ));
        }
        Ok(Self {
            suite: suite.into_inner(),
            packages: sorted(packages),
            disk_mib,
            mirror: file.mirror.map(Spanned::into_inner),
            enable: sorted(enable),
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
        let one = ImageSource::parse("suite = 'trixie'\ndisk-mib = 4096\npackages = ['b', 'a', 'b']").expect("valid");
        let two = ImageSource::parse("suite = 'trixie'\ndisk-mib = 4096\npackages = ['a', 'b']").expect("valid");
        assert_eq!(one, two);
    }

    /// The line and column of the mistake, what it is, and what was expected.
    #[track_caller]
    fn rejects(text: &str, (line, column): (usize, usize), because: &str) -> String {
        let error = ImageSource::parse(text).expect_err("must be refused");
        let position = error.position(text);
        assert!(error.message.contains(because), "{error:?}");
        assert_eq!((position.line, position.column), (line, column), "{error:?}");
        error.expected.unwrap_or_default()
    }

    #[test]
    fn mistakes_are_placed() {
        rejects("suite = 'trixie'\npackages = []\ndisk-mib = 12", (3, 12), "too small");
        rejects("suite = 'trixie'\npackages = []\ndisk-mib = 16777217", (3, 12), "too large");
        rejects("suite = 'trixie'\npackages = ['-oDir=/']\ndisk-mib = 4096", (2, 13), "-oDir=/");
        rejects("suite = 'trixie'\npackages = []\ndisk-mib = 4096\nsize = 1", (4, 1), "unknown field `size`");
        rejects("suite = 'trixie'\npackages = []\ndisk-mib = 4096\nmirror = 'm'", (4, 10), "no URL");
        rejects("packages = []\ndisk-mib = 4096", (1, 1), "missing field `suite`");
    }

    #[test]
    fn a_recipe_and_a_url_exclude_each_other() {
        let sum = "0".repeat(64);
        let both = format!("url = 'https://h/i.img'\nsha256 = '{sum}'\nsuite = 'trixie'");
        let expected = rejects(&both, (3, 9), "`suite` is for a recipe");
        assert!(expected.contains("either a recipe"), "{expected}");
        let packages = format!("url = 'https://h/i.img'\nsha256 = '{sum}'\npackages = ['a']");
        rejects(&packages, (3, 12), "`packages` is for a recipe");
        let stray = format!("suite = 'trixie'\npackages = []\ndisk-mib = 4096\nsha256 = '{sum}'");
        rejects(&stray, (4, 10), "there is no `url`");
    }

    #[test]
    fn an_image_from_elsewhere_needs_a_checksum_that_can_be_one() {
        let expected = rejects("url = 'https://h.test/a/i.qcow2'", (1, 7), "needs a checksum");
        assert!(expected.contains("curl -fsS https://h.test/a/SHA512SUMS"), "{expected}");
        let expected = rejects("url = 'https://h/i'\nsha512 = 'abc'", (2, 10), "`sha512` is no checksum");
        assert!(expected.contains("128 hexadecimal digits"), "{expected}");
        let both = format!("url = 'https://h/i'\nsha256 = '{}'\nsha512 = '{}'", "0".repeat(64), "0".repeat(128));
        rejects(&both, (3, 10), "one checksum is enough");
    }

    #[test]
    fn a_url_is_one_that_we_can_fetch_and_show() {
        let sum = format!("sha256 = '{}'\n", "0".repeat(64));
        for url in ["ftp://h/i", "i.qcow2", "file:i.qcow2", "https://", "https://h/a b", "https://h"] {
            rejects(&format!("{sum}url = '{url}'"), (2, 7), "no URL of an image");
        }
        rejects(&format!("{sum}url = 'https://me:word@h/i'"), (2, 7), "a password");
        let text = format!("{sum}url = 'file:///srv/i.raw'\ndisk-mib = 4096\nmirror = 'http://m.test/debian'");
        let Ok(ImageSource::Elsewhere(image)) = ImageSource::parse(&text) else { panic!("valid") };
        assert_eq!((image.disk_mib, image.url.as_str()), (Some(4096), "file:///srv/i.raw"));
        assert_eq!(image.mirror.as_deref(), Some("http://m.test/debian"));
    }

    #[test]
    fn a_checksum_is_the_same_in_capitals() {
        let of = |sum: &str| ImageSource::parse(&format!("url = 'https://h/i'\nsha256 = '{sum}'")).expect("valid");
        assert_eq!(of(&"aB".repeat(32)), of(&"Ab".repeat(32)));
    }
}
