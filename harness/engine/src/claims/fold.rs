//! One fault is one finding: what one operation did in one way stands together, whatever places it shows in.

use redrill_model::{Also, Code, Finding};

/// Folds what belongs to one operation and one cause into the first of its findings. What a waiver covers stays apart:
/// it covers no more than it names.
pub(super) fn fold(findings: Vec<Finding>) -> Vec<Finding> {
    let mut folded: Vec<Finding> = Vec::new();
    for finding in findings {
        match folded.iter_mut().find(|first| is_one_fault(first, &finding)) {
            Some(first) => {
                let Finding { subject, summary, evidence, .. } = finding;
                first.also.push(Also { subject, summary, evidence });
            }
            None => folded.push(finding),
        }
    }
    folded
}

fn is_one_fault(first: &Finding, other: &Finding) -> bool {
    let key = |finding: &Finding| (finding.code, finding.severity, finding.machine.clone(), finding.trend.clone());
    let number = |finding: &Finding| finding.operation.as_ref().map(|operation| operation.number);
    is_folded(other.code)
        && first.waived.is_none()
        && other.waived.is_none()
        && number(first).is_some()
        && number(first) == number(other)
        && key(first) == key(other)
}

/// Whether findings of this code may be places in which one fault shows.
fn is_folded(code: Code) -> bool {
    use Code::{ControllerDependent, Disruptive, FlipFlop, LeftBehind, RealChange, SilentChange, UnitRan};
    matches!(code, ControllerDependent | Disruptive | FlipFlop | LeftBehind | RealChange | SilentChange | UnitRan)
}

#[cfg(test)]
mod tests {
    use redrill_model::OperationRef;

    use super::*;

    fn finding(code: Code, subject: &str, number: usize) -> Finding {
        let mut finding = Finding::new(code, subject, format!("changed `{subject}`"));
        finding.machine = Some("web".to_owned());
        finding.operation = Some(OperationRef { number, name: format!("op {number}"), ..OperationRef::default() });
        finding
    }

    fn subjects(findings: Vec<Finding>) -> Vec<(String, Vec<String>)> {
        let also = |finding: &Finding| finding.also.iter().map(|also| also.subject.clone()).collect();
        fold(findings).iter().map(|finding| (finding.subject.clone(), also(finding))).collect()
    }

    #[test]
    fn what_one_operation_did_is_one_finding_and_another_operations_is_another() {
        let user = |name: &str, number| finding(Code::RealChange, name, number);
        let seen = subjects(vec![user("/etc/shadow", 3), user("ada", 1), user("bob", 2), user("eve", 3)]);
        let expected = [("/etc/shadow", vec!["eve"]), ("ada", vec![]), ("bob", vec![])];
        let expected =
            expected.map(|(subject, also)| (subject.to_owned(), also.iter().map(ToString::to_string).collect()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn another_cause_another_machine_and_nobodys_changes_stay_apart() {
        let one = finding(Code::RealChange, "a", 1);
        let mut late = finding(Code::RealChange, "b", 1);
        late.trend = Some("DIVERGES".to_owned());
        let mut elsewhere = finding(Code::RealChange, "c", 1);
        elsewhere.machine = Some("db".to_owned());
        let mut nobodys = finding(Code::RealChange, "d", 1);
        nobodys.operation = None;
        let restart = finding(Code::Disruptive, "e", 1);
        let all = vec![one, late, elsewhere, nobodys.clone(), nobodys, restart];
        assert_eq!(fold(all).len(), 6);
    }

    #[test]
    fn a_waiver_covers_no_more_than_it_names() {
        let mut waived = finding(Code::RealChange, "a", 1);
        waived.waived = Some("known".to_owned());
        assert_eq!(fold(vec![waived, finding(Code::RealChange, "b", 1), finding(Code::RealChange, "c", 1)]).len(), 2);
    }
}
