//! What can read a backup, one file per kind. Each restores from the read-only copy in the machine into the targets,
//! and tells which point it took.

mod archives;
mod borg;
mod mariadb;
mod postgres;
mod restic;
mod script;
mod sqlite;

use std::path::Path;

use redrill_machines::Machine;
use redrill_model::{BackupKind, Code, PointReport};

use super::repository::{self, Source};
use super::session::Session;
use crate::deploy::controller::Controller;
use crate::problem::Problem;

/// Restores; what the tools said stands in the session.
pub(crate) async fn restore<M: Machine>(
    session: &mut Session<'_, M>,
    controller: Option<&Controller>,
) -> Result<PointReport, Problem> {
    match session.backup.kind.clone() {
        BackupKind::Script(run) => script::restore(session, &run, controller).await,
        BackupKind::Restic => restic::restore(session).await,
        BackupKind::Borg => borg::restore(session).await,
        BackupKind::Directory => archives::directory(session).await,
        BackupKind::Tar => archives::tar(session).await,
        BackupKind::Postgres => postgres::restore(session).await,
        BackupKind::Mariadb => mariadb::restore(session).await,
        BackupKind::Sqlite => sqlite::restore(session).await,
    }
}

/// Gives what was restored to its declared owner.
async fn own<M: Machine>(session: &mut Session<'_, M>) -> Result<(), Problem> {
    let Some(owner) = session.backup.owner.clone() else { return Ok(()) };
    let paths: Vec<String> = session.paths().iter().map(|path| (*path).to_owned()).collect();
    let mut words = vec!["chown", "-R", "-h", "--", &owner];
    words.extend(paths.iter().map(String::as_str));
    session.run("load", &words).await.map(drop)
}

/// Streams the targets out of an archive of the host into the machine, with the numbers of their owners.
async fn unpack_targets<M: Machine>(session: &Session<'_, M>, archive: &Path) -> Result<(), Problem> {
    let paths: Vec<String> = session.paths().iter().map(|path| (*path).to_owned()).collect();
    let kept = archive.with_extension("targets.tar");
    let filtered = repository::only_below(archive, &paths, &kept);
    filtered.map_err(|error| Problem::new(Code::RestoreUnknown, format!("cannot read what was restored: {error}")))?;
    Ok(repository::unpack(session.machine, &Source::Archive(kept), "/", &session.deadline).await?)
}

/// Files directly in the repository whose names end like one of these, sorted.
fn dumps(paths: &[String], endings: &[&str]) -> Vec<(String, Option<String>)> {
    let fits = |path: &&String| !path.contains('/') && endings.iter().any(|ending| path.ends_with(ending));
    let mut names: Vec<String> = paths.iter().filter(fits).cloned().collect();
    names.sort();
    names.into_iter().map(|name| (name, None)).collect()
}

/// What prints a file that may be compressed, for the head of a pipe that is told `"$1"`.
fn reader(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("gz") => "gzip -dc -- \"$1\"",
        Some("zst") => "zstd -dcq -- \"$1\"",
        Some("xz") => "xz -dc -- \"$1\"",
        _ => "cat -- \"$1\"",
    }
}
