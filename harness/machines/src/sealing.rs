//! What seals the programs of a repo on this host: namespaces, or an engine's containers where the host refuses those.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redrill_sandbox::{Cell, Choice, Ledger, Means, Unable, find};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::container;
use crate::process::{Guard, RUN_VARIABLE};

/// Where the trial's cell lies in the run directory.
const TRIAL: &str = "controller/trial";
/// What the trial leaves.
const MARK: &str = "mark";
/// An engine that takes longer is of no use.
const PATIENCE: Duration = Duration::from_secs(60);

/// The means that are used.
#[derive(Debug, Clone)]
pub enum Sealing {
    /// Of the host.
    Namespaces(Means),
    /// A container for each program.
    Engine {
        /// The owner of the caller's files, as containers see them.
        user: (u32, u32),
        /// Why the host's own namespaces are not used, unless an engine was asked for.
        why: Option<Unable>,
    },
}

impl Sealing {
    /// The first that a trial shows to work. What the trial of an engine makes carries the run's mark.
    pub async fn find(guard: &Guard) -> Result<Self, Unable> {
        let choice = Choice::from_environment()?;
        let why = match choice {
            Choice::Engine => None,
            Choice::Any | Choice::Namespaces => {
                let probe = tokio::task::spawn_blocking(Means::probe).await;
                match probe.unwrap_or_else(|error| Err(Unable::Refused(error.to_string()))) {
                    Ok(means) => return Ok(Self::Namespaces(means)),
                    Err(why) if choice == Choice::Namespaces => return Err(why),
                    Err(why) => Some(why),
                }
            }
        };
        match engine(guard).await {
            Ok(user) => Ok(Self::Engine { user, why }),
            Err(said) => Err(match why {
                None => Unable::Engine(said),
                Some(why) => Unable::Neither { namespaces: Box::new(why), engine: said },
            }),
        }
    }

    /// The guarded command that runs `words` in the cell that lies in `place`. Its environment is empty but for what
    /// leads to the engine: what is given to whatever seals, the sealed could read.
    pub fn command(&self, guard: &Guard, place: &Path, words: &[OsString]) -> Command {
        let mut command = match self {
            Self::Namespaces(means) => {
                let mut command = guard.command(&means.unshare);
                command.args(means.namespaces()).arg(guard.program()).arg("warden").env_clear();
                command
            }
            Self::Engine { user: (user, group), .. } => {
                let mut command = guard.command(guard.program());
                command.arg("enclose").arg("--user").arg(user.to_string()).arg("--group").arg(group.to_string());
                command.env_clear().envs(std::env::var_os(HOST).map(|host| (HOST, host)));
                command
            }
        };
        command.arg(place).arg("--").args(words).env("PATH", "/usr/bin:/bin").env(RUN_VARIABLE, guard.run());
        command.current_dir("/");
        command
    }

    /// What a reader of the report must know of it.
    pub fn remark(&self) -> Option<String> {
        let Self::Engine { why, .. } = self else { return None };
        let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        Some(format!("programs of the repo were sealed in containers of the engine{why}"))
    }
}

/// Names the engine.
const HOST: &str = "DOCKER_HOST";

/// Whether a container of the engine can be a sandbox, found by making one: the owner of the caller's files in it.
async fn engine(guard: &Guard) -> Result<(u32, u32), String> {
    if let Some(host) = std::env::var(HOST).ok().filter(|host| !host.is_empty() && !host.starts_with("unix://")) {
        return Err(format!("{HOST} is {host}: an engine elsewhere has not this host's files"));
    }
    for (program, package) in [("setpriv", "util-linux"), ("ip", "iproute2")] {
        find(program).ok_or_else(|| Unable::Missing(program, package).to_string())?;
    }
    let note = guard.run().join(container::ENGINE);
    std::fs::write(note, container::engine_socket().display().to_string()).map_err(|error| error.to_string())?;
    let rootless = container::is_rootless().await.map_err(|error| error.to_string())?;
    let own = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = if rootless { (0, 0) } else { own() };
    let place = guard.run().join(TRIAL);
    let tried = tokio::time::timeout(PATIENCE, try_out(guard, user, &place)).await;
    let _ = std::fs::remove_dir_all(&place);
    tried.unwrap_or_else(|_| Err("it does not come to an end".to_owned())).map(|()| user)
}

/// Seals a program that writes a file where it may: this shows that the engine sees our files, and that they are ours.
async fn try_out(guard: &Guard, user: (u32, u32), place: &Path) -> Result<(), String> {
    let own = place.join("own");
    std::fs::create_dir_all(&own).map_err(|error| error.to_string())?;
    let cell = trial(&own);
    cell.write(&place.join("cell")).map_err(|error| error.to_string())?;
    let words = ["/bin/sh", "-c", "echo sealed > \"$1\"", "sh"].map(OsString::from);
    let words: Vec<OsString> = words.into_iter().chain([own.join(MARK).into_os_string()]).collect();
    let mut command = Sealing::Engine { user, why: None }.command(guard, &place.join("cell"), &words);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = guard.spawn(&mut command, "redrill enclose").map_err(|error| error.to_string())?;
    let mut said = String::new();
    if let Some(mut stderr) = process.child().stderr.take() {
        let _ = stderr.read_to_string(&mut said).await; // What is not text says nothing.
    }
    let status = process.wait().await.map_err(|error| error.to_string())?;
    let ledger = Ledger::read(&place.join("cell"));
    let mark = std::fs::read_to_string(own.join(MARK)).unwrap_or_default();
    match (ledger.failed, ledger.over && status.success() && mark.trim() == "sealed") {
        (Some(why), _) => Err(why),
        (None, true) => Ok(()),
        (None, false) => Err(format!("a trial ended with {status} {}", said.trim())),
    }
}

/// A cell in which nothing is but a place to write.
pub(crate) fn trial(own: &Path) -> Cell {
    Cell {
        host_name: "redrill".to_owned(),
        machine_id: "0".repeat(32),
        user: "redrill".to_owned(),
        home: own.to_owned(),
        directory: own.to_owned(),
        environment: BTreeMap::new(),
        read_only: Vec::new(),
        writable: vec![own.to_owned()],
        moved: Vec::new(),
        moved_writable: Vec::new(),
        leads: Vec::new(),
        ssh: None,
    }
}
