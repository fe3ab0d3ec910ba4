//! What database servers know: roles, grants, schemas. Each object is a name and a digest of its definition, which may
//! hold a password's hash, and so is made with this run's key. Tables also have the number of their rows and such a digest
//! of all of them: a deploy that adds a row each time shows nowhere else.

mod mariadb;
mod postgres;
pub(crate) mod sqlite;

use redrill_state::{DatabaseObject, Section};

use crate::found::{Found, Root};
use crate::shadow::{Key, keyed};

/// The servers that run on the machine.
pub(crate) fn servers(root: &Root, key: &Key) -> Found {
    let mut found = Found::new(Section::Databases);
    postgres::read(root, key, &mut found);
    mariadb::read(root, key, &mut found);
    found
}

/// Kind, name and definition of an object of `server` and `database`.
fn object(server: &str, database: &str, [kind, name, definition]: [&str; 3], key: &Key) -> DatabaseObject {
    DatabaseObject {
        server: server.to_owned(),
        database: database.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        definition: keyed(key, definition),
        rows: String::new(),
        values: String::new(),
    }
}

/// A table below this size (bytes) may be read whole.
const SMALL: u64 = 8 << 20;

/// How many bytes of a server's tables are read at most: an emulated machine takes seconds for a gigabyte.
struct Budget {
    /// To be compared.
    read: u64,
    /// To be counted.
    counted: u64,
}

/// How far a table is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Its rows are counted, and a digest is made of them.
    Compared,
    /// Its rows are counted.
    Counted,
    /// Not at all.
    Left,
}

impl Budget {
    fn new() -> Self {
        Self { read: 64 << 20, counted: 1 << 30 }
    }

    /// Takes what the next table needs. What is not looked at whole is told.
    fn take(&mut self, table: &DatabaseObject, size: u64, found: &mut Found) -> Depth {
        let (depth, left_out) = if size < SMALL && size <= self.read {
            self.read -= size;
            return Depth::Compared;
        } else if size <= self.counted {
            self.counted -= size;
            (Depth::Counted, "counted, and not compared")
        } else {
            (Depth::Left, "not counted")
        };
        let DatabaseObject { server, database, name, .. } = table;
        found.note(format!("{server} {database}: the rows of `{name}` ({} MiB) were {left_out}", size >> 20));
        depth
    }
}

/// What a server said of a table's rows; `values` is its own digest, in which their order is no matter.
fn set_rows(table: &mut DatabaseObject, count: &str, values: &str, key: &Key) {
    count.clone_into(&mut table.rows);
    table.values = if values.is_empty() { String::new() } else { keyed(key, values) };
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn table(name: &str) -> DatabaseObject {
        object("mariadb", "shop", ["table", name, "a int"], &[1; 32])
    }

    #[test]
    fn rows_are_told_by_their_number_and_by_a_digest_that_only_this_key_makes() {
        let told = |values| {
            let mut table = table("orders");
            set_rows(&mut table, "3", values, &[1; 32]);
            table
        };
        assert_eq!((told("4021").rows.as_str(), told("4021").values.len()), ("3", 64));
        assert!(!told("4021").values.contains("4021") && told("4021").values != told("4022").values);
        assert_eq!(told("").values, "");
    }

    #[test]
    fn small_tables_are_compared_until_much_was_read_and_the_rest_is_told() {
        let (mut budget, mut found) = (Budget::new(), Found::new(Section::Databases));
        for _ in 0..9 {
            assert_eq!(budget.take(&table("small"), 7 * MIB, &mut found), Depth::Compared);
        }
        assert!(found.notes.is_empty());
        assert_eq!(budget.take(&table("tenth"), 7 * MIB, &mut found), Depth::Counted);
        assert_eq!(budget.take(&table("large"), 8 * MIB, &mut found), Depth::Counted);
        assert_eq!(budget.take(&table("huge"), 1024 * MIB, &mut found), Depth::Left);
        let told: Vec<&str> = found.notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(told[0], "mariadb shop: the rows of `tenth` (7 MiB) were counted, and not compared");
        assert_eq!(told[2], "mariadb shop: the rows of `huge` (1024 MiB) were not counted");
    }
}
