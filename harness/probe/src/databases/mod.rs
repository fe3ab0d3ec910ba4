//! What database servers know besides their data: roles, grants, schemas. Each object is a name and a digest of its
//! definition, which may hold a password's hash, and so is made with this run's key.

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
