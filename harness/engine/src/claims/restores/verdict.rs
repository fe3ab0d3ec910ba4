//! The verdict on `restores`, from what was gathered.

use redrill_model::{
    After, Backup, Claim, Code, Finding, HostFacts, OracleReport, Origin, Pass, Recovery, RestoreReport, Scenario,
    Stage,
};

use crate::claims::restores::Restored;
use crate::claims::serves::checks_that_hold;
use crate::claims::{Counted, ended, not_reached};
use crate::facts::Facts;
use crate::problem::Problem;

/// Below this the host counts as one with hardware virtualization.
const QUICK: f64 = 1.5;

pub(in crate::claims) fn verdict(scenario: &Scenario, facts: &Facts, host: &HostFacts) -> Counted {
    let mut findings = Vec::new();
    let (mut answered, mut declared) = (0, 0);
    for backup in &scenario.backups {
        let asked = backup.oracle.count() + usize::from(matches!(backup.origin, Origin::Made { .. }));
        declared += asked.max(1);
        let Some(restored) = facts.restores.restored.iter().find(|one| one.report.backup == backup.name) else {
            findings.push(not_reached(&[Claim::Restores], facts));
            continue;
        };
        let (oracles, more) = by_checks(scenario, facts, backup);
        let answers = restored.report.oracles.iter().chain(&oracles).filter(|oracle| oracle.holds.is_some()).count();
        answered += answers.min(asked);
        let told = |fault: &Problem| fault.finding(&backup.name, &backup.machine);
        findings.extend(restored.faults.iter().map(told));
        findings.extend(more.iter().map(told));
        if asked == 0 {
            let text = "no oracle says whether the data is right: declare one under `[backup.oracle]`";
            findings.push(told(&Problem::new(Code::NoOracle, text)));
        }
        findings.extend(too_slow(backup, &recovery(backup, restored, facts, host), host).as_ref().map(told));
    }
    findings.dedup();
    findings.extend(redeployed(scenario, facts));
    findings.extend(lost(scenario, facts));
    ((answered, declared, "oracles"), findings)
}

/// Oracles that are checks of the scenario.
fn by_checks(scenario: &Scenario, facts: &Facts, backup: &Backup) -> (Vec<OracleReport>, Vec<Problem>) {
    let held = checks_that_hold(scenario, facts.checks.first());
    let (mut oracles, mut faults) = (Vec::new(), Vec::new());
    for name in &backup.oracle.checks {
        let holds = held.get(name.as_str()).copied();
        let said = match holds {
            Some(true) => "it holds",
            Some(false) => "it does not hold",
            None => "it was not made",
        };
        match holds {
            Some(true) => {}
            Some(false) => {
                faults.push(Problem::new(
                    Code::CheckFailed,
                    format!("check `{name}`, which reads the data, does not hold"),
                ));
            }
            None => {
                faults.push(Problem::new(Code::NotRun, format!("check `{name}`, which reads the data, was not made")))
            }
        }
        oracles.push(OracleReport { name: format!("check {name}"), holds, said: said.to_owned() });
    }
    (oracles, faults)
}

/// From a clean machine to green checks; `None` if it did not come to that.
fn recovery(backup: &Backup, restored: &Restored, facts: &Facts, host: &HostFacts) -> Option<Recovery> {
    restored.report.point.as_ref()?;
    let made = matches!(backup.origin, Origin::Made { .. });
    let (boot, pass) = if made { (Stage::Renew, Pass::Rebuilt) } else { (Stage::Boot, Pass::First) };
    let around = facts.seconds(boot) + facts.seconds(Stage::Deploy(pass)) + facts.seconds(Stage::Check);
    let restore: f64 =
        restored.report.phases.iter().filter(|phase| phase.name != "look").map(|phase| phase.seconds).sum();
    let bytes = restored.report.found.bytes.max(restored.report.repository.bytes);
    // One that was restored while the deploy waited is part of the deploy's time.
    let around = if backup.restore_after.is_some() { (around - restore).max(0.0) } else { around };
    let estimate = backup.real_size_mib.filter(|_| restore > 0.0 && bytes > 0).map(|real| {
        let speed = bytes as f64 / restore;
        around + (real as f64 * 1024.0 * 1024.0 / speed).max(restore)
    });
    let mut remarks: Vec<String> = slowness(host).into_iter().collect();
    let kept = restored.report.repository.remote.as_ref().map_or(0, |remote| remote.kept);
    if kept > 0 {
        remarks.push(format!(
            "{kept} files of the repository were there from earlier drills: a fetch of all of it takes longer"
        ));
    }
    if estimate.is_some() {
        remarks.push("the estimate takes the measured speed for the declared real size".to_owned());
    }
    let rto = backup.rto.map(|rto| rto.as_secs_f64());
    Some(Recovery { seconds: around + restore, rto, estimate, remarks })
}

/// Why a time that was measured here says little about the user's machines.
fn slowness(host: &HostFacts) -> Option<String> {
    (host.slowness > QUICK).then(|| {
        format!("measured on a host that is {:.0} times slower than one with hardware virtualization", host.slowness)
    })
}

fn too_slow(backup: &Backup, recovery: &Option<Recovery>, host: &HostFacts) -> Option<Problem> {
    let (limit, recovery) = (backup.rto?.as_secs_f64(), recovery.as_ref()?);
    let seconds = recovery.estimate.unwrap_or(recovery.seconds);
    if seconds <= limit {
        return None;
    }
    let what = if recovery.estimate.is_some() { "would take, by the measured speed," } else { "took" };
    let text = format!(
        "from a clean machine to green checks it {what} {seconds:.0} s, at most {limit:.0} s are declared (`rto`)"
    );
    Some(match slowness(host) {
        Some(remark) => Problem::new(Code::RtoUnknown, format!("{text}; {remark}")),
        None => Problem::new(Code::RtoMissed, text),
    })
}

/// What the deploy after the restore did.
fn redeployed(scenario: &Scenario, facts: &Facts) -> Vec<Finding> {
    // Nothing was restored that it could fight: that has its own finding.
    if facts.restores.restored.len() < scenario.backups.len() {
        return Vec::new();
    }
    let Some(third) = facts.deploys.get(Pass::Restored) else {
        let text = "whether a deploy after the restore fights the data was not looked at";
        return vec![Finding::new(Code::NotRun, "deploy after the restore", text)];
    };
    let mut findings: Vec<Finding> =
        ended(Code::RedeployFailed, "the deploy after the restore failed", third, facts).into_iter().collect();
    if findings.is_empty() && facts.restores.redeployed == 0 {
        let text = "the data was not looked at after the deploy that follows the restore";
        findings.push(Finding::new(Code::NotRun, "deploy after the restore", text));
    }
    findings.extend(facts.restores.fights.iter().cloned());
    let before = checks_that_hold(scenario, facts.checks.first());
    let after =
        facts.checks.get(Some(After::Redeploy)).map(|checked| checks_that_hold(scenario, checked)).unwrap_or_default();
    for (name, _) in after.iter().filter(|(name, holds)| !**holds && before.get(*name) == Some(&true)) {
        let text = format!("check `{name}` held after the restore, and no longer after the deploy that follows");
        findings.push(Finding::new(Code::RedeployFights, *name, text));
    }
    findings
}

fn lost(scenario: &Scenario, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        facts.restores.losses.iter().filter_map(crate::claims::restores::loss_finding).collect();
    findings.extend(
        facts
            .restores
            .no_losses
            .as_ref()
            .map(|fault| Finding::new(fault.code, "loss report", format!("there is no loss report: {}", fault.text))),
    );
    let made = scenario.backups.iter().any(|backup| matches!(backup.origin, Origin::Made { .. }));
    if made && findings.is_empty() && facts.restores.losses.is_empty() && facts.deploys.get(Pass::Restored).is_some() {
        findings.push(Finding::new(Code::NoLossReport, "loss report", "there is no loss report"));
    }
    findings
}

/// The report's part on restores, with what only the end of the drill tells.
pub(crate) fn restore_reports(scenario: &Scenario, facts: &Facts, host: &HostFacts) -> Vec<RestoreReport> {
    let whole = |restored: &Restored| {
        let mut report = restored.report.clone();
        if let Some(backup) = scenario.backups.iter().find(|backup| backup.name == report.backup) {
            report.oracles.extend(by_checks(scenario, facts, backup).0);
            report.recovery = recovery(backup, restored, facts, host);
        }
        report
    };
    facts.restores.restored.iter().map(whole).collect()
}

/// The sentence under a proven claim.
pub(crate) fn restored_summary(facts: &Facts) -> String {
    let restored = &facts.restores.restored;
    let found = restored.iter().map(|one| &one.report.found);
    let (files, rows) =
        found.fold((0, 0), |(files, rows), found| (files + found.files, rows + found.rows.values().sum::<u64>()));
    format!(
        "{} backups came back into empty targets, with {files} files and {rows} rows; their repositories are unchanged, \
         and a deploy afterwards left the data alone",
        restored.len()
    )
}

#[cfg(test)]
mod tests {
    use redrill_model::{Claim, DeployRun, Found, LossGroup, LossOwner, LossReport, Phase, PointReport, Verdict};

    use super::*;
    use crate::claims::serves::checks::{Checked, Seen};
    use crate::deploy::tools::{Deployed, Ended};

    const HEAD: &str = "claims = ['restores', 'survives-reboot']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\n\
        inventory = 'i'\nscript = 'd'\n[[machine]]\nname = 'web'\nimage = 'debian-13'\n\
        [[check.tcp]]\nname = 'ssh'\nwhy = 'w'\nport = 22\n\
        [[backup]]\nname = 'notes'\nkind = 'directory'\nrepository = 'r'\ninto = ['/d']\n";

    fn scenario(more: &str) -> Scenario {
        Scenario::parse(&format!("{HEAD}{more}")).expect("valid")
    }

    const ORACLE: &str = "[backup.oracle]\nmin-files = 1\n";

    fn checked(holds: bool) -> Checked {
        let seen = if holds { Seen::Holds } else { Seen::Not(vec!["closed".into()]) };
        Checked { seen: Ok(seen), seconds: 0.1 }
    }

    fn deployed(ended: Ended) -> Deployed {
        let run = DeployRun {
            pass: Pass::Restored,
            seconds: 1.0,
            exit: Some(0),
            operations: 1,
            changed: 0,
            unchanged: 1,
            failed: 0,
            runs: Vec::new(),
        };
        Deployed {
            run,
            windows: Vec::new(),
            began: 0,
            ended,
            remarks: Vec::new(),
            boundaries: Vec::new(),
            cut: None,
            passed_over: Vec::new(),
            offsets: std::collections::BTreeMap::new(),
            is_script: false,
            leftovers: std::collections::BTreeMap::new(),
            witnessed: std::collections::BTreeMap::new(),
        }
    }

    /// A drill in which all went well.
    fn proven() -> Facts {
        let mut facts = Facts { deploys: [(Pass::Restored, deployed(Ended::Well))].into(), ..Facts::default() };
        facts.checks.add(None, vec![checked(true)]);
        let report = RestoreReport {
            backup: "notes".into(),
            machine: "web".into(),
            point: Some(PointReport::default()),
            phases: vec![Phase { name: "load".into(), seconds: 10.0 }],
            found: Found { files: 3, bytes: 1024 * 1024, ..Found::default() },
            oracles: vec![OracleReport { name: "min-files".into(), holds: Some(true), said: String::new() }],
            ..RestoreReport::default()
        };
        facts.restores.restored = vec![Restored { report, faults: Vec::new() }];
        facts.restores.redeployed = 1;
        facts.took = vec![(Stage::Boot, 5.0), (Stage::Deploy(Pass::First), 20.0), (Stage::Check, 1.0)];
        facts.checks.add(Some(After::Redeploy), vec![checked(true)]);
        facts.checks.add(Some(After::Reboot), vec![checked(true)]);
        facts
    }

    fn host(slowness: f64) -> HostFacts {
        HostFacts { slowness, ..HostFacts::default() }
    }

    fn of(claim: Claim, scenario: &Scenario, facts: &Facts, slowness: f64) -> (Verdict, Vec<Code>) {
        let claims = crate::claims::claims(scenario, facts, &host(slowness), "2026-11-24");
        let report = claims.into_iter().find(|report| report.claim == claim).expect("known");
        (report.verdict, report.findings.into_iter().map(|finding| finding.code).collect())
    }

    fn verdict(facts: &Facts) -> (Verdict, Vec<Code>) {
        of(Claim::Restores, &scenario(ORACLE), facts, 1.0)
    }

    use Verdict::{Failed, Proven, Unproven};

    #[test]
    fn restores_are_proven_only_when_all_was_looked_at() {
        assert_eq!(verdict(&proven()), (Proven, vec![]));
        assert_eq!(verdict(&Facts::default()).0, Unproven);
        let mut unanswered = proven();
        unanswered.restores.restored[0].report.oracles.clear();
        assert_eq!(verdict(&unanswered).0, Unproven, "an oracle gave no answer");
        assert_eq!(of(Claim::Restores, &scenario(""), &proven(), 1.0), (Unproven, vec![Code::NoOracle]));
        let mut no_redeploy = proven();
        no_redeploy.deploys = crate::facts::Deploys::default();
        assert_eq!(verdict(&no_redeploy), (Unproven, vec![Code::NotRun]));
        let mut not_looked_at = proven();
        not_looked_at.restores.redeployed = 0;
        assert_eq!(verdict(&not_looked_at), (Unproven, vec![Code::NotRun]));
    }

    #[test]
    fn no_fault_ends_proven() {
        for (fault, wanted) in [
            (Problem::new(Code::Damaged, "x"), Failed),
            (Problem::new(Code::ErrorText, "x"), Unproven),
            (Problem::new(Code::EmptyRestore, "x"), Unproven),
        ] {
            let mut facts = proven();
            let code = fault.code;
            facts.restores.restored[0].faults.push(fault);
            assert_eq!(verdict(&facts), (wanted, vec![code]));
        }
    }

    #[test]
    fn a_failed_backup_job_fails_the_restores_and_leaves_other_claims_open() {
        for code in [Code::JobFailed, Code::SeedFailed, Code::NothingSeeded, Code::NoBackupMade] {
            let stopped = Some(Problem::new(code, "the backup job ended with exit status 1"));
            let facts = Facts { stopped, ..Facts::default() };
            let (verdict, codes) = verdict(&facts);
            assert_eq!((verdict, codes[0]), (Failed, code));
            let reboot = of(Claim::SurvivesReboot, &scenario(ORACLE), &facts, 1.0);
            assert_eq!(reboot, (Unproven, vec![code]), "nothing was seen of a reboot");
        }
        let lost = Some(Problem::new(Code::MachineLost, "QEMU ended"));
        assert_eq!(verdict(&Facts { stopped: lost, ..Facts::default() }).0, Unproven);
    }

    #[test]
    fn a_deploy_that_fights_the_data_fails() {
        let mut facts = proven();
        facts.restores.fights = vec![Finding::new(Code::RedeployFights, "/d/a", "t")];
        assert_eq!(verdict(&facts), (Failed, vec![Code::RedeployFights]));
        let mut facts = proven();
        facts.checks.add(Some(After::Redeploy), vec![checked(false)]);
        assert_eq!(verdict(&facts), (Failed, vec![Code::RedeployFights]));
        let mut facts = proven();
        facts
            .deploys
            .add(Pass::Restored, deployed(Ended::Failed { operation: None, host: None, evidence: Vec::new() }));
        assert_eq!(verdict(&facts).0, Failed);
    }

    #[test]
    fn a_check_can_be_an_oracle() {
        let scenario = scenario("[backup.oracle]\nchecks = ['ssh']\n");
        let mut facts = proven();
        facts.restores.restored[0].report.oracles.clear();
        assert_eq!(of(Claim::Restores, &scenario, &facts, 1.0), (Proven, vec![]));
        assert_eq!(restore_reports(&scenario, &facts, &host(1.0))[0].oracles[0].holds, Some(true));
        facts.checks.add(None, vec![checked(false)]);
        facts.checks.discard(Some(After::Redeploy));
        facts.checks.discard(Some(After::Reboot));
        assert_eq!(of(Claim::Restores, &scenario, &facts, 1.0), (Failed, vec![Code::CheckFailed]));
        facts.checks.discard(None);
        assert_eq!(of(Claim::Restores, &scenario, &facts, 1.0).0, Unproven);
    }

    #[test]
    fn recovery_is_measured_scaled_and_honest_about_slow_hosts() {
        let with =
            |keys: &str, slowness| of(Claim::Restores, &scenario(&format!("{keys}{ORACLE}")), &proven(), slowness);
        assert_eq!(with("rto = '1m'\n", 1.0), (Proven, vec![]), "36 s");
        assert_eq!(with("rto = '30s'\n", 1.0), (Failed, vec![Code::RtoMissed]));
        assert_eq!(with("rto = '30s'\n", 8.0), (Unproven, vec![Code::RtoUnknown]));
        assert_eq!(with("rto = '2m'\nreal-size-mib = 5\n", 1.0), (Proven, vec![]), "26 s + 5 times 10 s");
        assert_eq!(with("rto = '1m'\nreal-size-mib = 5\n", 1.0), (Failed, vec![Code::RtoMissed]));
    }

    #[test]
    fn what_belongs_to_nobody_fails_the_claim() {
        let made = HEAD.replace("repository = 'r'\n", "") + "[backup.job]\nrun = ['job']\n";
        let scenario = Scenario::parse(&made).expect("valid");
        let mut facts = proven();
        assert_eq!(of(Claim::Restores, &scenario, &facts, 1.0), (Unproven, vec![Code::NoLossReport]));
        let mut report = LossReport { machine: "web".into(), compared: 9, groups: Vec::new() };
        facts.restores.losses = vec![report.clone()];
        assert_eq!(of(Claim::Restores, &scenario, &facts, 1.0), (Proven, vec![]));
        report.groups.push(LossGroup {
            owner: LossOwner::Nobody,
            count: 1,
            gone: 1,
            entries: vec!["/x is gone".into()],
        });
        facts.restores.losses = vec![report];
        assert_eq!(of(Claim::Restores, &scenario, &facts, 1.0), (Failed, vec![Code::Lost]));
    }

    #[test]
    fn a_reboot_is_survived_when_every_check_holds_again() {
        let reboot = |facts: &Facts| of(Claim::SurvivesReboot, &scenario(ORACLE), facts, 1.0);
        assert_eq!(reboot(&proven()), (Proven, vec![]));
        assert_eq!(reboot(&Facts::default()).0, Unproven);
        let mut facts = proven();
        facts.checks.add(Some(After::Reboot), vec![checked(false)]);
        assert_eq!(reboot(&facts), (Failed, vec![Code::CheckFailed]));
        facts.checks.discard(Some(After::Reboot));
        assert_eq!(reboot(&facts).0, Unproven, "the backend could not, or it was not reached");
    }
}
