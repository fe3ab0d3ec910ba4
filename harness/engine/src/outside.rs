//! What sealed programs wanted that is neither in the repo nor among the keys, as findings.

use std::collections::{BTreeMap, BTreeSet};

use redrill_model::{Code, Finding, OperationRef, OperationRun};
use redrill_sandbox::{Attempt, Ledger, Protocol};

use crate::deploy::controller::Production;
use crate::deploy::tools::Deployed;

/// Findings about the ledgers of a run, which have the labels of the deploys.
pub(crate) fn findings(
    ledgers: &[(String, Ledger)],
    deploys: &[&Deployed],
    production: Option<&Production>,
) -> Vec<Finding> {
    let mut found: BTreeMap<(bool, String, String), Tried> = BTreeMap::new();
    for (label, ledger) in ledgers {
        for attempt in ledger.attempts.iter().filter(|attempt| attempt.protocol != Protocol::SystemFile) {
            let real = production.is_some_and(|production| is_production(attempt, production));
            let deploy = deploys.iter().find(|deployed| deployed.run.pass.file_stem() == label);
            let run = deploy.and_then(|deployed| at_work(deployed, attempt));
            let who = run.map_or_else(|| caller(label), |run| format!("operation `{}`", run.name));
            let tried =
                found.entry((!real, attempt.target(), who)).or_insert_with(|| Tried::new(run, attempt.protocol));
            tried.times += 1;
            if !tried.labels.contains(label) {
                tried.labels.push(label.clone());
            }
        }
    }
    let unseen = ledgers.iter().filter(|(_, ledger)| !ledger.over && ledger.failed.is_none());
    let findings = found.into_iter().map(|((elsewhere, target, who), tried)| tried.finding(elsewhere, &target, &who));
    findings.chain(flood(ledgers)).chain(unseen.filter_map(|(label, _)| not_seen(label, deploys))).collect()
}

/// One thing that one caller tried.
struct Tried {
    times: usize,
    labels: Vec<String>,
    operation: Option<OperationRef>,
    host: Option<String>,
    file: bool,
}

impl Tried {
    fn new(run: Option<&OperationRun>, protocol: Protocol) -> Self {
        let file = protocol == Protocol::File;
        let operation = run.map(|run| {
            let OperationRun { number, name, place, item, .. } = run.clone();
            OperationRef { number, name, place, item }
        });
        Self { times: 0, labels: Vec::new(), operation, host: run.map(|run| run.host.clone()), file }
    }

    fn finding(self, elsewhere: bool, target: &str, who: &str) -> Finding {
        let (code, text) = if elsewhere {
            let text = format!("this commit and the keys were not enough: {who} wanted {target}");
            (Code::Outside, text)
        } else {
            let text = format!("{who} tried to reach production: {target}; no packet left the sandbox");
            (Code::Production, text)
        };
        let mut finding = Finding::new(code, target, text);
        (finding.operation, finding.machine) = (self.operation, self.host);
        finding.evidence.push(format!("{} times, in {}", self.times, self.labels.join(", ")));
        let mend = match (self.file, code) {
            (true, Code::Outside) => "if the deploy needs it: put it into the repo, or among the keys",
            (false, _) => {
                "if the deploy needs it: put what it fetches into the repo, or declare the way in scenario.toml with \
                 [network] controller = [{ to = \"HOST:PORT\", why = \"...\" }], which for a host of the inventory leads \
                 to its machine"
            }
            (true, _) => return finding,
        };
        finding.evidence.push(mend.to_owned());
        finding
    }
}

fn is_production(attempt: &Attempt, production: &Production) -> bool {
    let address = attempt.address.is_some_and(|address| production.addresses.contains(&address.to_canonical()));
    address || attempt.name.as_ref().is_some_and(|name| production.is(name))
}

/// The operation that ran then, one that failed or reached nobody included.
fn at_work<'a>(deployed: &'a Deployed, attempt: &Attempt) -> Option<&'a OperationRun> {
    let seconds = (attempt.time - deployed.began) as f64 / 1e9;
    deployed.run.runs.iter().find(|run| (run.started..=run.ended).contains(&seconds))
}

/// What a reader must know beside the findings, in words for the report.
pub(crate) fn remarks(ledgers: &[(String, Ledger)]) -> Vec<String> {
    let unseen = ledgers.iter().find_map(|(_, ledger)| ledger.files_unseen.as_ref()).map(|why| {
        format!(
            "files of this host were not there in the sandbox; which of them the deploy looked for was not seen ({why})"
        )
    });
    // What everybody may read any program looks at, and it went on without.
    let attempts = ledgers.iter().flat_map(|(_, ledger)| &ledger.attempts);
    let system = attempts.filter(|attempt| attempt.protocol == Protocol::SystemFile);
    let system: BTreeSet<&str> = system.filter_map(|attempt| attempt.name.as_deref()).collect();
    let shown: Vec<&str> = system.iter().take(SHOWN).copied().collect();
    let more = if system.len() > SHOWN { format!(" and {} more", system.len() - SHOWN) } else { String::new() };
    let looked_for = format!(
        "programs on the controller looked for files of the host's system that the sandbox does not have, and went on \
         without: {}{more}",
        shown.join(", ")
    );
    unseen.into_iter().chain((!system.is_empty()).then_some(looked_for)).collect()
}

/// Of a list that is only worth knowing.
const SHOWN: usize = 12;

/// Who it was, where no operation was at work.
fn caller(label: &str) -> String {
    if label.starts_with("deploy-") {
        "the deploy's own code, between operations,".to_owned()
    } else {
        format!("`{label}`")
    }
}

fn flood(ledgers: &[(String, Ledger)]) -> Option<Finding> {
    let more: usize = ledgers.iter().map(|(_, ledger)| ledger.more).sum();
    let text = format!("the controller tried to leave its sandbox {more} times more than are listed");
    (more > 0).then(|| Finding::new(Code::Outside, "sandbox, more", text))
}

/// A deploy that was killed is no verdict anyway; one that ended well must have been watched.
fn not_seen(label: &str, deploys: &[&Deployed]) -> Option<Finding> {
    let ended = |deployed: &&&Deployed| {
        deployed.run.pass.file_stem() == label && deployed.ended == crate::deploy::tools::Ended::Well
    };
    deploys.iter().find(ended)?;
    let text = format!("what `{label}` wanted of the world was not seen to its end");
    Some(Finding::new(Code::NotProven, "sandbox", text))
}

#[cfg(test)]
mod tests {
    use redrill_model::Severity;

    use super::*;

    fn attempt(address: &str, port: u16, name: Option<&str>) -> Attempt {
        let address = Some(address.parse().expect("an address"));
        Attempt { time: 5, protocol: Protocol::Tcp, address, port, name: name.map(str::to_owned) }
    }

    fn of(attempts: Vec<Attempt>) -> Vec<Finding> {
        let ledger = Ledger { attempts, over: true, ..Ledger::default() };
        let production = Production {
            names: vec!["web.example.org".to_owned()],
            addresses: vec!["203.0.113.7".parse().expect("an address")],
        };
        findings(&[("deploy-1".to_owned(), ledger)], &[], Some(&production))
    }

    #[test]
    fn an_attempt_is_named_with_host_and_port() {
        let found = of(vec![attempt("198.51.100.9", 443, None), attempt("198.51.100.9", 443, None)]);
        assert_eq!((found.len(), found[0].code, found[0].severity), (1, Code::Outside, Severity::Unknown));
        assert!(found[0].summary.contains("wanted tcp 198.51.100.9:443"), "{}", found[0].summary);
        assert!(found[0].evidence[0].starts_with("2 times"), "{:?}", found[0].evidence);
        assert_eq!(of(Vec::new()), []);
    }

    #[test]
    fn a_host_of_the_inventory_is_production_by_name_and_by_address() {
        let found = of(vec![
            attempt("203.0.113.7", 8080, None),
            attempt("::ffff:203.0.113.7", 25, None),
            attempt("198.19.0.1", 443, Some("Web.example.org")),
            attempt("198.19.0.2", 443, Some("api.example.org")),
        ]);
        let production =
            found.iter().filter(|finding| finding.code == Code::Production && finding.severity == Severity::Fails);
        assert_eq!(production.count(), 3, "{found:?}");
        assert_eq!(found.last().expect("four").subject, "tcp api.example.org:443");
    }

    #[test]
    fn a_watcher_that_was_lost_is_told() {
        let lost = findings(&[("inventory".to_owned(), Ledger::default())], &[], None);
        assert_eq!(lost, [], "its failure has a word of its own");
        let more = Ledger { more: 3, over: true, ..Ledger::default() };
        assert_eq!(findings(&[("deploy-1".to_owned(), more)], &[], None)[0].code, Code::Outside);
    }
}
