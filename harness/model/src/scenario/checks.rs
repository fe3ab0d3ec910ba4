//! The `[[check.KIND]]` tables as written, and the rules that make [`Check`]s of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Check, CheckKind, CommandCheck, Expect, FileCheck, FileType, From, HttpCheck, MachineSpec, TcpCheck, UnitCheck,
};
use crate::duration::Limit;
use crate::input::InputError;
use crate::spanned::Spanned;

/// One list per kind: each is a type of its own to serde, so that a wrong key is reported where it stands.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ChecksFile {
    /// An answer over HTTP or HTTPS. Redirects are not followed: they are answers. At least one of `status`, `header`,
    /// `contains`, `json` and `valid-for` must be there.
    #[serde(default)]
    http: Vec<Spanned<HttpFile>>,
    /// A port that accepts connections, or does not.
    #[serde(default)]
    tcp: Vec<Spanned<TcpFile>>,
    /// A systemd unit. At least one of `active` and `enabled` must be there.
    #[serde(default)]
    unit: Vec<Spanned<UnitFile>>,
    /// A command, run as root in the machine without a shell.
    #[serde(default)]
    command: Vec<Spanned<CommandFile>>,
    /// A file in the machine. At least one key beside `path` must say what it is like.
    #[serde(default)]
    file: Vec<Spanned<FileFile>>,
}

/// Declares the table of one kind of check: the keys that all kinds have, and its own.
macro_rules! check_table {
    ($(#[$table_meta:meta])* $table:ident { $($(#[$meta:meta])* $key:ident : $type:ty,)* }) => {
        $(#[$table_meta])*
        #[derive(Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct $table {
            /// Its name, unique in the scenario.
            #[schemars(example = &"site answers over TLS")]
            name: Spanned<String>,
            /// Why it matters; the report shows it when the check fails.
            #[schemars(example = &"this is what the users see")]
            why: Spanned<String>,
            /// The machine that it is about; needed where there are several.
            #[schemars(example = &"web.example.org")]
            machine: Option<Spanned<String>>,
            /// How long it may take to hold: redrill tries until then.
            #[schemars(extend("default" = "30s"), example = &"2m")]
            within: Option<Limit>,
            $($(#[$meta])* $key: $type,)*
        }

        impl $table {
            fn head(&self) -> Head<'_> {
                Head { name: &self.name, why: &self.why, machine: self.machine.as_ref(), within: self.within }
            }
        }
    };
}

check_table!(
    /// An answer over HTTP or HTTPS.
    HttpFile {
    /// Where the request comes from: `outside`, `inside` the machine, or another machine by its name.
    #[schemars(extend("default" = "outside"), example = &"inside")]
    from: Option<Spanned<String>>,
    /// The address as a user types it. redrill leads it to the machine, whatever DNS says.
    #[schemars(example = &"https://web.example.org/healthz")]
    url: Spanned<String>,
    /// Certificates (PEM) that may sign the server's, relative to the scenario. If absent, the host's own, and with
    /// `[network] acme` those of the drill.
    #[schemars(example = &"keys/ca.pem")]
    ca: Option<PathBuf>,
    /// The status of the answer.
    #[schemars(extend("minimum" = 100, "maximum" = 599), example = 200)]
    status: Option<Spanned<u16>>,
    /// Headers of the answer, each with text that it must contain.
    #[serde(default)]
    #[schemars(extend("default" = {}, "examples" = [{"content-type": "application/json"}]))]
    header: BTreeMap<String, Spanned<String>>,
    /// Text that the body must contain.
    #[schemars(example = &"ok")]
    contains: Option<Spanned<String>>,
    /// Values of a JSON body, by JSON pointer.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>", extend("default" = {}, "examples" = [{"/status": "ok"}]))]
    json: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    /// How long the certificate must still be valid.
    #[schemars(example = &"30d")]
    valid_for: Option<Limit>,
});
check_table!(
    /// A port.
    TcpFile {
    /// Where the connection comes from: `outside`, `inside` the machine, or another machine by its name.
    #[schemars(extend("default" = "outside"), example = &"inside")]
    from: Option<Spanned<String>>,
    /// The port in the machine.
    #[schemars(extend("minimum" = 1), example = 22)]
    port: Spanned<u16>,
    /// What must come of a connection.
    #[schemars(extend("default" = "open"), example = &"closed")]
    expect: Option<Expect>,
});
check_table!(
    /// A systemd unit.
    UnitFile {
    /// The unit, with its ending.
    #[schemars(example = &"nginx.service")]
    unit: Spanned<String>,
    /// Whether it must be active.
    #[schemars(example = true)]
    active: Option<bool>,
    /// Whether it must start at boot.
    #[schemars(example = true)]
    enabled: Option<bool>,
});
check_table!(
    /// A command.
    CommandFile {
    /// Program and arguments.
    #[schemars(extend("examples" = [["nft", "list", "ruleset"]]))]
    run: Spanned<Vec<String>>,
    /// The status that it must end with.
    #[schemars(extend("default" = 0), example = 1)]
    exit: Option<i32>,
    /// What it must print, not counting white space at the end.
    #[schemars(example = &"as declared")]
    stdout: Option<String>,
    /// Text that its output must contain.
    #[schemars(example = &"policy drop")]
    contains: Option<Spanned<String>>,
});
check_table!(
    /// A file.
    FileFile {
    /// An absolute path in the machine.
    #[schemars(example = &"/etc/notes/password")]
    path: Spanned<String>,
    /// What must be there.
    #[serde(rename = "type")]
    #[schemars(example = &"file")]
    kind: Option<FileType>,
    /// Its permissions, in octal digits.
    #[schemars(example = &"0640")]
    mode: Option<Spanned<String>>,
    /// The name of its owner.
    #[schemars(example = &"root")]
    owner: Option<Spanned<String>>,
    /// The name of its group.
    #[schemars(example = &"notes")]
    group: Option<Spanned<String>>,
    /// Text that it must contain.
    #[schemars(example = &"PermitRootLogin no")]
    contains: Option<Spanned<String>>,
});

/// The keys that every kind has.
struct Head<'a> {
    name: &'a Spanned<String>,
    why: &'a Spanned<String>,
    machine: Option<&'a Spanned<String>>,
    within: Option<Limit>,
}

/// How long a check may take to turn green: services take their time after a deploy.
const WITHIN: Duration = Duration::from_secs(30);

impl ChecksFile {
    /// The checks in the order of the file.
    pub(super) fn into_checks(self, machines: &[MachineSpec]) -> Result<Vec<Check>, InputError> {
        let mut checks: Vec<(usize, Check)> = Vec::new();
        let mut names = BTreeSet::new();
        let mut add = |span: Range<usize>, head: Head<'_>, kind: Result<CheckKind, InputError>| {
            let check = check(head, machines, kind?, &mut names)?;
            checks.push((span.start, check));
            Ok::<(), InputError>(())
        };
        for file in &self.http {
            add(file.span(), file.get_ref().head(), http(file, machines))?;
        }
        for file in &self.tcp {
            add(file.span(), file.get_ref().head(), tcp(file.get_ref(), machines))?;
        }
        for file in &self.unit {
            add(file.span(), file.get_ref().head(), unit(file))?;
        }
        for file in &self.command {
            add(file.span(), file.get_ref().head(), command(file.get_ref()))?;
        }
        for file in &self.file {
            add(file.span(), file.get_ref().head(), self::file(file))?;
        }
        checks.sort_by_key(|(start, _)| *start);
        Ok(checks.into_iter().map(|(_, check)| check).collect())
    }
}

fn check(
    head: Head<'_>,
    machines: &[MachineSpec],
    kind: CheckKind,
    names: &mut BTreeSet<String>,
) -> Result<Check, InputError> {
    let name = said(head.name, "name")?;
    if !names.insert(name.clone()) {
        return Err(InputError::new(head.name.span(), format!("two checks are named `{name}`"), "a name of its own"));
    }
    let machine = machine(head.machine, head.name, machines, "check")?;
    let within = head.within.map_or(WITHIN, |limit| limit.0);
    Ok(Check { name, why: said(head.why, "why")?, machine, within, kind })
}

/// The machine that a check or backup is about: the one it names, or the only one.
pub(super) fn machine(
    written: Option<&Spanned<String>>,
    name: &Spanned<String>,
    machines: &[MachineSpec],
    what: &str,
) -> Result<String, InputError> {
    let known = || machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join("`, `");
    match (written, machines) {
        (Some(name), _) if machines.iter().any(|m| m.name == *name.get_ref()) => Ok(name.get_ref().clone()),
        (Some(name), _) => {
            let message = format!("there is no machine `{}`", name.get_ref());
            Err(InputError::new(name.span(), message, format!("`{}`", known())))
        }
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => {
            let message = format!("the scenario has several machines, and this {what} names none");
            Err(InputError::new(name.span(), message, format!("`machine` = one of `{}`", known())))
        }
    }
}

fn http(file: &Spanned<HttpFile>, machines: &[MachineSpec]) -> Result<CheckKind, InputError> {
    let (span, file) = (file.span(), file.get_ref());
    let from = from(file.from.as_ref(), file.machine.as_ref(), machines)?;
    let (host, port) = host_and_port(&file.url)?;
    let contains = text(file.contains.as_ref(), "contains")?;
    let mut header = BTreeMap::new();
    for (name, value) in &file.header {
        header.insert(name.clone(), said(value, name)?);
    }
    let mut json = BTreeMap::new();
    for (pointer, value) in &file.json {
        if !(pointer.get_ref().is_empty() || pointer.get_ref().starts_with('/')) {
            let message = format!("`{}` is no JSON pointer", pointer.get_ref());
            return Err(InputError::new(pointer.span(), message, "\"/key/0/key\""));
        }
        let value = serde_json::to_value(value.get_ref())
            .map_err(|e| InputError::new(value.span(), format!("no JSON value: {e}"), "a string, number or boolean"))?;
        json.insert(pointer.get_ref().clone(), value);
    }
    if let Some(status) = &file.status
        && !(100..600).contains(status.get_ref())
    {
        return Err(InputError::new(status.span(), format!("{} is no HTTP status", status.get_ref()), "100 to 599"));
    }
    let (status, valid_for) = (file.status.as_ref().map(|s| *s.get_ref()), file.valid_for.map(|l| l.0));
    if valid_for.is_some() && !file.url.get_ref().starts_with("https://") {
        return Err(InputError::new(
            file.url.span(),
            "`valid-for` asks for a certificate, and this URL has none",
            "https://",
        ));
    }
    if status.is_none() && header.is_empty() && contains.is_none() && json.is_empty() && valid_for.is_none() {
        return Err(no_assertion(span, "`status`, `header`, `contains`, `json` or `valid-for`"));
    }
    let url = file.url.get_ref().clone();
    let ca = file.ca.clone();
    Ok(CheckKind::Http(HttpCheck { from, url, host, port, ca, status, header, contains, json, valid_for }))
}

/// Host and port of an `http` or `https` URL; the rest of it is left to the client. An address of IPv6 keeps its brackets.
fn host_and_port(url: &Spanned<String>) -> Result<(String, u16), InputError> {
    let wrong =
        || InputError::new(url.span(), format!("`{}` is no web address", url.get_ref()), "https://HOST[:PORT]/PATH");
    let (scheme, rest) = url.get_ref().split_once("://").ok_or_else(wrong)?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(wrong()),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (authority, default),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let is_address = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
    let named = !host.is_empty() && host.chars().all(plain);
    if named || host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(is_address) {
        return Ok((host.to_owned(), port));
    }
    Err(wrong())
}

/// `outside`, `inside`, or another machine.
fn from(
    written: Option<&Spanned<String>>,
    machine: Option<&Spanned<String>>,
    machines: &[MachineSpec],
) -> Result<From, InputError> {
    let Some(written) = written else { return Ok(From::Outside) };
    let others: Vec<&str> = machines
        .iter()
        .map(|m| m.name.as_str())
        .filter(|name| machine.is_none_or(|own| own.get_ref() != name))
        .collect();
    match written.get_ref().as_str() {
        "outside" => Ok(From::Outside),
        "inside" => Ok(From::Inside),
        name if machines.len() > 1 && others.contains(&name) => Ok(From::Neighbour(name.to_owned())),
        name => {
            let neighbours =
                if machines.len() > 1 { format!(", or a neighbour: `{}`", others.join("`, `")) } else { String::new() };
            let message = format!("a connection cannot come from `{name}`");
            Err(InputError::new(written.span(), message, format!("`outside`, `inside`{neighbours}")))
        }
    }
}

fn tcp(file: &TcpFile, machines: &[MachineSpec]) -> Result<CheckKind, InputError> {
    if *file.port.get_ref() == 0 {
        return Err(InputError::new(file.port.span(), "port 0 is no port", "1 to 65535"));
    }
    let expect = file.expect.unwrap_or(Expect::Open);
    Ok(CheckKind::Tcp(TcpCheck {
        from: from(file.from.as_ref(), file.machine.as_ref(), machines)?,
        port: *file.port.get_ref(),
        expect,
    }))
}

fn unit(file: &Spanned<UnitFile>) -> Result<CheckKind, InputError> {
    let (span, file) = (file.span(), file.get_ref());
    let unit = said(&file.unit, "unit")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.@\\".contains(c);
    if !unit.contains('.') || unit.starts_with('-') || !unit.chars().all(plain) {
        let message = format!("`{unit}` is no unit name");
        return Err(InputError::new(file.unit.span(), message, "a name with its ending, such as `nginx.service`"));
    }
    if file.active.is_none() && file.enabled.is_none() {
        return Err(no_assertion(span, "`active` or `enabled`"));
    }
    Ok(CheckKind::Unit(UnitCheck { unit, active: file.active, enabled: file.enabled }))
}

fn command(file: &CommandFile) -> Result<CheckKind, InputError> {
    let run = file.run.get_ref().clone();
    if run.first().is_none_or(String::is_empty) {
        return Err(InputError::new(file.run.span(), "nothing to run", "a list: program and arguments"));
    }
    let contains = text(file.contains.as_ref(), "contains")?;
    let stdout = file.stdout.clone();
    Ok(CheckKind::Command(CommandCheck { run, exit: file.exit.unwrap_or(0), stdout, contains }))
}

fn file(file: &Spanned<FileFile>) -> Result<CheckKind, InputError> {
    let (span, file) = (file.span(), file.get_ref());
    let path = said(&file.path, "path")?;
    if !path.starts_with('/') {
        return Err(InputError::new(file.path.span(), format!("`{path}` is no absolute path"), "a path from `/`"));
    }
    let mode = file.mode.as_ref().map(octal).transpose()?;
    let owner = text(file.owner.as_ref(), "owner")?;
    let group = text(file.group.as_ref(), "group")?;
    let contains = text(file.contains.as_ref(), "contains")?;
    let details = mode.is_some() || owner.is_some() || group.is_some() || contains.is_some();
    if file.kind.is_none() && !details {
        return Err(no_assertion(span, "`type`, `mode`, `owner`, `group` or `contains`"));
    }
    if file.kind == Some(FileType::Absent) && details {
        return Err(InputError::new(span, "what is absent has no other property", "`type = \"absent\"` alone"));
    }
    Ok(CheckKind::File(FileCheck { path, kind: file.kind, mode, owner, group, contains }))
}

fn octal(mode: &Spanned<String>) -> Result<u32, InputError> {
    let digits = mode.get_ref();
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if (3..=5).contains(&digits.len()) && bits <= 0o7777 => Ok(bits),
        _ => Err(InputError::new(mode.span(), format!("`{digits}` is no file mode"), "octal digits, such as \"0640\"")),
    }
}

fn no_assertion(span: Range<usize>, expected: &str) -> InputError {
    InputError::new(span, "this check asserts nothing", format!("at least one of {expected}"))
}

/// Text that must say something.
pub(super) fn said(written: &Spanned<String>, key: &str) -> Result<String, InputError> {
    match written.get_ref().trim() {
        "" => {
            Err(InputError::new(written.span(), format!("`{key}` is empty"), "some text: an empty one asserts nothing"))
        }
        _ => Ok(written.get_ref().clone()),
    }
}

pub(super) fn text(written: Option<&Spanned<String>>, key: &str) -> Result<Option<String>, InputError> {
    written.map(|written| said(written, key)).transpose()
}
