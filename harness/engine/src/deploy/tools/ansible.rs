//! ansible-core: the version that the repo pins, running a playbook.
//!
//! `helpers/ansible_events.py`, a callback plugin beside the one that prints, tells every task on every host. What
//! Ansible prints is for people: whichever plugin of the user's writes it, it is not parsed.
//!
//! Exit status 0 means well, with or without changes, and also that no host matched; 2 that a host failed, 4 that one
//! was out of reach or that the playbook could not be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redrill_machines::{Deadline, MachineError};
use redrill_model::OperationRef;
use serde_json::json;

use super::helper_events::{self, Said, Told};
use super::running::{self, Finished, Stdout};
use super::{Deployed, Ended, QUOTED, Run, failure, killed, pausing, record};
use crate::deploy::controller::{Controller, ControllerError, Sealed};
use crate::events::Events;

const PLUGIN: &str = include_str!("helpers/ansible_events.py");

/// Lays the plugin into the controller.
pub(crate) fn install(tools: &Path) -> Result<(), ControllerError> {
    let plugins = plugins(tools);
    let written =
        std::fs::create_dir_all(&plugins).and_then(|()| std::fs::write(plugins.join("redrill_events.py"), PLUGIN));
    written.map_err(ControllerError::io("cannot write the controller's tools"))
}

fn plugins(tools: &Path) -> PathBuf {
    tools.join("callbacks")
}

/// One of Ansible's programs in the checkout, with the repo's configuration where that leads nowhere else.
pub(crate) fn command(controller: &Controller, program: &str) -> Sealed {
    let mut command = controller.command(program);
    let configuration = configuration(controller.servers(), &controller.found.script);
    // A deploy may have written to the checkout since.
    let inside = configuration.as_ref().and_then(|file| file.strip_prefix(controller.servers()).ok());
    let text = inside.and_then(|file| redrill_sandbox::read_back(controller.servers(), file).ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut callbacks = plugins(&controller.tools()).display().to_string();
    if let (Some(own), Some(file)) = (setting(&text, "callback_plugins"), &configuration) {
        let beside = file.parent().unwrap_or(Path::new("/"));
        own.split(':').for_each(|own| callbacks.push_str(&format!(":{}", beside.join(own).display())));
    }
    command.envs(configuration.map(|file| ("ANSIBLE_CONFIG", file)));
    command.env("ANSIBLE_CALLBACK_PLUGINS", callbacks).env("REDRILL_ROOT", controller.servers());
    // Facts of production, and files outside the run, are no part of a drill.
    command.env("ANSIBLE_CACHE_PLUGIN", "memory").env("ANSIBLE_RETRY_FILES_ENABLED", "0");
    command.env("ANSIBLE_LOG_PATH", controller.told().join("ansible.log"));
    command.env("ANSIBLE_NOCOLOR", "1").env("ANSIBLE_TIMEOUT", CONNECT_SECONDS);
    command
}

/// Where `ssh` keeps its sockets, which have short paths or none: the sandbox has a place for such things of its own.
const SOCKETS: &str = "/tmp";

/// An emulated machine's sshd takes its time.
const CONNECT_SECONDS: &str = "60";

/// The `ansible.cfg` that stands nearest to the playbook, within the checkout.
fn configuration(servers: &Path, script: &Path) -> Option<PathBuf> {
    let inside = script.ancestors().skip(1);
    inside.map(|directory| servers.join(directory).join("ansible.cfg")).find(|file| file.is_file())
}

/// A value of an `ansible.cfg`, in whatever section.
pub(super) fn setting(text: &str, key: &str) -> Option<String> {
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.split(" ;").next().unwrap_or_default().trim().to_owned())
    };
    text.lines().filter(|line| !line.starts_with(['#', ';'])).find_map(value).filter(|value| !value.is_empty())
}

pub(super) async fn deploy(
    controller: &Controller,
    run: &Run,
    log_dir: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Deployed, MachineError> {
    let mut command = command(controller, "ansible-playbook");
    command.env("REDRILL_EVENTS", controller.events_file(&run.label));
    command.envs(run.cut.map(|cut| ("REDRILL_CUT", cut.to_string()))).envs(pausing(controller, run));
    let variables = controller.tools().join("connection.json");
    std::fs::write(&variables, connection(controller).to_string())
        .map_err(|source| MachineError::Io { what: "cannot write the controller's tools".into(), source })?;
    if let Some(inventory) = &controller.found.inventory {
        command.arg("--inventory").arg(inventory);
    }
    command.args(controller.arguments(run.pass));
    // Last, so that they beat whatever the arguments say of the real hosts.
    command.arg("--extra-vars").arg(format!("@{}", variables.display())).arg(&controller.found.script);
    command.label(&run.label);
    let log = log_dir.join(format!("{}.log", run.label));
    let finished = running::run(controller, command, Stdout::Lines, &log, events, deadline).await?;
    let told = helper_events::read(&running::events_of(controller, &run.label, log_dir, events)?);
    Ok(understand(run, &finished, told))
}

/// What beats everything that the inventory and `ansible.cfg` say about connections. User and port of production stay
/// visible to templates: the options of `ssh`, of which the first counts, overrule them.
fn connection(controller: &Controller) -> serde_json::Value {
    let key = controller.key().map(|key| key.display().to_string()).unwrap_or_default();
    let args = format!(
        "-F '{}' -o User=root -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o IdentityFile='{key}' \
         -o ControlMaster=auto -o ControlPersist=60s -o ControlPath={SOCKETS}/%C",
        controller.ssh_config().display()
    );
    let mut variables = json!({
        "ansible_ssh_args": args,
        "ansible_ssh_common_args": "",
        "ansible_ssh_extra_args": "",
        "ansible_sftp_extra_args": "",
        "ansible_scp_extra_args": "",
        "ansible_ssh_executable": "ssh",
    });
    // A password would call for `sshpass`.
    for name in ["ansible_password", "ansible_ssh_pass", "ansible_ssh_password"] {
        if controller.hosts.iter().any(|host| host.has(name)) {
            variables[name] = serde_json::Value::Null;
        }
    }
    variables
}

/// Puts the events and the end of the process together.
fn understand(run: &Run, finished: &Finished, told: Told) -> Deployed {
    let ended = ended(finished, &told);
    let remarks = remarks(&told);
    let deployed = record(run, finished.span, finished.exit(), told.executions, ended, remarks);
    let passed_over = told.unmatched.iter().map(|play| format!("the play {play} matched no host")).collect();
    Deployed { cut: told.cut, passed_over, ..deployed }
}

fn ended(finished: &Finished, told: &Told) -> Ended {
    if let Some(late) = &finished.late {
        return Ended::Unclear(late.clone());
    }
    if let Some(number) = told.cut {
        return Ended::Unclear(format!("it was cut before task {number}, as asked"));
    }
    if let Some(lost) = told.executions.iter().find(|execution| execution.said == Said::Unreachable) {
        let said = lost.output.first().cloned().unwrap_or_default();
        return Ended::Unclear(format!("`{}` was out of reach at `{}`: {said}", lost.host, lost.name));
    }
    if finished.exit() == Some(0) {
        let unclear = |why: &str| Ended::Unclear(why.to_owned());
        return match told {
            Told { version: None, .. } => unclear("Ansible ended well, and its events were not told"),
            Told { broken: Some(why), .. } => Ended::Unclear(why.clone()),
            Told { over: false, .. } => unclear("Ansible ended well, and its events break off before its recap"),
            _ if told.executions.iter().all(|execution| execution.window().is_none()) => {
                unclear("Ansible ran no task on any host")
            }
            _ => Ended::Well,
        };
    }
    if let Some(killed) = killed("Ansible", finished, &told.executions) {
        return killed;
    }
    let trouble = || last_lines(finished);
    failure(&told.executions, trouble).unwrap_or_else(|| {
        let (operation, host): (Option<OperationRef>, _) = told.unfinished.clone().unzip();
        Ended::Failed { operation, host, evidence: last_lines(finished) }
    })
}

/// What Ansible printed last: first on standard error, where it complains.
fn last_lines(finished: &Finished) -> Vec<String> {
    let said = if finished.stderr.iter().any(|(_, line)| line.contains("ERROR")) {
        &finished.stderr
    } else {
        &finished.stdout
    };
    let lines = said.iter().map(|(_, line)| line.clone()).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.collect();
    lines[lines.len().saturating_sub(QUOTED)..].to_vec()
}

fn remarks(told: &Told) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut local: Vec<String> = Vec::new();
    for execution in told.executions.iter().filter(|e| e.local && e.window().is_some()) {
        let place = execution.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        let task = format!("`{}`{place}", execution.name);
        if !local.contains(&task) {
            local.push(task);
        }
    }
    if !local.is_empty() {
        let tasks = local.join(", ");
        remarks.push(format!("these tasks ran on the controller, where no capture looks: {tasks}"));
    }
    remarks.extend(recap(told));
    remarks
}

/// Where Ansible's own recap does not fit its events. A task counts once there, however many items it has, and an ignored
/// failure may count as a change.
fn recap(told: &Told) -> Vec<String> {
    let mut seen: BTreeMap<&str, BTreeMap<usize, (bool, bool)>> = BTreeMap::new();
    for execution in &told.executions {
        let tasks = seen.entry(&execution.host).or_default();
        let task = tasks.entry(execution.boundary).or_default();
        task.0 |= execution.said == Said::Changed;
        task.1 |= matches!(execution.said, Said::Ignored | Said::Failed);
    }
    let mut remarks = Vec::new();
    for (host, counted) in &told.changed {
        let tasks = seen.get(host.as_str()).map(|tasks| tasks.values().collect::<Vec<_>>()).unwrap_or_default();
        let least = tasks.iter().filter(|(changed, failed)| *changed && !failed).count();
        let most = tasks.iter().filter(|(changed, failed)| *changed || *failed).count();
        if !(least..=most).contains(counted) {
            remarks.push(format!("Ansible's recap counts {counted} changes on `{host}`, and its events {least}"));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use redrill_model::Pass;

    use super::*;

    const EVENTS: &str = include_str!("../../../fixtures/ansible-2.19-events.jsonl");

    fn read(events: &str, exit: i32, stderr: &str) -> Deployed {
        let finished = Finished {
            status: Some(ExitStatus::from_raw(exit << 8)),
            stderr: stderr.lines().map(|line| (0, line.to_owned())).collect(),
            ..Finished::default()
        };
        understand(&Run::whole(Pass::First), &finished, helper_events::read(events))
    }

    /// The events up to this text, and no further.
    fn until(text: &str) -> String {
        let lines = EVENTS.lines().take_while(|line| !line.contains(text));
        lines.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_real_run_is_read() {
        let deployed = read(EVENTS, 0, "");
        assert_eq!(deployed.ended, Ended::Well);
        assert_eq!(deployed.failed().count(), 2, "one is ignored, one is rescued");
        let skipped = deployed.run.runs.iter().filter(|run| run.outcome == "skipped").count();
        assert_eq!(deployed.run.operations + skipped, deployed.run.runs.len());
        assert!(deployed.remarks.iter().any(|remark| remark.contains("`deleg` (site.yml:39)")), "it ran elsewhere");
        assert!(!deployed.remarks.iter().any(|remark| remark.contains("recap")), "{:?}", deployed.remarks);
        let events = EVENTS.replace("\"changed\": 12", "\"changed\": 40");
        assert!(read(&events, 0, "").remarks.iter().any(|remark| remark.contains("counts 40 changes")));
    }

    #[test]
    fn events_that_break_off_prove_nothing() {
        for events in [String::new(), until("\"over\""), EVENTS[..EVENTS.len() - 20].to_owned()] {
            assert!(matches!(read(&events, 0, "").ended, Ended::Unclear(_)), "{events}");
        }
        assert!(matches!(read(&EVENTS.replacen("\"v\": 1", "\"v\": 7", 1), 0, "").ended, Ended::Unclear(_)));
        assert!(
            matches!(read(&until("web : role task"), 137, "").ended, Ended::Unclear(why) if why.contains("killed"))
        );
    }

    #[test]
    fn no_host_matched_proves_nothing() {
        let events = "{\"e\":\"begin\",\"v\":1,\"version\":\"2.19\"}\n{\"e\":\"unmatched\",\"name\":\"web\"}\n{\"e\":\"over\"}\n";
        assert_eq!(read(events, 0, "").ended, Ended::Unclear("Ansible ran no task on any host".to_owned()));
        assert_eq!(read(EVENTS, 0, "").passed_over, ["the play `none` (site.yml:43) matched no host"]);
    }

    #[test]
    fn a_failed_task_is_named_with_its_place_and_output() {
        let failed = EVENTS.replace("\"outcome\": \"ignored\"", "\"outcome\": \"failed\"");
        let Ended::Failed { operation: Some(operation), host, evidence } = read(&failed, 2, "").ended else {
            panic!("must fail")
        };
        assert_eq!(host.as_deref(), Some("localhost"));
        assert_eq!(operation.place.as_deref(), Some("site.yml:20"), "the last one that failed");
        assert_eq!(evidence, ["non-zero return code"]);
    }

    #[test]
    fn a_playbook_that_cannot_be_read_is_quoted() {
        let Ended::Failed { operation: None, evidence, .. } =
            read("", 4, "[ERROR]: conflicting action statements").ended
        else {
            panic!("must fail")
        };
        assert_eq!(evidence, ["[ERROR]: conflicting action statements"]);
    }

    #[test]
    fn a_host_out_of_reach_is_no_verdict() {
        let lost = EVENTS.replacen("\"outcome\": \"changed\"", "\"outcome\": \"unreachable\"", 1);
        assert!(matches!(read(&lost, 4, "").ended, Ended::Unclear(why) if why.contains("out of reach")));
    }

    #[test]
    fn settings_are_read_as_ansible_reads_them() {
        let text =
            "[defaults]\n# inventory = no\ninventory = hosts.ini ; the real ones\ncallback_plugins=a:b\nlog_path =\n";
        assert_eq!(setting(text, "inventory").as_deref(), Some("hosts.ini"));
        assert_eq!(setting(text, "callback_plugins").as_deref(), Some("a:b"));
        assert_eq!(setting(text, "log_path"), None);
    }
}
