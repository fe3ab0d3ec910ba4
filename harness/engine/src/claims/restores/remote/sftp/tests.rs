//! Against a host of our own, which does what real ones do on bad days.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tokio::io::DuplexStream;

use super::*;

/// What a host does to whoever asks.
#[derive(Clone, Copy, Default)]
struct HostManner {
    /// No answer to a request for data is longer.
    short: Option<usize>,
    /// The connection ends after so many requests.
    ends: Option<usize>,
    /// Listed beside what is there.
    odd: Option<&'static str>,
}

/// A host that gives what lies on this one, and notes what it is asked.
async fn host(mut stream: DuplexStream, manner: HostManner, asked: Arc<Mutex<Vec<u8>>>) {
    let mut open: Vec<(PathBuf, bool)> = Vec::new();
    while let Ok((kind, body)) = packet(&mut stream).await {
        asked.lock().expect("no panic").push(kind);
        if manner.ends.is_some_and(|ends| asked.lock().expect("no panic").len() > ends) {
            return;
        }
        let answer = if kind == INIT {
            [&[VERSION][..], &3_u32.to_be_bytes()].concat()
        } else {
            let (number, (_, body)) = numbered((kind, body)).expect("a number");
            let (kind, body) = answer(kind, &body, &mut open, manner);
            [&[kind][..], &number.to_be_bytes(), &body].concat()
        };
        let length = u32::try_from(answer.len()).expect("small");
        if stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.is_err() {
            return;
        }
    }
}

fn status(code: u32) -> Answer {
    (STATUS, [&code.to_be_bytes()[..], &string(b"said"), &string(b"")].concat())
}

fn attributes(path: &Path, follow: bool) -> Option<Vec<u8>> {
    let metadata = if follow { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) }.ok()?;
    let time = u32::try_from(metadata.mtime()).expect("soon enough");
    let numbers = [0_u32, 0, metadata.mode(), time, time].map(u32::to_be_bytes).concat();
    Some([&15_u32.to_be_bytes()[..], &metadata.len().to_be_bytes(), &numbers].concat())
}

fn answer(kind: u8, body: &[u8], open: &mut Vec<(PathBuf, bool)>, manner: HostManner) -> Answer {
    let mut fields = Fields(body);
    let first = fields.string().expect("every request has one").to_vec();
    let path = PathBuf::from(OsString::from_vec(first.clone()));
    match kind {
        STAT => attributes(&path, true).map_or(status(NO_SUCH_FILE), |attributes| (ATTRS, attributes)),
        OPEN | OPENDIR => {
            assert!(kind == OPENDIR || fields.number().expect("how") == TO_READ);
            open.push((path, false));
            (HANDLE, string(&[u8::try_from(open.len() - 1).expect("few")]))
        }
        READDIR => {
            let (directory, told) = &mut open[usize::from(first[0])];
            if std::mem::replace(told, true) {
                return status(END_OF_FILE);
            }
            let there = std::fs::read_dir(&directory).expect("readable").flatten().map(|entry| entry.file_name());
            let names: Vec<OsString> =
                [".", ".."].iter().copied().chain(manner.odd).map(OsString::from).chain(there).collect();
            let entries = names.iter().flat_map(|name| {
                let there = attributes(&directory.join(name), false).unwrap_or(vec![0; 4]);
                [string(name.as_bytes()), string(b"-rw-r--r--"), there].concat()
            });
            let count = u32::try_from(names.len()).expect("few");
            (NAME, count.to_be_bytes().into_iter().chain(entries).collect())
        }
        READLINK => {
            let to = std::fs::read_link(&path).expect("a link");
            let name = string(to.as_os_str().as_bytes());
            (NAME, [&1_u32.to_be_bytes()[..], &name, &name, &[0; 4]].concat())
        }
        READ => {
            let at = u64::from_be_bytes(fields.take(8).expect("where").try_into().expect("eight"));
            let length = usize::try_from(fields.number().expect("how much")).expect("small");
            let bytes = std::fs::read(&open[usize::from(first[0])].0).expect("readable");
            let rest = &bytes[usize::try_from(at).expect("small").min(bytes.len())..];
            let given = &rest[..rest.len().min(length).min(manner.short.unwrap_or(usize::MAX))];
            if given.is_empty() { status(END_OF_FILE) } else { (DATA, string(given)) }
        }
        CLOSE => status(0),
        other => panic!("a request of type {other}"),
    }
}

struct HostTree(PathBuf);

impl HostTree {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("redrill-sftp-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("sub dir/empty")).expect("made");
        let large: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(root.join("large"), large).expect("written");
        std::fs::write(root.join("sub dir/it's \"ü\""), "u").expect("written");
        std::fs::set_permissions(root.join("large"), std::fs::Permissions::from_mode(0o640)).expect("set");
        symlink("large", root.join("link")).expect("made");
        Self(root)
    }
}

impl Drop for HostTree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn client(manner: HostManner) -> (Result<Client, SftpError>, Arc<Mutex<Vec<u8>>>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let asked = Arc::<Mutex<Vec<u8>>>::default();
    tokio::spawn(host(theirs, manner, Arc::clone(&asked)));
    let (reader, writer) = tokio::io::split(ours);
    (Client::greet(reader, writer).await, asked)
}

async fn fetched(client: &Client, path: &Path, span: (u64, u64)) -> (Result<u64, SftpError>, Vec<u8>) {
    let file = path.with_extension("copy");
    let mut copy = tokio::fs::File::create(&file).await.expect("made");
    let came = client.fetch(path, span, &mut copy).await;
    let bytes = std::fs::read(&file).expect("readable");
    std::fs::remove_file(file).expect("removed");
    (came, bytes)
}

#[tokio::test]
async fn a_tree_is_listed_with_what_its_host_tells_and_files_come_whole() {
    let tree = HostTree::new("list");
    let (client, asked) = client(HostManner { short: Some(1000), ..HostManner::default() }).await;
    let client = client.expect("greeted");
    let (base, listing) = client.list(&tree.0).await.expect("listed");
    assert_eq!(base, tree.0);
    let names: Vec<String> = listing.entries.keys().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["large", "link", "sub dir", "sub dir/empty", "sub dir/it's \"ü\""]);
    assert_eq!(listing.entries[Path::new("link")], Entry::Link("large".into()));
    let Entry::File { size, attributes } = &listing.entries[Path::new("large")] else { panic!("a file") };
    assert_eq!((*size, attributes.mode), (200_000, Some(0o640)));
    let large = std::fs::read(tree.0.join("large")).expect("there");
    let (came, bytes) = fetched(&client, &tree.0.join("large"), (0, 200_000)).await;
    assert!(came == Ok(200_000) && bytes == large, "pieces that are shorter than asked for are put together");
    let (came, bytes) = fetched(&client, &tree.0.join("large"), (150_000, 200_000)).await;
    assert!(came == Ok(50_000) && bytes == large[150_000..]);
    let only_reads = [INIT, OPEN, CLOSE, READ, OPENDIR, READDIR, STAT, READLINK];
    assert!(asked.lock().expect("no panic").iter().all(|kind| only_reads.contains(kind)));
}

#[tokio::test]
async fn a_file_is_a_repository_too_and_what_is_missing_is_named() {
    let tree = HostTree::new("file");
    let client = client(HostManner::default()).await.0.expect("greeted");
    let (base, listing) = client.list(&tree.0.join("large")).await.expect("listed");
    assert_eq!(base, tree.0);
    assert!(listing.entries.len() == 1 && listing.entries.contains_key(Path::new("large")), "{listing:?}");
    let missing = tree.0.join("none");
    assert_eq!(client.list(&missing).await.expect_err("missing"), SftpError::Missing(missing));
}

#[tokio::test]
async fn names_that_lead_out_of_the_copy_are_refused() {
    let tree = HostTree::new("odd");
    for odd in ["../x", "a/b", "", "large"] {
        let client = client(HostManner { odd: Some(odd), ..HostManner::default() }).await.0.expect("greeted");
        let error = client.list(&tree.0).await.expect_err(odd);
        assert!(matches!(&error, SftpError::Odd(why) if why.contains("impossible name")), "{error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_is_an_error_for_all_who_wait() {
    let tree = HostTree::new("ends");
    assert_eq!(client(HostManner { ends: Some(0), ..HostManner::default() }).await.0.err(), Some(SftpError::Ended));
    let client = client(HostManner { ends: Some(4), ..HostManner::default() }).await.0.expect("greeted");
    let (came, _) = fetched(&client, &tree.0.join("large"), (0, 200_000)).await;
    assert_eq!(came, Err(SftpError::Ended));
    assert_eq!(client.list(&tree.0).await.expect_err("ended"), SftpError::Ended);
}

#[tokio::test]
async fn a_shell_that_greets_is_no_sftp() {
    let (ours, mut theirs) = tokio::io::duplex(1024);
    theirs.write_all(b"Welcome to vault.example.org\n").await.expect("written");
    let (reader, writer) = tokio::io::split(ours);
    let error = Client::greet(reader, writer).await.err().expect("no SFTP");
    assert!(error.to_string().contains("print something at login"), "{error}");
}
