//! restic: in the machine if it is there, else on the host, from where the files are streamed into the machine.

use std::path::Path;
use std::time::Instant;

use redrill_machines::{Machine, Output};
use redrill_model::{Code, PointReport};
use serde::Deserialize;

use super::super::faults;
use super::super::repository;
use super::super::session::Session;
use crate::problem::Problem;

/// Read-only repositories take neither a lock nor a cache.
const OPTIONS: [&str; 3] = ["--no-lock", "--no-cache", "--json"];

#[derive(Debug, Deserialize)]
struct Snapshot {
    id: String,
    time: String,
}

#[derive(Debug, Deserialize)]
struct ResticStats {
    total_size: u64,
}

pub(super) async fn restore<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    if session.contents.paths.iter().any(|path| path.starts_with("locks/")) {
        return Err(faults::locked());
    }
    let here = session.has("restic").await?;
    let tool = if here { Restic::in_machine(session).await? } else { Restic::on_host(session)? };
    let listed = tool.ask(session, "list", &["snapshots"]).await?;
    let point = session.choose(&points(&listed)?)?;
    let stats = tool.ask(session, "list", &["stats", "--mode", "restore-size", &point.id]).await?;
    if serde_json::from_slice::<ResticStats>(&stats.stdout).is_ok_and(|stats| stats.total_size == 0) {
        return Err(Problem::new(Code::EmptyPoint, format!("snapshot {} holds no data", &point.id)));
    }
    tool.load(session, &point.id).await?;
    super::own(session).await?;
    Ok(point)
}

/// Snapshots, oldest first.
fn points(output: &Output) -> Result<Vec<(String, Option<String>)>, Problem> {
    let mut snapshots: Vec<Snapshot> = serde_json::from_slice(&output.stdout).map_err(|error| {
        Problem::new(Code::RestoreUnknown, format!("restic's list of snapshots: {error}")).with(&output.text())
    })?;
    snapshots.sort_by(|a, b| a.time.cmp(&b.time));
    Ok(snapshots.into_iter().map(|snapshot| (snapshot.id, Some(snapshot.time))).collect())
}

/// restic with its repository and passphrase.
struct Restic {
    repository: String,
    passphrase: String,
    in_machine: bool,
}

impl Restic {
    async fn in_machine<M: Machine>(session: &mut Session<'_, M>) -> Result<Self, Problem> {
        let passphrase = session.secret().await?.ok_or_else(no_passphrase)?;
        Ok(Self { repository: session.at(""), passphrase, in_machine: true })
    }

    /// A copy, so that not even a mistake of the tool reaches the original.
    fn on_host<M: Machine>(session: &mut Session<'_, M>) -> Result<Self, Problem> {
        let passphrase = session.passphrase.clone().ok_or_else(no_passphrase)?.display().to_string();
        let copy = session.scratch.join("repository");
        let began = Instant::now();
        repository::copy_on_host(session.source, &copy)
            .map_err(|error| Problem::new(Code::RestoreUnknown, format!("cannot copy the repository: {error}")))?;
        session.took("fetch", began);
        Ok(Self { repository: copy.display().to_string(), passphrase, in_machine: false })
    }

    async fn ask<M: Machine>(
        &self,
        session: &mut Session<'_, M>,
        phase: &str,
        words: &[&str],
    ) -> Result<Output, Problem> {
        let words = [&["restic"], &OPTIONS[..], words].concat();
        self.run(session, phase, &words, None).await
    }

    async fn run<M: Machine>(
        &self,
        session: &mut Session<'_, M>,
        phase: &str,
        words: &[&str],
        to: Option<&Path>,
    ) -> Result<Output, Problem> {
        let env = [("RESTIC_REPOSITORY", self.repository.as_str()), ("RESTIC_PASSWORD_FILE", self.passphrase.as_str())];
        if !self.in_machine {
            return session.run_on_host(phase, words, &env, to).await;
        }
        let settings: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        session.run(phase, &[&["env"], &settings[..], words].concat()).await
    }

    /// Everything below the targets, back to where it came from.
    async fn load<M: Machine>(&self, session: &mut Session<'_, M>, id: &str) -> Result<(), Problem> {
        let arguments = session.backup.arguments.clone();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if self.in_machine {
            let paths: Vec<String> = session.paths().iter().map(|path| (*path).to_owned()).collect();
            let mut words = vec!["restic", OPTIONS[0], OPTIONS[1], "--quiet", "restore", id, "--target", "/"];
            words.extend(paths.iter().flat_map(|path| ["--include", path.as_str()]));
            words.extend(arguments);
            return self.run(session, "load", &words, None).await.map(drop);
        }
        let file = session.scratch.join("restored.tar");
        let words =
            [&["restic", OPTIONS[0], OPTIONS[1], "dump", "--archive", "tar"], &arguments[..], &[id, "/"]].concat();
        self.run(session, "load", &words, Some(&file)).await?;
        let began = Instant::now();
        super::unpack_targets(session, &file).await?;
        session.took("unpack", began);
        Ok(())
    }
}

fn no_passphrase() -> Problem {
    Problem::new(Code::NoPassphrase, "a restic repository needs `passphrase`: the path of its file among the keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_come_oldest_first() {
        let json =
            r#"[{"id":"b","time":"2026-11-23T03:00:00Z","paths":["/x"]},{"id":"a","time":"2026-11-22T03:00:00Z"}]"#;
        let output = Output { stdout: json.into(), ..Output::default() };
        let points = points(&output).expect("a list");
        assert_eq!(points.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(super::points(&Output { stdout: b"[]".to_vec(), ..Output::default() }).expect("a list").is_empty());
        assert_eq!(super::points(&Output::default()).expect_err("no list").code, Code::RestoreUnknown);
    }
}
