//! What database servers know: roles, grants, schemas. Each object is a name and a digest of its definition, which may
//! hold a password's hash, and so is made with this run's key. Of the data there is, for each table, the number of rows and
//! such a digest of them: a deploy that adds a row each time shows nowhere else.

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
    }
}

/// Below this size (bytes) a table's rows are compared; their order is no matter.
const COMPARED: u64 = 8 << 20;
/// Below this one they are counted; an emulated machine takes seconds for a gigabyte.
const COUNTED: u64 = 1 << 30;

/// The rows of a table.
struct Rows<'a> {
    server: &'a str,
    database: &'a str,
    table: &'a str,
    /// How many.
    count: &'a str,
    /// Of all of them, by the server; empty if they were only counted.
    digest: &'a str,
}

impl Rows<'_> {
    fn object(&self, key: &Key) -> DatabaseObject {
        let mut rows = object(self.server, self.database, ["rows", self.table, ""], key);
        rows.definition = match self.digest {
            "" => format!("{} rows", self.count),
            digest => format!("{} rows, {:.12}", self.count, keyed(key, digest)),
        };
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_by_their_number_and_by_a_digest_that_only_this_key_makes() {
        let rows = |count, digest| {
            let rows = Rows { server: "mariadb", database: "shop", table: "orders", count, digest };
            rows.object(&[1; 32])
        };
        let told = rows("3", "4021").definition;
        assert!(told.starts_with("3 rows, ") && told.len() == 8 + 12 && !told.contains("4021"), "{told}");
        assert_ne!(told, rows("3", "4022").definition);
        assert_eq!(rows("3", "").definition, "3 rows");
        assert_eq!((rows("3", "").kind.as_str(), rows("3", "").name.as_str()), ("rows", "orders"));
    }
}
