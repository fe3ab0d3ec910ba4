//! Copies and digests, on this host.

use super::*;

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tree(name: &str) -> Temporary {
    let root = std::env::temp_dir().join(format!("redrill-repository-{name}-{}", std::process::id()));
    std::fs::create_dir_all(root.join("data/00")).expect("directory");
    std::fs::write(root.join("config"), "c").expect("file");
    std::fs::write(root.join("data/00/pack"), vec![7_u8; 100]).expect("file");
    std::os::unix::fs::symlink("config", root.join("link")).expect("link");
    Temporary(root)
}

fn contents(root: &Path) -> Contents {
    Source::Tree(root.to_owned()).contents().expect("readable")
}

#[test]
fn any_change_of_a_repository_is_another_digest() {
    let root = tree("digest");
    let before = contents(&root.0);
    assert_eq!((before.files, before.bytes), (2, 101));
    assert_eq!(before.paths, ["config", "data", "data/00", "data/00/pack", "link"]);
    assert_eq!(contents(&root.0), before, "reading changes nothing");
    let changes: [&dyn Fn(); 4] = [
        &|| std::fs::write(root.0.join("config"), "d").expect("written"),
        &|| std::fs::create_dir(root.0.join("locks")).expect("made"),
        &|| std::fs::rename(root.0.join("data/00/pack"), root.0.join("data/00/kcap")).expect("renamed"),
        &|| std::fs::remove_file(root.0.join("link")).expect("removed"),
    ];
    let mut last = before.digest;
    for change in changes {
        change();
        let now = contents(&root.0).digest;
        assert_ne!(now, last);
        last = now;
    }
}

/// What a machine would unpack.
fn unpacked(source: &Source, to: &Path) {
    let part = |part| match part {
        Piece::Archive(bytes) => tar::Archive::new(bytes.as_slice()).unpack(to),
        Piece::More(path, bytes) => {
            let mut file = std::fs::OpenOptions::new().append(true).open(to.join(path))?;
            io::Write::write_all(&mut file, &bytes)
        }
        Piece::Whole(path, modified) => {
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(modified);
            File::open(to.join(path))?.set_times(std::fs::FileTimes::new().set_modified(time))
        }
    };
    source.each(part).expect("packed and unpacked");
}

#[test]
fn pieces_make_the_same_tree_again_large_files_too() {
    let (root, copy) = (tree("pieces"), tree("pieces-copy"));
    std::fs::remove_dir_all(&copy.0).expect("emptied");
    let large: Vec<u8> = (0..20 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(root.0.join("large"), large).expect("file");
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = std::fs::FileTimes::new().set_modified(time);
    File::open(root.0.join("large")).and_then(|file| file.set_times(times)).expect("set");
    unpacked(&Source::Tree(root.0.clone()), &copy.0);
    assert_eq!(contents(&copy.0), contents(&root.0));
    let modified = std::fs::metadata(copy.0.join("large")).and_then(|file| file.modified()).expect("known");
    assert_eq!(modified, time, "the age of a backup is that of its files");
}

#[test]
fn an_archive_reads_as_its_tree() {
    let (root, copy) = (tree("archive"), tree("archive-copy"));
    let file = copy.0.join("repository.tar");
    let mut builder = tar::Builder::new(File::create(&file).expect("file"));
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &root.0).expect("packed");
    builder.into_inner().expect("finished");
    let source = Source::Archive(file);
    let read = source.contents().expect("readable");
    let mut paths = read.paths.clone();
    paths.sort();
    assert_eq!((read.files, read.bytes, paths), (2, 101, contents(&root.0).paths));
    let again = copy.0.join("again");
    copy_on_host(&source, &again).expect("copied");
    assert_eq!(contents(&again), contents(&root.0));
    let third = copy.0.join("third");
    copy_on_host(&Source::Tree(root.0.clone()), &third).expect("copied");
    assert_eq!(contents(&third), contents(&root.0));
}

#[test]
fn of_an_archive_only_the_targets_are_unpacked() {
    let (root, copy) = (tree("only"), tree("only-copy"));
    let (file, kept) = (copy.0.join("all.tar"), copy.0.join("kept.tar"));
    let mut builder = tar::Builder::new(File::create(&file).expect("file"));
    builder.follow_symlinks(false);
    builder.append_dir_all("srv", &root.0).expect("packed");
    builder.into_inner().expect("finished");
    only_below(&file, &["/srv/data".to_owned(), "/srv/link".to_owned()], &kept).expect("filtered");
    let mut paths = Source::Archive(kept).contents().expect("readable").paths;
    paths.sort();
    assert_eq!(paths, ["srv/data", "srv/data/00", "srv/data/00/pack", "srv/link"]);
}

#[test]
fn a_single_file_is_a_repository_too() {
    let root = tree("single");
    let read = contents(&root.0.join("config"));
    assert_eq!((read.files, read.paths), (1, vec!["config".to_owned()]));
}
