//! MariaDB, through its client: root signs in by who asks (`unix_socket`).

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{COMPARED, COUNTED, Rows, object};
use crate::found::{self, Found, Root};
use crate::shadow::Key;

const SOCKET: &str = "/run/mysqld/mysqld.sock";

/// Database, kind, name and definition of everything; what counts up or ages is no definition. `rows` stands for the data
/// of a table, and has its size.
const QUERY: &str = "\
set session group_concat_max_len = 1048576;
select '', 'role', concat(User, '@', Host), json_remove(Priv, '$.password_last_changed') from mysql.global_priv
union all select '', 'membership', concat(User, '@', Host, ' in ', Role), Admin_option from mysql.roles_mapping
union all select TABLE_SCHEMA, 'grant', GRANTEE, group_concat(PRIVILEGE_TYPE, IS_GRANTABLE order by 1) from information_schema.SCHEMA_PRIVILEGES
  group by TABLE_SCHEMA, GRANTEE
union all select TABLE_SCHEMA, 'grant', concat(TABLE_NAME, ' ', GRANTEE), group_concat(PRIVILEGE_TYPE, IS_GRANTABLE order by 1)
  from information_schema.TABLE_PRIVILEGES group by TABLE_SCHEMA, TABLE_NAME, GRANTEE
union all select SCHEMA_NAME, 'database', SCHEMA_NAME, concat_ws('|', DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME) from information_schema.SCHEMATA
union all select t.TABLE_SCHEMA, 'table', t.TABLE_NAME, concat_ws('|', t.TABLE_TYPE, t.ENGINE, t.TABLE_COLLATION, t.CREATE_OPTIONS,
  (select group_concat(concat_ws(' ', c.COLUMN_NAME, c.COLUMN_TYPE, c.IS_NULLABLE, c.COLUMN_DEFAULT, c.EXTRA, c.COLLATION_NAME) order by c.ORDINAL_POSITION)
   from information_schema.COLUMNS c where c.TABLE_SCHEMA = t.TABLE_SCHEMA and c.TABLE_NAME = t.TABLE_NAME),
  (select group_concat(concat_ws(' ', s.INDEX_NAME, s.COLUMN_NAME, s.NON_UNIQUE, s.SUB_PART, s.INDEX_TYPE) order by s.INDEX_NAME, s.SEQ_IN_INDEX)
   from information_schema.STATISTICS s where s.TABLE_SCHEMA = t.TABLE_SCHEMA and s.TABLE_NAME = t.TABLE_NAME))
  from information_schema.TABLES t where t.TABLE_SCHEMA not in ('information_schema', 'performance_schema', 'sys', 'mysql')
union all select CONSTRAINT_SCHEMA, 'constraint', concat(TABLE_NAME, '.', CONSTRAINT_NAME),
  concat_ws('|', UNIQUE_CONSTRAINT_SCHEMA, REFERENCED_TABLE_NAME, UPDATE_RULE, DELETE_RULE) from information_schema.REFERENTIAL_CONSTRAINTS
union all select TABLE_SCHEMA, 'view', TABLE_NAME, concat_ws('|', VIEW_DEFINITION, DEFINER, SECURITY_TYPE) from information_schema.VIEWS where TABLE_SCHEMA <> 'sys'
union all select ROUTINE_SCHEMA, lower(ROUTINE_TYPE), ROUTINE_NAME, concat_ws('|', ROUTINE_DEFINITION, DEFINER, SECURITY_TYPE, DTD_IDENTIFIER)
  from information_schema.ROUTINES where ROUTINE_SCHEMA not in ('sys', 'mysql')
union all select TRIGGER_SCHEMA, 'trigger', TRIGGER_NAME, concat_ws('|', ACTION_TIMING, EVENT_MANIPULATION, EVENT_OBJECT_TABLE, ACTION_STATEMENT, DEFINER)
  from information_schema.TRIGGERS where TRIGGER_SCHEMA <> 'sys'
union all select EVENT_SCHEMA, 'event', EVENT_NAME, concat_ws('|', EVENT_DEFINITION, INTERVAL_VALUE, INTERVAL_FIELD, STATUS, DEFINER) from information_schema.EVENTS
union all select TABLE_SCHEMA, 'rows', TABLE_NAME, coalesce(DATA_LENGTH, 0) from information_schema.TABLES where TABLE_TYPE = 'BASE TABLE'
  and TABLE_SCHEMA not in ('information_schema', 'performance_schema', 'sys', 'mysql')";

/// The server that listens where Debian's does.
pub(super) fn read(root: &Root, key: &Key, found: &mut Found) {
    match UnixStream::connect(root.at(SOCKET)) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return,
        Err(error) => return found.gap(format!("{SOCKET}: {error}")),
    }
    let Some(client) = found::program("mariadb") else {
        return found.gap("a server listens at MariaDB's socket, and its client `mariadb` is not installed");
    };
    if let Err(error) = ask(&client, key, found) {
        found.gap(error);
    }
}

fn ask(client: &Path, key: &Key, found: &mut Found) -> Result<(), String> {
    let run = |query: &str| {
        let words = ["--socket", SOCKET, "--batch", "--skip-column-names", "--execute", query];
        found::run(client, &words).map_err(|error| error.replace(query, "..."))
    };
    let mut tables = Vec::new();
    for line in run(QUERY)?.lines() {
        match row(line) {
            Some((database, ["rows", table, size])) => {
                let size = size.parse().map_err(|_| format!("mariadb: a size of another form: `{line}`"))?;
                tables.push(Table { database: database.to_owned(), name: table.to_owned(), size });
            }
            Some((database, words)) => found.add(object("mariadb", database, words, key)),
            None => found.gap(format!("mariadb: a row of another form: `{line}`")),
        }
    }
    for table in tables.iter().filter(|table| table.size >= COUNTED) {
        let Table { database, name, size } = table;
        found.note(format!("mariadb {database}: the rows of `{name}` ({} MiB) were not counted", size >> 20));
    }
    tables.retain(|table| table.size < COUNTED);
    if tables.is_empty() {
        return Ok(());
    }
    let answer = run(&rows_of(&tables))?;
    let lines: Vec<&str> = answer.lines().collect();
    let compared = tables.iter().filter(|table| table.size < COMPARED).count();
    if lines.len() != tables.len() + compared {
        return Err(format!("mariadb: {} answers about the rows of {} tables", lines.len(), tables.len()));
    }
    // First all counts, then the digests of those that have one, in the order of the tables.
    let mut digests = lines[tables.len()..].iter().map(|line| line.rsplit('\t').next().unwrap_or_default());
    for (table, count) in tables.iter().zip(&lines) {
        let digest = if table.size < COMPARED { digests.next().unwrap_or_default() } else { "" };
        let rows = Rows { server: "mariadb", database: &table.database, table: &table.name, count, digest };
        found.add(rows.object(key));
    }
    Ok(())
}

/// A table, and the bytes of its rows.
struct Table {
    database: String,
    name: String,
    size: u64,
}

/// The server's own checksum of a table does not depend on the order of its rows.
fn rows_of(tables: &[Table]) -> String {
    let quoted = |table: &Table| {
        let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
        format!("{}.{}", quote(&table.database), quote(&table.name))
    };
    let counts = tables.iter().map(|table| format!("select count(*) from {};", quoted(table)));
    let digests = tables.iter().filter(|table| table.size < COMPARED);
    let digests = digests.map(|table| format!("checksum table {} extended;", quoted(table)));
    counts.chain(digests).collect::<Vec<_>>().join("\n")
}

/// Tabs between columns; in them they are written as `\t`.
fn row(line: &str) -> Option<(&str, [&str; 3])> {
    let words: Vec<&str> = line.split('\t').collect();
    let &[database, kind, name, definition] = words.as_slice() else { return None };
    Some((database, [kind, name, definition]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Section;

    #[test]
    fn rows_have_four_columns() {
        assert_eq!(row("shop\ttable\torders\ta\\tb"), Some(("shop", ["table", "orders", "a\\tb"])));
        assert_eq!(row("ERROR"), None);
    }

    #[test]
    fn rows_are_counted_and_those_of_small_tables_are_compared() {
        let table = |name: &str, size| Table { database: "shop".into(), name: name.into(), size };
        assert_eq!(
            rows_of(&[table("or`ders", 0), table("large", COMPARED)]),
            "select count(*) from `shop`.`or``ders`;\nselect count(*) from `shop`.`large`;\n\
             checksum table `shop`.`or``ders` extended;"
        );
    }

    #[test]
    fn without_a_server_there_is_nothing_to_ask() {
        let mut found = Found::new(Section::Databases);
        read(&Tree::new("mariadb").root(), &[1; 32], &mut found);
        assert!(found.entries.is_empty() && found.gaps.is_empty());
    }
}
