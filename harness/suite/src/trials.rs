//! The trials of a suite.

use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};
use redrill_model::{BackendKind, Claim, Report, Scenario, Severity, Verdict};

use crate::Suite;
use crate::needs::{Lacking, NotRun, lacking, promised, threads};
use crate::shared::drilled;

/// A drill that the suite may run.
struct Planned {
    name: String,
    path: PathBuf,
    backend: BackendKind,
    claims: Vec<Claim>,
    kvm: bool,
    threads: usize,
    lacking: Option<Lacking>,
}

/// One trial per claim; a scenario that cannot be read is a trial that fails and says why.
pub(crate) fn trials(suite: &Suite) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, path) in scenarios(suite) {
        match planned(&name, &path) {
            Ok(drills) => trials.extend(drills.into_iter().flat_map(|drill| of_drill(suite, drill))),
            Err(why) => trials.push(Trial::test(format!("{name}::scenario"), move || Err(why.into()))),
        }
    }
    trials
}

/// The beginnings of trial names, one for each drill, and how many of nextest's threads it takes.
pub(crate) fn drills(suite: &Suite) -> Vec<(String, usize)> {
    all(suite).map(|drill| (format!("{}::{}::", drill.name, drill.backend.name()), drill.threads)).collect()
}

pub(crate) fn needs_kvm(suite: &Suite) -> bool {
    all(suite).any(|drill| drill.kvm)
}

/// Those that can be read.
fn all(suite: &Suite) -> impl Iterator<Item = Planned> {
    scenarios(suite).into_iter().filter_map(|(name, path)| planned(&name, &path).ok()).flatten()
}

/// Trials that this host cannot run.
pub(crate) fn not_run(suite: &Suite) -> Vec<NotRun> {
    all(suite)
        .filter_map(|drill| Some((drill.lacking.clone()?, drill)))
        .flat_map(|(why, drill)| {
            drill
                .claims
                .clone()
                .into_iter()
                .map(move |claim| NotRun { trial: trial_name(&drill, claim), why: why.clone() })
        })
        .collect()
}

/// Names and directories, sorted.
fn scenarios(suite: &Suite) -> Vec<(String, PathBuf)> {
    let named = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if suite.root.join("scenario.toml").is_file() {
        let path = suite.root.canonicalize().unwrap_or_else(|_| suite.root.clone());
        return vec![(named(&path), path)];
    }
    let entries = std::fs::read_dir(&suite.root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<(String, PathBuf)> =
        entries.filter(|path| path.join("scenario.toml").is_file()).map(|path| (named(&path), path)).collect();
    found.retain(|(name, _)| !suite.except.contains(name));
    found.sort();
    found
}

/// A scenario that names no backend is drilled with each.
fn planned(name: &str, path: &Path) -> Result<Vec<Planned>, String> {
    let file = path.join("scenario.toml");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let scenario = Scenario::parse(&text).map_err(|error| {
        let place = error.position(&text);
        let expected = error.expected.as_ref().map(|expected| format!("; expected {expected}")).unwrap_or_default();
        format!("{}:{}:{}: {}{expected}", file.display(), place.line, place.column, error.message)
    })?;
    let backends = match scenario.backend {
        BackendKind::Auto if scenario.needs.kvm => vec![BackendKind::Qemu],
        BackendKind::Auto => vec![BackendKind::Container, BackendKind::Qemu],
        named => vec![named],
    };
    let drill = |backend| Planned {
        name: name.to_owned(),
        path: path.to_owned(),
        backend,
        claims: scenario.claims.clone(),
        kvm: scenario.needs.kvm,
        threads: threads(&scenario, backend),
        lacking: lacking(&scenario, backend),
    };
    Ok(backends.into_iter().map(drill).collect())
}

fn trial_name(drill: &Planned, claim: Claim) -> String {
    format!("{}::{}::{}", drill.name, drill.backend.name(), claim.name())
}

fn of_drill(suite: &Suite, drill: Planned) -> Vec<Trial> {
    let names: Vec<(Claim, String)> = drill.claims.iter().map(|claim| (*claim, trial_name(&drill, *claim))).collect();
    let trial = |(claim, name)| {
        let (program, path, backend) = (suite.program.clone(), drill.path.clone(), drill.backend);
        let missing = drill.lacking.clone();
        let left_out = missing.is_some() && !promised();
        let run = move || match missing {
            Some(Lacking(why)) => Err(Failed::from(format!("this host was promised to run it: {why}"))),
            None => {
                let drilled = drilled(&program, &path, backend)?;
                match drilled.report {
                    Some(report) => judge(&report, claim),
                    None => {
                        Err(format!("no report; redrill ended with status {}:\n{}", drilled.status, drilled.said)
                            .into())
                    }
                }
            }
        };
        Trial::test(name, run).with_ignored_flag(left_out)
    };
    names.into_iter().map(trial).collect()
}

/// PROVEN and WAIVED pass.
fn judge(report: &Report, claim: Claim) -> Result<(), Failed> {
    let Some(judged) = report.claims.iter().find(|judged| judged.claim == claim) else {
        return Err(format!("the report says nothing about `{claim}`").into());
    };
    if matches!(judged.verdict, Verdict::Proven | Verdict::Waived) {
        return Ok(());
    }
    let mut text = format!("{} {}: {}", judged.claim, judged.verdict, judged.summary);
    for finding in judged.findings.iter().filter(|finding| finding.severity >= Severity::Unknown) {
        text += &format!("\n  {} {}: {}", finding.code, finding.subject, finding.summary);
        finding.evidence.iter().for_each(|line| text += &format!("\n    {line}"));
    }
    text += &format!("\nEvidence  {}\nRepeat    {}", report.run_dir, report.repeat);
    Err(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = "claims = ['rebuilds', 'idempotent']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\n\
                            inventory = 'i'\nscript = 'd'\n[[machine]]\nname = 'web'\nimage = 'debian-13'\n";

    fn suite(scenarios: &[(&str, &str)]) -> (tempfile::TempDir, Suite) {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in scenarios {
            std::fs::create_dir_all(dir.path().join(name)).expect("made");
            std::fs::write(dir.path().join(name).join("scenario.toml"), text).expect("written");
        }
        let suite = Suite::new(dir.path());
        (dir, suite)
    }

    fn names(suite: &Suite) -> Vec<String> {
        let drills = scenarios(suite).into_iter().flat_map(|(name, path)| planned(&name, &path).unwrap_or_default());
        drills
            .flat_map(|drill| drill.claims.iter().map(|claim| trial_name(&drill, *claim)).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn a_trial_per_claim_and_backend() {
        let qemu = format!("backend = 'qemu'\n{SCENARIO}");
        let (_dir, suite) = suite(&[("web", SCENARIO), ("db", &qemu), ("broken", &qemu)]);
        let expected = ["db::qemu::rebuilds", "db::qemu::idempotent", "web::container::rebuilds"];
        let names = names(&suite.clone().except("broken"));
        assert_eq!(names[..3], expected);
        assert_eq!(names.len(), 6);
        assert_eq!(trials(&suite).len(), 8);
    }

    #[test]
    fn what_needs_hardware_virtualization_is_no_container_and_is_told_beforehand() {
        let needs = format!("{SCENARIO}[needs]\nkvm = true\n");
        let (_dir, suite) = suite(&[("fast", &needs)]);
        assert_eq!(names(&suite), ["fast::qemu::rebuilds", "fast::qemu::idempotent"]);
        assert!(suite.needs_kvm());
        let drills = suite.drills();
        assert!(drills.len() == 1 && drills[0].0 == "fast::qemu::" && drills[0].1 >= 1, "{drills:?}");
    }

    #[test]
    fn a_scenario_with_a_mistake_is_a_trial_that_fails() {
        let (_dir, suite) = suite(&[("web", "clams = []\n")]);
        let Err(why) = planned("web", &suite.root.join("web")) else { panic!("must be refused") };
        assert!(why.contains("scenario.toml:1:1: ") && why.contains("clams"), "{why}");
        assert_eq!(trials(&suite).len(), 1);
    }
}
