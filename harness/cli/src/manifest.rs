//! `redrill manifest`: what a backup must bring back, written on the live host when the backup is made.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use redrill_machines::PROBE_BINARY;
use redrill_state::Manifest;

use crate::Ended;
use crate::output::{self, Failure};

/// Record what is in directories and databases, so that a drill can compare a restored backup with it. Reads only.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill manifest /var/lib/notes postgres:notes > notes.manifest.json
  redrill manifest sqlite:/var/lib/notes/notes.db --output notes.manifest.json
  redrill manifest --program redrill-manifest     one static program, for hosts without redrill; there:
  ./redrill-manifest manifest /var/lib/notes postgres:notes > notes.manifest.json

Run it as root in the backup job, right after the backup. Then name the file as `manifest` of a `[backup.oracle]`.")]
pub(crate) struct Args {
    /// An absolute path, `postgres:NAME`, `mariadb:NAME` or `sqlite:/path`.
    #[arg(required_unless_present = "program")]
    targets: Vec<String>,
    /// Where to write it; standard output by default.
    #[arg(long, conflicts_with = "program")]
    output: Option<PathBuf>,
    /// Write the program itself instead, which needs nothing on its host.
    #[arg(long, conflicts_with = "targets")]
    program: Option<PathBuf>,
}

pub(crate) fn exec(args: &Args) -> Ended {
    if let Some(path) = &args.program {
        write_program(path).map_err(|error| Failure::unknown("cannot write the program", &error))?;
        return Ok(0);
    }
    let text = run(&args.targets)?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| Failure::unknown("the probe's manifest is none", &error))?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, &text).map_err(|error| Failure::unknown("cannot write the manifest", &error))?;
        }
        None => output::raw(&text)?,
    }
    let (missing, gaps) = lacking(&manifest);
    missing.iter().for_each(|target| output::story(&format!("{target} is not there")));
    gaps.iter().for_each(|gap| output::story(&format!("cannot be read: {gap}")));
    // A manifest of what is not there would make any restore right.
    Ok(if missing.is_empty() && gaps.is_empty() { 0 } else { 3 })
}

fn lacking(manifest: &Manifest) -> (Vec<String>, Vec<String>) {
    let gap = |target: &str| manifest.gaps.iter().any(|gap| gap.starts_with(target));
    let missing = manifest.targets.iter().filter(|(target, there)| !**there && !gap(target));
    (missing.map(|(target, _)| target.clone()).collect(), manifest.gaps.clone())
}

/// The probe, run from a file of its own that is gone afterwards.
fn run(targets: &[String]) -> Result<Vec<u8>, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::unknown("cannot run the probe", error);
    let directory = std::env::temp_dir().join(format!("redrill-manifest-{}", std::process::id()));
    std::fs::create_dir(&directory).map_err(|error| failed(&error))?;
    let path = directory.join("probe");
    let output = write_program(&path).and_then(|()| {
        Command::new(&path).arg("manifest").args(targets).stdin(Stdio::null()).stderr(Stdio::inherit()).output()
    });
    let _ = std::fs::remove_dir_all(&directory); // Only this program wrote there.
    let output = output.map_err(|error| failed(&error))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Failure::usage(&format!("the probe ended with {}", output.status)))
    }
}

fn write_program(path: &Path) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(path)?;
    file.write_all(PROBE_BINARY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_a_directory_is_whole_and_one_of_nothing_is_told() {
        let directory = std::env::temp_dir().join(format!("redrill-manifest-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        std::fs::write(directory.join("a"), "content").expect("file");
        let there = directory.display().to_string();
        let text = run(&[there.clone(), "/nonexistent/x".to_owned(), "odd".to_owned()]);
        std::fs::remove_dir_all(&directory).expect("cleaned up");
        let manifest: Manifest = serde_json::from_slice(&text.unwrap_or_default()).expect("a manifest");
        assert_eq!(manifest.paths[&format!("{there}/a")].size, Some(7));
        let (missing, gaps) = lacking(&manifest);
        assert_eq!(missing, ["/nonexistent/x"]);
        assert!(gaps.len() == 1 && gaps[0].starts_with("odd"), "{gaps:?}");
    }
}
