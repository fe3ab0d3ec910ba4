//! A cell as a container of the engine: without a network, without rights, and gone with whoever holds its leash.
//!
//! What the program prints goes to the places that we were given: the warden in the container gets them over the wire,
//! and the engine sees none of it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, StartContainerOptions, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use redrill_sandbox::{Enclosure, PRIVATE, PROGRAM};

use super::engine::{Engine, failed, labels};
use super::sweep::{SANDBOX, copy_of};
use crate::error::MachineError;
use crate::process::RUN_VARIABLE;

/// In a cell's place while the engine may be making its container.
const MAKING: &str = "making";
/// What the warden needs: the network's set-up, its packets and low ports; to start a program as the caller and to end
/// it; and sockets in directories that are the caller's alone. The program gets none of it.
const CAPABILITIES: [&str; 8] =
    ["DAC_OVERRIDE", "KILL", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SETGID", "SETPCAP", "SETUID"];
/// What engines hide by default, and all of `/sys`: it says which machine this is.
const HIDDEN: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/mtrr",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys",
];
/// More than any deploy; a fork bomb ends there.
const PROCESSES: i64 = 4096;
/// Directories of the image, with their modes: most are places to mount at.
const DIRECTORIES: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("run/redrill", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];
/// Nothing was started.
const NOT_STARTED: u8 = 126;
/// How long an engine may take to remove a container whose program has ended.
const REMOVED: Duration = Duration::from_secs(60);
/// How long what a container told last may be on its way.
const TOLD: Duration = Duration::from_secs(1);
/// Of what a container itself prints, which is a word or two if its program cannot be started.
const SAID: usize = 4096;

/// `redrill enclose PLACE -- WORDS`: runs `words` in a container, as the cell in `place` says, to the program's end: its
/// exit status, 128 + the number of the signal that ended it, or 126 if nothing could be started, which the ledger
/// explains. `user` owns the caller's files as the container sees them.
pub async fn enclose(user: (u32, u32), place: &Path, words: &[OsString]) -> ExitCode {
    match run(user, place, words).await {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Whoever reads a ledger without an end knows that it is not whole.
            let _ = redrill_sandbox::failed(place, &error.to_string());
            ExitCode::from(NOT_STARTED)
        }
    }
}

async fn run(user: (u32, u32), place: &Path, words: &[OsString]) -> Result<u8, MachineError> {
    let io = |what: &'static str| MachineError::io(what);
    let program = std::env::current_exe().map_err(io("cannot find this program"))?;
    let run = std::env::var_os(RUN_VARIABLE).map(PathBuf::from).unwrap_or_default();
    let open = Enclosure::open(place, &program, user, words).map_err(io("cannot lay out a sandbox"))?;
    let engine = Engine::connect().await?;
    let image = engine.sandbox_image(&open.links).await?;
    std::fs::write(place.join(MAKING), "").map_err(io("cannot lay out a sandbox"))?;
    let container = engine.create(body(&image, &open, &run)).await?;
    let (mut said, mut removed) = (engine.said(&container).await?, Box::pin(engine.removed(&container)));
    if let Err(error) = engine.start(&container).await {
        let _ = engine.remove(&container).await;
        return Err(error);
    }
    let _ = std::fs::remove_file(place.join(MAKING));
    let (tell, mut served) = tokio::sync::oneshot::channel();
    // It waits for the container's first process, which may never come: the thread ends with us.
    std::thread::spawn(move || tell.send(open.serve()));
    let (ended, gone) = tokio::select! {
        ended = &mut served => (ended.ok(), false),
        () = &mut removed => (tokio::time::timeout(TOLD, &mut served).await.ok().and_then(Result::ok), true),
    };
    if !gone {
        // What the program left is over when its container is.
        let _ = tokio::time::timeout(REMOVED, removed).await;
    }
    match ended {
        Some(Ok(status)) => Ok(status),
        Some(Err(error)) => Err(MachineError::Engine(format!("{error}{}", tail(&mut said).await))),
        None => Err(MachineError::Engine(format!("the container did not start{}", tail(&mut said).await))),
    }
}

/// What a container itself said, for an error's end.
async fn tail(said: &mut tokio::sync::mpsc::Receiver<Vec<u8>>) -> String {
    let mut all = Vec::new();
    while let Ok(Some(more)) = tokio::time::timeout(TOLD, said.recv()).await {
        all.extend(more);
        all.truncate(SAID);
    }
    let text = String::from_utf8_lossy(&all).trim().to_owned();
    if text.is_empty() { text } else { format!(": {text}") }
}

fn body(image: &str, open: &Enclosure, run: &Path) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec![PROGRAM.to_owned(), "enclosed".to_owned()]),
        env: Some(vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]),
        hostname: Some(open.host_name.clone()),
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        labels: Some(labels(run)),
        host_config: Some(host_config(open)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(open: &Enclosure) -> HostConfig {
    let strings = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let scratch = open.scratch.iter();
    let scratch = scratch.map(|path| (path.display().to_string(), "rw,exec,nosuid,nodev,mode=1777".to_owned()));
    // As in any network namespace: engines open low ports to everybody, and turn IPv6 off.
    let mut sysctls = HashMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned())]);
    if Path::new("/proc/net/if_inet6").exists() {
        sysctls.insert("net.ipv6.conf.all.disable_ipv6".to_owned(), "0".to_owned());
    }
    HostConfig {
        auto_remove: Some(true),
        cap_add: strings(&CAPABILITIES),
        cap_drop: strings(&["ALL"]),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        ipc_mode: Some("private".to_owned()),
        // Nothing of what a program prints lies in the engine's files.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        masked_paths: strings(&HIDDEN),
        mounts: Some(open.mounts.iter().map(mount).collect()),
        network_mode: Some("none".to_owned()),
        pids_limit: Some(PROCESSES),
        readonly_rootfs: Some(true),
        security_opt: strings(&["no-new-privileges", "label=disable"]),
        sysctls: Some(sysctls),
        tmpfs: Some(scratch.collect()),
        // The caller's files are nobody's in a user namespace of the engine's.
        userns_mode: Some("host".to_owned()),
        ..HostConfig::default()
    }
}

fn mount(mount: &redrill_sandbox::Mount) -> Mount {
    Mount {
        source: Some(mount.from.display().to_string()),
        target: Some(mount.to.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(!mount.writable),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            // Mounts below have entries of their own: old engines would leave them writable.
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// The tree of the image: places to mount at, and the links of the root.
fn tree(links: &[(PathBuf, PathBuf)]) -> std::io::Result<Vec<u8>> {
    let mut tree = tar::Builder::new(Vec::new());
    let private = PRIVATE.trim_start_matches('/');
    let header = |kind, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header
    };
    for (path, mode) in DIRECTORIES.into_iter().chain([(private, 0o700)]) {
        tree.append_data(&mut header(tar::EntryType::Directory, mode), path, std::io::empty())?;
    }
    for (path, target) in links {
        let path = path.strip_prefix("/").unwrap_or(path);
        tree.append_link(&mut header(tar::EntryType::Symlink, 0o777), path, target)?;
    }
    tree.into_inner()
}

impl Engine {
    /// The image of every sandbox, made if the engine has it not.
    async fn sandbox_image(&self, links: &[(PathBuf, PathBuf)]) -> Result<String, MachineError> {
        let tree = tree(links).map_err(MachineError::io("cannot make the sandbox's image"))?;
        let (name, tag) = copy_of(SANDBOX, &blake3::hash(&tree).to_hex());
        let image = format!("{name}:{tag}");
        if !self.has(&image).await {
            self.take(&name, &tag, futures_util::stream::iter([Ok(tree)])).await?;
        }
        Ok(image)
    }

    async fn create(&self, body: ContainerCreateBody) -> Result<String, MachineError> {
        let created = self.docker.create_container(None::<CreateContainerOptions>, body).await;
        created.map(|created| created.id).map_err(failed("cannot make a sandbox"))
    }

    async fn start(&self, container: &str) -> Result<(), MachineError> {
        let started = self.docker.start_container(container, None::<StartContainerOptions>).await;
        started.map_err(failed("cannot start a sandbox"))
    }

    /// What the container itself prints, as it comes.
    async fn said(&self, container: &str) -> Result<tokio::sync::mpsc::Receiver<Vec<u8>>, MachineError> {
        let options = AttachContainerOptionsBuilder::new().stdout(true).stderr(true).stream(true).build();
        let attached = self.docker.attach_container(container, Some(options)).await;
        let mut output = attached.map_err(failed("cannot listen to a sandbox"))?.output;
        let (tell, said) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(more)) = output.next().await {
                if let LogOutput::StdOut { message } | LogOutput::StdErr { message } = more
                    && tell.send(message.to_vec()).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(said)
    }

    /// Comes to an end when the container is no more.
    async fn removed(&self, container: &str) {
        let options = WaitContainerOptionsBuilder::new().condition("removed").build();
        // How it ended the wire tells; an engine that is gone has told all it can.
        let _ = Box::pin(self.docker.wait_container(container, Some(options))).next().await;
    }
}

/// Whether this engine makes containers for somebody who is not the system's root: then the caller's files are root's
/// in them.
pub(crate) async fn is_rootless() -> Result<bool, MachineError> {
    let engine = Engine::connect().await?;
    let info = engine.docker.info().await.map_err(failed("does not tell of itself"))?;
    Ok(info.security_options.into_iter().flatten().any(|option| option.contains("name=rootless")))
}

/// Whether an engine may be making the container of a cell of this run.
pub(crate) fn is_making(run: &Path) -> bool {
    let cells = std::fs::read_dir(run.join("controller/cells")).into_iter().flatten().flatten();
    cells.map(|cell| cell.path()).any(|cell| cell.join(MAKING).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_no_network_and_writes_where_the_cell_may() {
        let place = tempfile::tempdir().expect("a directory");
        let own = place.path().join("own");
        let cell = crate::sealing::trial(&own);
        cell.write(&place.path().join("cell")).expect("written");
        let open = Enclosure::open(&place.path().join("cell"), Path::new("/opt/redrill"), (7, 7), &["true".into()]);
        let body = body("redrill/sandbox:x", &open.expect("opened"), Path::new("/runs/x"));
        assert_eq!(body.labels.expect("some")["redrill.run"], "/runs/x");
        let host = body.host_config.expect("some");
        assert_eq!((host.network_mode.as_deref(), host.readonly_rootfs), (Some("none"), Some(true)));
        assert_eq!((host.cap_drop, host.privileged), (Some(vec!["ALL".to_owned()]), None));
        assert!(host.security_opt.expect("some").contains(&"no-new-privileges".to_owned()));
        let mounts = host.mounts.expect("some");
        let writable = mounts.iter().filter(|mount| mount.read_only != Some(true));
        let writable: Vec<_> = writable.filter_map(|mount| mount.source.clone()).collect();
        assert_eq!(writable, [own.display().to_string()]);
        assert!(mounts.iter().all(|mount| mount.bind_options.as_ref().is_some_and(|b| b.non_recursive == Some(true))));
        assert!(!mounts.iter().any(|mount| mount.source.as_ref().is_some_and(|from| from.ends_with("docker.sock"))));
    }

    #[test]
    fn equal_roots_are_one_image() {
        let links = [(PathBuf::from("/bin"), PathBuf::from("usr/bin"))];
        assert_eq!(tree(&links).expect("made"), tree(&links).expect("made"));
        assert_ne!(tree(&links).expect("made"), tree(&[]).expect("made"));
    }

    #[test]
    fn a_cell_whose_container_may_come_is_told() {
        let run = tempfile::tempdir().expect("a directory");
        assert!(!is_making(run.path()));
        let cell = run.path().join("controller/cells/0003");
        std::fs::create_dir_all(&cell).expect("made");
        assert!(!is_making(run.path()));
        std::fs::write(cell.join(MAKING), "").expect("written");
        assert!(is_making(run.path()));
    }
}
