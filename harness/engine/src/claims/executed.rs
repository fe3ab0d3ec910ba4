//! Nothing executed is nothing proven: what a deploy did on each machine, as its tool told it.

use redrill_model::{Code, Finding, Scenario};

use crate::deploy::tools::{Deployed, Ended, Executed};

/// A finding for each machine to which one of these deploys did nothing. The first of them says it.
pub(super) fn nothing_ran(scenario: &Scenario, deploys: &[&Deployed]) -> Vec<Finding> {
    let well: Vec<&Deployed> = deploys.iter().copied().filter(|deployed| deployed.ended == Ended::Well).collect();
    let idle_one = |machine: &str| {
        let found = |(index, deployed): (usize, &&Deployed)| {
            idle(machine, deployed, index > 0 && well[0].executed(machine).ran > 0)
        };
        well.iter().enumerate().find_map(found)
    };
    scenario.machines.iter().filter_map(|machine| idle_one(&machine.name)).collect()
}

/// `again`: an earlier deploy did something there. Then conditions that hold no more are the deploy's own guards, and not
/// a deploy for nobody.
fn idle(machine: &str, deployed: &Deployed, again: bool) -> Option<Finding> {
    let executed = deployed.executed(machine);
    let guarded = again && executed.skipped > 0;
    let (text, operation) = match &executed.in_vain {
        _ if executed.ran == 0 && !guarded => {
            (format!("{} executed nothing on `{machine}`{}", deployed.run.pass.name(), why(&executed)), None)
        }
        Some(in_vain) if in_vain.skipped > 0 => {
            let name = &in_vain.operation.name;
            let text = format!(
                "`{name}` failed softly on `{machine}` in {}, and all {} operations after it were skipped",
                deployed.run.pass.name(),
                in_vain.skipped
            );
            (text, Some(in_vain.operation.clone()))
        }
        _ => return None,
    };
    let mut finding = Finding::new(Code::NotProven, machine, text);
    finding.machine = Some(machine.to_owned());
    finding.operation = operation;
    Some(finding)
}

/// What became of the operations that there are.
fn why(executed: &Executed) -> String {
    let Executed { skipped, elsewhere, looked, .. } = *executed;
    let told = [(skipped, "skipped"), (elsewhere, "ran elsewhere"), (looked, "only looked")];
    let told: Vec<String> =
        told.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if told.is_empty() { ": it has no operation for it".to_owned() } else { format!(": {}", told.join(", ")) }
}

#[cfg(test)]
mod tests {
    use redrill_model::{OperationRun, Pass};

    use super::*;
    use crate::claims::tests::{deployed, scenario};

    fn run(name: &str, outcome: &str) -> OperationRun {
        OperationRun {
            name: name.to_owned(),
            host: "web".to_owned(),
            outcome: outcome.to_owned(),
            ..OperationRun::default()
        }
    }

    fn said(runs: Vec<OperationRun>) -> Option<String> {
        let mut deployed = deployed(&[], Ended::Well);
        deployed.run.runs = runs;
        idle("web", &deployed, false).map(|finding| finding.summary)
    }

    #[test]
    fn what_was_skipped_ran_elsewhere_or_only_looked_is_nothing() {
        let local = OperationRun { on: Some("localhost".to_owned()), ..run("note", "changed") };
        let looks = OperationRun { looks: true, ..run("facts", "unchanged") };
        let all = vec![run("a", "skipped"), local.clone(), looks.clone(), looks.clone()];
        let text = said(all).expect("nothing ran");
        assert_eq!(text, "the first deploy executed nothing on `web`: 1 skipped, 1 ran elsewhere, 2 only looked");
        assert!(said(Vec::new()).is_some_and(|text| text.ends_with("no operation for it")));
    }

    #[test]
    fn a_machine_on_which_something_ran_is_left_alone() {
        let local = OperationRun { on: Some("localhost".to_owned()), ..run("note", "changed") };
        assert_eq!(said(vec![run("a", "skipped"), run("b", "unchanged"), local]), None);
        let delegated = OperationRun { host: "db".to_owned(), on: Some("web".to_owned()), ..run("c", "changed") };
        assert_eq!(said(vec![delegated]), None, "what another host delegates to it counts");
    }

    #[test]
    fn facts_that_fail_softly_and_leave_nothing_to_do_are_no_deploy() {
        let facts = OperationRun { looks: true, ..run("facts", "failed") };
        let before = run("bootstrap", "unchanged");
        let text = said(vec![before.clone(), facts.clone(), run("a", "skipped"), run("b", "skipped")]);
        assert!(text.is_some_and(|text| text.contains("all 2 operations after it were skipped")));
        assert_eq!(said(vec![before.clone(), facts.clone(), run("a", "skipped"), run("b", "unchanged")]), None);
        assert_eq!(said(vec![before, facts]), None);
    }

    #[test]
    fn the_first_deploy_that_did_nothing_is_named_once() {
        let scenario = scenario("");
        let (mut first, mut second) = (deployed(&[], Ended::Well), deployed(&[], Ended::Well));
        second.run.pass = Pass::Second;
        assert_eq!(nothing_ran(&scenario, &[&first, &second]).len(), 1);
        first.run.runs = vec![run("a", "changed")];
        let [finding] = &nothing_ran(&scenario, &[&first, &second])[..] else { panic!("one") };
        assert!(finding.summary.starts_with("the second deploy"), "{}", finding.summary);
        second.run.runs = vec![run("a", "skipped")];
        assert_eq!(nothing_ran(&scenario, &[&first, &second]), [], "a guard holds no more once its work is done");
    }
}
