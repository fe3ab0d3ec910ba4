//! The clean environment in which a deploy tool runs: a checkout of one commit, the keys beside it, a fresh home, few
//! environment variables, and no way to any host but the drill's machines.

mod checkout;
mod environment_key;
mod inventory;
mod shims;
mod ssh_home;
mod surroundings;
mod venv;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use redrill_machines::process::{Guard, RUN_VARIABLE};
use redrill_machines::{Address, Home, MachineError};
use redrill_model::{Claim, Deploy, Pass, Perturbation, SourceReport, Tool};
use thiserror::Error;
use tokio::process::Command;

use crate::keys;
use crate::loaded::{Loaded, ScenarioError};
use crate::tools::{self, Found};
pub(crate) use checkout::changed;
pub(crate) use inventory::InventoryHost;
use surroundings::Surroundings;

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
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// With its place in the scenario, if it is the scenario's mistake.
    pub(crate) fn at(self, loaded: &Loaded, key: &[&str]) -> Self {
        match self {
            Self::Scenario(error) => Self::Scenario(error.at(loaded, key)),
            other => other,
        }
    }
}

/// A controller that is ready to deploy.
#[derive(Debug)]
pub(crate) struct Controller {
    /// Where it deploys from now.
    here: Surroundings,
    /// Where it deploys from first, and for the second time.
    places: [Surroundings; 2],
    /// Where it came from.
    pub(crate) source: SourceReport,
    /// What deploys it, and with which files.
    pub(crate) found: Found,
    /// What the scenario says of the deploy.
    pub(crate) deploy: Deploy,
    /// Hosts of the inventory.
    pub(crate) hosts: Vec<InventoryHost>,
    /// Version of the deploy tool.
    pub(crate) tool_version: String,
    /// What a reader must know of it.
    pub(crate) remarks: Vec<String>,
    guard: Guard,
    run: PathBuf,
    directory: PathBuf,
    /// Where the deploy tool is; a script may need none.
    venv: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Controller {
    /// Checks out, lays the keys beside, makes the tool's virtual environment, and reads the inventory.
    pub(crate) async fn survey(
        loaded: &Loaded,
        home: &Home,
        guard: &Guard,
        run: &Path,
        progress: &Progress,
    ) -> Result<Self, ControllerError> {
        let directory = run.join("controller");
        std::fs::create_dir_all(directory.join("home")).map_err(ControllerError::io("cannot make the controller"))?;
        let here = Surroundings::first(&directory);
        let source = checkout::checkout(loaded, &loaded.scenario.servers.commit, &here.servers).await?;
        progress(&format!("checked out {} {}", &source.commit[..12], source.title));
        if let Some(keys) = loaded.keys() {
            keys::copy(&keys, &directory.join("keys")).map_err(|error| error.at(loaded, &["keys", "path"]))?;
        }
        let found = tools::resolve(&here.servers, &loaded.scenario.deploy).map_err(|undecided| {
            let error = ScenarioError::mismatch(undecided.message, undecided.expected);
            undecided.key.into_iter().fold(error, |error, key| error.at(loaded, &["deploy", key]))
        })?;
        let venv = match &found.requirements {
            Some(file) => Some(venv::make(&here.servers, file, &home.cache, guard, run, progress).await?),
            None => None,
        };
        let elsewhere = if loaded.scenario.claims.contains(&Claim::Idempotent) {
            elsewhere(loaded, &directory, &source.commit, &here).await?
        } else {
            here.clone()
        };
        let mut controller = Self {
            places: [here.clone(), elsewhere],
            here,
            source,
            found,
            deploy: loaded.scenario.deploy.clone(),
            hosts: Vec::new(),
            tool_version: String::new(),
            remarks: Vec::new(),
            guard: guard.clone(),
            run: run.to_owned(),
            directory,
            venv,
            key: None,
        };
        controller.install()?;
        controller.tool_version = controller.version().await?;
        let (hosts, remarks) = inventory::read(&controller, &loaded.scenario.machines).await?;
        let (hosts, left) = inventory::limited(
            hosts,
            &controller.deploy.limit,
            controller.found.inventory.as_deref().unwrap_or(Path::new("inventory")),
        )?;
        (controller.hosts, controller.remarks) = (hosts, remarks);
        controller.remarks.extend(left);
        Ok(controller)
    }

    /// The same, with a machine for every host and a host for every machine.
    pub(crate) async fn make(
        loaded: &Loaded,
        home: &Home,
        guard: &Guard,
        run: &Path,
        progress: &Progress,
    ) -> Result<Self, ControllerError> {
        let controller = Self::survey(loaded, home, guard, run, progress).await?;
        inventory::compare(&controller.hosts, &loaded.scenario.machines)?;
        Ok(controller)
    }

    /// The checkout.
    pub(crate) fn servers(&self) -> &Path {
        &self.here.servers
    }

    /// Where this deploy runs from: the second from elsewhere, all others from the same place.
    pub(crate) fn stand(&mut self, pass: Pass) {
        let [first, second] = &self.places;
        self.here = if pass == Pass::Second { second.clone() } else { first.clone() };
    }

    /// What is another for the second deploy, in words.
    pub(crate) fn perturbed(&self) -> Vec<&'static str> {
        self.places[1].differs(&self.places[0])
    }

    /// Lays what we bring beside the checkout: helpers of the tools, and ways to the machines.
    fn install(&self) -> Result<(), ControllerError> {
        let tools = self.tools();
        std::fs::create_dir_all(&tools).map_err(ControllerError::io("cannot make the controller"))?;
        shims::install(&self.bin(), &self.ssh_config(), self.guard.program(), &self.contacts_file())?;
        match self.found.tool {
            Tool::Pyinfra => tools::install_pyinfra_events(&tools),
            Tool::Ansible => tools::install_ansible_events(&tools),
            Tool::Shell => Ok(()),
        }
    }

    /// Where what we bring lies.
    pub(crate) fn tools(&self) -> PathBuf {
        self.directory.join("tools")
    }

    fn bin(&self) -> PathBuf {
        self.tools().join("bin")
    }

    /// Where a tool's events of this run lie, secrets and all: it goes with the controller.
    pub(crate) fn events_file(&self, label: &str) -> PathBuf {
        self.tools().join(format!("{label}.events.jsonl"))
    }

    /// What the scenario passes on to the tool.
    pub(crate) fn arguments(&self, pass: Pass) -> Vec<String> {
        let again = if pass == Pass::First { &[][..] } else { &self.deploy.again_args };
        let limit: Vec<String> = match (self.found.tool, &self.deploy.limit[..]) {
            (_, []) | (Tool::Shell, _) => Vec::new(),
            (Tool::Pyinfra, hosts) => hosts.iter().flat_map(|host| ["--limit".to_owned(), host.clone()]).collect(),
            (Tool::Ansible, hosts) => vec!["--limit".to_owned(), hosts.join(",")],
        };
        limit.iter().chain(&self.deploy.args).chain(again).cloned().collect()
    }

    fn contacts_file(&self) -> PathBuf {
        self.tools().join("contacts")
    }

    /// Forgets which machines were connected to.
    pub(crate) fn forget_contacts(&self) {
        let _ = std::fs::remove_file(self.contacts_file()); // None may be there yet.
    }

    /// Hosts to whose machines a connection was made since, in the order of the inventory.
    pub(crate) fn contacts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.contacts_file()).unwrap_or_default();
        let made = |host: &&InventoryHost| text.lines().any(|line| line == host.name);
        self.hosts.iter().filter(made).map(|host| host.name.clone()).collect()
    }

    /// Lets the tool reach these machines, and no others.
    pub(crate) fn connect(&mut self, addresses: &[Address]) -> Result<(), ControllerError> {
        self.key = addresses.first().map(|address| address.key.clone());
        let contact = shims::contact(&self.bin());
        // paramiko starts its proxy for each connection anew; only what a script does is unknown otherwise.
        let noting = (self.found.tool == Tool::Shell).then_some(contact.as_path());
        let ways = ssh_home::Ways { redrill: self.guard.program(), noting };
        self.places.iter().try_for_each(|place| ssh_home::write(&place.home, &self.hosts, addresses, &ways))
    }

    /// The configuration of every SSH connection, whatever the inventory names.
    pub(crate) fn ssh_config(&self) -> PathBuf {
        self.here.home.join(".ssh/config")
    }

    /// The key that every machine admits; known once machines are connected.
    pub(crate) fn key(&self) -> Option<PathBuf> {
        self.key.clone()
    }

    /// The host keys of the machines.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.here.home.join(".ssh/known_hosts")
    }

    /// A guarded command in the checkout, with an environment that was chosen and not inherited.
    pub(crate) fn command(&self, program: &str) -> Command {
        let venv = self.venv.as_ref().map(|venv| venv.join("bin"));
        let in_venv = venv.as_ref().map(|bin| bin.join(program)).filter(|path| path.exists());
        self.command_at(in_venv.unwrap_or_else(|| PathBuf::from(program)))
    }

    fn command_at(&self, program: PathBuf) -> Command {
        let venv = self.venv.as_ref().map(|venv| venv.join("bin"));
        let mut command = self.here.command(&self.guard, program);
        command.env(RUN_VARIABLE, &self.run);
        let own = [Some(self.bin()), venv].into_iter().flatten();
        let path: String = own.map(|bin| format!("{}:", bin.display())).collect();
        command.env("PATH", format!("{path}/usr/local/bin:/usr/bin:/bin"));
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(&self.deploy.env);
        command
    }

    /// Runs a program of the checkout, of the tool's environment, or of the host, to its end. It finds the way to the
    /// machines in `REDRILL_SSH_CONFIG`, since OpenSSH looks for its own in the account's home.
    pub(crate) async fn run(&self, words: &[String]) -> Result<redrill_machines::Output, MachineError> {
        let [program, arguments @ ..] = words else {
            return Err(MachineError::Program { program: "controller".into(), said: "nothing to run".into() });
        };
        let here = self.servers().join(program);
        let mut command = if here.is_file() { self.command_at(here) } else { self.command(program) };
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
        let package = match self.found.tool {
            Tool::Pyinfra => "pyinfra",
            Tool::Ansible => "ansible-core",
            Tool::Shell => return Ok(String::new()),
        };
        let mut command = self.command("python");
        command.args([
            "-c",
            "import sys; from importlib.metadata import version; print(version(sys.argv[1]))",
            package,
        ]);
        Ok(self.ask(command, &format!("looking for {package} among the requirements")).await?.trim().to_owned())
    }

    /// What a program prints on standard output.
    async fn ask(&self, command: Command, what: &str) -> Result<String, ControllerError> {
        let failed = |said: String| ControllerError::Program { what: what.to_owned(), said };
        let output = crate::process::output(&self.guard, command, self.found.tool.name()).await?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }
}

/// Lays out the place of the second deploy: a checkout of its own where paths may differ, keys beside it, a home.
async fn elsewhere(
    loaded: &Loaded,
    directory: &Path,
    commit: &str,
    first: &Surroundings,
) -> Result<Surroundings, ControllerError> {
    let deploy = &loaded.scenario.deploy;
    let rename = !deploy.same.contains_key(&Perturbation::HostName) && surroundings::can_rename().await;
    let there = Surroundings::second(directory, deploy, rename, SystemTime::now());
    std::fs::create_dir_all(&there.home).map_err(ControllerError::io("cannot make the second controller"))?;
    if there.servers != first.servers {
        if let Some(above) = there.servers.parent() {
            std::fs::create_dir_all(above).map_err(ControllerError::io("cannot make the second controller"))?;
            if let Some(keys) = loaded.keys() {
                keys::copy(&keys, &above.join("keys")).map_err(|error| error.at(loaded, &["keys", "path"]))?;
            }
        }
        checkout::checkout(loaded, commit, &there.servers).await?;
    }
    Ok(there)
}
