//! What is asked of restored data, and what the answers mean.

use std::time::{Duration, SystemTime};

use redrill_machines::{Deadline, Exec, Machine, Output, PROBE};
use redrill_model::{Backup, Code, Ephemeral, Found, OracleReport, Severity, Target, canary_age};
use redrill_state::Manifest;

use crate::problem::Problem;

/// Differences that a finding quotes.
const SHOWN: usize = 25;
/// A record may be as much younger than the clock as two clocks differ.
const CLOCKS: i64 = 120;
/// Compared with the machine that was backed up.
pub(super) const ROUND_TRIP: &str = "round trip";
/// One question.
const ASKING: Duration = Duration::from_secs(60);

/// Answers, and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) oracles: Vec<OracleReport>,
    pub(crate) faults: Vec<Problem>,
    /// Age of the newest record, in seconds.
    pub(crate) age: Option<f64>,
}

impl Judgement {
    fn answer(&mut self, name: impl Into<String>, said: impl Into<String>, fault: Option<Problem>) {
        let holds = match &fault {
            None => Some(true),
            Some(fault) if fault.severity() == Severity::Fails => Some(false),
            Some(_) => None,
        };
        self.oracles.push(OracleReport { name: name.into(), holds, said: said.into() });
        self.faults.extend(fault);
    }

    /// Adds what `found` says of the manifest of this name.
    fn compare(&mut self, name: &str, wanted: &Manifest, found: &Manifest, ephemeral: &[Ephemeral]) {
        if wanted.paths.is_empty() && wanted.tables.is_empty() {
            let text = format!("the {name} holds nothing to compare with");
            return self.answer(name, &text, Some(Problem::new(Code::EmptyManifest, text.clone())));
        }
        let all = wanted.compare(found, |subject| ephemeral.iter().any(|declared| declared.covers(subject)));
        let (extra, mut lost): (Vec<_>, Vec<_>) = all.into_iter().partition(|disagreement| disagreement.extra);
        // What is missing comes first: a restore may have given every file another mode.
        lost.sort_by_key(|d| {
            (
                found.paths.contains_key(&d.subject) || found.tables.contains_key(&d.subject),
                !d.what.contains("content is"),
            )
        });
        let count = wanted.paths.len() + wanted.tables.len();
        let lines = |list: &[redrill_state::Disagreement]| {
            let mut lines: Vec<String> = list.iter().take(SHOWN).map(|d| format!("{} {}", d.subject, d.what)).collect();
            lines.extend((list.len() > SHOWN).then(|| format!("and {} more", list.len() - SHOWN)));
            lines
        };
        if !extra.is_empty() {
            let text = format!("{} paths or tables are there that the {name} does not know", extra.len());
            self.faults.push(Problem { evidence: lines(&extra), ..Problem::new(Code::DataExtra, text) });
        }
        let whole = format!("all {count} paths and tables are as they were");
        if lost.is_empty() {
            return self.answer(name, whole, None);
        }
        let text = format!("{} of {count} paths and tables are not as the {name} says", lost.len());
        let fault = Problem { evidence: lines(&lost), ..Problem::new(Code::DataDiffers, &text) };
        self.answer(name, text, Some(fault));
    }
}

/// What is in the targets, by the probe in the machine.
pub(crate) async fn look<M: Machine>(
    machine: &M,
    targets: &[String],
    deadline: &Deadline,
) -> Result<Manifest, Problem> {
    let words = [PROBE, "manifest"].into_iter().map(str::to_owned).chain(targets.iter().cloned()).collect();
    let output = machine.exec(&Exec(words), b"", deadline).await?;
    let failed = |why: String| Problem::new(Code::NotLookedAt, format!("the restored data could not be read: {why}"));
    if output.status != 0 {
        return Err(failed(output.stderr.trim().to_owned()));
    }
    let manifest: Manifest = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    match manifest.gaps.first() {
        Some(gap) => Err(failed(gap.clone()).with(&manifest.gaps.join("\n"))),
        None => Ok(manifest),
    }
}

/// For the report.
pub(crate) fn found(manifest: &Manifest) -> Found {
    let (files, bytes) = manifest.files();
    let rows = manifest.tables.iter().map(|(name, table)| (name.clone(), table.rows)).collect();
    let moment = |seconds: i64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    let newest = manifest.newest().and_then(moment).map(|at| humantime::format_rfc3339_seconds(at).to_string());
    Found { files, bytes, rows, newest }
}

/// What is known of the data from elsewhere.
pub(crate) struct KnownData<'a> {
    /// The declared manifest, if there is one and it could be read.
    pub(crate) manifest: Option<&'a Result<Manifest, String>>,
    /// What was there when the backup was made in this drill.
    pub(crate) made: Option<&'a Manifest>,
    /// What the last drill found.
    pub(crate) last: Option<&'a Found>,
    /// What may be lost.
    pub(crate) ephemeral: &'a [Ephemeral],
}

/// All that needs nothing but what was found.
pub(crate) fn judge(backup: &Backup, known: &KnownData<'_>, found: &Manifest) -> Judgement {
    let mut judged = Judgement::default();
    match known.manifest {
        Some(Ok(wanted)) => judged.compare("manifest", wanted, found, known.ephemeral),
        Some(Err(why)) => {
            judged.answer("manifest", why, Some(Problem::new(Code::NoManifest, format!("its manifest: {why}"))));
        }
        None => {}
    }
    if backup.is_base_backup() {
        // It has come this far: otherwise the restore would have failed.
        judged.answer("pg_verifybackup", "every file is as the backup's own manifest says", None);
    } else if let Some(made) = known.made {
        judged.compare(ROUND_TRIP, made, found, known.ephemeral);
    }
    floors(backup, found, &mut judged);
    shrunk(backup, known.last, &super::oracle::found(found), &mut judged);
    aged(backup, found, &mut judged);
    judged
}

fn floors(backup: &Backup, found: &Manifest, judged: &mut Judgement) {
    let oracle = &backup.oracle;
    for (table, floor) in &oracle.min_rows {
        let rows = found.tables.get(table).map(|table| table.rows);
        let said = rows.map_or_else(|| format!("there is no table `{table}`"), |rows| format!("{rows} rows"));
        let text = format!("`{table}`: {said}, at least {floor} are declared");
        let fault = (rows.unwrap_or_default() < *floor).then(|| Problem::new(Code::TooFew, text));
        judged.answer(format!("min-rows {table}"), said, fault);
    }
    let (files, bytes) = found.files();
    for (name, floor, seen) in [("min-files", oracle.min_files, files), ("min-bytes", oracle.min_bytes, bytes)] {
        let Some(floor) = floor else { continue };
        let unit = name.trim_start_matches("min-");
        let text = format!("{seen} {unit} were restored, at least {floor} are declared");
        judged.answer(name, format!("{seen} {unit}"), (seen < floor).then(|| Problem::new(Code::TooFew, text)));
    }
}

/// The last drill is no oracle: the first has none before it. A shrink is a finding all the same.
fn shrunk(backup: &Backup, last: Option<&Found>, found: &Found, judged: &mut Judgement) {
    let (Some(limit), Some(last)) = (backup.oracle.max_shrink, last) else { return };
    let mut counts = vec![("files".to_owned(), last.files, found.files), ("bytes".to_owned(), last.bytes, found.bytes)];
    counts.extend(
        last.rows.iter().map(|(name, rows)| {
            (format!("rows of `{name}`"), *rows, found.rows.get(name).copied().unwrap_or_default())
        }),
    );
    for (what, before, now) in counts {
        let gone = (before.saturating_sub(now)) as f64 * 100.0;
        if before > 0 && gone > limit * before as f64 {
            let text =
                format!("{what}: {before} in the last drill, {now} in this one; a shrink of {limit}% is allowed");
            judged.faults.push(Problem::new(Code::Shrunk, text));
        }
    }
}

fn aged(backup: &Backup, found: &Manifest, judged: &mut Judgement) {
    let age = found.newest().map(|newest| found.taken - newest);
    judged.age = age.map(|age| age.max(0) as f64);
    if let Some(ahead) = age.filter(|age| *age < -CLOCKS) {
        let ahead = words(ahead.unsigned_abs());
        let text = format!("the newest record is {ahead} in the future: a clock is wrong, and no age can be told");
        judged.faults.push(Problem::new(Code::ClockInFuture, text));
    }
    let limits = [("newest", Code::TooOld, backup.oracle.newest), ("rpo", Code::RpoMissed, backup.rpo)];
    for (name, code, limit) in limits {
        let Some(limit) = limit.map(|limit| limit.as_secs()) else { continue };
        let (said, fault) = match age.map(|age| u64::try_from(age).unwrap_or_default()) {
            None => {
                let text = "nothing in the data tells its age: no dates in tables, no files";
                (text.to_owned(), Some(Problem::new(Code::NoAge, text)))
            }
            Some(age) => {
                let said = format!("the newest record is {} old", words(age));
                let text = format!("{said}, at most {} is declared (`{name}`)", words(limit));
                (said, (age > limit).then(|| Problem::new(code, text)))
            }
        };
        if name == "newest" {
            judged.answer(name, said, fault);
        } else {
            judged.faults.extend(fault);
        }
    }
}

/// Seconds, for people.
pub(super) fn words(seconds: u64) -> String {
    let rounded = match seconds {
        0..7200 => seconds,
        7200..172_800 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// Canaries and queries: asked when the services run again.
pub(crate) async fn ask<M: Machine>(backup: &Backup, machine: &M, deadline: &Deadline, judged: &mut Judgement) {
    if let Some(canary) = &backup.oracle.canary {
        let limit = deadline.child("the canary", ASKING);
        let (said, fault) = match machine.exec(&Exec(canary.run.clone()), b"", &limit).await {
            Err(error) => unanswered("canary", error.into()),
            Ok(output) => canary_found(&backup.name, &output, canary.newest, SystemTime::now()),
        };
        judged.answer("canary", said, fault);
    }
    for query in &backup.oracle.queries {
        let limit = deadline.child("a query", ASKING);
        let (said, fault) = match machine.exec(&client(&query.on), query.sql.as_bytes(), &limit).await {
            Err(error) => unanswered("query", error.into()),
            Ok(output) => answered(&query.sql, &query.equals, &output),
        };
        judged.answer(format!("query {}", query.sql), said, fault);
    }
}

fn unanswered(name: &str, fault: Problem) -> (String, Option<Problem>) {
    let said = format!("the {name} could not be asked: {}", fault.text);
    (said.clone(), Some(Problem { text: said, ..fault }))
}

fn canary_found(name: &str, output: &Output, newest: Duration, now: SystemTime) -> (String, Option<Problem>) {
    match canary_age(name, &output.text(), now) {
        None => {
            let text = format!("no canary `{name}` came back (exit status {})", output.status);
            (text.clone(), Some(Problem::new(Code::CanaryMissing, text).with(&output.stderr)))
        }
        Some(age) => {
            let said = format!("the canary is {} old", words(age.as_secs()));
            let text = format!("{said}, at most {} is declared", words(newest.as_secs()));
            (said, (age > newest).then(|| Problem::new(Code::CanaryOld, text)))
        }
    }
}

fn answered(sql: &str, wanted: &str, output: &Output) -> (String, Option<Problem>) {
    let text = output.text();
    let seen = text.trim();
    if output.status != 0 {
        let text = format!("`{sql}` could not be asked (exit status {})", output.status);
        return (text.clone(), Some(Problem::new(Code::QueryUnknown, text).with(&output.stderr)));
    }
    let said = format!("`{seen}`");
    let fault = || Problem::new(Code::QueryDiffers, format!("`{sql}` answers `{seen}`, expected `{wanted}`"));
    (said, (seen != wanted.trim()).then(fault))
}

/// A client that reads one statement from its input and prints bare values.
fn client(on: &Target) -> Exec {
    const SQLITE: &str = "if command -v sqlite3 >/dev/null; then exec sqlite3 -readonly -batch -bail -noheader \"$1\"; fi; \
        exec python3 -c 'import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.stdin.read()): print(\"|\".join(\"\" if v is None else str(v) for v in row))' \"$1\"";
    match on {
        Target::Postgres(name) => Exec::new([
            "runuser",
            "-u",
            "postgres",
            "--",
            "psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            name,
            "-f",
            "-",
        ]),
        Target::Mariadb(name) => Exec::new(["mariadb", "--batch", "--raw", "--skip-column-names", name]),
        Target::Sqlite(path) | Target::Path(path) => Exec::new(["sh", "-c", SQLITE, "sh", path]),
    }
}

#[cfg(test)]
mod tests {
    use redrill_model::Scenario;
    use redrill_state::{Leaf, Table};

    use super::*;

    fn backup(more: &str) -> Backup {
        let head = "claims = ['restores']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
            [[machine]]\nname = 'web'\nimage = 'debian-13'\n[[backup]]\nname = 'notes'\nkind = 'directory'\n\
            repository = 'r'\ninto = ['/d']\n";
        let mut scenario = Scenario::parse(&format!("{head}{more}")).expect("valid");
        scenario.backups.remove(0)
    }

    const NOW: i64 = 1_000_000;

    fn manifest(rows: u64, age: i64) -> Manifest {
        let mut manifest = Manifest { taken: NOW, ..Manifest::default() };
        let table = Table { rows, newest: (rows > 0).then_some(NOW - age), ..Table::default() };
        manifest.tables.insert("notes.documents".into(), table);
        let leaf = Leaf { kind: "file".into(), size: Some(10), digest: Some("a".into()), ..Leaf::default() };
        manifest.paths.insert("/d/a".into(), leaf);
        manifest
    }

    fn codes(backup: &Backup, known: &KnownData<'_>, found: &Manifest) -> (Vec<Code>, Vec<Option<bool>>) {
        let judged = judge(backup, known, found);
        (judged.faults.iter().map(|f| f.code).collect(), judged.oracles.iter().map(|o| o.holds).collect())
    }

    const NOTHING: KnownData<'static> = KnownData { manifest: None, made: None, last: None, ephemeral: &[] };

    #[test]
    fn floors_hold_or_fail() {
        let backup = backup("[backup.oracle]\nmin-rows = { 'notes.documents' = 10 }\nmin-files = 1\nmin-bytes = 11\n");
        let none: [Code; 0] = [];
        assert_eq!(
            codes(&backup, &NOTHING, &manifest(10, 0)),
            (vec![Code::TooFew], vec![Some(true), Some(true), Some(false)])
        );
        assert_eq!(codes(&backup, &NOTHING, &manifest(9, 0)).0, [Code::TooFew, Code::TooFew]);
        let missing = Manifest { tables: Default::default(), ..manifest(10, 0) };
        assert_eq!(codes(&backup, &NOTHING, &missing).1[0], Some(false));
        assert_eq!(codes(&self::backup(""), &NOTHING, &manifest(0, 0)).0, none);
    }

    #[test]
    fn age_is_that_of_the_newest_record() {
        let backup = backup("rpo = '2h'\n[backup.oracle]\nnewest = '1h'\n");
        assert_eq!(codes(&backup, &NOTHING, &manifest(1, 3599)), (vec![], vec![Some(true)]));
        assert_eq!(codes(&backup, &NOTHING, &manifest(1, 3601)), (vec![Code::TooOld], vec![Some(false)]));
        assert_eq!(codes(&backup, &NOTHING, &manifest(1, 7201)).0, [Code::TooOld, Code::RpoMissed]);
        assert_eq!(codes(&backup, &NOTHING, &manifest(1, -3600)).0, [Code::ClockInFuture], "never proven");
        let ageless = Manifest { taken: NOW, ..Manifest::default() };
        assert_eq!(codes(&backup, &NOTHING, &ageless), (vec![Code::NoAge, Code::NoAge], vec![None]));
    }

    #[test]
    fn a_manifest_is_compared_whole_and_must_be_one() {
        let backup = backup("[backup.oracle]\nmanifest = 'm'\n");
        let wanted = Ok(manifest(10, 0));
        let known = KnownData { manifest: Some(&wanted), ..NOTHING };
        assert_eq!(codes(&backup, &known, &manifest(10, 50)), (vec![], vec![Some(true)]));
        assert_eq!(codes(&backup, &known, &manifest(9, 0)), (vec![Code::DataDiffers], vec![Some(false)]));
        let unreadable = Err("no such file".to_owned());
        assert_eq!(
            codes(&backup, &KnownData { manifest: Some(&unreadable), ..NOTHING }, &manifest(1, 0)),
            (vec![Code::NoManifest], vec![None])
        );
        let empty = Ok(Manifest::default());
        assert_eq!(
            codes(&backup, &KnownData { manifest: Some(&empty), ..NOTHING }, &manifest(1, 0)),
            (vec![Code::EmptyManifest,], vec![None])
        );
        let made = manifest(10, 0);
        assert_eq!(
            codes(&self::backup(""), &KnownData { made: Some(&made), ..NOTHING }, &manifest(3, 0)).0,
            [Code::DataDiffers]
        );
        let ephemeral = [Ephemeral { path: "/d".into(), reason: "r".into() }];
        let lost = Manifest { paths: Default::default(), ..manifest(10, 0) };
        let known = KnownData { made: Some(&made), ephemeral: &ephemeral, ..NOTHING };
        assert_eq!(codes(&self::backup(""), &known, &lost), (vec![], vec![Some(true)]));
    }

    #[test]
    fn a_shrink_since_the_last_drill_is_a_finding() {
        let backup = backup("[backup.oracle]\nmin-files = 1\nmax-shrink = '10%'\n");
        let last = found(&manifest(100, 0));
        let known = KnownData { last: Some(&last), ..NOTHING };
        assert_eq!(codes(&backup, &known, &manifest(90, 0)).0, []);
        assert_eq!(codes(&backup, &known, &manifest(89, 0)).0, [Code::Shrunk]);
        assert_eq!(codes(&backup, &NOTHING, &manifest(1, 0)).0, [], "nothing to compare with");
    }

    #[test]
    fn canaries_and_queries_answer_or_not() {
        let now = SystemTime::now();
        let output = |status, text: String| Output { status, stdout: text.into_bytes(), stderr: String::new() };
        let code = |output: &Output, newest| canary_found("notes", output, newest, now).1.map(|fault| fault.code);
        let text = redrill_model::canary_text("notes", now - Duration::from_secs(100));
        assert_eq!(code(&output(0, text.clone()), Duration::from_secs(200)), None);
        assert_eq!(code(&output(0, text), Duration::from_secs(50)), Some(Code::CanaryOld));
        assert_eq!(code(&output(0, String::new()), Duration::from_secs(50)), Some(Code::CanaryMissing));
        let code = |output: &Output| answered("select 1", "1", output).1.map(|fault| fault.code);
        assert_eq!(code(&output(0, "1\n".into())), None);
        assert_eq!(code(&output(0, "2\n".into())), Some(Code::QueryDiffers));
        assert_eq!(code(&output(0, String::new())), Some(Code::QueryDiffers));
        assert_eq!(code(&output(1, "1".into())), Some(Code::QueryUnknown));
    }
}
