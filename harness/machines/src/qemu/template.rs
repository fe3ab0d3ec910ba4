//! Templates: images that were booted once, brought to rest and frozen, in the cache. Every clean machine is a fork of
//! one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redrill_model::MachineSpec;
use serde::{Deserialize, Serialize};

use super::frozen_files::FrozenFiles;
use super::{initrd, seed};
use crate::host::Accel;
use crate::image::Image;
use crate::lock;

/// Counts up when the machines that we make change in a way that frozen ones do not know.
const LAYOUT: u32 = 2;
/// The same for machines with a bootloader of their own.
const LAYOUT_OF_DISKS: u32 = 3;
const RECORD: &str = "template.json";
const LOCK: &str = "lock";

/// What a frozen machine depends on: with any of it different, it is another template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TemplateKind {
    image: String,
    memory_mib: u64,
    cpus: u32,
    qemu: String,
    acceleration: String,
    /// The host's processor, where the machine sees it.
    processor: String,
    agent: String,
    layout: u32,
}

impl TemplateKind {
    /// Of what QEMU, of this version, makes of an image.
    pub(super) fn of((accel, version): (Accel, &str), image: &Image, spec: &MachineSpec) -> Self {
        Self {
            image: image.digest.clone(),
            memory_mib: spec.memory_mib,
            cpus: spec.cpus,
            qemu: version.to_owned(),
            acceleration: accel.name().to_owned(),
            processor: if accel == Accel::Kvm { processor() } else { String::new() },
            agent: if image.manifest.origin.is_some() { seed::digest(image) } else { initrd::digest() },
            layout: if image.manifest.origin.is_some() { LAYOUT_OF_DISKS } else { LAYOUT },
        }
    }

    fn key(&self) -> String {
        let text = serde_json::to_vec(self).expect("plain data");
        blake3::hash(&text).to_hex()[..32].to_owned()
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let wanted = ["model name", "stepping", "microcode", "flags"];
    let lines = text.lines().take_while(|line| !line.is_empty());
    lines.filter(|line| wanted.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join("\n")
}

#[derive(Debug, Serialize, Deserialize)]
struct TemplateRecord {
    kind: TemplateKind,
    files: BTreeMap<String, KnownFile>,
}

/// A file as it was when its content was last read.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    digest: String,
    stamp: FileStamp,
}

/// Nobody changes a file without changing this, unless on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FileStamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The cache of templates.
#[derive(Debug, Clone)]
pub struct Templates {
    directory: PathBuf,
}

/// What was found under a kind.
pub(super) enum FoundTemplate {
    /// A whole one.
    Whole(FrozenFiles),
    /// None.
    None,
    /// One that cannot be used, and why; it has been removed.
    Damaged(String),
    /// One like it, but for the QEMU of this version, which made it and alone can load it.
    OfAnotherQemu(String),
}

impl Templates {
    /// In the harness's cache directory.
    pub fn new(cache: &Path) -> Self {
        Self { directory: cache.join("templates") }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks one up. Its files are read whole only if they were touched since they were last read.
    pub(super) fn find(&self, kind: &TemplateKind) -> FoundTemplate {
        let directory = self.directory.join(kind.key());
        if !directory.is_dir() {
            return self.of_another_qemu(kind).map_or(FoundTemplate::None, FoundTemplate::OfAnotherQemu);
        }
        match verify(&directory, kind) {
            Ok(()) => FoundTemplate::Whole(FrozenFiles(directory)),
            Err(why) => {
                let _ = fs::remove_dir_all(&directory);
                FoundTemplate::Damaged(why)
            }
        }
    }

    /// The version of the QEMU that made a template of this kind, but for that.
    fn of_another_qemu(&self, kind: &TemplateKind) -> Option<String> {
        let like = |record: &TemplateRecord| TemplateKind { qemu: kind.qemu.clone(), ..record.kind.clone() } == *kind;
        self.records().into_iter().map(|(_, record)| record).find(like).map(|record| record.kind.qemu)
    }

    fn records(&self) -> Vec<(PathBuf, TemplateRecord)> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter_map(|path| read_record(&path).map(|record| (path, record))).collect()
    }

    /// Makers of one kind take turns. Dropping the file lets the next one in.
    pub(super) fn lock(&self, kind: &TemplateKind) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        let file = File::create(self.directory.join(format!("{}.lock", kind.key())))?;
        file.lock()?;
        Ok(file)
    }

    /// Takes a frozen machine in: everything reaches the disk before the name does.
    pub(super) fn adopt(
        &self,
        frozen: &FrozenFiles,
        kind: &TemplateKind,
        credentials: &[PathBuf],
    ) -> io::Result<FrozenFiles> {
        let work = self.directory.join(format!("tmp-{}-{}", std::process::id(), kind.key()));
        let _ = fs::remove_dir_all(&work);
        let adopted = self.take_in(&work, frozen, kind, credentials);
        if adopted.is_err() {
            // It may be what fills the disk.
            let _ = fs::remove_dir_all(&work);
        }
        adopted
    }

    fn take_in(
        &self,
        work: &Path,
        frozen: &FrozenFiles,
        kind: &TemplateKind,
        credentials: &[PathBuf],
    ) -> io::Result<FrozenFiles> {
        fs::create_dir_all(work)?;
        let held = File::create(work.join(LOCK))?;
        held.lock()?;
        for name in FrozenFiles::ALL {
            move_file(&frozen.0.join(name), &work.join(name))?;
        }
        for file in credentials {
            fs::copy(file, work.join(file.file_name().unwrap_or_default()))?;
        }
        let directory = self.directory.join(kind.key());
        let _ = fs::remove_dir_all(&directory);
        for file in fs::read_dir(work)? {
            File::open(file?.path())?.sync_all()?;
        }
        write_record(work, kind)?;
        fs::rename(work, &directory)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(FrozenFiles(directory))
    }

    /// Removes templates of images that are not among `images`, those that a QEMU of another version than `qemu` made,
    /// and what interrupted makers left. Returns the bytes.
    pub fn prune(&self, images: &[String], qemu: Option<&str>) -> u64 {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let stale = |path: &PathBuf| match read_record(path) {
            Some(TemplateRecord { kind, .. }) => {
                !images.contains(&kind.image) || qemu.is_some_and(|qemu| qemu != kind.qemu)
            }
            None => lock::is_abandoned(&path.join(LOCK)),
        };
        let directories: Vec<PathBuf> = entries.filter(|path| path.is_dir()).filter(stale).collect();
        directories
            .iter()
            .map(|path| {
                let bytes = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|file| file.metadata().ok());
                let bytes = bytes.map(|file| file.blocks() * 512).sum::<u64>();
                if fs::remove_dir_all(path).is_ok() { bytes } else { 0 }
            })
            .sum()
    }
}

fn read_record(directory: &Path) -> Option<TemplateRecord> {
    serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()
}

fn write_record(directory: &Path, kind: &TemplateKind) -> io::Result<()> {
    let mut files = BTreeMap::new();
    for name in FrozenFiles::ALL {
        let path = directory.join(name);
        files.insert(name.to_owned(), KnownFile { digest: digest(&path)?, stamp: FileStamp::of(&path)? });
    }
    let record = TemplateRecord { kind: kind.clone(), files };
    let mut text = serde_json::to_vec_pretty(&record)?;
    text.push(b'\n');
    let new = directory.join("tmp-record");
    fs::write(&new, text)?;
    File::open(&new)?.sync_all()?;
    fs::rename(new, directory.join(RECORD))
}

/// `Err` says what is wrong.
fn verify(directory: &Path, kind: &TemplateKind) -> Result<(), String> {
    let record = read_record(directory).ok_or("its record is missing or damaged")?;
    if record.kind.qemu != kind.qemu {
        return Err(format!("it was made by QEMU {}, and this is {}", record.kind.qemu, kind.qemu));
    }
    if record.kind != *kind {
        return Err("it was made for another kind of machine".to_owned());
    }
    let mut touched = false;
    for name in FrozenFiles::ALL {
        let path = directory.join(name);
        let known = record.files.get(name).ok_or_else(|| format!("its record knows no `{name}`"))?;
        let stamp = FileStamp::of(&path).map_err(|error| format!("`{name}`: {error}"))?;
        if stamp == known.stamp {
            continue;
        }
        touched = true;
        if digest(&path).map_err(|error| format!("`{name}`: {error}"))? != known.digest {
            return Err(format!("`{name}` is not what was frozen"));
        }
    }
    if touched {
        // A copy of a cache is as good as the cache; without the note it is read again the next time.
        let _ = write_record(directory, kind);
    }
    Ok(())
}

/// Across file systems too, and sparse there.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    if fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let copied = std::process::Command::new("cp").arg("--sparse=always").arg(from).arg(to).output()?;
    match copied.status.success() {
        true => fs::remove_file(from),
        false => Err(io::Error::other(String::from_utf8_lossy(&copied.stderr).trim().to_owned())),
    }
}

/// The credentials that a template was booted with: its forks have the same firmware.
pub(super) fn credentials(files: &FrozenFiles) -> Vec<PathBuf> {
    let entries = fs::read_dir(&files.0).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "cred")).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::super::args::OVERLAY;
    use super::*;

    fn kind(qemu: &str) -> TemplateKind {
        TemplateKind {
            image: "i".into(),
            memory_mib: 1024,
            cpus: 2,
            qemu: qemu.into(),
            acceleration: "tcg".into(),
            processor: String::new(),
            agent: "a".into(),
            layout: LAYOUT,
        }
    }

    fn adopted() -> (tempfile::TempDir, Templates, FrozenFiles) {
        let place = tempfile::tempdir().expect("a directory");
        let frozen = FrozenFiles(place.path().join("frozen"));
        fs::create_dir_all(&frozen.0).expect("made");
        for name in FrozenFiles::ALL {
            fs::write(frozen.0.join(name), name).expect("written");
        }
        let templates = Templates::new(place.path());
        fs::create_dir_all(&templates.directory).expect("made");
        let files = templates.adopt(&frozen, &kind("10"), &[]).expect("adopted");
        (place, templates, files)
    }

    #[test]
    fn another_qemu_is_another_template() {
        let (_place, templates, _) = adopted();
        assert!(matches!(templates.find(&kind("10")), FoundTemplate::Whole(_)));
        let FoundTemplate::OfAnotherQemu(version) = templates.find(&kind("11")) else {
            panic!("no QEMU loads another's")
        };
        assert_eq!(version, "10");
        assert!(matches!(templates.find(&kind("10")), FoundTemplate::Whole(_)), "whoever goes back finds it");
        let other = TemplateKind { memory_mib: 2048, ..kind("11") };
        assert!(matches!(templates.find(&other), FoundTemplate::None), "it is none of this kind");
    }

    #[test]
    fn a_template_that_names_another_maker_than_its_place_does_is_not_used() {
        let (_place, templates, files) = adopted();
        let record = fs::read_to_string(files.0.join(RECORD)).expect("there");
        let changed = record.replace(r#""qemu": "10""#, r#""qemu": "9""#);
        fs::write(files.0.join(RECORD), changed).expect("written");
        let FoundTemplate::Damaged(why) = templates.find(&kind("10")) else { panic!("it was made by another") };
        assert_eq!(why, "it was made by QEMU 9, and this is 10");
    }

    #[test]
    fn a_template_that_finds_no_room_in_the_cache_leaves_nothing_there() {
        let (place, templates, _) = adopted();
        let frozen = FrozenFiles(place.path().join("frozen"));
        fs::create_dir_all(&frozen.0).expect("made");
        fs::write(frozen.0.join(FrozenFiles::ALL[0]), "").expect("written");
        templates.adopt(&frozen, &kind("11"), &[]).expect_err("a file is missing");
        let left = templates.records().len();
        let entries = fs::read_dir(&templates.directory).expect("there").count();
        assert_eq!((left, entries), (1, 1), "the other one");
    }

    #[test]
    fn damage_is_noticed_and_told_and_a_copy_is_not_damage() {
        for name in FrozenFiles::ALL {
            let (_place, templates, files) = adopted();
            let copy = fs::read(files.0.join(name)).expect("there");
            fs::write(files.0.join(name), &copy).expect("written again, with the same content");
            assert!(matches!(templates.find(&kind("10")), FoundTemplate::Whole(_)), "{name}: the same content");
            fs::write(files.0.join(name), "other").expect("written");
            let FoundTemplate::Damaged(why) = templates.find(&kind("10")) else { panic!("{name} was changed") };
            assert!(why.contains(name), "{why}");
            assert!(matches!(templates.find(&kind("10")), FoundTemplate::None), "a damaged one is gone");
        }
        let (_place, templates, files) = adopted();
        fs::remove_file(files.0.join(RECORD)).expect("removed");
        assert!(matches!(templates.find(&kind("10")), FoundTemplate::Damaged(_)));
    }

    #[test]
    fn templates_go_with_their_image() {
        let (_place, templates, files) = adopted();
        assert_eq!(templates.prune(&["i".to_owned()], None), 0);
        assert_eq!(templates.prune(&["i".to_owned()], Some("10")), 0);
        assert!(files.0.join(OVERLAY).exists());
        assert!(templates.prune(&[], None) > 0);
        assert!(!files.0.exists());
        let (_place, templates, files) = adopted();
        assert!(templates.prune(&["i".to_owned()], Some("11")) > 0, "nobody can load it any more");
        assert!(!files.0.exists());
    }
}
