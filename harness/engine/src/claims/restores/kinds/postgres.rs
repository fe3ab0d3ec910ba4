//! PostgreSQL: dumps in the custom, directory and plain forms, and base backups.

use redrill_machines::Machine;
use redrill_model::{PointReport, Target};

use super::super::faults;
use super::super::repository::COPIES;
use super::super::session::Session;
use crate::problem::Problem;

const PLAIN: &[&str] = &[".sql", ".sql.gz", ".sql.zst", ".sql.xz"];
const CUSTOM: &[&str] = &[".dump", ".pgdump", ".custom", ".backup"];
/// The last words of a plain dump that came to its end.
const END: &str = "PostgreSQL database dump complete";
/// In the head of a plain dump, and in the list of the others.
const VERSION: &str = "Dumped from database version";

pub(super) async fn restore<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    let paths = &session.contents.paths;
    match session.backup.into.first().cloned() {
        Some(Target::Postgres(database)) => {
            let (plain, mut others) = (super::dumps(paths, PLAIN), super::dumps(paths, CUSTOM));
            others.extend(directories(paths));
            others.sort();
            if plain.is_empty() && others.is_empty() {
                return Err(faults::no_points());
            }
            if others.is_empty() {
                self::plain(session, &plain, &database).await
            } else {
                archive(session, &others, &database).await
            }
        }
        Some(Target::Path(data)) => base_backup(session, &data).await,
        _ => Err(faults::no_points()),
    }
}

/// Directories with a table of contents; the repository itself may be one.
fn directories(paths: &[String]) -> Vec<(String, Option<String>)> {
    let of = |path: &String| match path.as_str() {
        "toc.dat" => Some(".".to_owned()),
        path => path.strip_suffix("/toc.dat").filter(|directory| !directory.contains('/')).map(str::to_owned),
    };
    paths.iter().filter_map(of).map(|name| (name, None)).collect()
}

async fn plain<M: Machine>(
    session: &mut Session<'_, M>,
    dumps: &[(String, Option<String>)],
    database: &str,
) -> Result<PointReport, Problem> {
    let point = session.choose(dumps)?;
    let (file, reader) = (session.at(&point.id), super::reader(&point.id));
    let end = session.pipe("list", &format!("{reader} | tail -n 8"), &[&file]).await?;
    if !end.text().contains(END) {
        return Err(faults::cut());
    }
    // `head` ends early, and whoever writes into it then fails: that is no fault of the dump.
    let head = session.run("list", &["bash", "-c", &format!("{reader} | head -n 30"), "bash", &file]).await?;
    not_newer(session, &head.text()).await?;
    let arguments = session.backup.arguments.clone();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let line = format!(
        "{reader} | runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 --single-transaction -o /dev/null \"${{@:3}}\" -d \"$2\""
    );
    session.pipe("load", &line, &[&[file.as_str(), database], &arguments[..]].concat()).await?;
    Ok(point)
}

async fn archive<M: Machine>(
    session: &mut Session<'_, M>,
    dumps: &[(String, Option<String>)],
    database: &str,
) -> Result<PointReport, Problem> {
    let point = session.choose(dumps)?;
    let file = session.at(&point.id);
    let listed = session.run("list", &["pg_restore", "--list", &file]).await?;
    not_newer(session, &listed.text()).await?;
    let arguments = session.backup.arguments.clone();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // It is read by an account that may not enter what root left; the copy is nobody else's.
    let copy = format!("{COPIES}/{}", session.backup.name);
    session.run("fetch", &["chmod", "-R", "a+rX", "--", &copy]).await?;
    let words = ["runuser", "-u", "postgres", "--", "pg_restore", "--exit-on-error", "-d", database];
    session.run("load", &[&words[..], &arguments[..], &["--", &file]].concat()).await?;
    Ok(point)
}

/// A dump of a newer major version may load and still lack what the older server does not know.
async fn not_newer<M: Machine>(session: &mut Session<'_, M>, text: &str) -> Result<(), Problem> {
    let Some(dump) = text.lines().find_map(|line| line.split_once(VERSION)).map(|(_, rest)| rest) else {
        return Ok(());
    };
    let dump = dump.trim_matches(|c: char| c == ':' || c.is_whitespace());
    let words = ["runuser", "-u", "postgres", "--", "psql", "-X", "-A", "-t", "-c", "show server_version"];
    let server = session.run("list", &words).await?.text();
    match (major(dump), major(server.trim())) {
        (Some(of_dump), Some(of_server)) if of_dump > of_server => Err(faults::newer(dump, server.trim())),
        _ => Ok(()),
    }
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The whole data directory; the server must stand still (`before`), and is started by `after`.
async fn base_backup<M: Machine>(session: &mut Session<'_, M>, data: &str) -> Result<PointReport, Problem> {
    let paths = &session.contents.paths;
    let of = |path: &String| match path.as_str() {
        "backup_manifest" => Some(".".to_owned()),
        path => path.strip_suffix("/backup_manifest").filter(|name| !name.contains('/')).map(str::to_owned),
    };
    let mut points: Vec<(String, Option<String>)> = paths.iter().filter_map(of).map(|name| (name, None)).collect();
    points.sort();
    let point = session.choose(&points)?;
    let from = session.at(&point.id);
    session.run("load", &["mkdir", "-p", "--", data]).await?;
    session.run("load", &["cp", "-a", "--", &format!("{from}/."), data]).await?;
    // Before the server touches it: afterwards nothing is as the manifest says.
    let verify =
        "set -- /usr/lib/postgresql/*/bin/pg_verifybackup \"$1\"; shift $(($# - 2)); exec \"$1\" --quiet \"$2\"";
    session.run("verify", &["sh", "-c", verify, "sh", data]).await?;
    session.run("load", &["chown", "-R", "-h", "postgres:postgres", "--", data]).await?;
    session.run("load", &["chmod", "0700", "--", data]).await?;
    Ok(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart_by_what_lies_there() {
        let paths = ["notes.dir/toc.dat", "notes.dir/1.dat.gz", "old/notes.dir/toc.dat"].map(str::to_owned);
        assert_eq!(directories(&paths), [("notes.dir".to_owned(), None)]);
        assert_eq!(directories(&["toc.dat".to_owned()]), [(".".to_owned(), None)]);
    }

    #[test]
    fn major_versions_are_compared() {
        assert_eq!((major("17.4 (Debian 17.4-1)"), major("9.6"), major("x")), (Some(17), Some(9), None));
    }
}
