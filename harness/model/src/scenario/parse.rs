//! `scenario.toml` as written, and the rules that make a [`Scenario`] of it.

mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::backups::{self, BackupFile, EphemeralFile};
use super::checks::ChecksFile;
use super::{BackendKind, Backup, Check, Deploy, Limits, Network, Origin, Perturbation, RunsOn, Scenario, Tool};
use crate::claim::Claim;
use crate::duration::Limit;
use crate::input::InputError;
use crate::spanned::Spanned;
pub use tables::is_host_name;
use tables::{caught, claims, cuts, deploy, keys, machines, needs, servers, waiver, ways_out};

/// A drill: what is deployed, into which machines, and what has to hold afterwards.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "Scenario", extend("required" = ["servers", "machine"]))]
pub(crate) struct ScenarioFile {
    /// One line about the drill, for reports and lists.
    #[serde(default)]
    #[schemars(example = &"the web server of our group")]
    summary: String,
    /// What the drill sets out to prove.
    #[schemars(extend(
        "default" = ["rebuilds", "idempotent", "serves"],
        "examples" = [["rebuilds", "restores"]],
        "minItems" = 1,
        "uniqueItems" = true
    ))]
    claims: Option<Spanned<Vec<Claim>>>,
    /// The repo under test.
    servers: ServersFile,
    /// The keys that the deploy needs beside the repo.
    keys: Option<KeysFile>,
    /// How the repo is deployed. redrill looks for what is absent by its usual name in the checkout; where the answer is
    /// not clear, it stops with an error that lists what it found.
    #[serde(default)]
    deploy: DeployFile,
    /// What the machines are: virtual machines, containers, or whichever this host can run.
    #[serde(default)]
    #[schemars(example = &"qemu")]
    backend: BackendKind,
    /// What the host must have beyond what every drill needs.
    #[serde(default)]
    needs: NeedsFile,
    /// The machines: one for each host of the inventory. A host without one is an error before anything boots.
    #[serde(default)]
    #[schemars(extend("minItems" = 1))]
    machine: Vec<Spanned<MachineFile>>,
    /// What machines and controller may reach.
    #[serde(default)]
    network: NetworkFile,
    /// Options of the claim `resumes`.
    #[serde(default)]
    resume: ResumeFile,
    /// Time limits for a host with hardware virtualization; redrill stretches them on slower hosts.
    #[serde(default)]
    limits: LimitsFile,
    /// What has to hold after the deploy. A check that asserts nothing is a mistake.
    #[serde(default)]
    check: ChecksFile,
    /// The backups that have to come back: where from, into what, and what shows that the data is right.
    #[serde(default)]
    backup: Vec<Spanned<BackupFile>>,
    /// What may be lost with a machine. The loss report of a round trip fails what nobody brings back and nothing declares.
    #[serde(default)]
    ephemeral: Vec<EphemeralFile>,
    /// Failures accepted for a while. A waiver that no longer covers anything fails its claim.
    #[serde(default)]
    waiver: Vec<Spanned<WaiverFile>>,
}

/// The repo under test.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ServersFile {
    /// A git repository, or a directory inside one, relative to the scenario. What is not committed takes no part.
    #[schemars(example = &"../servers")]
    path: PathBuf,
    /// The commit to deploy: any name that git knows.
    #[schemars(extend("default" = "HEAD"), example = &"main")]
    commit: Option<Spanned<String>>,
}

/// The keys that the deploy needs beside the repo.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct KeysFile {
    /// A directory, relative to the scenario. redrill places a copy beside the checkout as `keys`, and blanks out its
    /// values in everything that a run leaves.
    #[schemars(example = &"../keys")]
    path: PathBuf,
    /// Regular expressions: what they match is a secret too.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["tok_[0-9a-z]{20}"]]))]
    patterns: Vec<Spanned<String>>,
    /// Values in the keys that are not secret, each exactly as it stands there.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["grafana"]]))]
    public: Vec<Spanned<String>>,
}

/// How the repo is deployed.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DeployFile {
    /// The tool that deploys; if absent, the one whose files are in the checkout.
    #[schemars(example = &"pyinfra")]
    tool: Option<Tool>,
    /// The production inventory, unmodified, relative to the repo.
    #[schemars(example = &"inventory.py")]
    inventory: Option<Spanned<PathBuf>>,
    /// The deploy, playbook or script, relative to the repo.
    #[schemars(example = &"deploy.py")]
    script: Option<Spanned<PathBuf>>,
    /// Python requirements that pin the deploy tool, or a `pyproject.toml`, relative to the repo.
    #[schemars(example = &"requirements.txt")]
    requirements: Option<Spanned<PathBuf>>,
    /// Where a shell script runs. `install.sh`, `setup.sh` and `provision.sh` do not run without it.
    #[schemars(example = &"machine")]
    on: Option<Spanned<RunsOn>>,
    /// Arguments passed on to the tool.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["--diff"]]))]
    args: Vec<Spanned<String>>,
    /// Arguments passed on as well when the tool runs again.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["--forks=1"]]))]
    again_args: Vec<Spanned<String>>,
    /// Variables added to the tool's environment.
    #[serde(default)]
    #[schemars(extend("default" = {}, "examples" = [{"STAGE": "production"}]))]
    env: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Hosts to deploy to, if not all of the inventory; the report names the others.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["web.example.org"]]))]
    limit: Vec<String>,
    /// What stays as it was in the second deploy, each with a reason. Everything else about the controller changes.
    #[serde(default)]
    #[schemars(extend(
        "default" = {},
        "examples" = [{"host-name": "the licence is bound to it"}],
        "propertyNames" = {"enum": Perturbation::ALL.map(Perturbation::name)},
    ))]
    same: BTreeMap<Perturbation, Spanned<String>>,
    /// Fails an operation that reports a change and makes none.
    #[serde(default)]
    #[schemars(example = true)]
    strict: bool,
}

/// A machine to make.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MachineFile {
    /// The inventory's name for the host.
    #[schemars(example = &"web.example.org")]
    name: Spanned<String>,
    /// A directory under `images`, or one of redrill's own images.
    #[schemars(example = &"debian-13")]
    image: Spanned<String>,
    /// Memory in MiB, from 256.
    #[schemars(extend("default" = 1024, "minimum" = 256), example = 2048)]
    memory_mib: Option<Spanned<u64>>,
    /// Virtual processors, up to 255. Containers share the host's.
    #[schemars(extend("default" = 2, "minimum" = 1, "maximum" = 255), example = 4)]
    cpus: Option<Spanned<u32>>,
}

/// What the host must have beyond what every drill needs.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct NeedsFile {
    /// Hardware virtualization. A host without it does not run the drill; in CI that fails.
    #[schemars(extend("default" = false), example = true)]
    kvm: Option<Spanned<bool>>,
}

/// What machines and controller may reach.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct NetworkFile {
    /// What machines reach beyond each other.
    #[schemars(extend("default" = "mirror"), example = &"open")]
    mode: Option<Network>,
    /// Mail servers that the machines send by: redrill catches what they send.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["smtp.example.org"]]))]
    mail: Vec<Spanned<String>>,
    /// ACME servers that the machines ask: the drill's own authority answers.
    #[serde(default)]
    #[schemars(extend("default" = [], "examples" = [["acme-v02.api.letsencrypt.org"]]))]
    acme: Vec<Spanned<String>>,
    /// Ways out of the sandbox in which the repo's programs run on the controller.
    #[serde(default)]
    controller: Vec<WayOutFile>,
}

/// A way out of the sandbox.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WayOutFile {
    /// Host and port. A host of the inventory is its machine.
    #[schemars(example = &"git.example.org:443")]
    to: Spanned<String>,
    /// Why the deploy needs it; the report shows it.
    #[schemars(example = &"the roles are fetched from there")]
    why: Spanned<String>,
}

/// Options of the claim `resumes`.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ResumeFile {
    /// How many places between operations to cut the deploy at; all of them if absent.
    #[schemars(example = 8)]
    cuts: Option<Spanned<usize>>,
}

/// Time limits for a host with hardware virtualization; redrill stretches them on slower hosts.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LimitsFile {
    /// One command in a machine; so far only the comparison of clocks. Checks have `within`.
    #[schemars(extend("default" = "1m"), example = &"2m")]
    command: Option<Limit>,
    /// A machine, from start to its first answer.
    #[schemars(extend("default" = "2m"), example = &"5m")]
    boot: Option<Limit>,
    /// One run of the deploy tool.
    #[schemars(extend("default" = "20m"), example = &"40m")]
    deploy: Option<Limit>,
    /// The whole drill.
    #[schemars(extend("default" = "1h"), example = &"2h")]
    drill: Option<Limit>,
}

/// A failure accepted for a while.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WaiverFile {
    /// The claim that it softens.
    #[schemars(example = &"idempotent")]
    claim: Claim,
    /// The name of the operation that it covers. Either this or `path`.
    #[schemars(example = &"Set the login banner")]
    operation: Option<String>,
    /// The path, unit, check or other subject of a finding that it covers. Either this or `operation`.
    #[schemars(example = &"/etc/motd")]
    path: Option<String>,
    /// Why the failure is accepted.
    #[schemars(example = &"fixed upstream in 4.2")]
    reason: Spanned<String>,
    /// Who answers for it.
    #[schemars(example = &"ada")]
    by: Spanned<String>,
    /// The last day on which it counts: a date without time, not quoted.
    #[schemars(with = "String", extend("format" = "date"), example = &"2027-03-31")]
    until: Spanned<toml::value::Datetime>,
}

const COMMAND: Duration = Duration::from_secs(60);
const BOOT: Duration = Duration::from_secs(2 * 60);
const DEPLOY: Duration = Duration::from_secs(20 * 60);
const DRILL: Duration = Duration::from_secs(60 * 60);

impl Scenario {
    /// Reads the text of a `scenario.toml`.
    ///
    /// The first mistake is returned, with its place. What needs a look at the world (the image exists, the repo is
    /// one, the inventory has no other hosts) is not judged here.
    pub fn parse(text: &str) -> Result<Self, InputError> {
        let file: ScenarioFile = toml::from_str(text)?;
        let machines = machines(file.machine)?;
        let claims = claims(file.claims)?;
        let checks = file.check.into_checks(&machines)?;
        if claims.contains(&Claim::Serves) && checks.is_empty() {
            return Err(InputError::new(
                0..0,
                "no checks, but the scenario claims `serves`",
                "at least one `[[check.http]]`, `tcp`, `unit`, `command` or `file`, or `claims` without `serves`",
            ));
        }
        let backups = backups::backups(file.backup, &machines, &checks)?;
        if let Some((claim, expected)) = unsupported(&claims, &checks, &backups) {
            return Err(InputError::new(
                0..0,
                format!("the scenario claims `{claim}`, and has nothing to show it"),
                expected,
            ));
        }
        let deploy = deploy(file.deploy)?;
        let (keys, redaction) = keys(file.keys)?;
        if let Some((message, expected)) = not_between(&claims, &deploy, &backups) {
            return Err(InputError::new(0..0, message, expected));
        }
        let limit = |written: Option<Limit>, default| written.map_or(default, |limit| limit.0);
        Ok(Self {
            summary: file.summary,
            claims,
            servers: servers(file.servers)?,
            keys,
            redaction,
            deploy,
            backend: file.backend,
            needs: needs(&file.needs, file.backend)?,
            mail: caught(file.network.mail, &machines, "the name of the mail server that the machines send by")?,
            ways_out: ways_out(file.network.controller)?,
            acme: caught(file.network.acme, &machines, "the name of the ACME server that machines ask")?,
            machines,
            network: file.network.mode.unwrap_or(Network::Mirror),
            cuts: cuts(file.resume.cuts)?,
            limits: Limits {
                command: limit(file.limits.command, COMMAND),
                boot: limit(file.limits.boot, BOOT),
                deploy: limit(file.limits.deploy, DEPLOY),
                drill: limit(file.limits.drill, DRILL),
            },
            checks,
            backups,
            ephemeral: backups::ephemeral(file.ephemeral)?,
            waivers: file.waiver.into_iter().map(waiver).collect::<Result<_, _>>()?,
        })
    }
}

/// A claim that nothing in the scenario could prove, and what would.
fn unsupported(claims: &[Claim], checks: &[Check], backups: &[Backup]) -> Option<(Claim, &'static str)> {
    let lacks = |claim, nothing: bool| claims.contains(&claim) && nothing;
    if lacks(Claim::SurvivesReboot, checks.is_empty()) {
        return Some((Claim::SurvivesReboot, "at least one check, which is made again after the reboot"));
    }
    if lacks(Claim::Restores, backups.is_empty()) {
        return Some((Claim::Restores, "at least one `[[backup]]`"));
    }
    None
}

/// Why a backup cannot be restored between two operations, and what else would do.
fn not_between(claims: &[Claim], deploy: &Deploy, backups: &[Backup]) -> Option<(String, &'static str)> {
    let backup = backups.iter().find(|backup| backup.restore_after.is_some())?;
    let not = |why: &str| format!("backup `{}` has `restore-after`: {why}", backup.name);
    if deploy.tool == Some(Tool::Shell) {
        return Some((not("a script does not wait between its operations"), "pyinfra or Ansible"));
    }
    let mut there = backups.iter().filter(|backup| !matches!(backup.origin, Origin::Made { .. }));
    if claims.contains(&Claim::Resumes) && there.any(|backup| backup.restore_after.is_some()) {
        let why = "deploys that `resumes` cuts off run in machines into which nothing is restored";
        return Some((not(why), "a scenario of its own for `resumes`"));
    }
    None
}
