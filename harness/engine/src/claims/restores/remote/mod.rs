//! Repositories on backup hosts: listed, fetched into a mirror in the cache, and listed again after the restore. From
//! then on all goes as with a local one. Nothing in here can write to a backup host: of SFTP and of HTTP only what reads
//! is spoken.

mod listing;
mod mirror;
mod rest;
mod sftp;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redrill_machines::Deadline;
use redrill_machines::process::{Guard, Guarded};
use redrill_model::{Backup, BackupKind, Code, Remote, RemoteReport, RepositoryReport, Sftp};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::faults;
use super::repository::Source;
use super::session::on_host;
use crate::context::Context;
use crate::problem::Problem;
pub(crate) use listing::Listing;
use mirror::{Brought, RepositoryMirror};
use sftp::SftpError;

/// A host that does not answer a greeting for so long is down. `ssh` itself gives up earlier.
const GREETING: Duration = Duration::from_secs(60);
/// How often to look whether another drill is done with the mirror.
const LOOK: Duration = Duration::from_millis(200);
/// What `ssh` says last.
const PATIENCE: Duration = Duration::from_secs(5);

/// A repository of a backup host, as this drill has it.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    place: String,
    /// Before anything was fetched; absent if the host did not say.
    listing: Option<Listing>,
    brought: Brought,
    /// What the fetch took.
    pub(crate) seconds: f64,
    /// The copy, or why there is none.
    pub(crate) source: Result<Source, Problem>,
}

impl Fetched {
    /// What the report says of the repository before the restore.
    pub(crate) fn report(&self) -> RepositoryReport {
        let listing = self.listing.as_ref();
        RepositoryReport {
            place: self.place.clone(),
            files: listing.map_or(0, |listing| listing.files().count() as u64),
            bytes: listing.map_or(0, Listing::bytes),
            before: listing.map(Listing::digest).unwrap_or_default(),
            after: String::new(),
            remote: Some(RemoteReport { kept: self.brought.kept, fetched_bytes: self.brought.bytes }),
        }
    }

    /// Why another listing is no good sign.
    pub(crate) fn changed(&self, later: &Listing) -> Option<Problem> {
        let listing = self.listing.as_ref()?;
        (listing.digest() != later.digest()).then(|| {
            let text = format!(
                "its host lists another repository after the restore: {}; redrill only read, so somebody else works on \
                 it: drill while no backup job runs",
                listing.difference(later)
            );
            Problem::new(Code::RepositoryBusy, text)
        })
    }
}

/// Lists a repository, and brings its mirror up to date.
pub(crate) async fn fetch(context: &Context, backup: &Backup, remote: &Remote, deadline: &Deadline) -> Fetched {
    let (began, place) = (Instant::now(), remote.to_string());
    let source = Err(Problem::new(Code::Unreachable, "it was not fetched"));
    let mut fetched = Fetched { place, listing: None, brought: Brought::default(), seconds: 0.0, source };
    let limit = deadline.child(&format!("the fetch of `{}`", backup.name), backup.within);
    let came = limit.limit(bring(context, backup, remote, &mut fetched)).await;
    fetched.source = came.unwrap_or_else(|limit| Err(Problem::new(Code::TimedOut, limit.to_string())));
    fetched.seconds = began.elapsed().as_secs_f64();
    fetched
}

/// Lists it once more.
pub(crate) async fn list_again(
    context: &Context,
    backup: &Backup,
    remote: &Remote,
    deadline: &Deadline,
) -> Result<Listing, Problem> {
    let limit = deadline.child(&format!("the listing of `{}`", backup.name), backup.within);
    let listed = async { BackupHost::connect(context, &scratch(context, backup)?, remote).await?.list().await };
    let listed = limit.limit(listed).await.unwrap_or_else(|limit| Err(Problem::new(Code::TimedOut, limit.to_string())));
    listed.map_err(|fault| Problem {
        text: format!("after the restore it could not be listed again: {}", fault.text),
        ..fault
    })
}

/// Throws the mirror away: what was fetched may be what is wrong, and the next drill shall not trust it.
pub(crate) fn forget(context: &Context, remote: &Remote) {
    // What stays is held against its name or time by the next drill, as ever.
    let mirror = RepositoryMirror::open(&context.home.cache, &remote.to_string());
    let _ = mirror.and_then(|mirror| mirror.map_or(Ok(()), |mirror| mirror.forget()));
}

async fn bring(context: &Context, backup: &Backup, remote: &Remote, fetched: &mut Fetched) -> Result<Source, Problem> {
    let scratch = scratch(context, backup)?;
    let mut host = BackupHost::connect(context, &scratch, remote).await?;
    let listing = host.list().await?;
    fetched.listing = Some(listing.clone());
    let locked = match backup.kind {
        BackupKind::Restic => listing.has_file("locks/"),
        BackupKind::Borg => listing.has_file("lock."),
        _ => false,
    };
    if locked {
        return Err(faults::locked());
    }
    let (files, mib) = (listing.files().count(), listing.bytes() / (1024 * 1024));
    if files == 0 {
        return Err(faults::empty_repository());
    }
    context.tell(&format!("fetching what is new of {files} files, {mib} MiB, from {}", fetched.place));
    let mirror = loop {
        match RepositoryMirror::open(&context.home.cache, &fetched.place).map_err(|error| no_copy(&error))? {
            Some(mirror) => break mirror,
            // Another drill brings it up to date.
            None => tokio::time::sleep(LOOK).await,
        }
    };
    fetched.brought = mirror.bring(&host, &listing).await?;
    let copy = scratch.join("fetched");
    let to = copy.clone();
    let made = tokio::task::spawn_blocking(move || mirror.snapshot(&to)).await;
    made.map_err(std::io::Error::other).and_then(|made| made).map_err(|error| no_copy(&error))?;
    Ok(Source::Tree(copy))
}

fn scratch(context: &Context, backup: &Backup) -> Result<PathBuf, Problem> {
    let scratch = context.path().join("restores").join(&backup.name);
    std::fs::create_dir_all(&scratch).map_err(|error| no_copy(&error))?;
    Ok(scratch)
}

/// This host's own files are in the way.
pub(super) fn no_copy(error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Problem::new(Code::DiskFull, "this host's disk was full before all of the repository was fetched")
        }
        _ => Problem::new(Code::RestoreUnknown, format!("this host cannot keep a copy of the repository: {error}")),
    }
}

/// The connection broke in the middle.
fn broke(said: &str) -> Problem {
    let text = "the connection to its host broke while it was fetched: what came is kept, and the next drill goes on from \
                there";
    Problem::new(Code::Unreachable, text).with(said)
}

/// A connection to a backup host.
enum BackupHost {
    Sftp(Box<Ssh>),
    Rest(rest::Client),
}

impl BackupHost {
    async fn connect(context: &Context, scratch: &Path, remote: &Remote) -> Result<Self, Problem> {
        let file = |path: &PathBuf| super::key_file(context, path);
        match remote {
            Remote::Sftp(sftp) => {
                let key = sftp.key.as_ref().map(file);
                let known = sftp.known_hosts.as_ref().map(file);
                Ok(Self::Sftp(Box::new(Ssh::connect(&context.guard, scratch, sftp, (key, known)).await?)))
            }
            Remote::Rest(rest) => {
                let read = |path: &PathBuf| std::fs::read(file(path)).map_err(|error| unreadable(path, &error));
                let login = rest.login.as_ref().map(read).transpose()?;
                let login = login.map(|login| String::from_utf8_lossy(&login).into_owned());
                let ca = rest.ca.as_ref().map(read).transpose()?;
                Ok(Self::Rest(rest::Client::new(rest, login.as_deref(), ca.as_deref())?))
            }
        }
    }

    async fn list(&mut self) -> Result<Listing, Problem> {
        match self {
            Self::Rest(client) => client.list().await,
            Self::Sftp(ssh) => ssh.list().await,
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(Code::NoAccess, format!("`{}` cannot be read: {error}", path.display()))
}

impl mirror::RemoteStore for BackupHost {
    async fn fetch(&self, path: &Path, span: (u64, u64), mut to: tokio::fs::File) -> Result<u64, Problem> {
        match self {
            Self::Rest(client) => client.fetch(path, span.0, &mut to).await,
            Self::Sftp(ssh) => {
                let came = ssh.client.fetch(&sftp::below(&ssh.base, path), span, &mut to).await;
                came.map_err(|error| match error {
                    SftpError::Ended => broke(&ssh.said()),
                    SftpError::Missing(_) => {
                        let text = format!("it changed while it was fetched: `{}` is gone", path.display());
                        Problem::new(Code::Unreachable, text)
                    }
                    other => told(other, ""),
                })
            }
        }
    }
}

/// SFTP over a process of `ssh`.
struct Ssh {
    client: sftp::Client,
    /// Where the repository lies.
    root: PathBuf,
    /// Where the paths of its listing begin.
    base: PathBuf,
    process: Guarded,
    said: Arc<Mutex<String>>,
}

impl Ssh {
    async fn connect(
        guard: &Guard,
        scratch: &Path,
        sftp: &Sftp,
        (key, known): (Option<PathBuf>, Option<PathBuf>),
    ) -> Result<Self, Problem> {
        if !on_host("ssh") {
            return Err(Problem::new(Code::ToolMissing, "this host has no `ssh`"));
        }
        let key = key.map(|key| private(&key, &scratch.join("access.key"))).transpose()?;
        // A guard's standard input is its leash: `ssh` reads what we write from a pipe that has a name.
        let pipe = scratch.join("sftp.sock");
        let _ = std::fs::remove_file(&pipe); // There is one if this is not the first connection.
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).map_err(|error| no_copy(&error.into()))?;
        // Opened for both, so that nobody waits for the other's end.
        let writer = pipe::OpenOptions::new().read_write(true).open_sender(&pipe).map_err(|error| no_copy(&error))?;
        let mut command = guard.command("sh");
        command.args(["-c", "exec \"$@\" <\"$0\""]).arg(&pipe).args(words(sftp, key.as_deref(), known.as_deref()));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut process = guard.spawn(&mut command, "ssh")?;
        let child = process.child();
        let (Some(reader), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Problem::new(Code::RestoreUnknown, "`ssh` has no output"));
        };
        let said = Arc::<Mutex<String>>::default();
        listen(stderr, Arc::clone(&said));
        let greeted = tokio::time::timeout(GREETING, sftp::Client::greet(reader, writer)).await;
        let greeted = greeted.unwrap_or(Err(SftpError::Ended));
        let _ = std::fs::remove_file(&pipe); // Both ends are open, or `ssh` has ended.
        let client = match greeted {
            Ok(client) => client,
            Err(error) => {
                // It has said why when it has ended; one that goes on for nothing ends when it is dropped.
                let _ = tokio::time::timeout(PATIENCE, process.wait()).await;
                let said = said.lock().expect("no panic while it is held").clone();
                return Err(told(error, &said));
            }
        };
        let root = PathBuf::from(&sftp.path);
        Ok(Self { client, base: root.clone(), root, process, said })
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panic while it is held").clone()
    }

    async fn list(&mut self) -> Result<Listing, Problem> {
        match self.client.list(&self.root).await {
            Ok((base, listing)) => {
                self.base = base;
                Ok(listing)
            }
            Err(SftpError::Missing(path)) if path == self.root => {
                Err(Problem::new(Code::NoRepository, format!("there is no `{}` on its host", path.display())))
            }
            Err(error) => {
                if error == SftpError::Ended {
                    let _ = tokio::time::timeout(PATIENCE, self.process.wait()).await;
                }
                Err(told(error, &self.said()))
            }
        }
    }
}

/// Keeps what comes.
fn listen(mut stderr: tokio::process::ChildStderr, said: Arc<Mutex<String>>) {
    tokio::spawn(async move {
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = stderr.read(&mut bytes).await {
            said.lock().expect("no panic while it is held").push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    });
}

/// A copy of a key that nobody else reads: `ssh` takes no other.
fn private(key: &Path, to: &Path) -> Result<PathBuf, Problem> {
    let _ = std::fs::remove_file(to); // There is one if this is not the first connection.
    let bytes = std::fs::read(key).map_err(|error| unreadable(key, &error))?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    file.and_then(|mut file| file.write_all(&bytes)).map_err(|error| no_copy(&error))?;
    Ok(to.to_owned())
}

/// `ssh` to the SFTP of a host. It goes by the user's own configuration, asks nothing, and forwards nothing.
fn words(sftp: &Sftp, key: Option<&Path>, known: Option<&Path>) -> Vec<String> {
    let mut options = vec![
        "BatchMode=yes".to_owned(),
        "ConnectTimeout=30".to_owned(),
        "ServerAliveInterval=15".to_owned(),
        "ServerAliveCountMax=4".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "ControlPath=none".to_owned(),
        "UpdateHostKeys=no".to_owned(),
    ];
    if let Some(known) = known {
        options.push(format!("UserKnownHostsFile=\"{}\"", known.display()));
        options.extend(["GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes"].map(str::to_owned));
    }
    if let Some(key) = key {
        options.push(format!("IdentityFile=\"{}\"", key.display()));
        options.push("IdentitiesOnly=yes".to_owned());
    }
    let mut words = vec!["ssh".to_owned()];
    words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    words.extend(sftp.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
    words.extend(sftp.user.iter().flat_map(|user| ["-l".to_owned(), user.clone()]));
    words.extend(["-s", "--", &sftp.host, "sftp"].map(str::to_owned));
    words
}

/// What a failure means, with what `ssh` said of it.
fn told(error: SftpError, said: &str) -> Problem {
    let access = |text: String| Problem::new(Code::NoAccess, text).with(said);
    let away = |text: String| Problem::new(Code::Unreachable, text).with(said);
    let has = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    match error {
        SftpError::Ended if has(&["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"]) => {
            access("its host does not show a key by which it is known: `known-hosts`, or the user's own".to_owned())
        }
        SftpError::Ended if has(&["Permission denied", "Too many authentication failures", "invalid format"]) => {
            access("its host refuses the login".to_owned())
        }
        SftpError::Ended if has(&["subsystem request failed"]) => away("its host has no SFTP".to_owned()),
        SftpError::Ended => away("its host does not answer".to_owned()),
        SftpError::Odd(why) => away(format!("it cannot be read from its host: {why}")),
        SftpError::Local(why) => Problem::new(Code::RestoreUnknown, format!("this host cannot keep a copy: {why}")),
        SftpError::Refused { denied: true, path, .. } => {
            access(format!("its host does not let this account read `{}`", path.display()))
        }
        other => away(format!("it cannot be read from its host: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_listing_after_the_restore_is_told_as_somebody_elses_work() {
        let file = |size| listing::Entry::File { size, attributes: listing::Attributes::default() };
        let of = |size| Listing { entries: [(PathBuf::from("config"), file(size))].into() };
        let fetched = Fetched {
            place: "sftp://host/r".into(),
            listing: Some(of(1)),
            brought: Brought { kept: 1, bytes: 0 },
            seconds: 1.0,
            source: Ok(Source::Tree("/copy".into())),
        };
        assert_eq!(fetched.changed(&of(1)), None);
        let fault = fetched.changed(&of(2)).expect("it changed");
        assert!(fault.code == Code::RepositoryBusy && fault.text.contains("1 are others"), "{fault:?}");
        assert_eq!(fault.severity(), redrill_model::Severity::Unknown, "it was not redrill");
        let report = fetched.report();
        assert_eq!((report.files, report.bytes, report.remote.map(|remote| remote.kept)), (1, 1, Some(1)));
    }

    fn code(error: SftpError, said: &str) -> Code {
        told(error, said).code
    }

    #[test]
    fn what_ssh_says_has_a_word_of_its_own() {
        let ended = || SftpError::Ended;
        assert_eq!(code(ended(), "me@host: Permission denied (publickey)."), Code::NoAccess);
        assert_eq!(code(ended(), "Host key verification failed."), Code::NoAccess);
        assert_eq!(code(ended(), "ssh: connect to host h port 22: Connection refused"), Code::Unreachable);
        assert_eq!(code(ended(), "ssh: Could not resolve hostname h"), Code::Unreachable);
        assert_eq!(code(ended(), "subsystem request failed on channel 0"), Code::Unreachable);
        let denied = SftpError::Refused { path: "/r".into(), denied: true, said: "Permission denied".into() };
        assert_eq!(code(denied, ""), Code::NoAccess);
    }

    #[test]
    fn ssh_asks_nothing_and_takes_no_option_from_a_name() {
        let sftp = Sftp {
            user: Some("me".into()),
            host: "host".into(),
            port: Some(2222),
            path: "/r".into(),
            key: None,
            known_hosts: None,
        };
        let words = words(&sftp, Some(Path::new("/k e y")), Some(Path::new("/known")));
        assert!(words.ends_with(&["-s", "--", "host", "sftp"].map(str::to_owned)), "{words:?}");
        for option in
            ["BatchMode=yes", "IdentityFile=\"/k e y\"", "StrictHostKeyChecking=yes", "-p", "2222", "-l", "me"]
        {
            assert!(words.iter().any(|word| word == option), "{option} in {words:?}");
        }
    }
}
