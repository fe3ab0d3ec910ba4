//! The deploy after a restore: it must not fight the restored data.

use std::collections::BTreeMap;

use redrill_machines::{Deadline, Machine};
use redrill_model::{Backup, Code, Finding, Moment, is_below};
use redrill_state::{Manifest, Table, Weight};

use super::oracle;
use crate::captures::Captures;
use crate::claims::idempotent::judge_machine;
use crate::context::Context;
use crate::deploy::tools::{Deployed, HostWindow};
use crate::problem::Problem;

/// The data of every machine as it is after the checks, by machine.
pub(crate) async fn look_before<M: Machine>(
    context: &Context,
    machines: &[M],
    deadline: &Deadline,
) -> Result<BTreeMap<String, Manifest>, Problem> {
    let mut before = BTreeMap::new();
    for machine in machines {
        if let Some(manifest) = look(context, machine, deadline).await? {
            before.insert(machine.name().to_owned(), manifest);
        }
    }
    Ok(before)
}

/// What the deploy after the restore did to the data of the machines that were looked at before.
pub(crate) struct Fights {
    pub(crate) findings: Vec<Finding>,
    /// Machines whose data was looked at again.
    pub(crate) machines: usize,
}

/// Looks again, and holds it against what was there `before`. `third` is the deploy.
pub(crate) async fn look_after<M: Machine>(
    (context, captures): (&Context, &Captures),
    machines: &[M],
    (before, third): (&BTreeMap<String, Manifest>, Option<&Deployed>),
    deadline: &Deadline,
) -> Result<Fights, Problem> {
    let mut fights = Fights { findings: Vec::new(), machines: 0 };
    for machine in machines {
        let name = machine.name();
        let Some(before) = before.get(name) else { continue };
        if let Some(after) = look(context, machine, deadline).await? {
            fights.findings.extend(fought(name, before, &after, |subject| ephemeral(context, subject)));
        }
        fights.findings.extend(third.into_iter().flat_map(|third| captured(context, captures, third, name)));
        fights.machines += 1;
    }
    // Of two about one thing the one that names the operation stays.
    let findings = &mut fights.findings;
    findings.sort_by_key(|finding| (finding.machine.clone(), finding.subject.clone(), finding.operation.is_none()));
    findings.dedup_by(|a, b| (&a.machine, &a.subject) == (&b.machine, &b.subject));
    Ok(fights)
}

fn backups<'a>(context: &'a Context, machine: &'a str) -> impl Iterator<Item = &'a Backup> {
    context.scenario().backups.iter().filter(move |backup| backup.machine == machine)
}

fn ephemeral(context: &Context, subject: &str) -> bool {
    context.scenario().ephemeral.iter().any(|declared| declared.covers(subject))
}

/// Everything that was restored into the machine; `None` if nothing was.
async fn look<M: Machine>(context: &Context, machine: &M, deadline: &Deadline) -> Result<Option<Manifest>, Problem> {
    let (whole, others): (Vec<_>, Vec<_>) =
        backups(context, machine.name()).partition(|backup| backup.is_base_backup());
    let targets: Vec<String> = others.into_iter().flat_map(super::targets).collect();
    if targets.is_empty() {
        // A running server's files are no data to compare: of these only the checks tell.
        let told = !whole.is_empty() && !context.scenario().checks.is_empty();
        return Ok(told.then(Manifest::default));
    }
    oracle::look(machine, &targets, deadline).await.map(Some)
}

/// What is worse than before. A service that works adds rows and files meanwhile; it loses none.
fn fought(machine: &str, before: &Manifest, after: &Manifest, ephemeral: impl Fn(&str) -> bool) -> Vec<Finding> {
    let grew = |before: &Table, after: &Table| after.rows >= before.rows && after.schema == before.schema;
    let all = before.compare(after, ephemeral).into_iter().filter(|disagreement| !disagreement.extra);
    let all = all.filter(|disagreement| {
        let tables = (before.tables.get(&disagreement.subject), after.tables.get(&disagreement.subject));
        !matches!(tables, (Some(before), Some(after)) if grew(before, after))
    });
    all.map(|disagreement| {
        let text =
            format!("the deploy after the restore fought the data: {} {}", disagreement.subject, disagreement.what);
        let mut finding = Finding::new(Code::RedeployFights, disagreement.subject, text);
        finding.machine = Some(machine.to_owned());
        finding
    })
    .collect()
}

/// The same from the captures, which know the operation that did it.
fn captured(context: &Context, captures: &Captures, third: &Deployed, name: &str) -> Vec<Finding> {
    let read = |moment| captures.read(name, moment);
    // The manifests have been compared: without captures only the culprit stays unknown.
    let (Ok(before), Ok(after)) = (read(Moment::Restored), read(Moment::Settled)) else { return Vec::new() };
    let judgement = judge_machine(name, third, (&before, &after, None));
    let restored = |subject: &str| {
        let mut paths = backups(context, name).flat_map(|backup| &backup.into).filter_map(|target| target.path());
        paths.any(|path| is_below(subject, path)) && !ephemeral(context, subject)
    };
    let operation = |number: usize| {
        let window = third.windows.iter().find(|window| window.host == name && window.window.number == number);
        window.map(HostWindow::operation)
    };
    let fights = judgement.observations.iter().filter(|o| o.kind.weight() == Weight::Fails && restored(&o.subject));
    fights
        .filter_map(|observation| {
            // Without a culprit it may be the service at work.
            let operation = observation.window.and_then(operation)?;
            let text = format!("the deploy after the restore fought the data: `{}`", observation.subject);
            let mut finding = Finding::new(Code::RedeployFights, &observation.subject, text);
            finding.machine = Some(name.to_owned());
            finding.operation = Some(operation);
            finding.evidence.clone_from(&observation.evidence);
            Some(finding)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use redrill_state::Leaf;

    use super::*;

    fn manifest(rows: u64, digest: Option<&str>) -> Manifest {
        let mut manifest = Manifest::default();
        manifest
            .tables
            .insert("notes.documents".into(), Table { rows, highest: Some(rows.to_string()), ..Table::default() });
        if let Some(digest) = digest {
            let leaf = Leaf { kind: "file".into(), size: Some(1), digest: Some(digest.into()), ..Leaf::default() };
            manifest.paths.insert("/d/a".into(), leaf);
        }
        manifest
    }

    #[test]
    fn data_that_shrinks_or_changes_was_fought_and_data_that_grows_was_not() {
        let subjects = |after: &Manifest| {
            let found = fought("app", &manifest(5, Some("one")), after, |_| false);
            found.into_iter().map(|finding| finding.subject).collect::<Vec<_>>()
        };
        assert_eq!(subjects(&manifest(5, Some("one"))), [""; 0]);
        assert_eq!(subjects(&manifest(6, Some("one"))), [""; 0], "a service at work");
        assert_eq!(subjects(&manifest(4, Some("one"))), ["notes.documents"]);
        assert_eq!(subjects(&manifest(5, Some("two"))), ["/d/a"]);
        assert_eq!(subjects(&manifest(5, None)), ["/d/a"]);
        let mut other = manifest(5, Some("one"));
        other.tables.values_mut().for_each(|table| table.schema = "other".into());
        assert_eq!(subjects(&other), ["notes.documents"]);
    }
}
