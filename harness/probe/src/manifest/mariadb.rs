//! MariaDB, by its own client as root over the socket.

use std::collections::BTreeMap;

use redrill_state::Table;

use super::Gap;
use super::tables::{FIELD, Shape, ask, counted, has};

/// `None` if there is no such database.
pub(super) fn tables(database: &str) -> Result<Option<BTreeMap<String, Table>>, Gap> {
    let known = query("information_schema", "select schema_name from schemata;")?;
    if !known.iter().any(|line| line.first().is_some_and(|name| name == database)) {
        return Ok(None);
    }
    let shapes = shapes(database, &query("information_schema", &columns(database))?)?;
    let lines = if shapes.is_empty() { Vec::new() } else { query(database, &question(&shapes))? };
    counted(&shapes, &lines).map(Some)
}

/// One line per column, or per column of an index: table, what, name, type, key, the rest.
fn columns(database: &str) -> String {
    let separator = "char(31)";
    let database = database.replace('\'', "''");
    format!(
        "select concat_ws({separator}, c.table_name, 'column', c.column_name, c.data_type, c.column_key, concat_ws(' ', \
         c.column_type, c.is_nullable, c.column_default, c.extra, c.character_set_name)) \
         from columns c join tables t using (table_schema, table_name) \
         where c.table_schema = '{database}' and t.table_type = 'BASE TABLE' order by c.table_name, c.ordinal_position;\n\
         select concat_ws({separator}, table_name, 'index', column_name, index_name, index_name = 'PRIMARY', \
         concat_ws(' ', seq_in_index, non_unique)) from statistics \
         where table_schema = '{database}' order by table_name, index_name, seq_in_index;\n"
    )
}

fn query(database: &str, sql: &str) -> Result<Vec<Vec<String>>, Gap> {
    let program = if has("mariadb") { "mariadb" } else { "mysql" };
    ask(&[program, "--batch", "--raw", "--skip-column-names", "--default-character-set=utf8mb4", database], sql)
}

fn shapes(database: &str, lines: &[Vec<String>]) -> Result<Vec<Shape>, Gap> {
    let mut shapes: Vec<Shape> = Vec::new();
    for line in lines {
        let [table, what, name, kind, key, rest] = line.as_slice() else {
            return Err(format!("unexpected answer of MariaDB: {line:?}"));
        };
        let full = format!("{database}.{table}");
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        let at = shapes.iter().position(|shape| shape.name == full).unwrap_or_else(|| {
            shapes.push(Shape { name: full, quoted: quoted(table), ..Shape::default() });
            shapes.len() - 1
        });
        let shape = &mut shapes[at];
        shape.definition += &format!("{what} {name} {kind} {key} {rest}\n");
        if what == "index" && key == "1" {
            shape.key.push(quoted(name));
        } else if what == "column" && ["date", "datetime", "timestamp"].contains(&kind.as_str()) {
            shape.times.push(quoted(name));
        }
    }
    Ok(shapes)
}

/// All counts in one transaction: of one moment, for tables that have transactions.
fn question(shapes: &[Shape]) -> String {
    let mut sql = "set time_zone = '+00:00'; start transaction with consistent snapshot, read only;\n".to_owned();
    for Shape { name, quoted, key, times, .. } in shapes {
        let mut fields = vec![format!("'{}'", name.replace('\'', "''")), "count(*)".to_owned()];
        fields.push(if key.is_empty() {
            "''".to_owned()
        } else {
            let order: Vec<String> = key.iter().map(|column| format!("{column} desc")).collect();
            format!("(select concat_ws(',', {}) from {quoted} order by {} limit 1)", key.join(", "), order.join(", "))
        });
        fields.extend(times.iter().map(|column| format!("floor(unix_timestamp(max({column})))")));
        let fields: Vec<String> = fields.iter().map(|field| format!("coalesce({field}, '')")).collect();
        sql += &format!("select concat_ws(char({}), {}) from {quoted};\n", FIELD.as_bytes()[0], fields.join(", "));
    }
    sql + "commit;\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_indexes_make_a_table() {
        let line = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        let lines = [
            line("documents|column|id|int|PRI|int(11) NO"),
            line("documents|column|made|datetime||datetime YES"),
            line("documents|index|id|PRIMARY|1|1 0"),
        ];
        let shapes = shapes("notes", &lines).expect("tables");
        assert_eq!((shapes.len(), shapes[0].name.as_str()), (1, "notes.documents"));
        assert_eq!(
            (shapes[0].key.as_slice(), shapes[0].times.as_slice()),
            (["`id`".to_owned()].as_slice(), ["`made`".to_owned()].as_slice())
        );
        assert!(question(&shapes).contains("order by `id` desc limit 1"));
        assert!(super::shapes("notes", &[line("odd")]).is_err());
    }
}
