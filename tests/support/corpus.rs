//! Cases of the fault corpus: small deploys, most with one planted fault, and what a drill must make of them. The form
//! of a case is told in `corpus/README.md`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

/// The host of the inventories in `corpus/shared`.
const HOST: &str = "app.example.org";
/// What a verdict is held up by, the worst first; warnings and information change none.
const COUNTS: [&str; 2] = ["fails", "unknown"];

/// `expected.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// One line about the fault.
    pub title: String,
    /// The class that the case is counted under.
    pub fault: String,
    /// `pyinfra`, `ansible` or `shell`.
    pub tool: String,
    /// Where somebody reported it.
    pub source: Option<String>,
    /// `container`, or `qemu` where a case needs a kernel of its own.
    pub backend: String,
    /// The claim that the case is about.
    #[serde(default = "idempotent")]
    pub claim: String,
    /// What must become of that claim, in lower case.
    pub verdict: String,
    /// Codes that must be among the findings that hold the verdict up, or among all of them where it is `proven`. `A|B`
    /// is either.
    #[serde(default)]
    pub codes: Vec<String>,
    /// How the third state compares with the second.
    pub trend: Option<String>,
    /// The operation that must be named first, `A|B` either; empty where nobody may be named, since no operation did it.
    pub culprit: Option<String>,
    /// Where that operation stands: the beginning of `FILE:LINE`.
    pub place: Option<String>,
    /// A path or unit that one of the findings must be about.
    pub subject: Option<String>,
}

fn idempotent() -> String {
    "idempotent".to_owned()
}

/// A directory below `tests/corpus`.
#[derive(Debug, Clone)]
pub struct Case {
    /// The directory's name.
    pub id: String,
    /// The directory.
    pub path: PathBuf,
    /// What its drill must come to.
    pub expected: Expected,
}

/// What a drill made of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The claim's verdict, in lower case.
    pub verdict: String,
    /// Verdict, codes, trend and subject are the expected ones.
    pub right: bool,
    /// Whether the expected operation was named first, where one is expected.
    pub culprit: Option<bool>,
    /// What is not as expected.
    pub complaints: Vec<String>,
}

/// Every case below `corpus`, sorted; one that cannot be read is an error with its name.
pub fn cases(corpus: &Path) -> Vec<Result<Case, (String, String)>> {
    let entries = fs::read_dir(corpus).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.join("expected.toml").is_file()).collect();
    paths.sort();
    paths.into_iter().map(|path| read(&path)).collect()
}

fn read(path: &Path) -> Result<Case, (String, String)> {
    let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = path.join("expected.toml");
    let text = fs::read_to_string(&file).map_err(|error| (id.clone(), error.to_string()))?;
    let expected = toml::from_str(&text).map_err(|error| (id.clone(), format!("{}: {error}", file.display())))?;
    Ok(Case { id, path: path.to_owned(), expected })
}

impl Case {
    /// Makes a scenario of the case in `to`: a repo with one commit, and `scenario.toml`. Returns the scenario's
    /// directory.
    pub fn lay_out(&self, to: &Path) -> io::Result<PathBuf> {
        let scenario = to.join(&self.id);
        let servers = scenario.join("servers");
        let shared = self.path.with_file_name("shared").join(&self.expected.tool);
        if shared.is_dir() {
            copy(&shared, &servers)?;
        }
        copy(&self.path.join("servers"), &servers)?;
        let own = match fs::read_to_string(self.path.join("scenario.toml")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Table::new(),
            text => text?.parse().map_err(io::Error::other)?,
        };
        fs::write(scenario.join("scenario.toml"), self.scenario(own)?.to_string())?;
        for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", &self.expected.title]] {
            git(&servers, words)?;
        }
        Ok(scenario)
    }

    /// What all scenarios have in common, overruled by what the case says itself.
    fn scenario(&self, own: Table) -> io::Result<Table> {
        let expected = &self.expected;
        let mut claims = vec!["rebuilds", "idempotent"];
        if !claims.contains(&expected.claim.as_str()) {
            claims.push(&expected.claim);
        }
        let files = match expected.tool.as_str() {
            "pyinfra" => "inventory = 'inventory.py'\nscript = 'deploy.py'",
            "ansible" => "inventory = 'inventory.ini'\nscript = 'site.yml'",
            _ => "script = 'deploy.sh'\non = 'machine'",
        };
        let text = format!(
            "claims = {claims:?}\nbackend = '{}'\n[servers]\npath = 'servers'\n[deploy]\ntool = '{}'\n{files}\n\
             [[machine]]\nname = '{HOST}'\nimage = 'debian-13'\nmemory-mib = 512\n",
            expected.backend, expected.tool
        );
        let mut scenario: Table = text.parse().map_err(io::Error::other)?;
        scenario.insert("summary".to_owned(), expected.title.as_str().into());
        merge(&mut scenario, own);
        Ok(scenario)
    }
}

/// Tables are merged, all else is replaced.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Files with their modes, directories, symbolic links as such.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (source, kind) = {
            let entry = entry?;
            (entry.path(), entry.file_type()?)
        };
        let target = to.join(source.file_name().unwrap_or_default());
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

fn git(repo: &Path, words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=corpus", "-c", "user.email=corpus@example.org", "-c", "commit.gpgSign=false"]);
    let output = command.args(words).current_dir(repo).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("git {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr))))
}

impl Expected {
    /// Holds a report (`report.json`, schema 1) against what is expected.
    pub fn judge(&self, report: &Value) -> Judged {
        let claims = report["claims"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(claim) = claims.iter().find(|claim| claim["claim"] == self.claim.as_str()) else {
            let complaint = format!("the report says nothing about `{}`", self.claim);
            return Judged { verdict: String::new(), right: false, culprit: None, complaints: vec![complaint] };
        };
        let findings = claim["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let counts = |finding: &&Value| self.verdict == "proven" || COUNTS.iter().any(|s| finding["severity"] == *s);
        let findings: Vec<&Value> = findings.iter().filter(counts).collect();
        let verdict = text(&claim["verdict"]).to_lowercase();
        let mut complaints = Vec::new();
        if verdict != self.verdict {
            complaints.push(format!("expected {}, got {verdict}", self.verdict));
        }
        for code in &self.codes {
            if !findings.iter().any(|finding| code.split('|').any(|code| finding["code"] == code)) {
                complaints.push(format!("no finding is a {code}"));
            }
        }
        if let Some(trend) = self.trend.as_deref().filter(|trend| !findings.iter().any(|f| has_trend(f, trend))) {
            complaints.push(format!("no finding says {trend}"));
        }
        if let Some(subject) = self.subject.as_deref().filter(|s| !findings.iter().any(|f| is_about(f, s))) {
            complaints.push(format!("no finding is about `{subject}`"));
        }
        let right = complaints.is_empty();
        let culprit = self.culprit.as_deref().map(|culprit| self.named_first(culprit, &findings, &mut complaints));
        Judged { verdict, right, culprit, complaints }
    }

    fn named_first(&self, culprit: &str, findings: &[&Value], complaints: &mut Vec<String>) -> bool {
        let named = findings.iter().map(|f| &f["operation"]).find(|operation| operation.is_object());
        if culprit.is_empty() {
            let name = named.map(|operation| text(&operation["name"]));
            complaints.extend(name.iter().map(|name| format!("`{name}` is named, and no operation did it")));
            return name.is_none();
        }
        let Some(operation) = named else {
            complaints.push(format!("nobody is named, expected `{culprit}`"));
            return false;
        };
        let (name, place) = (text(&operation["name"]), text(&operation["place"]));
        if !culprit.split('|').any(|culprit| is_called(&name, culprit)) {
            complaints.push(format!("`{name}` is named first, expected `{culprit}`"));
            return false;
        }
        if let Some(expected) = self.place.as_deref().filter(|expected| !place.starts_with(expected)) {
            complaints.push(format!("`{name}` is said to stand at `{place}`, expected `{expected}`"));
            return false;
        }
        true
    }
}

/// Tools put the file or the role before the name: `tasks/base.py | NAME`, `ROLE : NAME`.
fn is_called(name: &str, expected: &str) -> bool {
    let bare = |mark: &str| name.split_once(mark).is_some_and(|(_, bare)| bare.trim() == expected);
    name.trim() == expected || bare(" | ") || bare(" : ")
}

fn has_trend(finding: &Value, trend: &str) -> bool {
    let lines = finding["evidence"].as_array().map(Vec::as_slice).unwrap_or_default();
    finding["trend"] == trend || lines.iter().any(|line| text(line) == format!("trend: {trend}"))
}

/// Whether a finding, or what is folded into it, is about this.
fn is_about(finding: &Value, subject: &str) -> bool {
    let also = finding["also"].as_array().map(Vec::as_slice).unwrap_or_default();
    std::iter::once(finding).chain(also).any(|finding| finding["subject"] == subject)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EXPECTED: &str = "title = 't'\nfault = 'F01'\ntool = 'pyinfra'\nbackend = 'container'\nverdict = 'failed'\n\
        codes = ['REAL_CHANGE']\ntrend = 'DIVERGES'\nculprit = 'Append'\nplace = 'deploy.py:3'\nsubject = '/etc/p'\n";

    fn expected(replace: &str, with: &str) -> Expected {
        toml::from_str(&EXPECTED.replace(replace, with)).expect("valid")
    }

    fn report() -> Value {
        json!({ "claims": [{ "claim": "idempotent", "verdict": "FAILED", "findings": [
            { "code": "FALSE_CHANGE", "severity": "warning", "subject": "x", "operation": { "name": "Warned" } },
            { "code": "REAL_CHANGE", "severity": "fails", "subject": "/etc/p", "evidence": ["trend: DIVERGES"],
              "operation": { "number": 2, "name": "tasks/base.py | Append", "place": "deploy.py:3" } },
        ] }] })
    }

    #[track_caller]
    fn complains(expected: &Expected, report: &Value, about: &str) {
        let judged = expected.judge(report);
        assert!(judged.complaints.iter().any(|c| c.contains(about)), "{:?}", judged.complaints);
    }

    #[test]
    fn a_report_as_expected_is_right_and_names_the_culprit() {
        let judged = expected("", "").judge(&report());
        assert_eq!(judged, Judged { verdict: "failed".into(), right: true, culprit: Some(true), complaints: vec![] });
    }

    #[test]
    fn everything_that_is_expected_counts() {
        complains(&expected("'failed'", "'proven'"), &report(), "expected proven, got failed");
        complains(&expected("REAL_CHANGE", "DISRUPTIVE"), &report(), "no finding is a DISRUPTIVE");
        complains(&expected("REAL_CHANGE", "FALSE_CHANGE"), &report(), "no finding is a FALSE_CHANGE");
        complains(&expected("DIVERGES", "OSCILLATES"), &report(), "no finding says OSCILLATES");
        complains(&expected("/etc/p", "/etc/q"), &report(), "no finding is about `/etc/q`");
        complains(&expected("'Append'", "'Warned'"), &report(), "`tasks/base.py | Append` is named first");
        complains(&expected("deploy.py:3", "deploy.py:4"), &report(), "expected `deploy.py:4`");
        complains(&expected("", ""), &json!({ "claims": [] }), "says nothing about `idempotent`");
        assert_eq!(expected("'Append'", "'Other|Append'").judge(&report()).culprit, Some(true), "either will do");
        complains(&expected("'Append'", "''"), &report(), "`tasks/base.py | Append` is named, and no operation did it");
        assert!(expected("REAL_CHANGE", "DISRUPTIVE|REAL_CHANGE").judge(&report()).right, "either will do");
    }

    #[test]
    fn warnings_count_where_the_claim_must_be_proven() {
        let mut report = report();
        report["claims"][0]["verdict"] = "PROVEN".into();
        let mut expected = expected("'failed'", "'proven'");
        (expected.codes, expected.trend, expected.culprit) = (vec!["FALSE_CHANGE".to_owned()], None, None);
        assert!(expected.judge(&report).right, "{:?}", expected.judge(&report).complaints);
    }

    #[test]
    fn a_case_becomes_a_repo_and_a_scenario() {
        let dir = tempfile::tempdir().expect("a directory");
        let corpus = dir.path().join("corpus");
        for (file, content) in [
            ("F01-x/expected.toml", EXPECTED),
            ("F01-x/servers/deploy.py", "own"),
            ("F01-x/scenario.toml", "deploy = { env = { STAGE = 'x' } }"),
            ("shared/pyinfra/deploy.py", "shared"),
            ("shared/pyinfra/inventory.py", "shared"),
            ("F02-x/expected.toml", "tittle = 't'"),
        ] {
            let path = corpus.join(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, content).expect("written");
        }
        let mut found = cases(&corpus);
        let (id, why) = found.pop().expect("two").expect_err("a mistake");
        assert!(id == "F02-x" && why.contains("tittle"), "{why}");
        let case = found.pop().expect("two").expect("valid");
        let scenario = case.lay_out(&dir.path().join("to")).expect("laid out");
        let read = |name: &str| fs::read_to_string(scenario.join(name)).expect("written");
        assert_eq!((read("servers/deploy.py").as_str(), read("servers/inventory.py").as_str()), ("own", "shared"));
        let written: Table = read("scenario.toml").parse().expect("TOML");
        assert_eq!(written["deploy"]["tool"].as_str(), Some("pyinfra"));
        assert_eq!(written["deploy"]["env"]["STAGE"].as_str(), Some("x"));
        assert_eq!(written["machine"][0]["name"].as_str(), Some(HOST));
        git(&scenario.join("servers"), &["rev-parse", "--verify", "HEAD"]).expect("a commit");
    }

    /// What `ci/corpus` counts of these results.
    fn counted(results: &[Value]) -> (bool, Value) {
        let dir = tempfile::tempdir().expect("a directory");
        for result in results {
            let id = result["id"].as_str().expect("an id");
            fs::write(dir.path().join(format!("{id}.json")), result.to_string()).expect("written");
        }
        let mut command = Command::new(crate::root().join("ci/corpus"));
        command.args(["--table", "--json", "--results"]).arg(dir.path()).arg("--only");
        command.args(results.iter().map(|result| result["id"].as_str().expect("an id")));
        let output = command.output().expect("python3 runs");
        let text = String::from_utf8_lossy(&output.stdout);
        (output.status.success(), serde_json::from_str(&text).expect("JSON"))
    }

    /// What the tool says of the second deploy.
    struct Second<'a> {
        exit: i32,
        changed: u32,
        log: &'a str,
    }

    fn second(exit: i32, changed: u32, log: &str) -> Second<'_> {
        Second { exit, changed, log }
    }

    /// Of a case whose name ends with its tool.
    fn result(id: &str, expected: &str, judged: Judged, second: &Second<'_>) -> Value {
        let Second { exit, changed, log } = second;
        let tool = id.rsplit('-').next();
        let deploys = json!([{ "pass": "first", "exit": 0, "changed": 1 }, { "pass": "second", "exit": exit, "changed": changed }]);
        json!({ "id": id, "fault": "F", "tool": tool, "expected": expected, "judged": judged, "second": log,
                "report": { "seconds": 2.5, "run_dir": "/r", "deploys": deploys } })
    }

    #[test]
    fn the_table_counts_what_others_would_have_said_of_the_same_runs() {
        let right =
            |verdict: &str, culprit| Judged { verdict: verdict.into(), right: true, culprit, complaints: vec![] };
        let recap = |changed: u32| format!("PLAY RECAP ***\nweb : ok=2    changed={changed}    unreachable=0\n");
        let (ok, counted) = counted(&[
            result("F01-pyinfra", "failed", right("failed", Some(true)), &second(0, 1, "")),
            result("F02-ansible", "failed", right("failed", Some(true)), &second(0, 0, &recap(0))),
            result("F21-ansible", "failed", right("failed", Some(true)), &second(2, 0, "")),
            result("C6-ansible", "proven", right("proven", None), &second(0, 2, &recap(2))),
        ]);
        let total = &counted["total"];
        assert!(ok, "{counted:#}");
        assert_eq!((&total["recall"], &total["culprit"]), (&json!([3, 3]), &json!([3, 3])));
        assert_eq!((&total["false_alarms"], &total["deploys"]), (&json!([0, 1]), &json!(8)));
        assert_eq!((&total["exit"], &total["totals"]), (&json!([1, 4]), &json!([1, 1])));
        assert_eq!(total["molecule"], json!([2, 3]), "the failure, and a false alarm; not the silent change");
    }

    #[test]
    fn a_missed_fault_a_false_alarm_and_wrong_culprits_fail_the_table() {
        let judged =
            |verdict: &str, right, culprit| Judged { verdict: verdict.into(), right, culprit, complaints: vec![] };
        let of = |id: &str, expected: &str, judged| result(id, expected, judged, &second(0, 0, ""));
        assert!(!counted(&[of("F01-pyinfra", "failed", judged("proven", false, None))]).0, "missed");
        assert!(!counted(&[of("C1-pyinfra", "proven", judged("failed", false, None))]).0, "a false alarm");
        assert!(!counted(&[of("C1-pyinfra", "proven", judged("unproven", false, None))]).0, "could not tell");
        assert!(!counted(&[of("F01-pyinfra", "failed", judged("failed", true, Some(false)))]).0, "the wrong culprit");
        let nothing = json!({ "id": "F01-pyinfra", "fault": "F01", "tool": "pyinfra", "expected": "failed", "report": null,
                              "second": "", "judged": judged("", false, None) });
        assert!(!counted(&[nothing]).0, "no report");
    }
}
