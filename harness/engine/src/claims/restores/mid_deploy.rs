//! Restores between two operations: the deploy tool waits behind an operation that the scenario names, until the data is
//! there.

use std::sync::Mutex;
use std::time::Duration;

use redrill_machines::Machine;
use redrill_model::{Backup, Code, Origin, Pass, Scenario};

use super::{Done, Restorer, Restores};
use crate::deploy::tools;
use crate::problem::Problem;

/// How often to look whether the deploy waits.
const LOOK: Duration = Duration::from_millis(100);

/// What is restored while a deploy waits, by operation, in the order in which the scenario names these.
pub(crate) struct Between<'a> {
    waits: Vec<(&'a str, Vec<&'a Backup>)>,
    /// The restored data is what the drill goes on with.
    counts: bool,
}

impl<'a> Between<'a> {
    /// A backup that is made in the drill is not there at the first deploy; all are at the one into the machines that
    /// are to be restored.
    pub(crate) fn of(scenario: &'a Scenario, pass: Pass) -> Self {
        Self::new(&scenario.backups, pass)
    }

    fn new(backups: &'a [Backup], pass: Pass) -> Self {
        let made = |backup: &Backup| matches!(backup.origin, Origin::Made { .. });
        let mut waits: Vec<(&str, Vec<&Backup>)> = Vec::new();
        for backup in backups {
            let now = pass == Pass::Rebuilt || (pass == Pass::First && !made(backup));
            let Some(name) = backup.restore_after.as_deref().filter(|_| now) else { continue };
            match waits.iter_mut().find(|(known, _)| *known == name) {
                Some((_, backups)) => backups.push(backup),
                None => waits.push((name, vec![backup])),
            }
        }
        Self { waits, counts: pass == Pass::Rebuilt || !backups.iter().any(made) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Operations to wait behind.
    pub(crate) fn names(&self) -> Vec<String> {
        self.waits.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    /// A deploy takes longer by what it waits for, at most so much.
    pub(crate) fn longest(&self) -> Duration {
        self.waits.iter().flat_map(|(_, backups)| backups).map(|backup| backup.within).sum()
    }

    /// A script does not tell where it is before it has gone on.
    pub(crate) fn no_waiting(&self) -> Problem {
        let names = self.names().join("`, `");
        let text = format!("a script cannot wait behind an operation (`restore-after`): `{names}`");
        Problem { code: Code::NoOperation, text, evidence: Vec::new() }
    }

    /// Restores what the deploy waits for, whenever it does. Ends only where a restore failed: what would follow in the
    /// deploy says nothing then.
    pub(crate) async fn restore<M: Machine>(
        &self,
        restorer: &Restorer<'_, M>,
        label: &str,
        done: &Mutex<Vec<(bool, Done)>>,
    ) -> Problem {
        let (Some(controller), false) = (restorer.controller, self.is_empty()) else {
            return std::future::pending().await;
        };
        let last = super::last_report(restorer.context);
        let mut served = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            // Pauses are told by number; one that comes later in the scenario may be reached first.
            let Some(number) = tools::paused(controller, label).0.get(served).copied() else { continue };
            let Some((name, backups)) = number.checked_sub(1).and_then(|index| self.waits.get(index)) else { continue };
            restorer.context.tell(&format!("the deploy waits behind `{name}`"));
            for backup in backups {
                let restored = restorer.restore(backup, last.as_ref()).await;
                let stop = restored.stops().map(|problem| (problem.text.clone(), problem.evidence.clone()));
                done.lock().expect("no panic while it is held").push((self.counts || stop.is_some(), restored));
                if let Some((why, evidence)) = stop {
                    let text = format!("the deploy did not go on behind `{name}`: backup `{}`: {why}", backup.name);
                    return Problem { evidence, ..Problem::new(Code::NotRun, text) };
                }
            }
            if let Err(error) = tools::let_go(controller, label, number) {
                return Problem::new(Code::NoController, format!("the deploy cannot be told to go on: {error}"));
            }
            served += 1;
        }
    }

    /// Why a deploy of which all operations are known did not wait.
    pub(crate) fn missing(&self, (reached, names): (Vec<usize>, Vec<String>)) -> Option<Problem> {
        let reached = |index: usize, name: &str| {
            // One that failed before may never have come to it.
            reached.contains(&(index + 1)) || names.iter().any(|known| tools::is_named(known, name))
        };
        let missing = self.waits.iter().enumerate().find(|(index, (name, _))| !reached(*index, name));
        missing.map(|(_, (name, backups))| {
            let of = backups.iter().map(|backup| format!("`{}`", backup.name)).collect::<Vec<_>>().join(", ");
            let text = format!(
                "the deploy has no operation `{name}`, behind which backup {of} is to be restored; it has: `{}`",
                names.join("`, `")
            );
            Problem { code: Code::NoOperation, text, evidence: Vec::new() }
        })
    }
}

impl Restores {
    /// What came while a deploy waited; what a later deploy into other machines repeats is not told twice.
    pub(crate) fn between(&mut self, done: Vec<(bool, Done)>) {
        for (counts, done) in done {
            if counts {
                self.take(done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backups(more: &str) -> Vec<Backup> {
        let head = "claims = ['restores']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\n\
            script = 'd'\n[[machine]]\nname = 'web'\nimage = 'debian-13'\n";
        let one = |name: &str, more: &str| {
            format!("[[backup]]\nname = '{name}'\nkind = 'directory'\ninto = ['/{name}']\n{more}\n")
        };
        let text = [
            head.to_owned(),
            one("a", "repository = 'r'\nrestore-after = 'Make'"),
            one("b", "repository = 'r'"),
            one("c", "repository = 'r'\nrestore-after = 'Make'"),
            more.to_owned(),
        ];
        Scenario::parse(&text.concat()).expect("valid").backups
    }

    #[test]
    fn a_deploy_waits_once_for_all_backups_of_an_operation() {
        let backups = backups("");
        let between = Between::new(&backups, Pass::First);
        assert_eq!((between.names(), between.waits[0].1.len(), between.counts), (vec!["Make".to_owned()], 2, true));
        for other in [Pass::Second, Pass::Third, Pass::Restored, Pass::Resumed] {
            assert!(Between::new(&backups, other).is_empty(), "{other:?}: the data is there, or nobody looks at it");
        }
    }

    #[test]
    fn what_is_made_in_the_drill_is_restored_into_the_machines_that_follow() {
        let made = "[[backup]]\nname = 'd'\nkind = 'directory'\ninto = ['/d']\nrestore-after = 'Last'\n\
            [backup.job]\nrun = ['j']\n";
        let backups = backups(made);
        let first = Between::new(&backups, Pass::First);
        assert_eq!((first.names(), first.counts), (vec!["Make".to_owned()], false));
        let rebuilt = Between::new(&backups, Pass::Rebuilt);
        assert_eq!((rebuilt.names(), rebuilt.counts), (vec!["Make".to_owned(), "Last".to_owned()], true));
    }

    #[test]
    fn an_operation_that_is_not_there_is_told_with_those_that_are() {
        let backups = backups("");
        let between = Between::new(&backups, Pass::First);
        assert!(between.missing((vec![1], vec!["Make".into()])).is_none());
        let trouble = between.missing((vec![], vec!["Install".into(), "Start".into()])).expect("not reached");
        assert!(trouble.text.contains("no operation `Make`") && trouble.text.contains("`Install`, `Start`"));
    }
}
