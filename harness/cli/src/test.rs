//! `redrill test`: drills as tests of cargo-nextest, for repos that hold no Rust.
//!
//! nextest is given this very program as its test binary, by the metadata that it otherwise asks cargo for
//! (<https://nexte.st/docs/ci-features/archiving/#using-cargo-and-binaries-metadata>): nothing is compiled.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use redrill_suite::Suite;
use serde_json::{Value, json};

use crate::output::{self, Failure};
use crate::{Ended, accel, home, program};

/// Run the drills below a directory as tests: a trial per scenario, kind of machine and claim.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill test                                   the scenarios below ./scenarios
  redrill test drills -- --no-fail-fast          options of cargo-nextest after --
  redrill test -- -E 'test(web::container)'
  redrill test --except web-broken               without this one
  redrill test -- -E 'test(/^web::/)'            one runner's share of several
  redrill test --list")]
pub(crate) struct Args {
    /// Directory with scenarios, or one scenario.
    #[arg(default_value = "scenarios")]
    root: PathBuf,
    /// Leave this scenario out; may be given several times.
    #[arg(long, value_name = "SCENARIO")]
    except: Vec<String>,
    /// List the trials; boots nothing.
    #[arg(long)]
    list: bool,
    /// Options of cargo-nextest.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// The name under which this program is a test binary.
const BINARY: &str = "redrill-drills";
/// Where the test binary finds its scenarios, and those that it leaves out, separated by commas.
const ROOT: &str = "REDRILL_SUITE";
const EXCEPT: &str = "REDRILL_SUITE_EXCEPT";

/// If this process is the test binary, its whole life.
pub(crate) fn as_test_binary() -> Option<ExitCode> {
    let own = std::env::args_os().next()?;
    (Path::new(&own).file_name()? == BINARY).then_some(())?;
    let root = std::env::var_os(ROOT)?;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("redrill"));
    let except = std::env::var(EXCEPT).unwrap_or_default();
    Some(suite(Path::new(&root), except.split(',')).program(program).main())
}

fn suite<'a>(root: &Path, except: impl Iterator<Item = &'a str>) -> Suite {
    except.fold(Suite::new(root), Suite::except)
}

pub(crate) fn exec(args: &Args) -> Ended {
    let root = args.root.canonicalize().map_err(|error| {
        Failure::usage(&format!("there is no directory `{}` with scenarios: {error}", args.root.display()))
    })?;
    let suite = suite(&root, args.except.iter().map(String::as_str));
    if suite.needs_kvm() && !args.list {
        // What cannot be tried is told below.
        let _ = crate::runtime(async { accel::acceleration(&home().cache, false).await.map(|_| 0) });
    }
    for not_run in suite.not_run() {
        output::story(&format!("not run here: {} ({})", not_run.trial, not_run.why.0));
    }
    let place = home().state.join("suite").join(format!("metadata-{}", std::process::id()));
    let failed = |error: std::io::Error| Failure::unknown("cannot write what nextest asks for", &error);
    std::fs::create_dir_all(place.join("target")).map_err(failed)?;
    let binary = place.join(BINARY);
    let _ = std::fs::remove_file(&binary);
    std::os::unix::fs::symlink(program()?, &binary).map_err(failed)?;
    for (name, content) in [
        ("cargo.json", cargo_metadata(&place)),
        ("binaries.json", binaries_metadata(&place, &binary)),
        ("Cargo.toml", json!("")),
    ] {
        let text = content.as_str().map_or_else(|| content.to_string(), |text| MANIFEST.to_owned() + text);
        std::fs::write(place.join(name), text).map_err(failed)?;
    }
    std::fs::write(place.join("nextest.toml"), config(&suite.drills())).map_err(failed)?;
    let mut nextest = Command::new("cargo");
    nextest.args(["nextest", if args.list { "list" } else { "run" }]);
    nextest.arg("--cargo-metadata").arg(place.join("cargo.json"));
    nextest.arg("--binaries-metadata").arg(place.join("binaries.json"));
    nextest.arg("--tool-config-file").arg(format!("redrill:{}", place.join("nextest.toml").display()));
    nextest.args(&args.nextest).env(ROOT, &root).env(EXCEPT, args.except.join(",")).current_dir(&place);
    Err(Failure::with_mend(
        &format!("cannot start cargo nextest: {}", nextest.exec()),
        "cargo install --locked cargo-nextest, or run the drills one by one: redrill run SCENARIO",
    ))
}

const MANIFEST: &str = "[package]\nname = \"drills\"\nversion = \"0.0.0\"\n[[test]]\nname = \"drills\"\n[workspace]\n";

const CONFIG: &str = "nextest-version = \"0.9.70\"
[profile.default]
retries = 0
fail-fast = false
slow-timeout = { period = \"120s\", terminate-after = 14, grace-period = \"20s\" }
[profile.default.junit]
path = \"junit.xml\"
";

/// The trials of a drill come one at a time, since they share it; drills side by side, as many as the host has processors
/// and memory for. What others hold, they wait for.
fn config(drills: &[(String, usize)]) -> String {
    let drill = |(number, (prefix, threads)): (usize, &(String, usize))| {
        // In a regular expression a dot is any character.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_:".contains(c) { c } else { '.' };
        let (group, prefix) =
            (format!("'@tool:redrill:drill-{number}'"), prefix.chars().map(plain).collect::<String>());
        format!(
            "[test-groups.{group}]\nmax-threads = 1\n[[profile.default.overrides]]\nfilter = 'test(/^{prefix}/)'\n\
             test-group = {group}\nthreads-required = {threads}\n"
        )
    };
    CONFIG.to_owned() + &drills.iter().enumerate().map(drill).collect::<String>()
}

/// The only package: it has the drills as its only test.
fn cargo_metadata(place: &Path) -> Value {
    let id = package_id(place);
    let (manifest, target) = (place.join("Cargo.toml"), place.join("target"));
    json!({
        "packages": [{
            "name": "drills", "version": "0.0.0", "id": id, "license": null, "license_file": null,
            "description": null, "source": null, "dependencies": [],
            "targets": [{
                "kind": ["test"], "crate_types": ["bin"], "name": "drills", "src_path": place.join("drills.rs"),
                "edition": "2024", "doc": false, "doctest": false, "test": true
            }],
            "features": {}, "manifest_path": manifest, "metadata": null, "publish": null, "authors": [],
            "categories": [], "keywords": [], "readme": null, "repository": null, "homepage": null,
            "documentation": null, "edition": "2024", "links": null, "default_run": null, "rust_version": null
        }],
        "workspace_members": [id], "workspace_default_members": [id],
        "resolve": { "nodes": [{ "id": id, "dependencies": [], "deps": [], "features": [] }], "root": id },
        "target_directory": target, "version": 1, "workspace_root": place, "metadata": null
    })
}

fn binaries_metadata(place: &Path, binary: &Path) -> Value {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    json!({
        "rust-build-meta": {
            "target-directory": place.join("target"), "base-output-directories": ["debug"], "non-test-binaries": {},
            "build-script-out-dirs": {}, "linked-paths": [],
            "platforms": {
                "host": { "platform": { "triple": triple, "target-features": "unknown" }, "libdir": { "status": "unavailable", "reason": "not-in-archive" } },
                "targets": []
            },
            "target-platforms": [{ "triple": triple, "target-features": "unknown" }], "target-platform": null
        },
        "rust-binaries": {
            "drills": {
                "binary-id": "drills", "binary-name": "drills", "package-id": package_id(place), "kind": "test",
                "binary-path": binary, "build-platform": "target"
            }
        }
    })
}

fn package_id(place: &Path) -> String {
    format!("path+file://{}#drills@0.0.0", place.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_drill_has_a_group_and_takes_what_its_machines_are() {
        let text = config(&[("web::qemu::".to_owned(), 2), ("a+b::container::".to_owned(), 1)]);
        assert!(
            text.contains(
                "filter = 'test(/^web::qemu::/)'\ntest-group = '@tool:redrill:drill-0'\nthreads-required = 2\n"
            )
        );
        assert!(
            text.contains("filter = 'test(/^a.b::container::/)'\ntest-group = '@tool:redrill:drill-1'\n"),
            "{text}"
        );
    }
}
