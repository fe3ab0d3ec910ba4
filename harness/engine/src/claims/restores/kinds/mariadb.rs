//! MariaDB: a dump.

use redrill_machines::Machine;
use redrill_model::{PointReport, Target};

use super::super::faults;
use super::super::session::Session;
use crate::problem::Problem;

const DUMPS: &[&str] = &[".sql", ".sql.gz", ".sql.zst", ".sql.xz"];
/// The last line of a dump that came to its end.
const END: &str = "-- Dump completed";

pub(super) async fn restore<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    let Some(Target::Mariadb(database)) = session.backup.into.first().cloned() else { return Err(faults::no_points()) };
    let point = session.choose(&super::dumps(&session.contents.paths, DUMPS))?;
    let (file, reader) = (session.at(&point.id), super::reader(&point.id));
    let end = session.pipe("list", &format!("{reader} | tail -n 3"), &[&file]).await?;
    if !end.text().contains(END) {
        return Err(faults::cut());
    }
    let arguments = session.backup.arguments.clone();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let line = format!(
        "file=$1 database=$2; shift 2; set -- \"$file\" \"$database\" \"$@\"; {reader} | mariadb \"${{@:3}}\" \"$2\""
    );
    session.pipe("load", &line, &[&[file.as_str(), database.as_str()], &arguments[..]].concat()).await?;
    Ok(point)
}
