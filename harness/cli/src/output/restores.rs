//! What the report's text says of restores, losses, planted faults, mail and certificates.

use std::fmt::Write;

use redrill_model::{AcmeReport, LossOwner, LossReport, MailReport, Mutant, Report, RepositoryReport, RestoreReport};

use super::style::Style;
use super::{seconds, stage_name};

/// Entries of a group of losses that the text lists; all of them stand in `report.json`.
const LISTED: usize = 12;

pub(super) fn text(out: &mut String, report: &Report, style: Style) {
    for restored in &report.restores {
        one(out, restored, style);
    }
    for losses in &report.losses {
        lost(out, losses, style);
    }
    mutants(out, &report.mutants, style);
    if let Some(mail) = &report.mail {
        caught(out, mail, style);
    }
    if let Some(acme) = &report.acme {
        issued(out, acme, style);
    }
}

fn one(out: &mut String, restored: &RestoreReport, style: Style) {
    let _ = writeln!(out, "\n{}: {} into {}", style.bold(&restored.backup), restored.kind, restored.machine);
    if let Some(point) = &restored.point {
        let time = point.time.as_ref().map(|time| format!(", taken {time}")).unwrap_or_default();
        let of = point.of.map(|of| format!(", of {of}")).unwrap_or_default();
        let seed = point.seed.map(|seed| format!(", picked by seed {seed}")).unwrap_or_default();
        let _ = writeln!(out, "  point       {}{time}{of}{seed}", short(&point.id));
    }
    repository(out, &restored.repository, style);
    let phases: Vec<String> =
        restored.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.seconds))).collect();
    if !phases.is_empty() {
        let _ = writeln!(out, "  phases      {}", phases.join(", "));
    }
    let found = &restored.found;
    let rows: Vec<String> = found.rows.iter().map(|(table, rows)| format!("{rows} rows of {table}")).collect();
    let counted = [vec![format!("{} files, {}", found.files, size(found.bytes))], rows].concat();
    let _ = writeln!(out, "  came back   {}", counted.join(", "));
    if let Some(age) = restored.age {
        let limit = restored.rpo.map(|rpo| format!(", at most {} declared", duration(rpo))).unwrap_or_default();
        let _ = writeln!(out, "  age         the newest record is {} old{limit}", duration(age));
    }
    if let Some(recovery) = &restored.recovery {
        let limit = recovery.rto.map(|rto| format!(", at most {} declared", duration(rto))).unwrap_or_default();
        let real = recovery.estimate.map(|estimate| format!("; {} for the real size", duration(estimate)));
        let text = format!("{} from a clean machine to green checks{limit}", duration(recovery.seconds));
        let _ = writeln!(out, "  recovery    {text}{}", real.unwrap_or_default());
        for remark in &recovery.remarks {
            let _ = writeln!(out, "              {}", style.dim(remark));
        }
    }
    if let Some(last) = &restored.last {
        let measured = [("age", last.age), ("recovery", last.recovery)];
        let told = measured.iter().filter_map(|(name, seconds)| Some(format!("{name} {}", duration((*seconds)?))));
        let counted = format!("{} rows, {}", last.rows, size(last.bytes));
        let told: Vec<String> = told.chain([counted]).collect();
        let _ = writeln!(out, "  last time   {}: {}", last.started, told.join(", "));
    }
    for oracle in &restored.oracles {
        let word = match oracle.holds {
            Some(true) => style.good("holds"),
            Some(false) => style.bad("fails"),
            None => style.open("unknown"),
        };
        let _ = writeln!(out, "  oracle      {word} {}: {}", oracle.name, oracle.said);
    }
}

fn repository(out: &mut String, repository: &RepositoryReport, style: Style) {
    let same = match repository.after.as_str() {
        "" => "was not read again".to_owned(),
        after if after == repository.before => format!("unchanged, {} before and after", short(after)),
        after => format!("CHANGED, {} before and {} after", short(&repository.before), short(after)),
    };
    let _ = writeln!(out, "  repository  {} files, {}: {same}", repository.files, size(repository.bytes));
    if let Some(remote) = &repository.remote {
        let kept = match remote.kept {
            0 => String::new(),
            kept => format!("; {kept} files came in earlier drills, and were not read again there"),
        };
        let text = format!("listed at {}; {} fetched{kept}", repository.place, size(remote.fetched_bytes));
        let _ = writeln!(out, "              {}", style.dim(&text));
    }
}

fn lost(out: &mut String, losses: &LossReport, style: Style) {
    let _ = writeln!(
        out,
        "\n{}: compared {} things with the machine that was backed up",
        style.bold(&losses.machine),
        losses.compared
    );
    if losses.groups.is_empty() {
        let _ = writeln!(out, "  nothing is lost, nothing differs");
    }
    for group in &losses.groups {
        let owner = match &group.owner {
            LossOwner::Nobody => style.bad("lost: owned by nobody"),
            LossOwner::Backup => style.bad("should have come back with the backup"),
            owner => format!("differs: {owner}"),
        };
        let gone = match group.gone {
            0 => String::new(),
            gone => format!(", {gone} of them gone"),
        };
        let _ = writeln!(out, "  {owner}, {}{gone}", group.count);
        let listed = if group.owner.is_a_loss() { LISTED } else { 3 };
        for entry in group.entries.iter().take(listed) {
            let _ = writeln!(out, "      {}", style.dim(entry));
        }
        if group.count > listed {
            let _ = writeln!(out, "      {}", style.dim(&format!("and {} more", group.count - listed)));
        }
    }
}

fn mutants(out: &mut String, mutants: &[Mutant], style: Style) {
    if mutants.is_empty() {
        return;
    }
    let planted: Vec<&Mutant> = mutants.iter().filter(|mutant| mutant.unknown.is_none()).collect();
    let killed = planted.iter().filter(|mutant| !mutant.killed_by.is_empty()).count();
    let _ = writeln!(out, "\n{} of {} planted faults were noticed", killed, planted.len());
    for mutant in mutants {
        let what = format!("{} on {}", mutant.fault, mutant.machine);
        match (&mutant.unknown, mutant.killed_by.as_slice()) {
            (Some(why), _) => drop(writeln!(out, "  {}  {what}: {why}", style.open("unknown "))),
            (None, []) => {
                let _ = writeln!(out, "  {}  {what}", style.bad("survived"));
                if let Some(suggestion) = &mutant.suggestion {
                    let _ = writeln!(out, "            {}", style.dim(suggestion));
                }
            }
            (None, by) => drop(writeln!(out, "  {}  {what}: {}", style.good("noticed "), by.join(", "))),
        }
    }
}

/// Nothing is said too: a restored copy that sends no mail is what one hopes for.
fn caught(out: &mut String, mail: &MailReport, style: Style) {
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
    let _ = writeln!(out, "\n{}: caught {count} to {names}{restored}{copies}", style.bold("mail"));
    for message in mail.messages.iter().take(LISTED) {
        let more = match message.addressed.saturating_sub(message.to.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("{} to {}{more}: {}", message.machine, message.to.join(", "), message.subject);
        let _ = writeln!(out, "      {}", style.dim(&text));
    }
    let unlisted = mail.caught.saturating_sub(mail.messages.len().min(LISTED));
    if unlisted > 0 {
        let _ = writeln!(out, "      {}", style.dim(&format!("and {unlisted} more: see mail.jsonl")));
    }
}

/// What these certificates do not show is said with them, and where there are none too.
fn issued(out: &mut String, acme: &AcmeReport, style: Style) {
    let count = match acme.issued {
        0 => "none issued".to_owned(),
        count => format!("{count} issued"),
    };
    let copies = match acme.copies {
        0 => String::new(),
        copies => format!("; copies of the machines were given {copies} more"),
    };
    let names = acme.names.join(", ");
    let head = style.bold("certificates");
    let _ = writeln!(out, "\n{head}: {count} by the drill's own authority in place of {names}{copies}");
    if !acme.challenges_verified {
        let text = "challenges were taken as met and not verified: nobody outside reaches the machines of a drill";
        let _ = writeln!(out, "      {text}");
    }
    for certificate in acme.certificates.iter().take(LISTED) {
        let (machine, during) = (&certificate.machine, stage_name(certificate.during));
        let text = format!("{} for {machine}, during: {during}", certificate.names.join(", "));
        let _ = writeln!(out, "      {}", style.dim(&text));
    }
    let unlisted = acme.issued.saturating_sub(acme.certificates.len().min(LISTED));
    if unlisted > 0 {
        let _ = writeln!(out, "      {}", style.dim(&format!("and {unlisted} more")));
    }
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
        let mut out = String::new();
        one(&mut out, &restored, PLAIN);
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
        let mut changed = String::new();
        let repository = RepositoryReport { before: "a".into(), after: "b".into(), ..RepositoryReport::default() };
        one(&mut changed, &RestoreReport { repository, ..restored }, PLAIN);
        assert!(changed.contains("CHANGED, a before and b after"), "{changed}");
    }

    #[test]
    fn certificates_are_told_with_what_they_do_not_show() {
        let mut acme = AcmeReport { names: vec!["acme.test".into()], ..AcmeReport::default() };
        let text = |acme: &AcmeReport| {
            let mut out = String::new();
            issued(&mut out, acme, PLAIN);
            out
        };
        let none = text(&acme);
        assert!(
            none.contains("certificates: none issued by the drill's own authority in place of acme.test\n"),
            "{none}"
        );
        assert!(none.contains("challenges were taken as met and not verified"), "{none}");
        let during = redrill_model::Stage::Deploy(redrill_model::Pass::First);
        let (at, machine) = (String::new(), "web".to_owned());
        let one = Certificate { at, machine, during, names: vec!["a.test".into(), "b.test".into()] };
        (acme.issued, acme.copies, acme.certificates) = (14, 3, vec![one; 14]);
        let told = text(&acme);
        assert!(told.contains("certificates: 14 issued") && told.contains("were given 3 more\n"), "{told}");
        assert_eq!(told.matches("a.test, b.test for web, during: first deploy").count(), LISTED, "{told}");
        assert!(told.contains("and 2 more"), "{told}");
    }

    #[test]
    fn mail_is_told_and_so_is_none() {
        let mut mail = MailReport { names: vec!["smtp.example.org".into()], ..MailReport::default() };
        let text = |mail: &MailReport| {
            let mut out = String::new();
            caught(&mut out, mail, PLAIN);
            out
        };
        assert_eq!(text(&mail), "\nmail: caught no mail to smtp.example.org\n");
        let message = redrill_model::Caught {
            machine: "web".into(),
            to: vec!["ada@example.org".into()],
            addressed: 3,
            subject: "Your bill".into(),
            ..redrill_model::Caught::default()
        };
        (mail.caught, mail.restored, mail.copies, mail.messages) = (14, 2, 5, vec![message; 13]);
        let told = text(&mail);
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
        let mut out = String::new();
        lost(
            &mut out,
            &LossReport { machine: "web".into(), compared: 9, groups: vec![group("nobody", 20), group("deploy", 1)] },
            PLAIN,
        );
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
        let mut out = String::new();
        mutants(&mut out, &[mutant(vec!["manifest".into()], None), mutant(vec![], Some("a check"))], PLAIN);
        assert!(
            out.contains("1 of 2 planted faults") && out.contains("survived  f on web\n            a check"),
            "{out}"
        );
    }
}
