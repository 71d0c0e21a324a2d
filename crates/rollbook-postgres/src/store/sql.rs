//! The statements of each table, built once from the catalog and the schema's name. Only identifiers are
//! written into SQL; values are always bound, as one array for each column of a batch.

use rollbook_core::catalog::{Kind, RESOURCES, Resource};

use crate::transaction::Sql;

/// The columns that decide which delivery wins, in the order in which they are compared.
const VERSION: [(&str, &str); 4] = [
    ("version_dead", "bool"),
    ("version_updated_at", "int8"),
    ("version_event_at", "int8"),
    ("version_hash", "bytea"),
];

/// The statements of one table.
pub(super) struct Table {
    /// The beginning of [`Statements::stored`].
    stored: String,
    /// Writes rows, each where it is newer. Parameters: [`columns`] and the version, as arrays. Returns the
    /// ids of those that were, and whether each was the first of its id.
    pub(super) upsert: Sql,
    /// One row, in the order of [`columns`].
    pub(super) get: Sql,
    /// Rows in the order of their ids, in the order of [`columns`].
    pub(super) rows: Sql,
}

/// All statements.
pub(super) struct Statements {
    /// In the order of [`RESOURCES`].
    tables: Vec<Table>,
    /// Writes lines of the ledger that are not there.
    pub(super) record: Sql,
    /// One line of the ledger.
    pub(super) delivery: Sql,
    /// The tables that we may not read and write, of all that are ours.
    pub(super) forbidden: Sql,
}

/// A table's columns as an application sees them, in the order of statements and listings.
pub(super) fn columns(resource: &'static Resource) -> impl Iterator<Item = (&'static str, Kind)> {
    let typed = resource.columns.iter().map(|column| (column.name, column.kind));
    let last = [
        ("data", Kind::Json),
        ("created_at", Kind::Time),
        ("updated_at", Kind::Time),
        ("deleted_at", Kind::Time),
        ("synced_at", Kind::Time),
        ("synced_by", Kind::Text),
    ];
    [("id", Kind::Text)].into_iter().chain(typed).chain(last)
}

const fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Id => "text",
        Kind::Integer => "int8",
        Kind::Bool => "bool",
        Kind::Time => "timestamptz",
        Kind::Json => "jsonb",
    }
}

impl Statements {
    /// For the tables of this schema, whose name is plain.
    pub(super) fn new(schema: &str) -> Self {
        let tables = RESOURCES.iter().map(|resource| resource.table).chain(["deliveries"]);
        let forbidden = tables.map(|table| {
            let may = ["SELECT", "INSERT", "UPDATE"]
                .map(|right| format!(r#"has_table_privilege('"{schema}".{table}', '{right}')"#));
            format!("SELECT '{table}' WHERE NOT ({})", may.join(" AND "))
        });
        Self {
            tables: (0..).zip(RESOURCES).map(|(number, of)| Table::new(schema, number, of)).collect(),
            record: format!(
                r#"INSERT INTO "{schema}".deliveries
                       (svix_id, event_type, subject_id, outcome, event_at, received_at, attempts, applied_at)
                   SELECT line.*, $8::timestamptz
                   FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
                               $6::timestamptz[], $7::int4[])
                        AS line (svix_id, event_type, subject_id, outcome, event_at, received_at, attempts)
                   ORDER BY line.svix_id COLLATE "C"
                   ON CONFLICT (svix_id) DO NOTHING"#
            )
            .into(),
            delivery: format!(
                r#"SELECT event_type, subject_id, outcome, attempts FROM "{schema}".deliveries WHERE svix_id = $1"#
            )
            .into(),
            forbidden: forbidden.collect::<Vec<_>>().join(" UNION ALL ").into(),
        }
    }

    /// What is known of ids in these tables, by their numbers: one array of ids for each. The rows begin with
    /// the number of the table; then id, version and floor. Only what is asked for has a part in it, since
    /// every part is planned each time.
    pub(super) fn stored(&self, numbers: impl Iterator<Item = usize>) -> Sql {
        let parts = numbers.enumerate().map(|(place, number)| {
            format!("{} WHERE id = ANY (${}::text[])", self.tables[number].stored, place + 1)
        });
        parts.collect::<Vec<_>>().join(" UNION ALL ").into()
    }

    /// The statements of a resource of the catalog.
    pub(super) fn of(&self, resource: &'static Resource) -> &Table {
        let number = RESOURCES.iter().position(|known| *known == resource).unwrap_or_default();
        &self.tables[number]
    }
}

fn listed(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    names.join(", ")
}

impl Table {
    fn new(schema: &str, number: usize, resource: &'static Resource) -> Self {
        let table = resource.table;
        let shown = listed(columns(resource).map(|(name, _)| name));
        let written: Vec<(&str, &str)> =
            columns(resource).map(|(name, kind)| (name, type_of(kind))).chain(VERSION).collect();
        let names = listed(written.iter().map(|(name, _)| name));
        let arrays = written.iter().enumerate().map(|(index, (_, kind))| format!("${}::{kind}[]", index + 1));
        let set = written.iter().skip(1).map(|(name, _)| format!("{name} = excluded.{name}"));
        let version = |row: &str| listed(VERSION.map(|(name, _)| format!("{row}.{name}")));
        Self {
            stored: format!(
                r#"SELECT {number}::int4, id, {version}, version_floor FROM "{schema}".{table}"#,
                version = listed(VERSION.map(|(name, _)| name)),
            ),
            upsert: format!(
                r#"INSERT INTO "{schema}".{table} AS stored ({names})
                   SELECT * FROM unnest({arrays}) AS new ({names}) ORDER BY new.id COLLATE "C"
                   ON CONFLICT (id) DO UPDATE SET {set}
                   WHERE excluded.version_event_at > stored.version_floor AND ({new}) > ({old})
                   RETURNING stored.id, stored.xmax = 0"#,
                arrays = listed(arrays),
                set = listed(set),
                new = version("excluded"),
                old = version("stored"),
            )
            .into(),
            get: format!(r#"SELECT {shown} FROM "{schema}".{table} WHERE id = $1"#).into(),
            rows: format!(r#"SELECT {shown} FROM "{schema}".{table} WHERE id COLLATE "C" > $1 ORDER BY id COLLATE "C" LIMIT $2"#)
                .into(),
        }
    }
}
