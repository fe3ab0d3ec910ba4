//! MariaDB, through its client: root signs in by who asks (`unix_socket`).

use std::io;
use std::os::unix::net::UnixStream;

use super::object;
use crate::found::{self, Found, Root};
use crate::shadow::Key;

const SOCKET: &str = "/run/mysqld/mysqld.sock";

/// Database, kind, name and definition of everything; what counts up or ages is no definition.
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
union all select EVENT_SCHEMA, 'event', EVENT_NAME, concat_ws('|', EVENT_DEFINITION, INTERVAL_VALUE, INTERVAL_FIELD, STATUS, DEFINER) from information_schema.EVENTS";

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
    match found::run(&client, &["--socket", SOCKET, "--batch", "--skip-column-names", "--execute", QUERY]) {
        Ok(text) => text.lines().for_each(|line| match row(line) {
            Some((database, words)) => found.add(object("mariadb", database, words, key)),
            None => found.gap(format!("mariadb: a row of another form: `{line}`")),
        }),
        Err(error) => found.gap(error.replace(QUERY, "...")),
    }
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
    fn without_a_server_there_is_nothing_to_ask() {
        let mut found = Found::new(Section::Databases);
        read(&Tree::new("mariadb").root(), &[1; 32], &mut found);
        assert!(found.entries.is_empty() && found.gaps.is_empty());
    }
}
