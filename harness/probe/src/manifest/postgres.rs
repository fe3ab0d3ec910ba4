//! PostgreSQL, by `psql` as its administrator.

use std::collections::BTreeMap;

use redrill_state::Table;

use super::Gap;
use super::tables::{FIELD, Shape, ask, counted};

/// One line per table: schema, name, quoted name, key columns, columns with times, and its definition in hex.
const SHAPES: &str = r"
set client_min_messages = error;
select n.nspname, c.relname, format('%I.%I', n.nspname, c.relname),
  (select string_agg(quote_ident(a.attname), ',' order by array_position(i.indkey::int2[], a.attnum))
     from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
    where i.indrelid = c.oid and i.indisprimary),
  (select string_agg(quote_ident(a.attname), ',' order by a.attnum) from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      and a.atttypid in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)),
  encode(convert_to(concat_ws(E'\n',
    (select string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid)), E'\n' order by a.attnum)
       from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
    (select string_agg(pg_get_indexdef(i.indexrelid), E'\n' order by pg_get_indexdef(i.indexrelid))
       from pg_index i where i.indrelid = c.oid),
    (select string_agg(pg_get_constraintdef(k.oid), E'\n' order by pg_get_constraintdef(k.oid))
       from pg_constraint k where k.conrelid = c.oid and k.contype <> 'n')
  ), 'UTF8'), 'hex')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
  and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
order by 1, 2;
";

/// `None` if there is no such database.
pub(super) fn tables(database: &str) -> Result<Option<BTreeMap<String, Table>>, Gap> {
    let known = psql("postgres", "select datname from pg_database;")?;
    if !known.iter().any(|line| line.first().is_some_and(|name| name == database)) {
        return Ok(None);
    }
    let shapes = psql(database, SHAPES)?.iter().map(|line| shape(database, line)).collect::<Result<Vec<_>, _>>()?;
    let lines = if shapes.is_empty() { Vec::new() } else { psql(database, &question(&shapes))? };
    counted(&shapes, &lines).map(Some)
}

fn psql(database: &str, sql: &str) -> Result<Vec<Vec<String>>, Gap> {
    let words = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"];
    ask(&[&words[..], &["-F", FIELD, "-d", database, "-f", "-"]].concat(), sql)
}

fn shape(database: &str, line: &[String]) -> Result<Shape, Gap> {
    let [schema, name, quoted, key, times, definition] = line else {
        return Err(format!("unexpected answer of psql: {line:?}"));
    };
    let list = |text: &str| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let name = if schema == "public" { format!("{database}.{name}") } else { format!("{database}.{schema}.{name}") };
    Ok(Shape { name, quoted: quoted.clone(), key: list(key), times: list(times), definition: definition.clone() })
}

/// All counts in one transaction: of one moment.
fn question(shapes: &[Shape]) -> String {
    let mut sql = "begin isolation level repeatable read read only; set local timezone = 'UTC';\n".to_owned();
    for Shape { name, quoted, key, times, .. } in shapes {
        let mut fields = vec![format!("'{}'", name.replace('\'', "''")), "count(*)".to_owned()];
        fields.push(if key.is_empty() {
            "''".to_owned()
        } else {
            let order: Vec<String> = key.iter().map(|column| format!("{column} desc")).collect();
            let keys = key.join(", ");
            format!("(select concat_ws(',', {keys}) from {quoted} order by {} limit 1)", order.join(", "))
        });
        let newest = |column: &String| {
            format!("floor(extract(epoch from max({column}) filter (where isfinite({column}))))::bigint")
        };
        fields.extend(times.iter().map(newest));
        sql += &format!("select {} from {quoted};\n", fields.join(", "));
    }
    sql + "commit;\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_one_moment_are_counted_by_key_and_time() {
        let line = ["public", "Docs", "public.\"Docs\"", "a,\"B\"", "made", "00"].map(str::to_owned);
        let shape = shape("notes", &line).expect("a table");
        assert_eq!((shape.name.as_str(), shape.key.len()), ("notes.Docs", 2));
        let sql = question(&[shape]);
        assert!(sql.starts_with("begin isolation level repeatable read read only;"), "{sql}");
        assert!(sql.contains("order by a desc, \"B\" desc limit 1"), "{sql}");
        assert!(sql.contains("from public.\"Docs\";"), "{sql}");
    }
}
