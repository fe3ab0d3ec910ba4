//! SQLite: a copy of the database file, or its dump.

use redrill_machines::Machine;
use redrill_model::{Code, PointReport};

use super::super::faults;
use super::super::session::Session;
use crate::problem::Problem;

const COPIES: &[&str] = &[".db", ".sqlite", ".sqlite3", ".db.gz", ".sqlite.gz", ".sqlite3.gz"];
const DUMPS: &[&str] = &[".sql", ".sql.gz"];
/// Its own program, or Python's.
const INTEGRITY: &str = "if command -v sqlite3 >/dev/null; then sqlite3 -readonly \"$1\" 'pragma integrity_check;'; \
    else python3 -c 'import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(\"pragma integrity_check\").fetchone()[0])' \"$1\"; fi";
const LOAD: &str = "if command -v sqlite3 >/dev/null; then sqlite3 -bail \"$2\"; \
    else python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())' \"$2\"; fi";

pub(super) async fn restore<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    let path = session.paths().concat();
    let copies = super::dumps(&session.contents.paths, COPIES);
    let dumps = super::dumps(&session.contents.paths, DUMPS);
    if copies.is_empty() && dumps.is_empty() {
        return Err(faults::no_points());
    }
    let as_copy = !copies.is_empty();
    let point = session.choose(if as_copy { &copies } else { &dumps })?;
    let file = session.at(&point.id);
    let reader = super::reader(&point.id);
    if as_copy {
        // An old journal beside a new database would be played into it.
        let line = format!("rm -f -- \"$2-wal\" \"$2-shm\" \"$2-journal\" && {reader} > \"$2\"");
        session.pipe("load", &line, &[&file, &path]).await?;
    } else {
        // A dump is one transaction: without its end nothing of it comes.
        let end = session.pipe("list", &format!("{reader} | tail -n 5"), &[&file]).await?;
        if !end.text().contains("COMMIT;") {
            return Err(faults::cut());
        }
        session.pipe("load", &format!("rm -f -- \"$2\" && {reader} | {{ {LOAD}; }}"), &[&file, &path]).await?;
    }
    let checked = session.run("verify", &["sh", "-c", INTEGRITY, "sh", &path]).await?;
    if checked.text().trim() != "ok" {
        return Err(Problem::new(Code::Damaged, "the database fails its own integrity check").with(&checked.text()));
    }
    super::own(session).await?;
    Ok(point)
}
