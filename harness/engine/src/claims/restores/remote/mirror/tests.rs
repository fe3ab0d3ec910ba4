//! Against a host that is a map.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt;

use super::*;

/// A backup host that is a map, and whose connection breaks when its budget is spent.
#[derive(Default)]
struct MapHost {
    files: BTreeMap<PathBuf, Vec<u8>>,
    budget: AtomicU64,
    asked: Mutex<Vec<(String, u64)>>,
}

impl RemoteStore for MapHost {
    async fn fetch(&self, path: &Path, (from, _): (u64, u64), mut to: tokio::fs::File) -> Result<u64, Problem> {
        self.asked.lock().expect("no panic").push((path.display().to_string(), from));
        let bytes = &self.files[path][usize::try_from(from).expect("small")..];
        let wanted = bytes.len() as u64;
        let left =
            self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(wanted)));
        let given = left.expect("always").min(wanted);
        to.write_all(&bytes[..usize::try_from(given).expect("small")]).await.expect("written");
        to.flush().await.expect("written");
        if given < wanted { Err(super::super::broke("cut")) } else { Ok(given) }
    }
}

impl MapHost {
    fn of(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(path, bytes)| (PathBuf::from(path), bytes.to_vec())).collect();
        Self { files, budget: AtomicU64::new(u64::MAX), asked: Mutex::default() }
    }

    fn listing(&self, modified: Option<u32>) -> Listing {
        let attributes = Attributes { mode: modified.map(|_| 0o640), modified };
        let entry = |bytes: &Vec<u8>| Entry::File { size: bytes.len() as u64, attributes };
        Listing { entries: self.files.iter().map(|(path, bytes)| (path.clone(), entry(bytes))).collect() }
    }

    fn asked(&self) -> Vec<(String, u64)> {
        let mut asked = std::mem::take(&mut *self.asked.lock().expect("no panic"));
        asked.sort();
        asked
    }
}

struct MirrorPlace(PathBuf);

impl MirrorPlace {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("redrill-mirror-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn mirror(&self) -> RepositoryMirror {
        RepositoryMirror::open(&self.0, "sftp://host/r").expect("opened").expect("nobody else has it")
    }

    fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let mirror = self.mirror();
        let below = |path: &Path| path.strip_prefix(mirror.tree()).expect("below").display().to_string();
        let files = walked(&mirror.tree()).expect("readable").into_iter().filter(|(_, metadata)| metadata.is_file());
        files.map(|(path, _)| (below(&path), fs::read(&path).expect("readable"))).collect()
    }
}

impl Drop for MirrorPlace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn what_was_cut_has_no_name_and_goes_on_where_it_was() {
    let (place, host) = (MirrorPlace::new("cut"), MapHost::of(&[("a", &[1; 1000]), ("d/b", &[2; 1000])]));
    let listing = host.listing(Some(7));
    host.budget.store(1400, Ordering::SeqCst);
    assert_eq!(place.mirror().bring(&host, &listing).await.expect_err("cut").code, Code::Unreachable);
    assert_eq!(place.tree().len(), 0, "not even what came whole");
    host.budget.store(u64::MAX, Ordering::SeqCst);
    assert_eq!(host.asked().len(), 2);
    let brought = place.mirror().bring(&host, &listing).await.expect("brought");
    assert_eq!((brought.kept, brought.bytes), (0, 600), "each byte came once");
    assert_eq!(host.asked().into_iter().map(|(_, from)| from).collect::<Vec<_>>(), [400]);
    assert_eq!(place.tree(), [("a".into(), vec![1; 1000]), ("d/b".into(), vec![2; 1000])].into());
}

#[tokio::test]
async fn only_what_is_as_listed_is_kept() {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; // Of `test`, by FIPS 180.
    let named = format!("data/9f/{digest}");
    let (place, host) =
        (MirrorPlace::new("kept"), MapHost::of(&[("config", b"c"), ("plain", b"p"), (&named, b"test")]));
    let all = |from: &[&str]| from.iter().map(|path| ((*path).to_owned(), 0)).collect::<Vec<_>>();
    place.mirror().bring(&host, &host.listing(Some(7))).await.expect("brought");
    assert_eq!(host.asked(), all(&["config", &named, "plain"]));
    let again = place.mirror().bring(&host, &host.listing(Some(7))).await.expect("brought");
    assert_eq!((again.kept, host.asked().len()), (3, 0));
    place.mirror().bring(&host, &host.listing(Some(8))).await.expect("brought");
    assert_eq!(host.asked(), all(&["config", "plain"]), "another time, but a name that tells the content");
    place.mirror().bring(&host, &host.listing(None)).await.expect("brought");
    assert_eq!(host.asked(), all(&["config", "plain"]), "a rest-server tells no time");
    fs::write(place.mirror().tree().join(&named), "tost").expect("damaged here");
    place.mirror().bring(&host, &host.listing(Some(8))).await.expect("brought");
    assert!(host.asked().contains(&(named.clone(), 0)), "the copy was not what its name says");
    assert_eq!(place.tree()[&named], b"test");
}

#[tokio::test]
async fn what_is_gone_there_goes_here_and_a_snapshot_stays_as_it_was() {
    let (place, mut host) = (MirrorPlace::new("gone"), MapHost::of(&[("old/a", b"1"), ("x", b"2")]));
    let mut listing = host.listing(Some(7));
    let attributes = Attributes { mode: Some(0o750), modified: Some(9) };
    listing.entries.insert("old".into(), Entry::Directory(attributes));
    listing.entries.insert("link".into(), Entry::Link("x".into()));
    place.mirror().bring(&host, &listing).await.expect("brought");
    let snapshot = place.0.join("snapshot");
    place.mirror().snapshot(&snapshot).expect("made");
    host = MapHost::of(&[("old", b"now a file"), ("x/y", b"now in a directory")]);
    place.mirror().bring(&host, &host.listing(Some(8))).await.expect("brought");
    assert_eq!(place.tree().into_keys().collect::<Vec<_>>(), ["old", "x/y"]);
    assert!(fs::symlink_metadata(place.mirror().tree().join("link")).is_err());
    assert_eq!(fs::read(snapshot.join("old/a")).expect("there"), b"1");
    assert_eq!(fs::read_link(snapshot.join("link")).expect("there"), Path::new("x"));
    let metadata = fs::metadata(snapshot.join("old")).expect("there");
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.modified().expect("known")), (0o750, time(9)));
    let file = fs::metadata(snapshot.join("x")).expect("there");
    assert_eq!((file.permissions().mode() & 0o7777, file.modified().expect("known")), (0o640, time(7)));
}

#[tokio::test]
async fn a_copy_is_one_drills_at_a_time_and_can_be_forgotten() {
    let (place, host) = (MirrorPlace::new("lock"), MapHost::of(&[("a", b"1")]));
    let mirror = place.mirror();
    mirror.bring(&host, &host.listing(Some(7))).await.expect("brought");
    assert!(RepositoryMirror::open(&place.0, "sftp://host/r").expect("readable").is_none(), "it is taken");
    assert!(
        RepositoryMirror::open(&place.0, "sftp://host/other").expect("readable").is_some(),
        "another repository's is not"
    );
    mirror.forget().expect("forgotten");
    drop(mirror);
    let again = place.mirror().bring(&host, &host.listing(Some(7))).await.expect("brought");
    assert_eq!((again.kept, again.bytes), (0, 1));
}

#[tokio::test]
async fn a_file_that_is_not_as_large_as_listed_is_not_taken() {
    let (place, host) = (MirrorPlace::new("size"), MapHost::of(&[("a", b"12345")]));
    let mut listing = host.listing(Some(7));
    let attributes = Attributes { mode: None, modified: Some(7) };
    listing.entries.insert("a".into(), Entry::File { size: 4, attributes });
    let fault = place.mirror().bring(&host, &listing).await.expect_err("it changed");
    assert!(fault.text.contains("5 bytes") && fault.code == Code::Unreachable, "{fault:?}");
    assert_eq!(place.tree().len(), 0);
}
