//! The clean environment in which a deploy tool runs: a checkout of one commit, the keys beside it, a fresh home, few
//! environment variables, and a sandbox with no way to any host but the drill's machines.

mod checkout;
mod environment;
mod environment_key;
mod index;
mod inventory;
mod sandbox;
mod ssh_home;
mod venv;
mod ways;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use redrill_machines::process::Guard;
use redrill_machines::{Address, Home, Machine, MachineError, find_machine};
use redrill_model::{Claim, Deploy, Pass, SourceReport, Tool};
use redrill_sandbox::{Cell, Unable};
use thiserror::Error;
use tokio::process::Command;

use crate::deploy::tools::{self, Found};
use crate::keys::{self, KeysError};
use crate::loaded::Loaded;
use crate::scenario_error::ScenarioError;
pub(crate) use checkout::changed;
use environment::ControllerEnvironment;
pub(crate) use inventory::InventoryHost;
use sandbox::Sandbox;
pub(crate) use sandbox::{Sealed, ledgers, lost};
use venv::Environment;
use ways::{SSH, Ways};

/// Where it lies in the run directory.
pub(crate) const DIRECTORY: &str = "controller";
/// Where keys lie in it that no sealed program sees.
pub(crate) const KEYS_OF_SWEEP: &str = "secrets";

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
    /// Nothing of the repo runs on a host that cannot seal it.
    #[error("nothing of the repo is run, since this host cannot seal it: {0}")]
    Unsealed(Unable),
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

impl From<KeysError> for ControllerError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Scenario(error) => Self::Scenario(error),
            KeysError::Io { what, source } => Self::Io { what, source },
        }
    }
}

/// A controller that is ready to deploy.
#[derive(Debug)]
pub(crate) struct Controller {
    /// Where it deploys from now.
    here: ControllerEnvironment,
    /// Where it deploys from first, and for the second time.
    places: [ControllerEnvironment; 2],
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
    /// Names and addresses of every host of the inventory, those that are not deployed to included.
    pub(crate) production: Production,
    guard: Guard,
    sandbox: Sandbox,
    ways: Ways,
    directory: PathBuf,
    /// Where the deploy tool is; a script may need none.
    venv: Option<Environment>,
    /// The machines that are connected.
    addresses: Vec<Address>,
}

/// Where a controller is made.
pub struct Workplace {
    /// Its cache holds what outlives the run.
    pub home: Home,
    /// Whose run directory the controller lies in.
    pub guard: Guard,
    /// Is told what goes on.
    pub progress: Progress,
}

/// What the inventory says of the real hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Production {
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Controller {
    /// Checks out, lays the keys beside, makes the tool's virtual environment, and reads the inventory.
    pub(crate) async fn survey(loaded: &Loaded, place: &Workplace) -> Result<Self, ControllerError> {
        let guard = &place.guard;
        let directory = guard.run().join(DIRECTORY);
        std::fs::create_dir_all(directory.join("home")).map_err(ControllerError::io("cannot make the controller"))?;
        let sandbox = Sandbox::open(guard, &directory).await.map_err(ControllerError::Unsealed)?;
        let here = ControllerEnvironment::first(&directory);
        let source = checkout::checkout(loaded, &loaded.scenario.servers.commit, &here.servers).await?;
        (place.progress)(&format!("checked out {} {}", &source.commit[..12], source.title));
        if let Some(keys) = loaded.keys() {
            // One for the deploy, which may change it; one by which the next start finds secrets, should this one be killed.
            for copy in ["keys", KEYS_OF_SWEEP] {
                keys::copy(&keys, &directory.join(copy))
                    .map_err(|error| ControllerError::from(error).at(loaded, &["keys", "path"]))?;
            }
        }
        let found = tools::resolve(&here.servers, &loaded.scenario.deploy).map_err(|undecided| {
            let error = ScenarioError::mismatch(undecided.message, undecided.expected);
            undecided.key.into_iter().fold(error, |error, key| error.at(loaded, &["deploy", key]))
        })?;
        asks_where(&found, &loaded.scenario.deploy)?;
        let mut pinning = Vec::new();
        let venv = match &found.requirements {
            Some(file) => {
                let found = venv::requirements(&here.servers, file, &directory, &place.progress)?;
                pinning.extend(found.remarks);
                let wanted = venv::Wanted { servers: &found.root, requirements: &found.file };
                let (cache, controller) = (place.home.cache.as_path(), directory.as_path());
                let installer = venv::Installer { cache, sandbox: &sandbox, controller, progress: &place.progress };
                Some(installer.environment(&wanted).await?)
            }
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
            production: Production::default(),
            guard: guard.clone(),
            sandbox,
            ways: Ways::new(directory.join("ways"))?,
            directory,
            venv,
            addresses: Vec::new(),
        };
        controller.install()?;
        controller.tool_version = controller.version().await?;
        let (hosts, remarks) = inventory::read(&controller, &loaded.scenario.machines).await?;
        for (names, addresses) in hosts.iter().map(InventoryHost::everything) {
            controller.production.names.extend(names);
            controller.production.addresses.extend(addresses);
        }
        let (hosts, left) = inventory::limited(
            hosts,
            &controller.deploy.limit,
            controller.found.inventory.as_deref().unwrap_or(Path::new("inventory")),
        )?;
        (controller.hosts, controller.remarks) = (hosts, remarks);
        controller.remarks.extend(left);
        controller.remarks.extend(pinning);
        controller.remarks.extend(controller.sandbox.remark());
        controller.hosts.iter().try_for_each(|host| controller.ways.lead_to_machine(host))?;
        controller.lead_out(loaded)?;
        Ok(controller)
    }

    /// Opens the ways that the scenario declares.
    fn lead_out(&mut self, loaded: &Loaded) -> Result<(), ControllerError> {
        for way in &loaded.scenario.ways_out {
            if let Some(host) = self.hosts.iter().find(|host| host.name.eq_ignore_ascii_case(&way.host)) {
                self.ways.lead_to_port(host, way.port)?;
                let (name, port) = (&host.name, way.port);
                self.remarks.push(format!("port {port} of `{name}` was its machine's to the controller: {}", way.why));
                continue;
            }
            if self.production.is(&way.host) {
                let message = format!("`[network] controller` leads to `{}`, which is a real host", way.host);
                return Err(ScenarioError::mismatch(message, "the inventory's name of a host with a machine").into());
            }
            self.ways.lead_to_outside(&way.host, way.port)?;
            self.remarks.push(format!("the controller could reach {}:{}: {}", way.host, way.port, way.why));
        }
        Ok(())
    }

    /// The same, with a machine for every host and a host for every machine.
    pub(crate) async fn make(loaded: &Loaded, place: &Workplace) -> Result<Self, ControllerError> {
        let controller = Self::survey(loaded, place).await?;
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

    /// Lays what we bring beside the checkout: helpers of the tools.
    fn install(&self) -> Result<(), ControllerError> {
        let tools = self.tools();
        for directory in [&tools, &self.told()] {
            std::fs::create_dir_all(directory).map_err(ControllerError::io("cannot make the controller"))?;
        }
        match self.found.tool {
            Tool::Pyinfra => tools::install_pyinfra_events(&tools),
            Tool::Ansible => tools::install_ansible_events(&tools),
            Tool::Shell => Ok(()),
        }
    }

    /// Where what we bring lies: the tool only reads it.
    pub(crate) fn tools(&self) -> PathBuf {
        self.directory.join("tools")
    }

    /// Where our helpers in the tool write; whatever it runs may write there too.
    pub(crate) fn told(&self) -> PathBuf {
        self.directory.join("told")
    }

    /// Where a tool's events of this run lie, secrets and all: it goes with the controller.
    pub(crate) fn events_file(&self, label: &str) -> PathBuf {
        self.told().join(events_name(label))
    }

    /// The events so far; none if there is no such file, or something else than a file.
    pub(crate) fn events_told(&self, label: &str) -> Option<String> {
        self.read_told(&events_name(label))
    }

    /// What a helper wrote to the file of this name.
    pub(crate) fn read_told(&self, name: &str) -> Option<String> {
        let bytes = redrill_sandbox::read_back(&self.told(), Path::new(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
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

    /// Forgets which machines were connected to.
    pub(crate) fn forget_contacts(&self) {
        self.ways.forget_contacts();
    }

    /// Hosts to whose machines a connection was made since, in the order of the inventory.
    pub(crate) fn contacts(&self) -> Vec<String> {
        let made = self.ways.contacts();
        self.hosts.iter().filter(|host| made.contains(&host.name)).map(|host| host.name.clone()).collect()
    }

    /// Lets the tool reach these machines, and no others.
    pub(crate) fn connect<M: Machine>(&mut self, machines: &[M]) -> Result<(), ControllerError> {
        self.addresses = machines.iter().map(Machine::address).collect();
        let addresses = &self.addresses;
        let ssh = addresses.iter().map(|address| ((address.host.clone(), SSH), address.port));
        let ports = self.ways.ports().filter_map(|(host, port)| {
            let machine = find_machine(machines, &host)?;
            Some(((host.clone(), port), machine.outside(port)?.port()))
        });
        let all = ssh.chain(ports).collect();
        self.ways.connect(all);
        self.places.iter().try_for_each(|place| {
            let home = (place.home.as_path(), place.inside_home());
            ssh_home::write((home.0, &home.1), &self.hosts, addresses, self.guard.program())
        })
    }

    /// The configuration of every SSH connection, whatever the inventory names.
    pub(crate) fn ssh_config(&self) -> PathBuf {
        self.ssh("config")
    }

    /// The key that every machine admits; known once machines are connected.
    pub(crate) fn key(&self) -> Option<PathBuf> {
        (!self.addresses.is_empty()).then(|| self.ssh(ssh_home::KEY))
    }

    /// The host keys of the machines.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.ssh("known_hosts")
    }

    fn ssh(&self, name: &str) -> PathBuf {
        self.here.inside_home().join(".ssh").join(name)
    }

    /// A sealed command in the checkout, with an environment that was chosen and not inherited.
    pub(crate) fn command(&self, program: &str) -> Sealed {
        let venv = self.venv.as_ref().map(|venv| venv.directory.join("bin"));
        let in_venv = venv.as_ref().map(|bin| bin.join(program)).filter(|path| path.exists());
        self.command_at(in_venv.unwrap_or_else(|| PathBuf::from(program)))
    }

    fn command_at(&self, program: PathBuf) -> Sealed {
        let mut command = Sealed::new("controller", program, self.cell());
        let venv =
            self.venv.as_ref().map(|venv| format!("{}:", venv.directory.join("bin").display())).unwrap_or_default();
        command.env("PATH", format!("{venv}/usr/local/bin:/usr/bin:/bin"));
        command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(&self.deploy.env);
        command
    }

    /// What a program of the deploy sees and reaches.
    fn cell(&self) -> Cell {
        let mut cell = self.here.cell();
        cell.read_only.extend([self.tools(), self.guard.program().to_owned()]);
        if let Some(venv) = &self.venv {
            cell.read_only.push(venv.directory.clone());
            // A checkout that is written to anyway lies upon it.
            cell.read_only.extend(venv.beside.iter().cloned());
        }
        cell.writable.push(self.told());
        cell.moved.push((self.ways.directory().to_owned(), ways::INSIDE.into()));
        cell.leads = self.ways.leads().to_vec();
        let ssh = self.here.inside_home().join(".ssh");
        cell.ssh = Some(ssh_home::texts(&self.hosts, &self.addresses, self.guard.program(), &ssh));
        cell
    }

    /// Runs a program of the checkout, of the tool's environment, or of the host, to its end. It finds the way to the
    /// machines in `REDRILL_SSH_CONFIG` too.
    pub(crate) async fn run(&self, words: &[String]) -> Result<redrill_machines::Output, MachineError> {
        let [program, arguments @ ..] = words else {
            return Err(MachineError::Program { program: "controller".into(), said: "nothing to run".into() });
        };
        let here = self.servers().join(program);
        let mut command = if here.is_file() { self.command_at(here) } else { self.command(program) };
        command.args(arguments).env("REDRILL_SSH_CONFIG", self.ssh_config()).label(program);
        let output = self.sandbox.output(&command, program).await?;
        Ok(redrill_machines::Output {
            status: output.status.code().unwrap_or(1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Makes the cell of a command, and the guarded process that is to run in it; also where the cell lies.
    pub(crate) fn seal(&self, command: &Sealed) -> Result<(Command, PathBuf), MachineError> {
        self.sandbox.command(command)
    }

    /// Starts what [`Controller::seal`] made.
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
    async fn ask(&self, mut command: Sealed, what: &str) -> Result<String, ControllerError> {
        command.label(what);
        let output = self.sandbox.output(&command, self.found.tool.name()).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(self.sandbox.failed(what, what, said))
    }
}

impl Production {
    /// Whether this name, or this address, is one of a real host.
    pub(crate) fn is(&self, host: &str) -> bool {
        let address = host.parse::<IpAddr>().ok();
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
            || address.is_some_and(|address| self.addresses.contains(&address.to_canonical()))
    }
}

/// Scripts that people run on the server itself, and others on their own machine: their names do not tell.
const AMBIGUOUS: [&str; 3] = ["install.sh", "setup.sh", "provision.sh"];

/// A script that was found by such a name is not run before somebody has said where it runs.
fn asks_where(found: &Found, deploy: &Deploy) -> Result<(), ScenarioError> {
    let name = found.script.file_name().unwrap_or_default().to_string_lossy();
    if found.tool != Tool::Shell || deploy.script.is_some() || deploy.on.is_some() || !AMBIGUOUS.contains(&&*name) {
        return Ok(());
    }
    let message = format!(
        "`{name}` was found by its name alone: does it run on each server, or on a controller that reaches them by SSH?"
    );
    Err(ScenarioError::mismatch(
        message,
        "[deploy] on = \"machine\" or on = \"controller\"; or redrill idempotence --on machine",
    ))
}

fn events_name(label: &str) -> String {
    format!("{label}.events.jsonl")
}

/// Lays out the place of the second deploy: a checkout of its own where paths may differ, keys beside it, a home.
async fn elsewhere(
    loaded: &Loaded,
    directory: &Path,
    commit: &str,
    first: &ControllerEnvironment,
) -> Result<ControllerEnvironment, ControllerError> {
    let deploy = &loaded.scenario.deploy;
    let there = ControllerEnvironment::second(directory, deploy, SystemTime::now());
    std::fs::create_dir_all(&there.home).map_err(ControllerError::io("cannot make the second controller"))?;
    if there.servers != first.servers {
        if let Some(above) = there.servers.parent() {
            std::fs::create_dir_all(above).map_err(ControllerError::io("cannot make the second controller"))?;
            if let Some(keys) = loaded.keys() {
                keys::copy(&keys, &above.join("keys"))
                    .map_err(|error| ControllerError::from(error).at(loaded, &["keys", "path"]))?;
            }
        }
        checkout::checkout(loaded, commit, &there.servers).await?;
    }
    Ok(there)
}
