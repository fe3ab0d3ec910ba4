//! Built images in the cache. An image is a directory named by its digest; it appears whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redrill_model::{Checksum, ImageRecipe};
use serde::{Deserialize, Serialize};

use super::format::Format;
use super::mirror::Mirror;

/// Everything that went into an image. Its digest is the image's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The recipe's name.
    pub name: String,
    /// Key of the recipe: equal recipes, tools and mirrors have equal keys.
    pub recipe_key: String,
    /// When it was built, RFC 3339.
    pub built: String,
    /// Where packages came from.
    pub mirror: Mirror,
    /// Versions of the tools that built it.
    pub tools: BTreeMap<String, String>,
    /// Installed packages and their versions, where we installed them.
    pub packages: BTreeMap<String, String>,
    /// Where it came from, if it was not built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ImageOrigin>,
}

/// Where an image came from that was not built here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOrigin {
    /// Address.
    pub url: String,
    /// What it was verified by.
    pub checksum: Checksum,
    /// How the disk lies in its file.
    pub format: Format,
    /// Size of a machine's disk, in MiB, if it is not the image's own.
    pub disk_mib: Option<u64>,
}

impl ImageManifest {
    /// BLAKE3, in hex, of all but the time of day.
    pub fn digest(&self) -> String {
        let timeless = Self { built: String::new(), ..self.clone() };
        let text = serde_json::to_vec(&timeless).expect("a manifest is plain data");
        blake3::hash(&text).to_hex().to_string()
    }
}

/// The key under which an image is looked up before anything is downloaded.
pub(crate) fn recipe_key(
    recipe: &ImageRecipe,
    tools: &BTreeMap<String, String>,
    mirror: &Mirror,
    script: &str,
) -> String {
    key(&(recipe, tools, mirror, script))
}

/// Digest of whatever tells one image from another.
pub(super) fn key(of: &impl Serialize) -> String {
    let text = serde_json::to_vec(of).expect("plain data");
    blake3::hash(&text).to_hex().to_string()
}

/// An image in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of what went in.
    pub digest: String,
    /// What went in.
    pub manifest: ImageManifest,
    directory: PathBuf,
}

/// Names in an image's directory.
pub(super) const DISK: &str = "disk.img";
pub(super) const KERNEL: &str = "vmlinuz";
pub(super) const INITRD: &str = "initrd";
pub(super) const MANIFEST: &str = "image.json";
pub(super) const TREE: &str = "tree.tar";
/// How the names of downloads begin that are not verified yet.
const PARTIAL: &str = "partial-";

impl Image {
    /// The read-only disk.
    pub fn disk(&self) -> PathBuf {
        self.directory.join(DISK)
    }

    /// How the disk lies in its file.
    pub fn format(&self) -> Format {
        self.manifest.origin.as_ref().map_or(Format::Qcow2, |origin| origin.format)
    }

    /// The kernel, for direct boot; not of an image from elsewhere.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(KERNEL)
    }

    /// Its initial RAM disk.
    pub fn initrd(&self) -> PathBuf {
        self.directory.join(INITRD)
    }

    /// All of its files as a tar, for engines that want no disk; not of an image from elsewhere.
    pub fn tree(&self) -> PathBuf {
        self.directory.join(TREE)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `host:port` of every mirror that the image's apt knows.
    pub fn mirror_hosts(&self) -> BTreeSet<String> {
        let host = |uri: &str| {
            let (scheme, rest) = uri.split_once("://")?;
            let authority = rest.split('/').next()?.to_ascii_lowercase();
            let port = if scheme == "https" { 443 } else { 80 };
            Some(if authority.contains(':') { authority } else { format!("{authority}:{port}") })
        };
        // A publisher's image may ask the same host by the other scheme, whatever cloud-init was told.
        let other = |uri: &str| uri.strip_prefix("http://").map(|rest| format!("https://{rest}"));
        let sources = self.manifest.mirror.sources.iter();
        let asked = sources.flat_map(|source| {
            let other = other(&source.uri).filter(|_| self.manifest.origin.is_some());
            [Some(source.uri.clone()), other].into_iter().flatten()
        });
        asked.filter_map(|uri| host(&uri)).collect()
    }

    /// `host:port` of the HTTP proxy through which the host itself reaches the mirror.
    pub fn upstream_proxy(&self) -> Option<String> {
        let authority = self.manifest.mirror.proxy.as_ref()?.strip_prefix("http://")?.split('/').next()?;
        Some(if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") })
    }

    /// Content digests of the image's files, as the probe of an earlier machine left them. They are known by path, inode
    /// and ctime, so that they hold for exactly this file system; without the file every capture of a clean machine
    /// reads the whole disk. The name has the version of the list's form.
    pub fn digests(&self) -> PathBuf {
        self.directory.join("digests-2")
    }

    /// The same for containers: an engine unpacks the image once, with inodes and times of its own, into a layer that
    /// all containers share. Unpacked again it has others, and the next machine's digests take the place of these.
    pub fn container_digests(&self) -> PathBuf {
        self.directory.join("digests-2-container")
    }

    /// Bytes it takes on disk.
    pub fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
    }

    /// One from elsewhere, in a directory of its own, with packages from `uris`.
    #[cfg(test)]
    pub(crate) fn for_tests(uris: &[&str]) -> (tempfile::TempDir, Self) {
        let source = |uri: &&str| super::AptSource { uri: (*uri).to_owned(), suite: String::new() };
        let place = tempfile::tempdir().expect("a directory");
        let manifest = ImageManifest {
            name: "cloud".to_owned(),
            recipe_key: "k".repeat(64),
            built: "2026-01-01T00:00:00Z".to_owned(),
            mirror: Mirror { sources: uris.iter().map(source).collect(), proxy: None },
            tools: BTreeMap::new(),
            packages: BTreeMap::new(),
            origin: Some(ImageOrigin {
                url: "file:///i".to_owned(),
                checksum: redrill_model::Checksum { algorithm: redrill_model::Algorithm::Sha256, hex: "0".repeat(64) },
                format: Format::Raw,
                disk_mib: None,
            }),
        };
        let image = Self { digest: manifest.digest(), manifest, directory: place.path().to_owned() };
        (place, image)
    }

    fn open(directory: &Path) -> Option<Self> {
        let text = fs::read(directory.join(MANIFEST)).ok()?;
        let manifest: ImageManifest = serde_json::from_slice(&text).ok()?;
        let digest = manifest.digest();
        let named_so = directory.file_name().is_some_and(|name| name.to_string_lossy() == digest);
        named_so.then(|| Self { digest, manifest, directory: directory.to_owned() })
    }
}

/// Keeps what `write` makes of a list of digests for later machines, at the place where they look for it: whole or not at
/// all, since two drills may end here at once. A failure costs time later, and is no error.
pub(crate) fn keep_digests(known: &Path, write: impl FnOnce(&Path) -> io::Result<()>) {
    let whole = known.with_extension(std::process::id().to_string());
    let _ = write(&whole).and_then(|()| fs::rename(&whole, known));
}

/// The cache of images.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// In the harness's cache directory.
    pub fn new(cache: &Path) -> Self {
        Self { directory: cache.join("images") }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every whole image, the newest first.
    pub fn list(&self) -> Vec<Image> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut images: Vec<Image> = entries.filter_map(|entry| Image::open(&entry.path())).collect();
        images.sort_by(|a, b| b.manifest.built.cmp(&a.manifest.built));
        images
    }

    /// The newest image made by this recipe with these tools.
    pub(super) fn newest(&self, recipe_key: &str) -> Option<Image> {
        self.list().into_iter().find(|image| image.manifest.recipe_key == recipe_key)
    }

    /// Builders of one recipe take turns. Dropping the file lets the next one in.
    pub(super) fn lock(&self, recipe_key: &str) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        let file = File::create(self.directory.join(format!("{}.lock", &recipe_key[..16])))?;
        file.lock()?;
        Ok(file)
    }

    /// Where the image of a recipe is put together.
    pub(super) fn work(&self, recipe_key: &str) -> PathBuf {
        self.directory.join(format!("tmp-{}-{}", std::process::id(), &recipe_key[..8]))
    }

    /// Where a download grows, until it is verified: no digest is a name like this.
    pub(super) fn partial(&self, recipe_key: &str) -> PathBuf {
        self.directory.join(format!("{PARTIAL}{}", &recipe_key[..16]))
    }

    /// Takes a finished directory in: everything reaches the disk before the name does.
    pub(super) fn adopt(&self, made: &Path, manifest: ImageManifest) -> io::Result<Image> {
        let text = serde_json::to_vec_pretty(&manifest)?;
        fs::write(made.join(MANIFEST), text)?;
        for file in fs::read_dir(made)? {
            File::open(file?.path())?.sync_all()?;
        }
        File::open(made)?.sync_all()?;
        let digest = manifest.digest();
        let directory = self.directory.join(&digest);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::rename(made, &directory)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(Image { digest, manifest, directory })
    }

    /// Removes images, and what interrupted builds left. `keep` is how many of each recipe's name stay, newest first.
    /// Returns what was removed and the bytes it held.
    pub fn prune(&self, keep: usize) -> io::Result<Vec<(String, u64)>> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut removed = Vec::new();
        for image in self.list() {
            let count = seen.entry(image.manifest.name.clone()).or_default();
            *count += 1;
            if *count > keep {
                let bytes = image.bytes();
                fs::remove_dir_all(&image.directory)?;
                removed.push((format!("{} {}", image.manifest.name, &image.digest[..12]), bytes));
            }
        }
        removed.extend(self.remove_abandoned().into_iter().map(|name| (name, 0)));
        removed.extend(self.remove_partial());
        Ok(removed)
    }

    /// Removes downloads that were cut and that nobody goes on with at this moment.
    fn remove_partial(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let cut = names.filter_map(|name| {
            let lock = File::open(self.directory.join(format!("{}.lock", name.strip_prefix(PARTIAL)?)));
            let path = self.directory.join(&name);
            let bytes = path.metadata().map_or(0, |file| file.len());
            let free = lock.map_or(true, |lock| lock.try_lock().is_ok());
            (free && fs::remove_file(path).is_ok()).then(|| (format!("the cut download {name}"), bytes))
        });
        cut.collect()
    }

    /// Removes what builds left whose process is gone; returns their names.
    pub(super) fn remove_abandoned(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let abandoned = entries.filter(|entry| is_abandoned(&entry.path()));
        abandoned
            .map(|entry| (remove_tree(&entry.path()), entry.file_name().to_string_lossy().into_owned()).1)
            .collect()
    }
}

/// Removes a tree that may belong to numbers of a user namespace, which its maker may only touch from within one.
pub(super) fn remove_tree(path: &Path) {
    if fs::remove_dir_all(path).is_err() && path.exists() {
        let mut unshare = std::process::Command::new("unshare");
        // What stays is removed by a later build or by `image prune`.
        let _ = unshare.args(["--map-root-user", "--map-auto", "rm", "-rf", "--"]).arg(path).output();
    }
}

/// A build works in `tmp-PID-N`, and its process no longer exists.
fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pid = name.strip_prefix("tmp-").and_then(|rest| rest.split('-').next()).map(str::to_owned);
    pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(version: &str, built: &str) -> ImageManifest {
        ImageManifest {
            name: "debian-13".to_owned(),
            recipe_key: "k".repeat(64),
            built: built.to_owned(),
            mirror: Mirror {
                sources: vec![super::super::AptSource {
                    uri: "http://M.test:8080/debian/".into(),
                    suite: "trixie".into(),
                }],
                proxy: None,
            },
            tools: BTreeMap::new(),
            packages: BTreeMap::from([("base-files".to_owned(), version.to_owned())]),
            origin: None,
        }
    }

    fn store(name: &str) -> Store {
        let directory = std::env::temp_dir().join(format!("redrill-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        Store::new(&directory)
    }

    fn adopt(store: &Store, manifest: ImageManifest) -> Image {
        let made = store.directory().join(format!("tmp-{}-0", std::process::id()));
        fs::create_dir_all(&made).expect("made");
        fs::write(made.join(DISK), "disk").expect("written");
        store.adopt(&made, manifest).expect("adopted")
    }

    #[test]
    fn an_image_is_named_by_what_went_in_and_not_by_when() {
        let early = manifest("1", "2026-01-01T00:00:00Z");
        assert_eq!(early.digest(), manifest("1", "2026-02-02T00:00:00Z").digest());
        assert_ne!(early.digest(), manifest("2", "2026-01-01T00:00:00Z").digest());
    }

    #[test]
    fn an_image_from_elsewhere_may_reach_its_mirror_by_either_scheme() {
        let (_place, image) = Image::for_tests(&["http://m.test/debian/", "http://own.test:8080/security/"]);
        let hosts = ["m.test:443", "m.test:80", "own.test:8080"].map(str::to_owned);
        assert_eq!(image.mirror_hosts(), BTreeSet::from(hosts));
    }

    #[test]
    fn only_whole_images_are_found_and_the_newest_is_used() {
        let store = store("whole");
        let old = adopt(&store, manifest("1", "2026-01-01T00:00:00Z"));
        let new = adopt(&store, manifest("2", "2026-02-01T00:00:00Z"));
        let half = store.directory().join("tmp-999999999-0");
        fs::create_dir_all(&half).expect("made");
        fs::write(half.join(DISK), "half").expect("written");
        let renamed = store.directory().join("f".repeat(64));
        fs::create_dir_all(&renamed).expect("made");
        fs::copy(new.directory().join(MANIFEST), renamed.join(MANIFEST)).expect("copied");
        assert_eq!(store.newest(&"k".repeat(64)), Some(new.clone()));
        assert_eq!(store.list(), [new.clone(), old.clone()]);
        assert_eq!(new.mirror_hosts(), BTreeSet::from(["m.test:8080".to_owned()]));
        let removed = store.prune(1).expect("pruned");
        assert_eq!(removed.len(), 2, "the older image and the abandoned build: {removed:?}");
        fs::write(store.partial(&"k".repeat(64)), "half").expect("written");
        let lock = store.lock(&"k".repeat(64)).expect("locked");
        assert_eq!(store.prune(1).expect("pruned"), [], "somebody downloads it");
        drop(lock);
        assert_eq!(store.prune(1).expect("pruned").len(), 1, "a cut download");
        assert!(!half.exists() && !old.directory().exists() && new.directory().exists());
        fs::remove_dir_all(store.directory().parent().expect("a parent")).expect("cleaned up");
    }
}
