//! Plain directories, as rsync leaves them, and archives of tar.

use redrill_machines::Machine;
use redrill_model::{Point, PointReport};

use super::super::faults;
use super::super::session::Session;
use crate::problem::Problem;

/// What tar writes, compressed or not.
const ARCHIVES: &[&str] = &[".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2"];

/// `latest` is the directory as a whole; another point is a directory in it.
pub(super) async fn directory<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    let point = match &session.backup.point {
        Point::Latest => PointReport { id: ".".to_owned(), ..PointReport::default() },
        _ => session.choose(&directories(&session.contents.paths))?,
    };
    let (from, to) = (format!("{}/.", session.at(&point.id)), session.paths().concat());
    let arguments = session.backup.arguments.clone();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    session.run("load", &["mkdir", "-p", "--", &to]).await?;
    session.run("load", &[&["cp", "-a"], &arguments[..], &["--", &from, &to]].concat()).await?;
    super::own(session).await?;
    Ok(point)
}

/// The first level of directories, sorted.
fn directories(paths: &[String]) -> Vec<(String, Option<String>)> {
    let mut names: Vec<String> =
        paths.iter().filter_map(|path| path.split_once('/').map(|(first, _)| first.to_owned())).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| (name, None)).collect()
}

/// Into the only target, or, where there are several, into the root: their paths stand in the archive.
pub(super) async fn tar<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    let archives = super::dumps(&session.contents.paths, ARCHIVES);
    if archives.is_empty() {
        return Err(faults::no_points());
    }
    let point = session.choose(&archives)?;
    let file = session.at(&point.id);
    let to = match session.paths().as_slice() {
        [only] => (*only).to_owned(),
        _ => "/".to_owned(),
    };
    let arguments = session.backup.arguments.clone();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    session.run("load", &["mkdir", "-p", "--", &to]).await?;
    session.run("load", &[&["tar", "-x", "-p", "-f", &file, "-C", &to], &arguments[..]].concat()).await?;
    super::own(session).await?;
    Ok(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_a_directory_are_the_directories_in_it() {
        let paths = ["2026-11-22/a", "2026-11-22", "2026-11-21/a/b", "log"].map(str::to_owned);
        let names: Vec<String> = directories(&paths).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["2026-11-21", "2026-11-22"]);
    }
}
