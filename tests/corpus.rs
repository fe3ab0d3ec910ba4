//! The fault corpus: each case is drilled and held against its `expected.toml`. Trials are named `corpus::ID`.
//!
//! `REDRILL_PROGRAM` is drilled with, if it is set, else the program that was just built. With `REDRILL_CORPUS_RESULTS`
//! every trial leaves `ID.json` in that directory: `ci/corpus` makes its table of these.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::corpus::{Case, Judged, cases};
use redrill_tests::{has_qemu, program, root};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let promised = std::env::var_os("CI").is_some();
    let (qemu, engine) = (has_qemu(), redrill_machines::container::engine_version().is_ok());
    let trial = |case: Result<Case, (String, String)>| match case {
        Err((id, why)) => Trial::test(format!("corpus::{id}"), move || Err(why.into())),
        Ok(case) => {
            let lacking = !if case.expected.backend == "container" { engine } else { qemu };
            Trial::test(format!("corpus::{}", case.id), move || drill(&case)).with_ignored_flag(lacking && !promised)
        }
    };
    libtest_mimic::run(&arguments, cases(&root().join("tests/corpus")).into_iter().map(trial).collect()).exit_code()
}

fn drill(case: &Case) -> Result<(), Failed> {
    // Sockets lie in run directories, and the kernel bounds the length of their paths.
    let place = tempfile::Builder::new().prefix("c").tempdir()?;
    let ran = run(&case.lay_out(place.path())?, place.path())?;
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    let judged = case.expected.judge(&report);
    if let Some(results) = std::env::var_os("REDRILL_CORPUS_RESULTS").map(PathBuf::from) {
        let result = json!({
            "id": case.id, "title": case.expected.title, "fault": case.expected.fault, "tool": case.expected.tool,
            "expected": case.expected.verdict, "judged": judged, "report": report, "second": second_log(&report),
        });
        fs::write(results.join(format!("{}.json", case.id)), result.to_string())?;
    }
    if judged.complaints.is_empty() {
        return Ok(());
    }
    // The evidence stays: its place is told.
    let _ = place.keep();
    Err(told(case, &judged, &report, &ran).into())
}

/// What the tool printed in the second deploy; the rules of others go by it.
fn second_log(report: &Value) -> String {
    let run = Path::new(report["run_dir"].as_str().unwrap_or_default());
    fs::read_to_string(run.join("deploy-2.log")).unwrap_or_default()
}

struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Drills in the repository, where the images are. The leash lets go when this process does.
fn run(scenario: &Path, state: &Path) -> Result<Ran, Box<dyn Error>> {
    let program = std::env::var_os("REDRILL_PROGRAM").map_or_else(program, PathBuf::from);
    let mut command = Command::new(program);
    command.arg("run").arg(scenario).args(["--format", "json", "--leash"]).current_dir(root());
    command.env("REDRILL_STATE_DIR", state).env("NO_COLOR", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn()?;
    let _leash = child.stdin.take();
    let mut errors = child.stderr.take().ok_or("no standard error")?;
    let story = std::thread::spawn(move || {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let output = child.wait_with_output()?;
    let stderr = story.join().map_err(|_| "the story's reader panicked")??;
    Ok(Ran { status: output.status.code(), stdout: String::from_utf8_lossy(&output.stdout).into_owned(), stderr })
}

fn told(case: &Case, judged: &Judged, report: &Value, ran: &Ran) -> String {
    let mut text = format!("{}: {}", case.expected.title, judged.complaints.join("; "));
    let all = report["claims"].as_array().into_iter().flatten();
    for claim in all {
        text += &format!("\n  {} {}: {}", claim["claim"], claim["verdict"], claim["summary"]);
        for finding in claim["findings"].as_array().into_iter().flatten() {
            let operation = &finding["operation"];
            text += &format!("\n    {} {}: {}", finding["severity"], finding["code"], finding["summary"]);
            if operation.is_object() {
                text += &format!("\n      by {} at {}", operation["name"], operation["place"]);
            }
            for line in finding["evidence"].as_array().into_iter().flatten() {
                text += &format!("\n      {line}");
            }
        }
    }
    if report.is_null() {
        let lines: Vec<&str> = ran.stderr.lines().collect();
        text +=
            &format!("\n  no report, status {:?}:\n{}", ran.status, lines[lines.len().saturating_sub(30)..].join("\n"));
    }
    format!("{text}\nEvidence  {}\nCase      {}", report["run_dir"], case.path.display())
}
