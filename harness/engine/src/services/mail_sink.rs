//! Mail that machines send is caught, written down without its text, and counted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redrill_machines::{Mail, MailNames};
use redrill_model::{Caught, MailReport, Stage};

use crate::redact::Redactor;

/// In the run directory: a JSON object a line.
const FILE: &str = "mail.jsonl";
/// Lines of that file: a restored queue may hold any number.
const KEPT: usize = 1000;
/// Messages in the report.
const LISTED: usize = 100;
/// Directories, within a machine's own, of those that the drill goes on with; all others are copies.
const OWN: [&str; 4] = ["", "new", "pre", "ok"];

/// Where the mail of a drill comes to lie.
#[derive(Debug)]
pub(crate) struct MailSink {
    machines: PathBuf,
    file: PathBuf,
    caught: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    report: MailReport,
    written: usize,
    restoring: bool,
}

impl MailSink {
    /// For a drill in this run directory, if the scenario names mail servers.
    pub(crate) fn open(names: &[String], run: &Path) -> Option<Arc<Self>> {
        let report = MailReport { names: names.to_vec(), ..MailReport::default() };
        let caught = Mutex::new(Counted { report, ..Counted::default() });
        let room = Self { machines: run.join("machines"), file: run.join(FILE), caught };
        (!names.is_empty()).then(|| Arc::new(room))
    }

    /// What machines need to send their mail here. Secrets of the keys are blanked out before anything is kept.
    pub(crate) fn for_machines(self: &Arc<Self>, redactor: &Arc<Redactor>) -> MailNames {
        let (room, redactor) = (Arc::clone(self), Arc::clone(redactor));
        let names = self.caught.lock().expect("no panic while it is held").report.names.clone();
        MailNames::new(names, move |mail| room.take(&mail, &redactor))
    }

    /// A stage begins.
    pub(crate) fn stage(&self, stage: Stage) {
        self.caught.lock().expect("no panic while it is held").restoring |= stage == Stage::Restore;
    }

    /// What came so far.
    pub(crate) fn report(&self) -> MailReport {
        self.caught.lock().expect("no panic while it is held").report.clone()
    }

    fn take(&self, mail: &Mail, redactor: &Redactor) {
        let (machine, own) = sender(&self.machines, &mail.from);
        let caught = Caught {
            at: mail.at.map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default(),
            machine,
            from: redactor.clean(&mail.sender),
            to: mail.recipients.iter().map(|to| redactor.clean(to)).collect(),
            addressed: mail.addressed,
            subject: redactor.clean(&mail.subject),
            bytes: mail.bytes,
        };
        let mut counted = self.caught.lock().expect("no panic while it is held");
        if counted.written < KEPT {
            counted.written += 1;
            // What cannot be written down is counted all the same.
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.file);
            let line = serde_json::to_string(&caught).unwrap_or_default();
            let _ = file.and_then(|mut file| writeln!(file, "{line}"));
        }
        let restoring = counted.restoring;
        let report = &mut counted.report;
        if !own {
            report.copies += 1;
            return;
        }
        report.caught += 1;
        report.restored += usize::from(restoring);
        if report.messages.len() < LISTED {
            report.messages.push(caught);
        }
    }
}

/// Whose directory this is, below that of all machines: a machine's, or a copy's of one, told by its path.
pub(crate) fn sender(machines: &Path, dir: &Path) -> (String, bool) {
    let place = dir.strip_prefix(machines).unwrap_or(dir).display().to_string();
    let own = OWN.contains(&place.split_once('/').map_or("", |(_, within)| within));
    (if own { place.split('/').next().unwrap_or_default().to_owned() } else { place }, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_is_counted_by_who_sent_it_and_when_and_its_secrets_are_not_kept() {
        let run = std::env::temp_dir().join(format!("redrill-mail-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&run);
        let keys = run.join("keys");
        std::fs::create_dir_all(&keys).expect("made");
        std::fs::write(keys.join("token"), "f3a9c1d7e5b20468\n").expect("written");
        let redactor = Redactor::from_keys(&keys, "");
        assert!(MailSink::open(&[], &run).is_none(), "no names, no sink");
        let room = MailSink::open(&["smtp.example.org".to_owned()], &run).expect("a name");
        let send = |within: &str, subject: &str| {
            let from = run.join("machines").join(within);
            let recipients = vec!["ada@example.org".to_owned()];
            room.take(
                &Mail { from, recipients, addressed: 1, subject: subject.to_owned(), ..Mail::default() },
                &redactor,
            );
        };
        send("web", "welcome");
        room.stage(Stage::Check);
        room.stage(Stage::Restore);
        send("web/new", "your token f3a9c1d7e5b20468");
        send("web/twin", "again");
        send("web/m3", "again");
        let report = room.report();
        assert_eq!((report.caught, report.restored, report.copies), (2, 1, 2));
        assert_eq!(report.messages[1].machine, "web");
        let text = std::fs::read_to_string(run.join(FILE)).expect("written");
        assert_eq!(text.lines().count(), 4);
        assert!(!text.contains("f3a9c1d7e5b20468") && !report.messages[1].subject.contains("f3a9"), "{text}");
        (0..1100).for_each(|_| send("web", "a queue"));
        assert_eq!((room.report().caught, room.report().messages.len()), (1102, LISTED));
        assert_eq!(std::fs::read_to_string(run.join(FILE)).expect("written").lines().count(), KEPT);
        std::fs::remove_dir_all(&run).expect("cleaned up");
    }
}
