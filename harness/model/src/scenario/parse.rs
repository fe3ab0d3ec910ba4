//! `scenario.toml` as written, and the rules that make a [`Scenario`] of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::backups::{self, BackupFile, EphemeralFile};
use super::checks::ChecksFile;
use super::{
    BackendKind, Backup, Check, Deploy, HostNeeds, Limits, MachineSpec, Network, Origin, Perturbation, Redaction,
    RunsOn, Scenario, Servers, Tool, WayOut,
};
use crate::claim::Claim;
use crate::duration::Limit;
use crate::input::InputError;
use crate::spanned::Spanned;
use crate::waiver::{Waived, Waiver};

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
    #[schemars(extend("default" = ["rebuilds", "idempotent", "serves"], "examples" = [["rebuilds", "restores"]]))]
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
    #[schemars(extend("default" = 1024), example = 2048)]
    memory_mib: Option<Spanned<u64>>,
    /// Virtual processors, up to 255. Containers share the host's.
    #[schemars(extend("default" = 2), example = 4)]
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
const MEMORY_MIB: u64 = 1024;
/// Below this the kernel and systemd of a current Debian do not start reliably.
const LEAST_MEMORY_MIB: u64 = 256;
/// 16 TiB: more than hosts have, and in bytes, twice and for many machines still a number.
const MOST_MEMORY_MIB: u64 = 16 << 20;
/// What QEMU gives a machine without settings of its own.
const MOST_CPUS: u64 = 255;

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

fn claims(written: Option<Spanned<Vec<Claim>>>) -> Result<Vec<Claim>, InputError> {
    let Some(written) = written else { return Ok(Claim::DEFAULT.to_vec()) };
    let span = written.span();
    let mut claims = written.into_inner();
    let given = claims.len();
    claims.sort();
    claims.dedup();
    if claims.is_empty() {
        let names: Vec<String> = Claim::ALL.iter().map(|claim| format!("`{claim}`")).collect();
        return Err(InputError::new(span, "a scenario must claim something", names.join(", ")));
    }
    if claims.len() < given {
        return Err(InputError::new(span, "a claim stands here twice", "each claim once"));
    }
    Ok(claims)
}

fn servers(file: ServersFile) -> Result<Servers, InputError> {
    let commit = match file.commit {
        None => "HEAD".to_owned(),
        // Git would take it for an option, or end at a NUL.
        Some(commit)
            if commit.get_ref().starts_with('-')
                || commit.get_ref().trim().is_empty()
                || commit.get_ref().contains(char::is_control) =>
        {
            return Err(InputError::new(commit.span(), "`commit` names no commit", "a branch, tag or commit id"));
        }
        Some(commit) => commit.into_inner(),
    };
    Ok(Servers { path: file.path, commit })
}

/// Where the keys lie, and what of them is secret. What a pattern says is for whoever looks for it to judge.
fn keys(file: Option<KeysFile>) -> Result<(Option<PathBuf>, Redaction), InputError> {
    let Some(file) = file else { return Ok((None, Redaction::default())) };
    let all = file
        .patterns
        .iter()
        .map(|text| (text, "a regular expression"))
        .chain(file.public.iter().map(|text| (text, "a value of the keys that is no secret, as it stands there")));
    for (text, expected) in all {
        if text.get_ref().trim().is_empty() {
            return Err(InputError::new(text.span(), "an empty text stands everywhere", expected));
        }
    }
    let public = file.public.into_iter().map(Spanned::into_inner).collect();
    Ok((Some(file.path), Redaction { patterns: file.patterns.into_iter().map(Into::into).collect(), public }))
}

fn deploy(file: DeployFile) -> Result<Deploy, InputError> {
    if let Some(on) = file.on.as_ref().filter(|_| file.tool.is_some_and(|tool| tool != Tool::Shell)) {
        return Err(InputError::new(on.span(), "`on` is for `tool = \"shell\"`", "no `on`: the inventory says where"));
    }
    Ok(Deploy {
        tool: file.tool,
        inventory: file.inventory.map(inside_checkout).transpose()?,
        script: file.script.map(inside_checkout).transpose()?,
        requirements: file.requirements.map(inside_checkout).transpose()?,
        on: file.on.map(Spanned::into_inner),
        args: words(file.args, "args")?,
        again_args: words(file.again_args, "again-args")?,
        env: variables(file.env)?,
        limit: file.limit,
        same: file.same.into_iter().map(|(what, why)| reason(why).map(|why| (what, why))).collect::<Result<_, _>>()?,
        strict: file.strict,
    })
}

/// Arguments of a program, which end at a NUL.
fn words(written: Vec<Spanned<String>>, key: &str) -> Result<Vec<String>, InputError> {
    let word = |word: Spanned<String>| match word.get_ref().contains('\0') {
        true => {
            Err(InputError::new(word.span(), format!("a NUL stands in `{key}`"), "text that a program can be given"))
        }
        false => Ok(word.into_inner()),
    };
    written.into_iter().map(word).collect()
}

/// Variables as a process can have them, and a shell can name them.
fn variables(written: BTreeMap<Spanned<String>, Spanned<String>>) -> Result<BTreeMap<String, String>, InputError> {
    let variable = |(name, value): (Spanned<String>, Spanned<String>)| {
        let text = name.get_ref();
        if text.is_empty() || text.contains('=') || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            let message = format!("`{}` is no name of a variable", text.escape_debug());
            return Err(InputError::new(name.span(), message, "letters, digits and `_`"));
        }
        if value.get_ref().contains('\0') {
            let message = format!("a NUL stands in the variable `{text}`");
            return Err(InputError::new(value.span(), message, "text that a program can be given"));
        }
        Ok((name.into_inner(), value.into_inner()))
    };
    written.into_iter().map(variable).collect()
}

fn needs(file: &NeedsFile, backend: BackendKind) -> Result<HostNeeds, InputError> {
    match &file.kvm {
        Some(kvm) if *kvm.get_ref() && backend == BackendKind::Container => {
            let expected = "no `kvm`, or `backend = \"qemu\"`";
            Err(InputError::new(kvm.span(), "containers have no use for hardware virtualization", expected))
        }
        kvm => Ok(HostNeeds { kvm: kvm.as_ref().is_some_and(|kvm| *kvm.get_ref()) }),
    }
}

fn reason(text: Spanned<String>) -> Result<String, InputError> {
    match text.get_ref().trim() {
        "" => Err(InputError::new(text.span(), "what stays the same needs a reason", "a few words")),
        _ => Ok(text.into_inner()),
    }
}

fn cuts(written: Option<Spanned<usize>>) -> Result<Option<usize>, InputError> {
    match written {
        Some(cuts) if *cuts.get_ref() == 0 => Err(InputError::new(cuts.span(), "no cut proves nothing", "1 or more")),
        cuts => Ok(cuts.map(Spanned::into_inner)),
    }
}

/// Names that lead to a stand-in. A machine of the drill answers for itself, and an address is never looked up.
fn caught(written: Vec<Spanned<String>>, machines: &[MachineSpec], expected: &str) -> Result<Vec<String>, InputError> {
    let name = |name: Spanned<String>| {
        let why = match name.get_ref() {
            text if machines.iter().any(|machine| machine.name == *text) => "is a machine of this drill",
            text if text.parse::<IpAddr>().is_ok() => "is an address, which no name leads to",
            text if !is_host_name(text) => "is no host name",
            _ => return Ok(name.into_inner()),
        };
        Err(InputError::new(name.span(), format!("`{}` {why}", name.get_ref()), expected))
    };
    written.into_iter().map(name).collect()
}

/// Where the controller may go. A host of the inventory is its machine, to which the port then leads.
fn ways_out(written: Vec<WayOutFile>) -> Result<Vec<WayOut>, InputError> {
    let way = |file: WayOutFile| {
        let wrong = |why: &str| {
            let message = format!("`{}` {why}", file.to.get_ref());
            InputError::new(file.to.span(), message, "a host and a port, such as `git.example.org:443`")
        };
        let (host, port) = file.to.get_ref().rsplit_once(':').ok_or_else(|| wrong("names no port"))?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| wrong("names no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
        if !is_host_name(&host) && host.parse::<IpAddr>().is_err() {
            return Err(wrong("names no host"));
        }
        if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
            return Err(wrong("is the sandbox itself"));
        }
        match file.why.get_ref().trim() {
            "" => Err(InputError::new(file.why.span(), "a way out of the sandbox needs a reason", "a few words")),
            why => Ok(WayOut { host, port, why: why.to_owned() }),
        }
    };
    written.into_iter().map(way).collect()
}

/// What is deployed must come from the checkout: no way out of it.
fn inside_checkout(path: Spanned<PathBuf>) -> Result<PathBuf, InputError> {
    let inner = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let odd = |path: &Path| {
        let text = path.to_string_lossy();
        text.is_empty() || text.starts_with('-') || text.contains(char::is_control)
    };
    if !inner(path.get_ref()) || odd(path.get_ref()) {
        let told = path.get_ref().to_string_lossy().escape_debug().to_string();
        let message = format!("`{told}` does not lie inside the servers repo");
        return Err(InputError::new(path.span(), message, "a path relative to the repo, without `..`"));
    }
    Ok(path.into_inner())
}

fn machines(written: Vec<Spanned<MachineFile>>) -> Result<Vec<MachineSpec>, InputError> {
    if written.is_empty() {
        return Err(InputError::new(0..0, "no machine", "at least one `[[machine]]` with `name` and `image`"));
    }
    let mut machines: Vec<MachineSpec> = Vec::new();
    for file in written {
        let file = file.into_inner();
        let (name, span) = (file.name.get_ref().clone(), file.name.span());
        if !is_host_name(&name) {
            return Err(InputError::new(
                span,
                format!("`{name}` is no host name"),
                "letters, digits, `.`, `-` and `_`",
            ));
        }
        if machines.iter().any(|m| m.name == name) {
            return Err(InputError::new(span, format!("machine `{name}` stands here twice"), "each machine once"));
        }
        if !is_host_name(file.image.get_ref()) {
            let message = format!("`{}` is no image name", file.image.get_ref());
            return Err(InputError::new(file.image.span(), message, "the name of a directory under `images`"));
        }
        let memory_mib = size(file.memory_mib, MEMORY_MIB, LEAST_MEMORY_MIB..=MOST_MEMORY_MIB, "memory-mib")?;
        let cpus =
            size(file.cpus.map(|c| Spanned::new(c.span(), u64::from(c.into_inner()))), 2, 1..=MOST_CPUS, "cpus")?;
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        machines.push(MachineSpec { name, image: file.image.into(), memory_mib, cpus });
    }
    Ok(machines)
}

fn size(written: Option<Spanned<u64>>, default: u64, range: RangeInclusive<u64>, key: &str) -> Result<u64, InputError> {
    match written {
        None => Ok(default),
        Some(value) if value.get_ref() < range.start() => {
            Err(InputError::new(value.span(), format!("`{key}` is too small"), format!("at least {}", range.start())))
        }
        Some(value) if value.get_ref() > range.end() => {
            Err(InputError::new(value.span(), format!("`{key}` is too large"), format!("at most {}", range.end())))
        }
        Some(value) => Ok(value.into_inner()),
    }
}

/// Whether this can be a machine's name: names become file names, host names and words of an `ssh_config`.
pub fn is_host_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 253
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn waiver(file: Spanned<WaiverFile>) -> Result<Waiver, InputError> {
    let span = file.span();
    let file = file.into_inner();
    let covers = match (file.operation, file.path) {
        (Some(name), None) => Waived::Operation(name),
        (None, Some(path)) => Waived::Path(path),
        _ => return Err(InputError::new(span, "a waiver covers one thing", "either `operation` or `path`")),
    };
    let said = |text: Spanned<String>, key: &str| match text.get_ref().trim() {
        "" => Err(InputError::new(text.span(), format!("`{key}` of a waiver is empty"), "a few words")),
        _ => Ok(text.into_inner()),
    };
    Ok(Waiver {
        claim: file.claim,
        covers,
        reason: said(file.reason, "reason")?,
        by: said(file.by, "by")?,
        until: date(&file.until)?,
    })
}

fn date(written: &Spanned<toml::value::Datetime>) -> Result<String, InputError> {
    match written.get_ref() {
        toml::value::Datetime { date: Some(date), time: None, offset: None } => Ok(date.to_string()),
        _ => Err(InputError::new(written.span(), "`until` is no date", "a date without time, such as 2027-03-31")),
    }
}
