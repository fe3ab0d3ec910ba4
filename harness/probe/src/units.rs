//! systemd units: those the manager has loaded, and the unit files that it has not.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use redrill_state::{Record, Section, Unit};

use crate::capture::Sink;
use crate::hashing;

const PROPERTIES: &str = "--property=Id,LoadState,UnitFileState,ActiveState,Type,BusName,TriggeredBy,InvocationID,\
                          FragmentPath,DropInPaths,ActiveEnterTimestampMonotonic,InactiveExitTimestampMonotonic";

pub(crate) fn write<W: Write>(sink: &mut Sink<W>) -> io::Result<()> {
    // What systemd counts from the machine's start becomes a time of day.
    let started = crate::now() - crate::monotonic();
    let mut units = BTreeMap::new();
    match systemctl(&["list-unit-files", "--no-legend", "--no-pager", "--plain", "--full"]) {
        Ok(text) => units.extend(unit_files(&text).map(|unit| (unit.name.clone(), unit))),
        Err(error) => sink.gap(Section::Units, error)?,
    }
    match systemctl(&["show", "--all", PROPERTIES, "*"]) {
        Ok(text) => units.extend(loaded(&text, started).map(|unit| (unit.name.clone(), unit))),
        Err(error) => sink.gap(Section::Units, error)?,
    }
    for unit in units.into_values() {
        sink.entry(Section::Units, &Record::Unit(unit))?;
    }
    Ok(())
}

fn systemctl(args: &[&str]) -> Result<String, String> {
    let what = format!("systemctl {}", args[0]);
    let output = Command::new("systemctl").args(args).output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() && !output.stdout.is_empty() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// `NAME STATE [PRESET]` per line.
fn unit_files(text: &str) -> impl Iterator<Item = Unit> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, enabled) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Unit { name, enabled, load: "not loaded".to_owned(), active: "inactive".to_owned(), ..Unit::default() })
    })
}

/// `KEY=VALUE` lines, a blank line between two units.
fn loaded(text: &str, started: i64) -> impl Iterator<Item = Unit> {
    text.split("\n\n").filter_map(move |block| {
        let fields: BTreeMap<&str, &str> = block.lines().filter_map(|line| line.split_once('=')).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
        let since = |name: &str| field(name).parse::<i64>().ok().filter(|since| *since > 0);
        let since = since("ActiveEnterTimestampMonotonic").or_else(|| since("InactiveExitTimestampMonotonic"));
        let load = field("LoadState");
        // An idle unit that has a file is known to the manager at some moments and not at others: the same either way.
        let idle = load == "loaded" && field("ActiveState") == "inactive" && field("InvocationID").is_empty();
        (!field("Id").is_empty()).then(|| Unit {
            name: field("Id"),
            load: if idle { "not loaded".to_owned() } else { load },
            enabled: field("UnitFileState"),
            active: field("ActiveState"),
            service_type: field("Type"),
            bus_name: field("BusName"),
            triggered_by: field("TriggeredBy"),
            invocation: field("InvocationID"),
            since: since.map_or(0, |microseconds| started + microseconds * 1000),
            fragment: if idle { None } else { fragment(&field("FragmentPath"), &field("DropInPaths")) },
        })
    })
}

/// One digest for the unit file and its drop-ins.
fn fragment(path: &str, drop_ins: &str) -> Option<String> {
    let paths: Vec<&str> = [path].into_iter().chain(drop_ins.split(' ')).filter(|path| !path.is_empty()).collect();
    let digests: Vec<String> =
        paths.iter().map(|path| hashing::digest(Path::new(path)).unwrap_or_else(|error| error.to_string())).collect();
    match digests.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        several => Some(blake3::hash(several.join(" ").as_bytes()).to_hex().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_become_units() {
        let text = "Id=a.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState=active\nType=simple\n\
                    InvocationID=abc\nActiveEnterTimestampMonotonic=2000000\nInactiveExitTimestampMonotonic=1\n\n\
                    Id=b.timer\nLoadState=not-found\nActiveState=inactive\nActiveEnterTimestampMonotonic=0\n\n\
                    Id=c.service\nLoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\nFragmentPath=/x\n";
        let units: Vec<Unit> = loaded(text, 1_000_000_000).collect();
        assert_eq!(units.len(), 3);
        assert_eq!((units[0].since, units[0].invocation.as_str()), (3_000_000_000, "abc"));
        assert_eq!((units[1].since, units[1].load.as_str()), (0, "not-found"));
        let file = unit_files("c.service disabled enabled\n").next().expect("a unit file");
        assert_eq!(units[2], file, "loaded or not, an idle unit is the same");
    }
}
