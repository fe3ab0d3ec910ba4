//! Checks that ask the machine itself: units, commands, files.

use std::collections::BTreeMap;

use redrill_machines::{Deadline, Exec, Machine, MachineError, Output, bounded};
use redrill_model::{CommandCheck, FileCheck, FileType, UnitCheck};

use super::Seen;

/// Characters of output that a complaint quotes.
const QUOTED: usize = 400;

pub(super) async fn unit<M: Machine>(
    check: &UnitCheck,
    machine: &M,
    deadline: &Deadline,
) -> Result<Seen, MachineError> {
    let properties = "--property=LoadState,ActiveState,SubState,UnitFileState";
    let output = machine.exec(&Exec::new(["systemctl", "show", properties, "--", &check.unit]), b"", deadline).await?;
    let text = output.text();
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    if output.status != 0 || field("LoadState").is_empty() {
        return Ok(Seen::Not(vec![format!("systemctl failed: {}", output.stderr.trim())]));
    }
    // A unit that does not exist is inactive too, and proves nothing.
    if field("LoadState") == "not-found" {
        return Ok(Seen::Not(vec![format!("there is no such unit: {}", check.unit)]));
    }
    let mut complaints = Vec::new();
    let active = field("ActiveState") == "active";
    if check.active.is_some_and(|wanted| wanted != active) {
        complaints.push(format!("it is {} ({})", field("ActiveState"), field("SubState")));
    }
    let state = field("UnitFileState");
    let enabled = matches!(state, "enabled" | "enabled-runtime" | "alias" | "static" | "generated");
    // A static unit is started by others: as good as enabled, and impossible to disable.
    if check.enabled.is_some_and(|wanted| wanted != enabled) {
        complaints.push(format!("its unit file is {}", if state.is_empty() { "missing" } else { state }));
    }
    Ok(Seen::from_complaints(complaints))
}

pub(super) async fn command<M: Machine>(
    check: &CommandCheck,
    machine: &M,
    deadline: &Deadline,
) -> Result<Seen, MachineError> {
    let output = machine.exec(&Exec(check.run.clone()), b"", deadline).await?;
    let mut complaints = Vec::new();
    if let Some(why) = bounded::why_killed(&output.stderr) {
        complaints.push(why.to_owned());
    } else if output.status != check.exit {
        complaints.push(format!("exit status {}, expected {}: {}", output.status, check.exit, quoted(&output.stderr)));
    }
    let text = output.text();
    if let Some(wanted) = check.stdout.as_ref().filter(|wanted| text.trim_end() != wanted.trim_end()) {
        complaints.push(format!("printed {}, expected `{wanted}`", quoted(&text)));
    }
    if let Some(wanted) = check.contains.as_ref().filter(|wanted| !text.contains(wanted.as_str())) {
        complaints.push(format!("printed {}, which does not contain `{wanted}`", quoted(&text)));
    }
    Ok(Seen::from_complaints(complaints))
}

pub(super) async fn file<M: Machine>(
    check: &FileCheck,
    machine: &M,
    deadline: &Deadline,
) -> Result<Seen, MachineError> {
    let stat = machine.exec(&Exec::new(["stat", "--format=%F|%a|%U|%G", "--", &check.path]), b"", deadline).await?;
    let missing = ["No such file", "Not a directory"].iter().any(|reason| stat.stderr.contains(reason));
    if stat.status != 0 && !missing {
        return Err(MachineError::Program { program: "stat".to_owned(), said: stat.stderr });
    }
    let mut complaints = properties(check, &stat);
    if let Some(wanted) = check.contains.as_ref().filter(|_| stat.status == 0) {
        let content = machine.exec(&Exec::new(["cat", "--", &check.path]), b"", deadline).await?;
        if content.status != 0 {
            complaints.push(format!("cannot be read: {}", content.stderr.trim()));
        } else if !content.text().contains(wanted.as_str()) {
            complaints.push(format!("does not contain `{wanted}`"));
        }
    }
    Ok(Seen::from_complaints(complaints))
}

fn properties(check: &FileCheck, stat: &Output) -> Vec<String> {
    let text = stat.text();
    let fields: Vec<&str> = text.trim_end().split('|').collect();
    let (there, absent) = (stat.status == 0, check.kind == Some(FileType::Absent));
    let &[kind, mode, owner, group] = fields.as_slice() else {
        return if absent { Vec::new() } else { vec![format!("{} is not there", check.path)] };
    };
    if absent {
        return if there { vec![format!("{} is there ({kind})", check.path)] } else { Vec::new() };
    }
    let wanted_kind = check.kind.map(|kind| match kind {
        FileType::File => "regular",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Absent => unreachable!("judged above"),
    });
    let mut complaints = Vec::new();
    if wanted_kind.is_some_and(|wanted| !kind.starts_with(wanted)) {
        complaints.push(format!("it is a {kind}"));
    }
    if let Some(wanted) = check.mode.filter(|wanted| u32::from_str_radix(mode, 8) != Ok(*wanted)) {
        complaints.push(format!("its mode is {mode}, expected {wanted:04o}"));
    }
    if let Some(wanted) = check.owner.as_ref().filter(|wanted| owner != *wanted) {
        complaints.push(format!("its owner is {owner}, expected {wanted}"));
    }
    if let Some(wanted) = check.group.as_ref().filter(|wanted| group != *wanted) {
        complaints.push(format!("its group is {group}, expected {wanted}"));
    }
    complaints
}

fn quoted(text: &str) -> String {
    match text.trim() {
        "" => "nothing".to_owned(),
        text => {
            let short: String = text.chars().take(QUOTED).collect();
            let more = if short.len() < text.len() { "..." } else { "" };
            format!("`{short}{more}`")
        }
    }
}
