//! What the three kinds of databases have in common: clients that are asked in SQL, and answer in lines of fields.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use redrill_state::Table;

use super::Gap;

/// Between the fields of a line; no client quotes it and no name holds it.
pub(super) const FIELD: &str = "\x1f";

/// A table before it is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// As in the manifest.
    pub(super) name: String,
    /// As in SQL, quoted.
    pub(super) quoted: String,
    /// Columns of the primary key, quoted, in its order.
    pub(super) key: Vec<String>,
    /// Columns of dates and times, quoted.
    pub(super) times: Vec<String>,
    /// Everything that makes up its schema.
    pub(super) definition: String,
}

impl Shape {
    fn digest(&self) -> String {
        blake3::hash(self.definition.as_bytes()).to_hex().to_string()
    }
}

/// Puts shapes and counts together. A line is: name, rows, highest key, then moments in seconds.
pub(super) fn counted(shapes: &[Shape], lines: &[Vec<String>]) -> Result<BTreeMap<String, Table>, Gap> {
    let mut tables = BTreeMap::new();
    for shape in shapes {
        let line = lines.iter().find(|line| line.first() == Some(&shape.name));
        let line = line.ok_or_else(|| format!("no count of `{}` came back", shape.name))?;
        let rows = line.get(1).and_then(|rows| rows.parse().ok());
        let rows = rows.ok_or_else(|| format!("no count of `{}` came back", shape.name))?;
        let highest = line.get(2).filter(|key| !key.is_empty() && rows > 0).cloned();
        let moments = line.iter().skip(3).filter_map(|moment| moment.split('.').next()?.parse::<i64>().ok());
        tables.insert(shape.name.clone(), Table { rows, highest, schema: shape.digest(), newest: moments.max() });
    }
    Ok(tables)
}

/// Runs a client with `sql` as its input, and returns its lines.
pub(super) fn ask(words: &[&str], sql: &str) -> Result<Vec<Vec<String>>, Gap> {
    let (program, arguments) = words.split_first().ok_or("nothing to run")?;
    let mut command = Command::new(program);
    // An administrator's home may be closed to the user that asks.
    command.args(arguments).current_dir("/").env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("`{program}`: {error}"))?;
    let (mut input, sql) = (child.stdin.take(), sql.to_owned());
    // The answer may fill its pipe before the question is all written.
    let writer = std::thread::spawn(move || input.as_mut().map(|input| input.write_all(sql.as_bytes())));
    let output = child.wait_with_output().map_err(|error| format!("`{program}`: {error}"))?;
    let _ = writer.join(); // A client that ended early says why.
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("`{program}` ended with {}: {said}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields = |line: &str| line.split(FIELD).map(str::to_owned).collect();
    Ok(text.lines().filter(|line| !line.is_empty()).map(fields).collect())
}

/// Whether a program is in the PATH.
pub(super) fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    path.split(':').any(|directory| std::path::Path::new(directory).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_a_count_is_a_gap_and_not_empty() {
        let shape = Shape { name: "d.t".into(), definition: "x".into(), ..Shape::default() };
        let lines = |words: &[&str]| vec![words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()];
        assert!(counted(std::slice::from_ref(&shape), &[]).is_err());
        assert!(counted(std::slice::from_ref(&shape), &lines(&["d.t", ""])).is_err());
        let tables = counted(&[shape], &lines(&["d.t", "2", "9", "", "12.5", "7"])).expect("counted");
        let table = &tables["d.t"];
        assert_eq!((table.rows, table.highest.as_deref(), table.newest), (2, Some("9"), Some(12)));
    }

    #[test]
    fn a_client_that_fails_is_a_gap_with_its_words() {
        let gap = ask(&["sh", "-c", "echo no such database >&2; exit 2"], "").expect_err("failed");
        assert!(gap.contains("no such database"), "{gap}");
        assert_eq!(ask(&["cat"], "a\x1fb\n").expect("answered"), [["a", "b"]]);
    }
}
