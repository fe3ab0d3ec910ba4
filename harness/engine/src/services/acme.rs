//! Certificates that machines ask for: a stand-in for ACME servers issues them for one drill, and they are counted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use redrill_machines::{Acme, AcmeError, Issued, Pebble};
use redrill_model::{AcmeReport, Certificate, Code, Stage};

use crate::context::Context;
use crate::problem::Problem;
use crate::redact::Redactor;
use crate::services::mail_sink::sender;

/// Where it lies in the run directory.
const DIRECTORY: &str = "acme";
/// Certificates in the report, and names of each.
const LISTED: usize = 100;

/// The stand-in of a drill, and what it has issued.
pub(crate) struct Authority {
    pebble: Pebble,
    issued: Arc<Issuance>,
}

/// What was issued so far.
struct Issuance {
    machines: PathBuf,
    redactor: Arc<Redactor>,
    counted: Mutex<(Stage, AcmeReport)>,
}

impl Authority {
    /// Starts it, if the scenario names ACME servers.
    pub(crate) async fn open(context: &Context) -> Result<Option<Self>, AcmeError> {
        let names = &context.scenario().acme;
        if names.is_empty() {
            return Ok(None);
        }
        let (run, redactor) = (context.path(), context.events.shared_redactor());
        let cleaner = Arc::clone(&redactor);
        let clean = move |text: &str| cleaner.clean(text);
        let pebble = Pebble::start(&context.guard, &run.join(DIRECTORY), names, clean).await?;
        let issued = Arc::new(Issuance::new(run.join("machines"), names, redactor));
        Ok(Some(Self { pebble, issued }))
    }

    /// What machines need to be given certificates.
    pub(crate) fn acme(&self) -> Acme {
        let issued = Arc::clone(&self.issued);
        self.pebble.acme(move |certificate| issued.take(&certificate))
    }

    /// A stage begins.
    pub(crate) fn stage(&self, stage: Stage) {
        self.issued.counted.lock().expect("no panic while it is held").0 = stage;
    }

    /// The root of what it issues, as PEM: in a drill the world trusts it.
    pub(crate) fn root(&self) -> &str {
        self.pebble.root()
    }

    /// Why it has ended, if it has. Who asks for a certificate in vain may fail at that or at something else, or not mind:
    /// what went on meanwhile has shown nothing.
    pub(crate) async fn lost(&self) -> Option<Problem> {
        let error = self.pebble.lost().await?;
        Some(Problem::of(Code::AcmeLost, &error))
    }

    /// Ends it. Returns what came of it.
    pub(crate) async fn close(self) -> AcmeReport {
        self.pebble.end().await;
        self.issued.counted.lock().expect("no panic while it is held").1.clone()
    }
}

impl Issuance {
    fn new(machines: PathBuf, names: &[String], redactor: Arc<Redactor>) -> Self {
        let report = AcmeReport { names: names.to_vec(), ..AcmeReport::default() };
        Self { machines, redactor, counted: Mutex::new((Stage::Boot, report)) }
    }

    fn take(&self, issued: &Issued) {
        let (machine, own) = sender(&self.machines, &issued.to);
        let mut counted = self.counted.lock().expect("no panic while it is held");
        let (during, report) = &mut *counted;
        if !own {
            report.copies += 1;
            return;
        }
        report.issued += 1;
        if report.certificates.len() < LISTED {
            let at = issued.at.map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default();
            let names = issued.names.iter().take(LISTED).map(|name| self.redactor.clean(name)).collect();
            report.certificates.push(Certificate { at, machine, during: *during, names });
        }
    }
}

#[cfg(test)]
mod tests {
    use redrill_model::{HostFacts, Pass, Scenario, Verdict};
    use redrill_state::Outcome as Ran;

    use super::*;
    use crate::claims::claims;
    use crate::claims::tests::deployed;
    use crate::deploy::tools::Ended;
    use crate::facts::Facts;

    /// What becomes of `rebuilds`, where this came of the first deploy in which it was lost.
    fn rebuilds(ended: Ended, stage: Stage) -> (Verdict, Vec<Code>) {
        let text = "claims = ['rebuilds']\n[servers]\npath = '.'\n[[machine]]\nname = 'web'\nimage = 'debian-13'\n";
        let scenario = Scenario::parse(text).expect("valid");
        let first = deployed(&[("Install", Ran::Changed)], ended);
        let mut facts = Facts { deploys: [(Pass::First, first)].into(), ..Facts::default() };
        facts.stop(Problem::new(Code::NotRun, ""));
        facts.discard(stage, "Pebble ended");
        facts.stop(Problem::new(Code::AcmeLost, "Pebble ended"));
        let mut claims = claims(&scenario, &facts, &HostFacts::default(), "2026-11-24");
        let claim = claims.swap_remove(0);
        (claim.verdict, claim.findings.into_iter().map(|finding| finding.code).collect())
    }

    #[test]
    fn a_deploy_that_lost_it_has_shown_nothing_however_it_ended() {
        let failed = || Ended::Failed { operation: None, host: None, evidence: Vec::new() };
        let first = Stage::Deploy(Pass::First);
        for ended in [Ended::Well, failed(), Ended::Unclear("who knows".to_owned())] {
            assert_eq!(rebuilds(ended, first), (Verdict::Unproven, vec![Code::AcmeLost]));
        }
        // What was shown before it was lost stays shown.
        assert_eq!(rebuilds(Ended::Well, Stage::Deploy(Pass::Second)).0, Verdict::Proven);
        assert_eq!(rebuilds(failed(), Stage::Deploy(Pass::Second)).0, Verdict::Failed);
    }

    #[test]
    fn certificates_are_counted_by_who_was_given_them_and_when() {
        let run = std::env::temp_dir().join(format!("redrill-acme-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&run);
        let keys = run.join("keys");
        std::fs::create_dir_all(&keys).expect("made");
        std::fs::write(keys.join("name"), "f3a9c1d7e5b20468.example.org\n").expect("written");
        let redactor = Arc::new(Redactor::from_keys(&keys, ""));
        let machines = run.join("machines");
        let issuance = Issuance::new(machines.clone(), &["acme.test".to_owned()], redactor);
        let give = |within: &str, name: &str| {
            issuance.take(&Issued { to: machines.join(within), names: vec![name.to_owned()], ..Issued::default() });
        };
        give("web", "web.example.org");
        issuance.counted.lock().expect("no panic").0 = Stage::Deploy(Pass::Second);
        give("web/new", "f3a9c1d7e5b20468.example.org");
        give("web/twin", "web.example.org");
        give("web/cut-3", "web.example.org");
        let report = issuance.counted.lock().expect("no panic").1.clone();
        assert_eq!((report.issued, report.copies, report.challenges_verified), (2, 2, false));
        assert_eq!(report.certificates[0].names, ["web.example.org"]);
        assert_eq!((report.certificates[0].during, report.certificates[0].machine.as_str()), (Stage::Boot, "web"));
        assert_eq!(report.certificates[1].during, Stage::Deploy(Pass::Second));
        let text = serde_json::to_string(&report).expect("plain data");
        assert!(!text.contains("f3a9c1d7e5b20468"), "{text}");
        assert_eq!(serde_json::from_str::<AcmeReport>(&text).expect("the same"), report);
        std::fs::remove_dir_all(&run).expect("cleaned up");
    }
}
