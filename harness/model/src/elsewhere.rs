//! Images that others publish: stock cloud images, by address and checksum.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::input::InputError;
use crate::spanned::Spanned;

/// A published image. Without its checksum there is none: what cannot be told from another file is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// `http://`, `https://` or `file://`.
    pub url: String,
    /// What the file must be.
    pub checksum: Checksum,
    /// Size of the machine's disk, in MiB; that of the image if it is not told.
    pub disk_mib: Option<u64>,
    /// Mirror for the machine's apt instead of the one that the host's apt uses.
    pub mirror: Option<String>,
}

/// How a checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A checksum as publishers list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// How it is computed.
    pub algorithm: Algorithm,
    /// In hexadecimal, lower case.
    pub hex: String,
}

impl Algorithm {
    /// The key in `image.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.algorithm.name(), self.hex)
    }
}

/// The one checksum of an image.
pub(crate) fn checksum_of(
    url: &Spanned<String>,
    sha256: Option<Spanned<String>>,
    sha512: Option<Spanned<String>>,
) -> Result<Checksum, InputError> {
    match (sha256, sha512) {
        (Some(_), Some(second)) => {
            Err(InputError::new(second.span(), "one checksum is enough", "`sha256` or `sha512`"))
        }
        (Some(sum), None) => checksum(Algorithm::Sha256, &sum),
        (None, Some(sum)) => checksum(Algorithm::Sha512, &sum),
        (None, None) => {
            let message = "an image from elsewhere needs a checksum";
            let directory = url.get_ref().rsplit_once('/').map_or(url.get_ref().as_str(), |(directory, _)| directory);
            let expected =
                format!("`sha256` or `sha512` as its publisher lists it, such as: curl -fsS {directory}/SHA512SUMS");
            Err(InputError::new(url.span(), message, expected))
        }
    }
}

/// Whether an image may come from there.
pub(crate) fn check_url(url: &Spanned<String>) -> Result<(), InputError> {
    let text = url.get_ref();
    let wrong = |message: String, expected: &str| Err(InputError::new(url.span(), message, expected));
    let path = match text.split_once("://") {
        Some(("file", path)) => path.starts_with('/').then_some(path),
        Some(("http" | "https", rest)) => {
            rest.split_once('/').filter(|(host, _)| !host.is_empty()).map(|(_, path)| path)
        }
        _ => None,
    };
    if path.is_none_or(str::is_empty) || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let expected = "https://HOST/PATH, http://HOST/PATH or file:///PATH";
        return wrong(format!("`{text}` is no URL of an image"), expected);
    }
    // It stands in reports and logs.
    let authority = text.split('/').nth(2).unwrap_or_default();
    if authority.contains('@') {
        return wrong("the URL holds a name or a password".to_owned(), "an address that needs none");
    }
    Ok(())
}

fn checksum(algorithm: Algorithm, sum: &Spanned<String>) -> Result<Checksum, InputError> {
    let hex = sum.get_ref().to_ascii_lowercase();
    if hex.len() == algorithm.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Checksum { algorithm, hex });
    }
    let expected = format!("{} hexadecimal digits", algorithm.digits());
    Err(InputError::new(sum.span(), format!("`{}` is no checksum", algorithm.name()), expected))
}
