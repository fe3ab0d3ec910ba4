//! PostgreSQL, over its socket and in its own protocol: its client is a program that takes seconds to start in an
//! emulated machine. Signing in is by who asks (`peer`), as the account that owns the socket.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use redrill_state::DatabaseObject;

use super::{Budget, Depth, object, set_rows};
use crate::accounts;
use crate::found::{Found, Root};
use crate::shadow::Key;

const SOCKETS: &str = "/run/postgresql";
const NAME: &str = ".s.PGSQL.";
const PATIENCE: Duration = Duration::from_secs(60);
/// Version 3.0 of the protocol.
const PROTOCOL: i32 = 196_608;
/// No answer of a catalogue has a message as long.
const LONGEST: i32 = 64 << 20;

/// Of the session: nothing is written or waited for long, and values look the same whatever the server is set to.
const SETTINGS: [(&str, &str); 11] = [
    ("application_name", "redrill"),
    ("client_encoding", "UTF8"),
    ("default_transaction_read_only", "on"),
    ("lock_timeout", "10s"),
    ("statement_timeout", "50s"),
    ("jit", "off"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
];

/// What belongs to the server: databases that one can connect to have `t` in the fourth column.
const OF_SERVER: &str = "\
select 'database', datname, concat_ws('|', pg_get_userbyid(datdba), encoding, datcollate, datctype, datistemplate, datallowconn, datconnlimit,
  array(select unnest(datacl)::text order by 1)), datallowconn::text from pg_database
union all select 'role', rolname, concat_ws('|', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
  rolconnlimit, rolpassword, rolvaliduntil), 'f' from pg_authid
union all select 'membership', m.rolname || ' in ' || r.rolname, admin_option::text, 'f'
  from pg_auth_members a join pg_roles m on m.oid = a.member join pg_roles r on r.oid = a.roleid
union all select 'setting', coalesce(r.rolname, 'every role') || ' in ' || coalesce(d.datname, 'every database'), s.setconfig::text, 'f'
  from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
union all select 'tablespace', spcname, concat_ws('|', pg_get_userbyid(spcowner), pg_tablespace_location(oid),
  array(select unnest(spcacl)::text order by 1), spcoptions), 'f' from pg_tablespace";

/// What belongs to one database. Numbers (oid), sizes and statistics are no definitions; a table that has rows of its own
/// has its size and its quoted name in the fourth column.
const OF_DATABASE: &str = "\
with spaces as (select oid, nspname from pg_namespace
  where nspname not in ('pg_catalog', 'information_schema') and nspname not like 'pg\\_toast%' and nspname not like 'pg\\_temp%')
select 'schema', n.nspname, concat_ws('|', pg_get_userbyid(n.nspowner), array(select unnest(n.nspacl)::text order by 1)), ''
  from pg_namespace n join spaces s on s.oid = n.oid
union all select case c.relkind when 'r' then 'table' when 'p' then 'table' when 'v' then 'view' when 'm' then 'materialized view'
    when 'S' then 'sequence' when 'f' then 'foreign table' when 'c' then 'composite type' else c.relkind::text end,
  s.nspname || '.' || c.relname, concat_ws('|', pg_get_userbyid(c.relowner), c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
  array(select unnest(c.relacl)::text order by 1),
  case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
  (select string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
     pg_get_expr(d.adbin, d.adrelid), array(select unnest(a.attacl)::text order by 1)), ',' order by a.attnum)
   from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)),
  case when c.relkind = 'r' and not (c.relpersistence = 'u' and pg_is_in_recovery()) then concat_ws(' ', pg_table_size(c.oid), format('%I.%I', s.nspname, c.relname)) end
  from pg_class c join spaces s on s.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c')
union all select 'index', s.nspname || '.' || c.relname, pg_get_indexdef(c.oid), ''
  from pg_class c join spaces s on s.oid = c.relnamespace where c.relkind in ('i', 'I')
union all select 'constraint', s.nspname || '.' || coalesce(r.relname || '.', '') || c.conname, pg_get_constraintdef(c.oid), ''
  from pg_constraint c join spaces s on s.oid = c.connamespace left join pg_class r on r.oid = c.conrelid
union all select 'trigger', s.nspname || '.' || r.relname || '.' || t.tgname, concat_ws('|', t.tgenabled, pg_get_triggerdef(t.oid)), ''
  from pg_trigger t join pg_class r on r.oid = t.tgrelid join spaces s on s.oid = r.relnamespace where not t.tgisinternal
union all select 'function', s.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
  concat_ws('|', pg_get_userbyid(p.proowner), array(select unnest(p.proacl)::text order by 1), p.prosrc, p.probin, p.prokind, p.prosecdef, p.provolatile,
  p.proconfig, p.prorettype::regtype, p.prolang), ''
  from pg_proc p join spaces s on s.oid = p.pronamespace
union all select 'type', s.nspname || '.' || t.typname, concat_ws('|', pg_get_userbyid(t.typowner), t.typtype, format_type(t.typbasetype, t.typtypmod),
  t.typnotnull, t.typdefault, array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)), ''
  from pg_type t join spaces s on s.oid = t.typnamespace where t.typtype in ('e', 'd', 'r')
union all select 'policy', s.nspname || '.' || r.relname || '.' || p.polname, concat_ws('|', p.polcmd, p.polpermissive,
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), array(select pg_get_userbyid(o) from unnest(p.polroles) o order by 1)), ''
  from pg_policy p join pg_class r on r.oid = p.polrelid join spaces s on s.oid = r.relnamespace
union all select 'default rights', concat_ws(' ', pg_get_userbyid(d.defaclrole), s.nspname, d.defaclobjtype),
  array(select unnest(d.defaclacl)::text order by 1)::text, ''
  from pg_default_acl d left join spaces s on s.oid = d.defaclnamespace
union all select 'extension', extname, concat_ws('|', extversion, pg_get_userbyid(extowner)), '' from pg_extension
union all select 'language', lanname, concat_ws('|', pg_get_userbyid(lanowner), lanpltrusted), '' from pg_language";

/// Every server whose socket lies where Debian's do.
pub(super) fn read(root: &Root, key: &Key, found: &mut Found) {
    for socket in found.list(root, SOCKETS) {
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(port) = name.strip_prefix(NAME).filter(|port| port.chars().all(|c| c.is_ascii_digit())) else {
            continue;
        };
        let server = format!("postgresql {port}");
        if let Err(error) = catalogue(root, &socket, &server, key, found) {
            found.gap(format!("{server}: {error}"));
        }
    }
}

fn catalogue(root: &Root, socket: &Path, server: &str, key: &Key, found: &mut Found) -> io::Result<()> {
    let owner = socket.metadata()?.uid();
    let user = accounts::users(root)?.into_iter().find(|user| user.uid == owner);
    let user = user.ok_or_else(|| io::Error::other(format!("its owner {owner} is no account")))?.name;
    let asking = Asking { socket, uid: owner, user: &user };
    let rows = match asking.ask("postgres", &[OF_SERVER.to_owned()]) {
        Ok(rows) => rows,
        // A server that was killed leaves its socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            found.note(format!("{server} does not run"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (mut databases, mut budget) = (Vec::new(), Budget::new());
    for row in &rows {
        let [kind, name, definition, connect] = columns(row)?;
        found.add(object(server, "", [kind, name, definition], key));
        if kind == "database" && connect == "true" {
            databases.push(name.to_owned());
        }
    }
    databases.sort();
    for database in databases {
        if let Err(error) = asking.database(server, &database, key, &mut budget, found) {
            found.gap(format!("{server} {database}: {error}"));
        }
    }
    Ok(())
}

/// A table that has rows of its own.
struct Table {
    object: DatabaseObject,
    size: u64,
    quoted: String,
}

/// Tables that one statement asks: each stays locked for reading until it ends, with its indexes.
const AT_ONCE: usize = 50;

/// Asks each table for the number of its rows, and one that is compared for the sum of their hashes, too. The first column
/// is the table's place in the list. Children of a table are tables of their own.
fn questions(tables: &[(Depth, &str)]) -> Vec<String> {
    let one = |(place, (depth, quoted)): (usize, &(Depth, &str))| {
        let values = match depth {
            Depth::Compared => "coalesce(sum(hashtextextended(redrill_row::text, 0)), 0)::text",
            Depth::Counted => "''",
            Depth::Left => return None,
        };
        Some(format!("select '{place}', count(*)::text, {values}, '' from only {quoted} redrill_row"))
    };
    let questions: Vec<String> = tables.iter().enumerate().filter_map(one).collect();
    questions.chunks(AT_ONCE).map(|some| some.join(" union all ")).collect()
}

fn columns(row: &[String]) -> io::Result<[&str; 4]> {
    let words: Vec<&str> = row.iter().map(String::as_str).collect();
    words.try_into().map_err(|_| io::Error::other("a row of another form"))
}

/// Where a server listens, and as whom to come.
#[derive(Clone, Copy)]
struct Asking<'a> {
    socket: &'a Path,
    uid: u32,
    user: &'a str,
}

impl Asking<'_> {
    fn database(
        self,
        server: &str,
        database: &str,
        key: &Key,
        budget: &mut Budget,
        found: &mut Found,
    ) -> io::Result<()> {
        let mut tables = Vec::new();
        for row in &self.ask(database, &[OF_DATABASE.to_owned()])? {
            let [kind, name, definition, table] = columns(row)?;
            let object = object(server, database, [kind, name, definition], key);
            match table.split_once(' ') {
                Some((size, quoted)) => {
                    let size = size.parse().map_err(io::Error::other)?;
                    tables.push(Table { object, size, quoted: quoted.to_owned() });
                }
                None => found.add(object),
            }
        }
        tables.sort_by(|a, b| a.object.name.cmp(&b.object.name));
        if let Err(error) = self.rows(database, &mut tables, key, budget, found) {
            found.gap(format!("{server} {database}: the rows of its tables: {error}"));
        }
        tables.into_iter().for_each(|table| found.add(table.object));
        Ok(())
    }

    fn rows(
        self,
        database: &str,
        tables: &mut [Table],
        key: &Key,
        budget: &mut Budget,
        found: &mut Found,
    ) -> io::Result<()> {
        let depths: Vec<(Depth, &str)> =
            tables.iter().map(|table| (budget.take(&table.object, table.size, found), table.quoted.as_str())).collect();
        let questions = questions(&depths);
        if questions.is_empty() {
            return Ok(());
        }
        for row in &self.ask(database, &questions)? {
            let [place, count, values, _] = columns(row)?;
            let table = place.parse::<usize>().ok().and_then(|place| tables.get_mut(place));
            let table = table.ok_or_else(|| io::Error::other("an answer that nobody asked for"))?;
            set_rows(&mut table.object, count, values, key);
        }
        Ok(())
    }

    /// Connects as another account, on a thread that then ends: the way back would be closed.
    fn ask(self, database: &str, queries: &[String]) -> io::Result<Vec<Vec<String>>> {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                if self.uid != rustix::process::geteuid().as_raw() {
                    let uid = rustix::process::Uid::from_raw(self.uid);
                    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
                }
                let stream = UnixStream::connect(self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Session { stream: io::BufReader::new(stream) }.run(self.user, database, queries)
            });
            asking.join().unwrap_or_else(|_| Err(io::Error::other("lost")))
        })
    }
}

/// A conversation.
struct Session<S: Read> {
    stream: io::BufReader<S>,
}

impl<S: Read> Session<S>
where
    for<'a> &'a S: Write,
{
    fn run(&mut self, user: &str, database: &str, queries: &[String]) -> io::Result<Vec<Vec<String>>> {
        let mut start = PROTOCOL.to_be_bytes().to_vec();
        let names = [("user", user), ("database", database)];
        let settings = names.into_iter().chain(SETTINGS);
        for text in settings.flat_map(|(name, value)| [name, value]) {
            start.extend_from_slice(text.as_bytes());
            start.push(0);
        }
        start.push(0);
        self.send(None, &start)?;
        self.until_ready()?;
        let mut rows = Vec::new();
        for query in queries {
            self.send(Some(b'Q'), &[query.as_bytes(), b"\0"].concat())?;
            rows.extend(self.until_ready()?);
        }
        let _ = self.send(Some(b'X'), &[]); // A farewell, whoever hears it.
        Ok(rows)
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let length = i32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.get_ref().write_all(&message)
    }

    /// The rows that come before the server waits for the next query.
    fn until_ready(&mut self) -> io::Result<Vec<Vec<String>>> {
        let mut rows = Vec::new();
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'Z' => return Ok(rows),
                b'D' => rows.push(row(&body).ok_or_else(|| io::Error::other("a damaged row"))?),
                b'E' => return Err(io::Error::other(complaint(&body))),
                b'R' if body != [0; 4] => return Err(io::Error::other("it asks for a password")),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if !(4..LONGEST).contains(&length) {
            return Err(io::Error::other("this is no PostgreSQL"));
        }
        let mut body = vec![0; length as usize - 4];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

/// Number of columns, then length and text of each; no text is less than empty and shown as such.
fn row(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (text, after) = after.split_at_checked(length)?;
        columns.push(String::from_utf8_lossy(text).into_owned());
        rest = after;
    }
    Some(columns)
}

/// The fields of an error, each a letter and its text; `M` is the sentence.
fn complaint(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter_map(|field| field.strip_prefix(b"M"));
    fields.map(|text| String::from_utf8_lossy(text).into_owned()).next().unwrap_or_else(|| "an error".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::{Record, Section};
    use std::os::unix::net::UnixListener;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as i32 + 4).to_be_bytes(), body].concat()
    }

    fn data(columns: [&str; 4]) -> Vec<u8> {
        let mut body = 4_u16.to_be_bytes().to_vec();
        for column in columns {
            body.extend((column.len() as i32).to_be_bytes());
            body.extend(column.as_bytes());
        }
        message(b'D', &body)
    }

    /// A server that gives these answers to every query, until its socket goes.
    fn serve(tree: &Tree, answer: Vec<u8>) {
        std::fs::create_dir_all(tree.0.join("run/postgresql")).expect("made");
        let listener = UnixListener::bind(tree.0.join("run/postgresql/.s.PGSQL.5432")).expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("connected");
                let mut head = [0; 4];
                stream.read_exact(&mut head).expect("a start");
                let mut start = vec![0; i32::from_be_bytes(head) as usize - 4];
                stream.read_exact(&mut start).expect("its body");
                assert!(start.windows(5).any(|part| part == b"user\0"));
                stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).expect("greeted");
                let mut query = vec![0; 5];
                stream.read_exact(&mut query).expect("a query");
                assert_eq!(query[0], b'Q');
                let length = i32::from_be_bytes([query[1], query[2], query[3], query[4]]);
                stream.read_exact(&mut vec![0; length as usize - 4]).expect("its text");
                stream.write_all(&answer).expect("answered");
            }
        });
        let uid = rustix::process::geteuid().as_raw();
        tree.file("/etc/passwd", format!("pg:x:{uid}:1::/:/bin/sh\n"));
    }

    #[test]
    fn objects_are_a_name_and_a_digest() {
        let tree = Tree::new("postgres");
        let rows = [data(["role", "ada", "t|hash", "f"]), data(["database", "notes", "ada|UTF8", "true"])].concat();
        serve(&tree, [rows, message(b'C', b"SELECT\0"), message(b'Z', b"I")].concat());
        let mut found = Found::new(Section::Databases);
        read(&tree.root(), &[1; 32], &mut found);
        assert!(found.gaps.is_empty(), "{:?}", found.gaps);
        let Record::DatabaseObject(role) = &found.entries[0] else { panic!("another section") };
        assert_eq!((role.server.as_str(), role.kind.as_str(), role.name.as_str()), ("postgresql 5432", "role", "ada"));
        assert!(!role.definition.contains("hash"));
        assert_eq!(found.entries.len(), 4, "the server's two, and the same of the database");
    }

    #[test]
    fn tables_are_asked_in_parts_each_as_far_as_it_is_looked_at() {
        let asked = questions(&[(Depth::Compared, "a.\"it's\""), (Depth::Left, "a.huge"), (Depth::Counted, "a.large")]);
        assert_eq!(
            asked,
            ["select '0', count(*)::text, coalesce(sum(hashtextextended(redrill_row::text, 0)), 0)::text, '' \
              from only a.\"it's\" redrill_row union all select '2', count(*)::text, '', '' from only a.large redrill_row"]
        );
        assert_eq!(questions(&[(Depth::Counted, "a.b"); 101]).len(), 3);
        assert_eq!(questions(&[]), [""; 0]);
    }

    #[test]
    fn a_server_that_refuses_is_a_gap_and_one_that_is_gone_is_none() {
        let tree = Tree::new("postgres-refuses");
        serve(&tree, message(b'E', b"SERROR\0Mno such table\0\0"));
        let mut found = Found::new(Section::Databases);
        read(&tree.root(), &[1; 32], &mut found);
        assert_eq!(found.gaps[0].reason, "postgresql 5432: no such table");
        let tree = Tree::new("postgres-gone");
        tree.file("/etc/passwd", format!("pg:x:{}:1::/:/bin/sh\n", rustix::process::geteuid().as_raw()));
        std::fs::create_dir_all(tree.0.join("run/postgresql")).expect("made");
        drop(UnixListener::bind(tree.0.join("run/postgresql/.s.PGSQL.5432")).expect("bound"));
        let mut found = Found::new(Section::Databases);
        read(&tree.root(), &[1; 32], &mut found);
        assert_eq!((found.gaps.len(), found.notes.len()), (0, 1));
    }
}
