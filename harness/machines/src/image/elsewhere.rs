//! Images from elsewhere: downloaded, verified, and taken into the same store as those that are built here.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use redrill_model::Elsewhere;

use super::build::{BuildError, ImageBuilder};
use super::download::{self, FetchError, failed};
use super::format::{self, Disk};
use super::mirror::{AptSource, Mirror};
use super::store::{DISK, Image, ImageManifest, ImageOrigin, key};

const MIB: u64 = 1024 * 1024;

impl ImageBuilder {
    /// From the cache, or downloaded.
    pub(super) async fn elsewhere(
        &self,
        name: &str,
        elsewhere: &Elsewhere,
        refresh: bool,
    ) -> Result<Image, BuildError> {
        // Its packages come through us like those of every machine: from where the host has them.
        let named = self.mirror.as_deref().or(elsewhere.mirror.as_deref());
        let mirror = archives(Mirror::find(named, "").await?);
        let key = key(&(elsewhere, &mirror));
        if let Some(image) = self.store.newest(&key).filter(|_| !refresh) {
            return Ok(image);
        }
        let _lock = self.turn(&key).await?;
        if let Some(image) = self.store.newest(&key).filter(|_| !refresh) {
            return Ok(image);
        }
        let partial = self.store.partial(&key);
        download::fetch(&elsewhere.url, &partial, &self.progress).await?;
        (self.progress)("verifying the checksum");
        download::verify(&elsewhere.url, &partial, &elsewhere.checksum).await?;
        // It is what its publisher made: what is wrong with it now will be wrong the next time.
        let disk = usable(elsewhere, &partial).inspect_err(|_| drop(std::fs::remove_file(&partial)))?;
        let origin = ImageOrigin {
            url: elsewhere.url.clone(),
            checksum: elsewhere.checksum.clone(),
            format: disk.format,
            disk_mib: elsewhere.disk_mib,
        };
        let manifest = ImageManifest {
            name: name.to_owned(),
            recipe_key: key,
            built: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            mirror,
            tools: BTreeMap::new(),
            packages: BTreeMap::new(),
            origin: Some(origin),
        };
        self.adopt(&partial, manifest)
    }

    fn adopt(&self, partial: &Path, manifest: ImageManifest) -> Result<Image, BuildError> {
        let take_in = || {
            let work = self.store.work(&manifest.recipe_key);
            let _ = std::fs::remove_dir_all(&work);
            std::fs::create_dir_all(&work)?;
            std::fs::rename(partial, work.join(DISK))?;
            self.store.adopt(&work, manifest)
        };
        Ok(take_in().map_err(failed("cannot take the image into the store"))?)
    }
}

/// The archive and that of security fixes, which cloud-init asks for apart. Suites are the image's own business.
fn archives(mirror: Mirror) -> Mirror {
    let uris: Vec<String> = mirror.sources.into_iter().map(|source| source.uri).collect();
    let first = uris.first().cloned().unwrap_or_default();
    // Debian has fixes in an archive of their own, beside the other. Ubuntu has them in the same.
    let beside = || first.strip_suffix("/debian/").map_or(first.clone(), |host| format!("{host}/debian-security/"));
    let security = uris.iter().find(|uri| **uri != first).cloned().unwrap_or_else(beside);
    let sources = [first, security].map(|uri| AptSource { uri, suite: String::new() }).to_vec();
    Mirror { sources, proxy: mirror.proxy }
}

fn usable(elsewhere: &Elsewhere, partial: &Path) -> Result<Disk, FetchError> {
    let kind = |why| FetchError::Kind { url: elsewhere.url.clone(), why };
    let disk = format::disk(partial).map_err(failed("cannot read what came"))?.map_err(kind)?;
    match elsewhere.disk_mib {
        Some(wanted) if wanted * MIB < disk.size => {
            let has = disk.size.div_ceil(MIB);
            Err(kind(format!("its disk has {has} MiB, and `disk-mib` is {wanted}: a disk can only grow")))
        }
        _ => Ok(disk),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redrill_model::ImageSource;
    use redrill_tests::{FileServer, Manner};

    use super::super::store::Store;
    use super::super::{Format, Recipe, download};
    use super::*;

    /// A raw disk that could have a bootloader.
    fn disk() -> Vec<u8> {
        let mut disk = vec![7; 1 << 20];
        disk[510..512].copy_from_slice(b"\x55\xaa");
        disk
    }

    fn sum(content: &[u8]) -> String {
        ring::digest::digest(&ring::digest::SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    struct Publisher {
        place: tempfile::TempDir,
        builder: ImageBuilder,
    }

    impl Publisher {
        fn new() -> Self {
            let place = tempfile::tempdir().expect("a directory");
            let builder = ImageBuilder {
                store: Store::new(place.path()),
                program: "redrill".into(),
                mirror: Some("http://m.test/debian".to_owned()),
                progress: Arc::new(|_| ()),
            };
            Self { place, builder }
        }

        async fn image(&self, text: &str) -> Result<Image, BuildError> {
            let source = ImageSource::parse(text).expect("valid");
            self.builder.image(&Recipe { name: "cloud".to_owned(), path: "i".into(), source }, false).await
        }

        /// Names in the store, but for locks.
        fn kept(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.place.path().join("images")).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter(|name| !name.ends_with(".lock")).collect()
        }
    }

    fn recipe(url: &str, sum: &str) -> String {
        format!("url = '{url}'\nsha256 = '{sum}'\n")
    }

    #[tokio::test]
    async fn a_verified_image_is_in_the_store_and_not_asked_for_again() {
        let (world, server) = (Publisher::new(), FileServer::start(disk(), Manner::default()));
        let text = recipe(&server.url("i.raw"), &sum(&disk()));
        let image = world.image(&text).await.expect("an image");
        assert_eq!(world.kept(), std::slice::from_ref(&image.digest), "under its good name, and nothing else");
        assert!(std::fs::read(image.disk()).expect("there") == disk());
        assert_eq!(image.format(), Format::Raw);
        assert_eq!(world.image(&text).await.expect("cached"), image);
        assert_eq!(server.ranges().len(), 1, "asked once");
        let origin = image.manifest.origin.expect("from elsewhere");
        assert_eq!(origin.checksum.hex, sum(&disk()));
    }

    #[tokio::test]
    async fn a_wrong_checksum_is_refused_and_nothing_is_kept() {
        let (world, server) = (Publisher::new(), FileServer::start(disk(), Manner::default()));
        let error = world.image(&recipe(&server.url("i"), &"0".repeat(64))).await.expect_err("another file");
        let BuildError::Fetch(download::FetchError::Checksum { expected, found, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!((expected.hex.as_str(), found), ("0".repeat(64).as_str(), &sum(&disk())));
        let said = error.to_string();
        assert!(said.contains(&expected.hex) && said.contains(found), "both are told: {said}");
        assert_eq!(world.kept(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_verified_and_no_disk_is_refused_too() {
        let world = Publisher::new();
        let page = world.place.path().join("page");
        std::fs::write(&page, "<html>").expect("written");
        let text = recipe(&format!("file://{}", page.display()), &sum(b"<html>"));
        let error = world.image(&text).await.expect_err("a web page");
        assert!(error.to_string().contains("a web page"), "{error}");
        assert_eq!(world.kept(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_file_of_the_host_is_copied() {
        let world = Publisher::new();
        let path = world.place.path().join("i.raw");
        std::fs::write(&path, disk()).expect("written");
        let text = format!("{}disk-mib = 4096\n", recipe(&format!("file://{}", path.display()), &sum(&disk())));
        let image = world.image(&text).await.expect("an image");
        assert_eq!(image.manifest.origin.expect("from elsewhere").disk_mib, Some(4096));
        assert!(path.exists(), "it is the user's");
    }

    #[test]
    fn security_fixes_have_an_archive_too() {
        let of = |uris: &[&str]| {
            let sources = uris.iter().map(|uri| AptSource { uri: (*uri).to_owned(), suite: "s".to_owned() }).collect();
            archives(Mirror { sources, proxy: None }).sources.into_iter().map(|source| source.uri).collect::<Vec<_>>()
        };
        let (base, fixes) = ("http://m/debian/", "http://m/debian-security/");
        assert_eq!(of(&[base, base, "http://s/security/"]), [base, "http://s/security/"]);
        assert_eq!(of(&[base]), [base, fixes]);
        assert_eq!(of(&["http://m/ubuntu/"]), ["http://m/ubuntu/", "http://m/ubuntu/"]);
    }

    #[test]
    fn a_disk_cannot_shrink() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("i.raw");
        std::fs::write(&path, disk()).expect("written");
        std::fs::File::options().write(true).open(&path).expect("there").set_len(2 << 30).expect("sparse");
        let of = |size: u64| {
            let text = format!("{}disk-mib = {size}\n", recipe("https://h/i", &"0".repeat(64)));
            let Ok(ImageSource::Elsewhere(elsewhere)) = ImageSource::parse(&text) else { panic!("valid") };
            usable(&elsewhere, &path)
        };
        let error = of(1024).expect_err("too small").to_string();
        assert!(error.contains("2048 MiB") && error.contains("1024"), "{error}");
        assert_eq!(of(2048).expect("fits").size, 2 << 30);
    }
}
