//! The servers repo's own restore script: what gets proven is the script.

use std::time::Instant;

use redrill_machines::{Machine, Output};
use redrill_model::{Code, PointReport, RepoCommand, Site};

use super::super::faults;
use super::super::repository;
use super::super::session::Session;
use crate::deploy::controller::Controller;
use crate::problem::Problem;

/// On the controller, this word becomes the path of the repository there.
const REPOSITORY: &str = "{repository}";

pub(super) async fn restore<M: Machine>(
    session: &mut Session<'_, M>,
    run: &RepoCommand,
    controller: Option<&Controller>,
) -> Result<PointReport, Problem> {
    match run.on {
        Site::Machine => {
            let words: Vec<&str> = run.words.iter().map(String::as_str).collect();
            session.run("load", &words).await?;
        }
        Site::Controller => {
            let controller = controller.ok_or_else(|| Problem::new(Code::NoController, "there is no controller"))?;
            on_controller(session, run, controller).await?;
        }
    }
    // Which point it took is the script's own knowledge.
    Ok(PointReport { id: "as the script chose".to_owned(), ..PointReport::default() })
}

async fn on_controller<M: Machine>(
    session: &mut Session<'_, M>,
    run: &RepoCommand,
    controller: &Controller,
) -> Result<(), Problem> {
    let copy = session.scratch.join("repository");
    let (source, to) = (session.source.clone(), copy.clone());
    let copied = tokio::task::spawn_blocking(move || repository::copy_on_host(&source, &to)).await;
    copied
        .map_err(|error| Problem::new(Code::RestoreUnknown, error.to_string()))?
        .map_err(|error| Problem::new(Code::RestoreUnknown, format!("cannot copy the repository: {error}")))?;
    let words: Vec<String> =
        run.words.iter().map(|word| word.replace(REPOSITORY, &copy.display().to_string())).collect();
    let output = run_on(session, "load", &words, controller).await?;
    let _ = std::fs::remove_dir_all(copy); // It lies in the run directory, which goes with the run.
    match output.status {
        0 => Ok(()),
        _ => Err(faults::of_output(&session.backup.kind, "the restore script", &output)),
    }
}

/// Runs a command of the repo on the controller, in the checkout.
async fn run_on<M: Machine>(
    session: &mut Session<'_, M>,
    phase: &str,
    words: &[String],
    controller: &Controller,
) -> Result<Output, Problem> {
    let began = Instant::now();
    let ran = session.deadline.limit(controller.run(words)).await;
    session.took(phase, began);
    let output = ran.map_err(|limit| Problem::new(Code::TimedOut, limit.to_string()))??;
    session.said.push_str(&output.stderr);
    Ok(output)
}
