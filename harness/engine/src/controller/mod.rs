//! The clean environment in which a deploy tool runs: a checkout of one commit, the keys beside it, a fresh home, few
//! environment variables, and no way to any host but the drill's machines.

mod checkout;
mod inventory;
mod ssh_home;
mod venv;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redrill_machines::process::{Guard, RUN_VARIABLE};
use redrill_machines::{Address, Home, MachineError};
use redrill_model::{Deploy, SourceReport};
use thiserror::Error;
use tokio::process::Command;

use crate::loaded::{Loaded, ScenarioError};
pub(crate) use inventory::InventoryHost;

/// Is told what goes on.
pub(crate) type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Why there is no controller.
#[derive(Debug, Error)]
pub(crate) enum ControllerError {
    /// The scenario does not fit the repo: exit status 2.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A program of the host failed.
    #[error("{what} failed: {said}")]
    Program { what: String, said: String },
    /// It could not be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The host's files.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl ControllerError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A controller that is ready to deploy.
#[derive(Debug)]
pub(crate) struct Controller {
    /// The checkout.
    pub(crate) servers: PathBuf,
    /// Where it came from.
    pub(crate) source: SourceReport,
    /// Hosts of the inventory.
    pub(crate) hosts: Vec<InventoryHost>,
    /// Version of the deploy tool.
    pub(crate) tool_version: String,
    guard: Guard,
    run: PathBuf,
    directory: PathBuf,
    venv: PathBuf,
    env: BTreeMap<String, String>,
    key: Option<PathBuf>,
}

impl Controller {
    /// Checks out, lays the keys beside, makes the tool's virtual environment, and reads the inventory.
    pub(crate) async fn make(
        loaded: &Loaded,
        home: &Home,
        guard: &Guard,
        run: &Path,
        progress: &Progress,
    ) -> Result<Self, ControllerError> {
        let directory = run.join("controller");
        std::fs::create_dir_all(directory.join("home")).map_err(ControllerError::io("cannot make the controller"))?;
        let servers = directory.join("servers");
        let repo = loaded.directory.join(&loaded.scenario.servers.path);
        let source = checkout::checkout(&repo, &loaded.scenario.servers.commit, &servers).await?;
        progress(&format!("checked out {} {}", &source.commit[..12], source.title));
        if let Some(keys) = loaded.keys() {
            checkout::copy_private(&keys, &directory.join("keys"))?;
        }
        let deploy = &loaded.scenario.deploy;
        for file in [&deploy.inventory, &deploy.script, &deploy.requirements] {
            if !servers.join(file).is_file() {
                let message =
                    format!("there is no `{}` in the servers repo at {}", file.display(), &source.commit[..12]);
                return Err(ScenarioError::mismatch(message, "a committed file, relative to the repo").into());
            }
        }
        let venv = venv::make(&servers.join(&deploy.requirements), &home.cache, guard, run, progress).await?;
        let mut controller = Self {
            servers,
            source,
            hosts: Vec::new(),
            tool_version: String::new(),
            guard: guard.clone(),
            run: run.to_owned(),
            directory,
            venv,
            env: deploy.env.clone(),
            key: None,
        };
        controller.tool_version = controller.version().await?;
        controller.hosts = inventory::read(&controller, deploy).await?;
        inventory::compare(&controller.hosts, &loaded.scenario.machines)?;
        Ok(controller)
    }

    /// Lets the tool reach these machines, and no others.
    pub(crate) fn connect(&mut self, addresses: &[Address]) -> Result<(), ControllerError> {
        self.key = addresses.first().map(|address| address.key.clone());
        ssh_home::write(&self.home(), &self.hosts, addresses, self.guard.program())
    }

    /// The configuration of every SSH connection, whatever the inventory names.
    pub(crate) fn ssh_config(&self) -> PathBuf {
        self.home().join(".ssh/config")
    }

    /// The key that every machine admits; known once machines are connected.
    pub(crate) fn key(&self) -> Option<PathBuf> {
        self.key.clone()
    }

    /// The host keys of the machines.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.home().join(".ssh/known_hosts")
    }

    fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// A guarded command in the checkout, with an environment that was chosen and not inherited.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.command_at(&self.venv.join("bin").join(program))
    }

    fn command_at(&self, program: &Path) -> Command {
        let mut command = self.guard.command(program);
        command.env_clear().current_dir(&self.servers);
        command.env(RUN_VARIABLE, &self.run);
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.venv.join("bin").display()));
        command.env("HOME", self.home()).env("LANG", "C.UTF-8").env("TZ", "UTC").env("USER", "redrill");
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(&self.env);
        command
    }

    /// Runs a program of the checkout, of the tool's environment, or of the host, to its end. It finds the way to the
    /// machines in `REDRILL_SSH_CONFIG`, since OpenSSH looks for its own in the account's home.
    pub(crate) async fn run(&self, words: &[String]) -> Result<redrill_machines::Output, MachineError> {
        let [program, arguments @ ..] = words else {
            return Err(MachineError::Program { program: "controller".into(), said: "nothing to run".into() });
        };
        let (here, in_venv) = (self.servers.join(program), self.venv.join("bin").join(program));
        let found = if here.is_file() {
            here
        } else if in_venv.is_file() {
            in_venv
        } else {
            PathBuf::from(program)
        };
        let mut command = self.command_at(&found);
        command.args(arguments).env("REDRILL_SSH_CONFIG", self.ssh_config());
        let output = crate::process::output(&self.guard, command, program).await?;
        Ok(redrill_machines::Output {
            status: output.status.code().unwrap_or(1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts what [`Controller::command`] made.
    pub(crate) fn spawn(
        &self,
        command: &mut Command,
        name: &str,
    ) -> Result<redrill_machines::process::Guarded, MachineError> {
        self.guard.spawn(command, name)
    }

    async fn version(&self) -> Result<String, ControllerError> {
        let text = self.ask(&["--version"]).await?;
        Ok(text.trim().trim_start_matches("pyinfra: ").trim_start_matches('v').to_owned())
    }

    /// What the tool prints on standard output when asked.
    async fn ask(&self, args: &[&str]) -> Result<String, ControllerError> {
        let mut command = self.command("pyinfra");
        command.args(args);
        let failed = |said: String| ControllerError::Program { what: format!("pyinfra {}", args.join(" ")), said };
        let output = crate::process::output(&self.guard, command, "pyinfra").await?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }
}

/// The deploy's arguments that name its files.
pub(crate) fn deploy_files(deploy: &Deploy) -> [&Path; 2] {
    [&deploy.inventory, &deploy.script]
}
