//! Restores, losses, planted faults, mail and certificates.

use redrill_model::{AcmeReport, LossOwner, LossReport, MailReport, Mutant, Report, RepositoryReport, RestoreReport};

use super::{Line, ReportSection, SectionKind, Tone, line, span};
use crate::output::seconds;

/// Entries of a group of losses that are listed; all of them stand in `report.json`.
const LISTED: usize = 12;

pub(super) fn sections(report: &Report) -> Vec<ReportSection> {
    let mut sections: Vec<ReportSection> = report.restores.iter().map(restore).collect();
    sections.extend(report.losses.iter().map(losses));
    sections.extend(faults(&report.mutants));
    sections.extend(report.mail.as_ref().map(mail));
    sections.extend(report.acme.as_ref().map(certificates));
    sections
}

fn restore(restored: &RestoreReport) -> ReportSection {
    let head = format!(": {} into {}", restored.kind, restored.machine);
    let mut lines = vec![line!(0, span(Tone::Bold, &restored.backup), head)];
    if let Some(point) = &restored.point {
        let time = point.time.as_ref().map(|time| format!(", taken {time}")).unwrap_or_default();
        let of = point.of.map(|of| format!(", of {of}")).unwrap_or_default();
        let seed = point.seed.map(|seed| format!(", picked by seed {seed}")).unwrap_or_default();
        lines.push(line!(2, format!("point       {}{time}{of}{seed}", short(&point.id))));
    }
    lines.extend(repository(&restored.repository));
    let phases: Vec<String> =
        restored.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.seconds))).collect();
    if !phases.is_empty() {
        lines.push(line!(2, format!("phases      {}", phases.join(", "))));
    }
    lines.extend(measured(restored));
    lines.extend(restored.oracles.iter().map(|oracle| {
        let word = match oracle.holds {
            Some(true) => span(Tone::Good, "holds"),
            Some(false) => span(Tone::Bad, "fails"),
            None => span(Tone::Open, "unknown"),
        };
        line!(2, "oracle      ", word, format!(" {}: {}", oracle.name, oracle.said))
    }));
    ReportSection { kind: SectionKind::Restore, lines }
}

/// What came back, how old it is, how long it took, and what the last drill measured.
fn measured(restored: &RestoreReport) -> Vec<Line> {
    let found = &restored.found;
    let rows = found.rows.iter().map(|(table, rows)| format!("{rows} rows of {table}")).collect();
    let counted = [vec![format!("{} files, {}", found.files, size(found.bytes))], rows].concat();
    let mut lines = vec![line!(2, format!("came back   {}", counted.join(", ")))];
    if let Some(age) = restored.age {
        let limit = restored.rpo.map(|rpo| format!(", at most {} declared", duration(rpo))).unwrap_or_default();
        lines.push(line!(2, format!("age         the newest record is {} old{limit}", duration(age))));
    }
    if let Some(recovery) = &restored.recovery {
        let limit = recovery.rto.map(|rto| format!(", at most {} declared", duration(rto))).unwrap_or_default();
        let real = recovery.estimate.map(|estimate| format!("; {} for the real size", duration(estimate)));
        let text = format!("{} from a clean machine to green checks{limit}", duration(recovery.seconds));
        lines.push(line!(2, format!("recovery    {text}{}", real.unwrap_or_default())));
        lines.extend(recovery.remarks.iter().map(|remark| line!(14, span(Tone::Dim, remark))));
    }
    if let Some(last) = &restored.last {
        let measured = [("age", last.age), ("recovery", last.recovery)];
        let told = measured.iter().filter_map(|(name, seconds)| Some(format!("{name} {}", duration((*seconds)?))));
        let counted = format!("{} rows, {}", last.rows, size(last.bytes));
        let told: Vec<String> = told.chain([counted]).collect();
        lines.push(line!(2, format!("last time   {}: {}", last.started, told.join(", "))));
    }
    lines
}

fn repository(repository: &RepositoryReport) -> Vec<Line> {
    let same = match repository.after.as_str() {
        "" => "was not read again".to_owned(),
        after if after == repository.before => format!("unchanged, {} before and after", short(after)),
        after => format!("CHANGED, {} before and {} after", short(&repository.before), short(after)),
    };
    let counted = format!("repository  {} files, {}: {same}", repository.files, size(repository.bytes));
    let mut lines = vec![line!(2, counted)];
    if let Some(remote) = &repository.remote {
        let kept = match remote.kept {
            0 => String::new(),
            kept => format!("; {kept} files came in earlier drills, and were not read again there"),
        };
        let text = format!("listed at {}; {} fetched{kept}", repository.place, size(remote.fetched_bytes));
        lines.push(line!(14, span(Tone::Dim, text)));
    }
    lines
}

fn losses(losses: &LossReport) -> ReportSection {
    let head = format!(": compared {} things with the machine that was backed up", losses.compared);
    let mut lines = vec![line!(0, span(Tone::Bold, &losses.machine), head)];
    if losses.groups.is_empty() {
        lines.push(line!(2, "nothing is lost, nothing differs"));
    }
    for group in &losses.groups {
        let owner = match &group.owner {
            LossOwner::Nobody => span(Tone::Bad, "lost: owned by nobody"),
            LossOwner::Backup => span(Tone::Bad, "should have come back with the backup"),
            owner => span(Tone::Plain, format!("differs: {owner}")),
        };
        let gone = match group.gone {
            0 => String::new(),
            gone => format!(", {gone} of them gone"),
        };
        lines.push(line!(2, owner, format!(", {}{gone}", group.count)));
        let listed = if group.owner.is_a_loss() { LISTED } else { 3 };
        lines.extend(group.entries.iter().take(listed).map(|entry| line!(6, span(Tone::Dim, entry))));
        lines.extend(more(group.count.saturating_sub(listed), ""));
    }
    ReportSection { kind: SectionKind::Losses, lines }
}

/// How many are not listed, and where they stand.
fn more(count: usize, place: &str) -> Option<Line> {
    (count > 0).then(|| line!(6, span(Tone::Dim, format!("and {count} more{place}"))))
}

fn faults(mutants: &[Mutant]) -> Option<ReportSection> {
    let planted: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.unknown.is_none()).collect();
    let killed = planted.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
    let mut lines = vec![line!(0, format!("{killed} of {} planted faults were noticed", planted.len()))];
    for mutant in mutants {
        let what = format!("  {} on {}", mutant.fault, mutant.machine);
        match (&mutant.unknown, mutant.killed_by.as_slice()) {
            (Some(why), _) => lines.push(line!(2, span(Tone::Open, "unknown "), format!("{what}: {why}"))),
            (None, []) => {
                lines.push(line!(2, span(Tone::Bad, "survived"), what));
                lines.extend(mutant.suggestion.iter().map(|suggestion| line!(12, span(Tone::Dim, suggestion))));
            }
            (None, by) => lines.push(line!(2, span(Tone::Good, "noticed "), format!("{what}: {}", by.join(", ")))),
        }
    }
    (!mutants.is_empty()).then_some(ReportSection { kind: SectionKind::PlantedFaults, lines })
}

/// That none came is said too: a restored copy that sends no mail is what one hopes for.
fn mail(mail: &MailReport) -> ReportSection {
    let names = mail.names.join(", ");
    let restored = match mail.restored {
        0 => String::new(),
        restored => format!(", {restored} of them after the restore began"),
    };
    let copies = match mail.copies {
        0 => String::new(),
        copies => format!("; copies of the machines sent {copies} more"),
    };
    let count = match mail.caught {
        0 => "no mail".to_owned(),
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    };
    let mut lines = vec![line!(0, span(Tone::Bold, "mail"), format!(": caught {count} to {names}{restored}{copies}"))];
    lines.extend(mail.messages.iter().take(LISTED).map(|message| {
        let more = match message.addressed.saturating_sub(message.to.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("{} to {}{more}: {}", message.machine, message.to.join(", "), message.subject);
        line!(6, span(Tone::Dim, text))
    }));
    lines.extend(more(mail.caught.saturating_sub(mail.messages.len().min(LISTED)), ": see mail.jsonl"));
    ReportSection { kind: SectionKind::Mail, lines }
}

/// What these certificates do not show is said with them, and where there are none too.
fn certificates(acme: &AcmeReport) -> ReportSection {
    let count = match acme.issued {
        0 => "none issued".to_owned(),
        count => format!("{count} issued"),
    };
    let copies = match acme.copies {
        0 => String::new(),
        copies => format!("; copies of the machines were given {copies} more"),
    };
    let names = acme.names.join(", ");
    let head = format!(": {count} by the drill's own authority in place of {names}{copies}");
    let mut lines = vec![line!(0, span(Tone::Bold, "certificates"), head)];
    if !acme.challenges_verified {
        let text = "challenges were taken as met and not verified: nobody outside reaches the machines of a drill";
        lines.push(line!(6, text));
    }
    lines.extend(acme.certificates.iter().take(LISTED).map(|certificate| {
        let (machine, during) = (&certificate.machine, certificate.during.name());
        line!(6, span(Tone::Dim, format!("{} for {machine}, during: {during}", certificate.names.join(", "))))
    }));
    lines.extend(more(acme.issued.saturating_sub(acme.certificates.len().min(LISTED)), ""));
    ReportSection { kind: SectionKind::Certificates, lines }
}

fn short(id: &str) -> &str {
    let hex = id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit());
    if hex { &id[..12] } else { id }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / (1024 * 1024)),
    }
}

/// Whole seconds, minutes and hours.
fn duration(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs(seconds.max(0.0).round() as u64);
    humantime::format_duration(whole).to_string()
}

#[cfg(test)]
mod tests {
    use redrill_model::{Certificate, LossGroup, OracleReport, Phase, PointReport, RepositoryReport};

    use super::*;
    use crate::output::style::PLAIN;
    use crate::output::view::text::draw;

    fn text(section: &ReportSection) -> String {
        draw(section, PLAIN)
    }

    #[test]
    fn a_restore_is_told_with_its_evidence() {
        let restored = RestoreReport {
            backup: "notes".into(),
            machine: "web".into(),
            kind: "restic".into(),
            point: Some(PointReport { id: "ab".repeat(32), of: Some(7), ..PointReport::default() }),
            repository: RepositoryReport {
                files: 3,
                bytes: 20_480,
                before: "a".into(),
                after: "a".into(),
                ..RepositoryReport::default()
            },
            phases: vec![Phase { name: "load".into(), seconds: 1.5 }],
            oracles: vec![OracleReport { name: "manifest".into(), holds: Some(false), said: "1 of 9".into() }],
            age: Some(60.0),
            rpo: Some(7200.0),
            ..RestoreReport::default()
        };
        let out = text(&restore(&restored));
        for said in [
            "notes: restic into web",
            "abababababab, of 7",
            "3 files, 20 KiB: unchanged, a before and after",
            "load 1.5 s",
            "1m old, at most 2h declared",
            "fails manifest: 1 of 9",
        ] {
            assert!(out.contains(said), "{said:?} is not in {out}");
        }
        let repository = RepositoryReport { before: "a".into(), after: "b".into(), ..RepositoryReport::default() };
        let changed = text(&restore(&RestoreReport { repository, ..restored }));
        assert!(changed.contains("CHANGED, a before and b after"), "{changed}");
    }

    #[test]
    fn certificates_are_told_with_what_they_do_not_show() {
        let mut acme = AcmeReport { names: vec!["acme.test".into()], ..AcmeReport::default() };
        let none = text(&certificates(&acme));
        assert!(
            none.contains("certificates: none issued by the drill's own authority in place of acme.test\n"),
            "{none}"
        );
        assert!(none.contains("challenges were taken as met and not verified"), "{none}");
        let during = redrill_model::Stage::Deploy(redrill_model::Pass::First);
        let (at, machine) = (String::new(), "web".to_owned());
        let one = Certificate { at, machine, during, names: vec!["a.test".into(), "b.test".into()] };
        (acme.issued, acme.copies, acme.certificates) = (14, 3, vec![one; 14]);
        let told = text(&certificates(&acme));
        assert!(told.contains("certificates: 14 issued") && told.contains("were given 3 more\n"), "{told}");
        assert_eq!(told.matches("a.test, b.test for web, during: first deploy").count(), LISTED, "{told}");
        assert!(told.contains("and 2 more"), "{told}");
    }

    #[test]
    fn mail_is_told_and_so_is_none() {
        let mut mail = MailReport { names: vec!["smtp.example.org".into()], ..MailReport::default() };
        assert_eq!(text(&super::mail(&mail)), "mail: caught no mail to smtp.example.org");
        let message = redrill_model::Caught {
            machine: "web".into(),
            to: vec!["ada@example.org".into()],
            addressed: 3,
            subject: "Your bill".into(),
            ..redrill_model::Caught::default()
        };
        (mail.caught, mail.restored, mail.copies, mail.messages) = (14, 2, 5, vec![message; 13]);
        let told = text(&super::mail(&mail));
        assert!(
            told.contains("caught 14 messages to smtp.example.org, 2 of them after the restore began; copies"),
            "{told}"
        );
        assert!(told.contains("      web to ada@example.org and 2 more: Your bill\n"), "{told}");
        assert!(told.contains("and 2 more: see mail.jsonl"), "{told}");
    }

    #[test]
    fn losses_and_survivors_are_told() {
        let group = |owner: &str, count| LossGroup {
            owner: owner.to_owned().into(),
            count,
            gone: count / 2,
            entries: vec!["/x is gone".into(); count.min(200)],
        };
        let out = text(&losses(&LossReport {
            machine: "web".into(),
            compared: 9,
            groups: vec![group("nobody", 20), group("deploy", 1)],
        }));
        assert!(
            out.contains("lost: owned by nobody, 20, 10 of them gone")
                && out.contains("and 8 more")
                && out.contains("differs: deploy, 1"),
            "{out}"
        );
        let mutant = |killed_by: Vec<String>, suggestion: Option<&str>| Mutant {
            fault: "f".into(),
            machine: "web".into(),
            killed_by,
            unknown: None,
            suggestion: suggestion.map(str::to_owned),
        };
        let out = faults(&[mutant(vec!["manifest".into()], None), mutant(vec![], Some("a check"))])
            .map(|section| text(&section))
            .unwrap_or_default();
        assert!(
            out.contains("1 of 2 planted faults") && out.contains("survived  f on web\n            a check"),
            "{out}"
        );
    }
}
