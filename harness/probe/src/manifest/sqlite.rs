//! SQLite, by its own program, or by Python's where that is missing.

use std::collections::BTreeMap;
use std::path::Path;

use redrill_state::Table;

use super::Gap;
use super::tables::{FIELD, Shape, ask, counted, has};

/// One statement from standard input, on a database that is opened to be read.
const PYTHON: &str = "import sqlite3, sys, urllib.parse
base = sqlite3.connect('file:' + urllib.parse.quote(sys.argv[1]) + '?mode=ro', uri=True)
for row in base.execute(sys.stdin.read()):
    print('\\x1f'.join('' if value is None else str(value) for value in row))
";

/// One line per table: name, key columns, columns with times, definition of it and its indexes in hex.
const SHAPES: &str = "select m.name,
  (select group_concat('\"' || replace(name, '\"', '\"\"') || '\"', ',') from
     (select name from pragma_table_info(m.name) where pk > 0 order by pk)),
  (select group_concat('\"' || replace(name, '\"', '\"\"') || '\"', ',') from pragma_table_info(m.name)
    where upper(type) in ('DATE', 'DATETIME', 'TIMESTAMP')),
  hex(m.sql || coalesce((select group_concat(sql, char(10)) from
     (select sql from sqlite_master where tbl_name = m.name and type <> 'table' and sql is not null order by sql)), ''))
from sqlite_master m where m.type = 'table' and m.name not like 'sqlite\\_%' escape '\\' order by 1;";

/// SQLite refuses longer chains of SELECTs.
const AT_ONCE: usize = 200;

/// `None` if there is no such file.
pub(super) fn tables(path: &str) -> Result<Option<BTreeMap<String, Table>>, Gap> {
    let file = Path::new(path);
    if !file.exists() {
        return Ok(None);
    }
    let database = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let shapes = query(path, SHAPES)?.iter().map(|line| shape(&database, line)).collect::<Result<Vec<_>, _>>()?;
    let mut lines = Vec::new();
    for some in shapes.chunks(AT_ONCE) {
        lines.extend(query(path, &question(some))?);
    }
    counted(&shapes, &lines).map(Some)
}

fn query(path: &str, sql: &str) -> Result<Vec<Vec<String>>, Gap> {
    if has("sqlite3") {
        let uri = format!("file:{}?mode=ro", path.replace('%', "%25").replace('?', "%3f").replace('#', "%23"));
        return ask(&["sqlite3", "-batch", "-bail", "-readonly", "-noheader", "-list", "-separator", FIELD, &uri], sql);
    }
    if has("python3") {
        return ask(&["python3", "-c", PYTHON, path], sql);
    }
    Err("neither `sqlite3` nor `python3` is there to read it".to_owned())
}

fn shape(database: &str, line: &[String]) -> Result<Shape, Gap> {
    let [name, key, times, definition] = line else { return Err(format!("unexpected answer of SQLite: {line:?}")) };
    let list = |text: &str| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Shape {
        name: format!("{database}.{name}"),
        quoted: format!("\"{}\"", name.replace('"', "\"\"")),
        key: list(key),
        times: list(times),
        definition: definition.clone(),
    })
}

fn question(shapes: &[Shape]) -> String {
    let width = shapes.iter().map(|shape| shape.times.len()).max().unwrap_or_default();
    let one = |Shape { name, quoted, key, times, .. }: &Shape| {
        let mut fields = vec![format!("'{}'", name.replace('\'', "''")), "count(*)".to_owned()];
        fields.push(if key.is_empty() {
            "''".to_owned()
        } else {
            let order: Vec<String> = key.iter().map(|column| format!("{column} desc")).collect();
            format!("(select {} from {quoted} order by {} limit 1)", key.join(" || ',' || "), order.join(", "))
        });
        // Some keep moments as numbers, some as text.
        let newest = |column: &String| {
            format!("max(case typeof({column}) when 'text' then strftime('%s', {column}) + 0 else {column} end)")
        };
        fields.extend(times.iter().map(newest));
        fields.resize(3 + width, "''".to_owned());
        format!("select {} from {quoted}", fields.join(", "))
    };
    shapes.iter().map(one).collect::<Vec<_>>().join(" union all ") + ";"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_read_by_either_program() {
        let path = std::env::temp_dir().join(format!("redrill-sqlite-{}.db", std::process::id()));
        let sql = "create table documents (id integer primary key, made datetime, body text);\n\
                   insert into documents values (3, '1970-01-01 00:00:07', 'x'), (9, '1970-01-01 00:01:00', 'y');\n\
                   create table empty (a);";
        let fill = format!("import sqlite3; b = sqlite3.connect('{}'); b.executescript('''{sql}''')", path.display());
        ask(&["python3", "-c", &fill], "").expect("python3 is needed by every test that deploys");
        let text = path.display().to_string();
        let read = tables(&text);
        let by_python = ask(&["python3", "-c", PYTHON, &text], SHAPES);
        let by_program = query(&text, SHAPES);
        std::fs::remove_file(&path).expect("cleaned up");
        assert_eq!(by_python, by_program);
        let read = read.expect("readable").expect("there");
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let documents = &read[&format!("{stem}.documents")];
        assert_eq!((documents.rows, documents.highest.as_deref(), documents.newest), (2, Some("9"), Some(60)));
        assert_eq!(read[&format!("{stem}.empty")].rows, 0);
        assert_eq!(tables("/nonexistent.db"), Ok(None));
    }
}
