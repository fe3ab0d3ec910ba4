//! MariaDB, through its client: root signs in by who asks (`unix_socket`).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use redrill_state::DatabaseObject;

use super::{Budget, Depth, object, set_rows};
use crate::found::{self, Found, Root};
use crate::shadow::Key;

const SOCKET: &str = "/run/mysqld/mysqld.sock";

/// Database, kind, name and definition of everything; what counts up or ages is no definition. `size`
/// stands for the data of a table.
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
union all select TABLE_SCHEMA, 'size', TABLE_NAME, coalesce(DATA_LENGTH, 0) from information_schema.TABLES
  where TABLE_TYPE in ('BASE TABLE', 'SYSTEM VERSIONED') and ENGINE in ('InnoDB', 'Aria', 'MyISAM', 'MEMORY', 'ROCKSDB')
  and TABLE_SCHEMA not in ('information_schema', 'performance_schema', 'sys', 'mysql') order by 1, 2, 3";

/// Nothing is waited for long.
const LIMITS: &str = "set session max_statement_time = 50, lock_wait_timeout = 10;\n";
/// Tables that are asked about at once: a program's argument may be no longer than 128 KiB.
const AT_ONCE: usize = 200;

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
    let (mut objects, mut sizes) = (Vec::new(), BTreeMap::new());
    for line in run(QUERY)?.lines() {
        match row(line) {
            Some((database, ["size", table, size])) => {
                let size: u64 = size.parse().map_err(|_| format!("mariadb: a size of another form: `{line}`"))?;
                sizes.insert((database.to_owned(), table.to_owned()), size);
            }
            Some((database, words)) => objects.push(object("mariadb", database, words, key)),
            None => found.gap(format!("mariadb: a row of another form: `{line}`")),
        }
    }
    let mut budget = Budget::new();
    let mut tables: Vec<(Depth, &mut DatabaseObject)> = Vec::new();
    for object in objects.iter_mut().filter(|object| object.kind == "table") {
        if let Some(size) = sizes.get(&(object.database.clone(), object.name.clone())) {
            tables.push((budget.take(object, *size, found), object));
        }
    }
    tables.retain(|(depth, _)| *depth != Depth::Left);
    for some in tables.chunks_mut(AT_ONCE) {
        let answered = run(&question(some)).and_then(|text| answer(&text, some, key));
        if let Err(error) = answered {
            found.gap(format!("mariadb: the rows of tables: {error}"));
        }
    }
    objects.into_iter().for_each(|object| found.add(object));
    Ok(())
}

/// All counts, and then the checksums of those that are compared: the server's own, for which the order of rows is no
/// matter.
fn question(tables: &[(Depth, &mut DatabaseObject)]) -> String {
    let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
    let quoted = |table: &DatabaseObject| format!("{}.{}", quote(&table.database), quote(&table.name));
    let counts = tables.iter().map(|(_, table)| format!("select count(*) from {};\n", quoted(table)));
    let compared = tables.iter().filter(|(depth, _)| *depth == Depth::Compared);
    let checksums = compared.map(|(_, table)| format!("checksum table {} extended;\n", quoted(table)));
    LIMITS.to_owned() + &counts.chain(checksums).collect::<String>()
}

/// A line for each.
fn answer(text: &str, tables: &mut [(Depth, &mut DatabaseObject)], key: &Key) -> Result<(), String> {
    let lines: Vec<&str> = text.lines().collect();
    let (counts, checksums) = lines.split_at(tables.len().min(lines.len()));
    let compared = tables.iter().filter(|(depth, _)| *depth == Depth::Compared).count();
    if (counts.len(), checksums.len()) != (tables.len(), compared) {
        return Err(format!("{} answers to {} questions", lines.len(), tables.len() + compared));
    }
    let mut checksums = checksums.iter().map(|line| line.rsplit('\t').next().unwrap_or_default());
    for ((depth, table), count) in tables.iter_mut().zip(counts) {
        let values = if *depth == Depth::Compared { checksums.next().unwrap_or_default() } else { "" };
        set_rows(table, count, values, key);
    }
    Ok(())
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
        let table = |name: &str| object("mariadb", "shop", ["table", name, ""], &[1; 32]);
        let (mut small, mut large) = (table("or`ders"), table("large"));
        let mut tables = [(Depth::Compared, &mut small), (Depth::Counted, &mut large)];
        let asked = "select count(*) from `shop`.`or``ders`;\nselect count(*) from `shop`.`large`;\n\
                     checksum table `shop`.`or``ders` extended;\n";
        assert_eq!(question(&tables), LIMITS.to_owned() + asked);
        let told = answer("1\n2\nshop.or`ders\n", &mut tables, &[1; 32]).and(answer("1\n2\n", &mut tables, &[1; 32]));
        assert_eq!(told.expect_err("one is missing"), "2 answers to 3 questions");
        answer("1\n2\nshop.or`ders\t4021\n", &mut tables, &[1; 32]).expect("whole");
        assert_eq!(
            (small.rows.as_str(), small.values.len(), large.rows.as_str(), large.values.len()),
            ("1", 64, "2", 0)
        );
    }

    #[test]
    fn without_a_server_there_is_nothing_to_ask() {
        let mut found = Found::new(Section::Databases);
        read(&Tree::new("mariadb").root(), &[1; 32], &mut found);
        assert!(found.entries.is_empty() && found.gaps.is_empty());
    }
}
