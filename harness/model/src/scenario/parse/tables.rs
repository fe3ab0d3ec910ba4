//! The rules of the single tables of a `scenario.toml`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

use super::super::{BackendKind, Deploy, HostNeeds, MachineSpec, Redaction, Servers, Tool, WayOut};
use super::{DeployFile, KeysFile, MachineFile, NeedsFile, ServersFile, WaiverFile, WayOutFile};
use crate::claim::Claim;
use crate::input::InputError;
use crate::spanned::Spanned;
use crate::waiver::{Waived, Waiver};

const MEMORY_MIB: u64 = 1024;
/// Below this the kernel and systemd of a current Debian do not start reliably.
const LEAST_MEMORY_MIB: u64 = 256;
/// 16 TiB: more than hosts have, and in bytes, twice and for many machines still a number.
const MOST_MEMORY_MIB: u64 = 16 << 20;
/// What QEMU gives a machine without settings of its own.
const MOST_CPUS: u64 = 255;

pub(super) fn claims(written: Option<Spanned<Vec<Claim>>>) -> Result<Vec<Claim>, InputError> {
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

pub(super) fn servers(file: ServersFile) -> Result<Servers, InputError> {
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
pub(super) fn keys(file: Option<KeysFile>) -> Result<(Option<PathBuf>, Redaction), InputError> {
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

pub(super) fn deploy(file: DeployFile) -> Result<Deploy, InputError> {
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

pub(super) fn needs(file: &NeedsFile, backend: BackendKind) -> Result<HostNeeds, InputError> {
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

pub(super) fn cuts(written: Option<Spanned<usize>>) -> Result<Option<usize>, InputError> {
    match written {
        Some(cuts) if *cuts.get_ref() == 0 => Err(InputError::new(cuts.span(), "no cut proves nothing", "1 or more")),
        cuts => Ok(cuts.map(Spanned::into_inner)),
    }
}

/// Names that lead to a stand-in. A machine of the drill answers for itself, and an address is never looked up.
pub(super) fn caught(
    written: Vec<Spanned<String>>,
    machines: &[MachineSpec],
    expected: &str,
) -> Result<Vec<String>, InputError> {
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
pub(super) fn ways_out(written: Vec<WayOutFile>) -> Result<Vec<WayOut>, InputError> {
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

pub(super) fn machines(written: Vec<Spanned<MachineFile>>) -> Result<Vec<MachineSpec>, InputError> {
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

pub(super) fn waiver(file: Spanned<WaiverFile>) -> Result<Waiver, InputError> {
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
