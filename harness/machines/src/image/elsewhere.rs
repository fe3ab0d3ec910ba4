//! Images from elsewhere: downloaded, verified, and taken into the same store as those that are built here.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use redrill_model::{Checksum, Elsewhere};
use serde::{Deserialize, Serialize};

use super::build::{BuildError, Builder};
use super::download::{self, FetchError, failed};
use super::format::{self, Disk, Format};
use super::mirror::Mirror;
use super::store::{DISK, Image, Manifest, key};

const MIB: u64 = 1024 * 1024;

/// Where an image came from that was not built here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Address.
    pub url: String,
    /// What it was verified by.
    pub checksum: Checksum,
    /// How the disk lies in its file.
    pub format: Format,
    /// Size of a machine's disk, in MiB, if it is not the image's own.
    pub disk_mib: Option<u64>,
}

impl Builder {
    /// From the cache, or downloaded.
    pub(super) async fn elsewhere(
        &self,
        name: &str,
        elsewhere: &Elsewhere,
        refresh: bool,
    ) -> Result<Image, BuildError> {
        // Its packages come through us like those of every machine: from where the host has them.
        let named = self.mirror.as_deref().or(elsewhere.mirror.as_deref());
        let mirror = Mirror::find(named, "").await?;
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
        let origin = Origin {
            url: elsewhere.url.clone(),
            checksum: elsewhere.checksum.clone(),
            format: disk.format,
            disk_mib: elsewhere.disk_mib,
        };
        let manifest = Manifest {
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

    fn adopt(&self, partial: &Path, manifest: Manifest) -> Result<Image, BuildError> {
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
