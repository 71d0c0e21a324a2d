//! Statements of each table, built once from the catalog and the schema's name. Only identifiers are
//! written into SQL; values are always bound, as one array for each column of a batch.

use rollbook_core::catalog::{Kind, LINKS_MAX, RESOURCES, Resource};
use rollbook_core::table_layout::{
    OnUpsert, columns, erased_columns, links_column, on_upsert, searchable_column,
};

use super::columns::{has_content, listed};
use super::dependents::Dependents;
use super::pending;
use super::read;
use crate::migrations::feed::PREFIX;
use crate::rights;
use crate::types::Sql;

/// Columns of a row's [`rollbook_core::merge::SubjectState`], and its revision.
const STATE: [(&str, &str); 6] = [
    ("version_updated_at", "int8"),
    ("version_event_at", "int8"),
    ("version_hash", "bytea"),
    ("version_deleted_at", "int8"),
    ("version_floor", "int8"),
    ("version_revision", "int8"),
];

/// Statements of one table.
pub(super) struct Table {
    /// Name of the table.
    pub(super) name: &'static str,
    /// Beginning of [`Statements::stored`].
    stored: String,
    /// Writes rows, each only if the stored revision is the one before the written one. Parameters, as
    /// arrays: [`columns`], the state, and, for tables with parents, the parents' deletion and
    /// `version_links`. Returns the ids of written rows, whether a trigger undid the write,
    /// the revision, and whether the table has triggers of a team.
    pub(super) upsert: Sql,
    /// One row, in the order of [`columns`].
    pub(super) get: Sql,
    /// Rows in the order of their ids, in the order of [`columns`].
    pub(super) rows: Sql,
    /// Locks rows by their ids.
    pub(super) lock: Sql,
    /// Ids of rows that should have lost their content and have not: (ids, before).
    pub(super) still_due: Sql,
    /// Beginning of [`Statements::undone`].
    undone: String,
    /// Rows that were deleted by themselves, in the order of their deletion: (from, before, id to start
    /// after, limit). Returns id, `deleted_at`, whether the content is erased, and `deleted_at` to the microsecond.
    pub(super) deleted: Sql,
    /// Erases the content of rows that were deleted before a timestamp: (ids, timestamp). Returns their ids.
    /// The condition is written so that the planner does not use an index on it, which would read every row
    /// that was ever deleted.
    pub(super) erase_content: Sql,
    /// SELECT of deleted rows: table number, id, when deleted, whether the content is erased, and a null; a
    /// condition follows.
    pub(super) is_deleted: String,
    /// Statements for rows with parents; `None` if the table has no links.
    pub(super) dependents: Option<Dependents>,
}

/// Selects which of the given ids are read.
#[derive(Clone, Copy)]
pub(super) enum Which {
    All,
    Deleted,
}

/// Statements of all tables.
pub(super) struct Statements {
    /// Name of the schema, validated.
    pub(super) schema: String,
    /// Statements about pending cascades.
    pub(super) pending: pending::Statements,
    /// Statements per table, in the order of [`RESOURCES`].
    pub(super) tables: Vec<Table>,
    /// Writes ledger entries that do not exist yet. Returns `svix-id`, subject and outcome of each, and
    /// whether the ledger has triggers of a team.
    pub(super) record: Sql,
    /// One ledger entry: (svix-id).
    pub(super) delivery: Sql,
    /// Latest ledger entries about a subject: (subject, limit).
    pub(super) deliveries: Sql,
    /// Removes ledger entries: (svix-ids). Returns a row for each that was there.
    pub(super) forget: Sql,
    /// Counts existing ledger entries, with an example: (svix-ids).
    pub(super) kept: Sql,
    /// Ledger entries about subjects, after a `svix-id`: (ids, svix-id, limit).
    pub(super) about: Sql,
    /// Oldest ledger entries before a timestamp: (timestamp, `applied_at` to start from, svix-ids to leave out, limit).
    pub(super) old_entries: Sql,
    /// Rights on Rollbook's tables that the role needs and lacks.
    pub(super) forbidden: String,
    /// The same for the tables of the reconciler.
    pub(super) forbidden_records: String,
    /// The same for the tables of the forwarder.
    pub(super) forbidden_forwards: String,
    /// Finds tables with row-level policies that may hide rows from this role.
    pub(super) hidden: String,
    /// Functions of triggers without a search path of their own.
    pub(super) unpinned: String,
}

/// Condition of a row, `stored`, that was erased and still has content. For all other rows only the hash is compared.
fn keeps_content(resource: &'static Resource) -> String {
    format!(r"stored.version_hash = '\xff' AND {}", has_content("stored", resource))
}

/// Condition of a row, `stored`, that was deleted or erased and does not show it.
fn is_undone(resource: &'static Resource) -> String {
    let is_deleted = if resource.links.is_empty() {
        "stored.version_deleted_at IS NOT NULL"
    } else {
        "(stored.version_deleted_at IS NOT NULL OR stored.version_parents_deleted_at IS NOT NULL)"
    };
    format!("stored.deleted_at IS NULL AND {is_deleted} OR {}", keeps_content(resource))
}

/// Condition: the table has triggers of a team. Those of the change feed write to no table of Clerk's. Nobody can add one
/// while the transaction that asks has written to the table.
fn has_triggers(schema: &str, table: &str) -> String {
    format!(
        r#"EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = '"{schema}".{table}'::regclass AND NOT tgisinternal
                         AND tgname NOT IN ('{PREFIX}_insert', '{PREFIX}_update'))"#
    )
}

const fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => "text",
        Kind::Integer => "int8",
        Kind::Bool => "bool",
        Kind::Time => "timestamptz",
        Kind::Json => "jsonb",
    }
}

impl Statements {
    /// Builds the statements for the tables of a schema with a validated name.
    pub(super) fn new(schema: &str) -> Self {
        let entry = format!(
            r#"SELECT svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts
               FROM "{schema}".deliveries"#
        );
        Self {
            schema: schema.to_owned(),
            pending: pending::Statements::new(schema),
            tables: (0..).zip(RESOURCES).map(|(number, of)| Table::new(schema, number, of)).collect(),
            record: Sql::from(format!(
                r#"INSERT INTO "{schema}".deliveries
                       (svix_id, event_type, subject_id, outcome, event_at, received_at, attempts, applied_at)
                   SELECT entry.*, $8::timestamptz
                   FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
                               $6::timestamptz[], $7::int4[])
                        AS entry (svix_id, event_type, subject_id, outcome, event_at, received_at, attempts)
                   ORDER BY entry.svix_id COLLATE "C"
                   ON CONFLICT (svix_id) DO NOTHING
                   RETURNING svix_id, subject_id, outcome, {has_triggers}"#,
                has_triggers = has_triggers(schema, "deliveries"),
            )),
            delivery: format!("{entry} WHERE svix_id = $1").into(),
            deliveries: Sql::from(format!(
                r#"{entry} WHERE subject_id = $1 ORDER BY applied_at DESC, svix_id COLLATE "C" DESC LIMIT $2"#
            )),
            forget: Sql::from(format!(
                r#"DELETE FROM "{schema}".deliveries WHERE svix_id = ANY ($1::text[]) RETURNING true"#
            )),
            kept: Sql::from(format!(
                r#"SELECT count(*), min(svix_id) FROM "{schema}".deliveries WHERE svix_id = ANY ($1::text[])"#
            )),
            about: Sql::from(format!(
                r#"SELECT svix_id FROM "{schema}".deliveries
                   WHERE subject_id = ANY ($1::text[]) AND svix_id COLLATE "C" > $2
                   ORDER BY svix_id COLLATE "C" LIMIT $3"#
            )),
            old_entries: Sql::from(format!(
                r#"SELECT to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), svix_id
                   FROM "{schema}".deliveries
                   WHERE applied_at < $1 AND applied_at >= $2::text::timestamptz AND svix_id <> ALL ($3::text[])
                   ORDER BY applied_at LIMIT $4"#
            )),
            forbidden: rights::missing(schema, &rights::of_a_worker()),
            forbidden_records: rights::missing(schema, &rights::of_records()),
            forbidden_forwards: rights::missing(schema, &rights::of_forwards()),
            hidden: read::hidden(schema),
            unpinned: read::unpinned(schema),
        }
    }

    /// Reads stored states by table number, with one array of ids for each part. Each row has the table
    /// number, id, state, deletion time from its parents, `version_links`, and whether each parent's id is stored.
    pub(super) fn stored(&self, parts: &[(usize, Which)]) -> Sql {
        let part = |(position, (number, which)): (usize, &(usize, Which))| {
            let condition = match which {
                Which::All => "",
                Which::Deleted => " AND version_deleted_at IS NOT NULL",
            };
            format!("{} WHERE id = ANY (${}::text[]){condition}", self.tables[*number].stored, position + 1)
        };
        parts.iter().enumerate().map(part).collect::<Vec<_>>().join(" UNION ALL ").into()
    }

    /// Finds rows that were deleted or erased and do not show it, once all triggers have run: by table
    /// number, with one array of ids for each.
    pub(super) fn undone(&self, numbers: impl IntoIterator<Item = usize>) -> Sql {
        let part = |(position, number): (usize, usize)| {
            format!("{} AND id = ANY (${}::text[])", self.tables[number].undone, position + 1)
        };
        numbers.into_iter().enumerate().map(part).collect::<Vec<_>>().join(" UNION ALL ").into()
    }

    /// Returns the statements of a resource of the catalog.
    pub(super) fn of(&self, resource: &'static Resource) -> &Table {
        &self.tables[resource.number]
    }
}

/// SELECT of rows by the value of a column of ids or texts: (value, limit). `None` if the resource has no such column.
pub(super) fn rows_where(schema: &str, resource: &'static Resource, column: &str) -> Option<Sql> {
    let column = searchable_column(resource, column)?;
    let (shown, table) = (listed(columns(resource).map(|(name, _)| name)), resource.table);
    let sql = format!(
        r#"SELECT {shown} FROM "{schema}".{table} WHERE {column} = $1 ORDER BY id COLLATE "C" LIMIT $2"#
    );
    Some(sql.into())
}

impl Table {
    fn new(schema: &str, number: usize, resource: &'static Resource) -> Self {
        let table = resource.table;
        let shown = listed(columns(resource).map(|(name, _)| name));
        let nothing = erased_columns(resource).map(|name| format!("{name} = NULL"));
        let from_parents =
            if resource.links.is_empty() { "NULL::timestamptz" } else { "version_parents_deleted_at" };
        Self {
            stored: format!(
                r#"SELECT {number}::int4, id, {state}, {from_parents}, {named} FROM "{schema}".{table}"#,
                state = listed(STATE.map(|(name, _)| name)),
                named = named(resource),
            ),
            is_deleted: format!(
                r#"SELECT {number}::int4, id, version_deleted_at, version_hash = '\xff', NULL::int4 FROM "{schema}".{table}
                   WHERE version_deleted_at IS NOT NULL"#
            ),
            upsert: upsert(schema, resource).into(),
            get: format!(r#"SELECT {shown} FROM "{schema}".{table} WHERE id = $1"#).into(),
            rows: format!(r#"SELECT {shown} FROM "{schema}".{table} WHERE id COLLATE "C" > $1 ORDER BY id COLLATE "C" LIMIT $2"#)
                .into(),
            name: table,
            lock: Sql::from(format!(
                r#"SELECT FROM "{schema}".{table} WHERE id = ANY ($1::text[]) ORDER BY id COLLATE "C" FOR NO KEY UPDATE"#
            )),
            deleted: Sql::from(format!(
                r#"SELECT id, deleted_at, version_hash = '\xff' AND NOT {has_content},
                          to_char(deleted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                   FROM "{schema}".{table} AS stored
                   WHERE deleted_at >= $1::text::timestamptz AND deleted_at < $2 AND version_deleted_at IS NOT NULL
                         AND (deleted_at > $1::text::timestamptz OR id COLLATE "C" > $3)
                         AND NOT EXISTS (SELECT FROM "{schema}".rollbook_cascades AS entry
                                         WHERE entry.table_name = '{table}' AND entry.id = stored.id AND entry.what = 'content')
                   ORDER BY deleted_at, id COLLATE "C" LIMIT $4"#,
                has_content = has_content("stored", resource),
            )),
            erase_content: Sql::from(format!(
                r#"UPDATE "{schema}".{table} AS stored
                   SET {nothing}, version_updated_at = {max}, version_event_at = {max}, version_hash = '\xff',
                       version_floor = CASE WHEN version_hash = '\xff' THEN version_floor ELSE 0 END,
                       version_revision = version_revision + 1
                   WHERE id = ANY ($1::text[]) AND (deleted_at < $2) IS TRUE AND version_deleted_at IS NOT NULL
                         AND (version_hash <> '\xff' OR {has_content})
                   RETURNING id"#,
                has_content = has_content("stored", resource),
                nothing = listed(nothing),
                max = i64::MAX,
            )),
            still_due: Sql::from(format!(
                r#"SELECT FROM "{schema}".{table} AS stored
                   WHERE id = ANY ($1::text[])
                         AND ({undone} OR (deleted_at < $2) IS TRUE AND version_deleted_at IS NOT NULL
                                          AND (version_hash <> '\xff' OR {has_content}))"#,
                undone = is_undone(resource),
                has_content = has_content("stored", resource),
            )),
            undone: format!(
                r#"SELECT id FROM "{schema}".{table} AS stored WHERE ({undone})"#,
                undone = is_undone(resource),
            ),
            dependents: Dependents::new(schema, number, resource),
        }
    }
}

/// `version_links`, and for each possible link whether its id is stored.
fn named(resource: &Resource) -> String {
    let is_there = |number: usize| match resource.links.get(number) {
        Some(link) => format!("{} IS NOT NULL", link.column),
        None => "false".to_owned(),
    };
    let first = links_column(resource).unwrap_or("NULL::text").to_owned();
    listed([first].into_iter().chain((0..LINKS_MAX).map(is_there)))
}

/// The upsert of a table. A change without content keeps the stored content, which the hash identifies.
fn upsert(schema: &str, resource: &'static Resource) -> String {
    let from_parents = [("version_parents_deleted_at", "timestamptz")];
    let from_parents = from_parents.into_iter().filter(|_| !resource.links.is_empty());
    let links = links_column(resource).map(|name| (name, "text"));
    let written: Vec<(&str, &str)> = columns(resource)
        .map(|(name, kind)| (name, type_of(kind)))
        .chain(STATE)
        .chain(from_parents)
        .chain(links)
        .collect();
    let names = listed(written.iter().map(|(name, _)| name));
    let arrays = written.iter().enumerate().map(|(index, (_, kind))| format!("${}::{kind}[]", index + 1));
    // Erased content is erased again: a trigger may have restored it.
    let same = r"excluded.version_hash = stored.version_hash AND excluded.version_hash <> '\xff'";
    let set = written.iter().skip(1).map(|(name, _)| {
        let stays = match on_upsert(resource, name) {
            OnUpsert::Replace => return format!("{name} = excluded.{name}"),
            OnUpsert::KeepLink => {
                return format!(
                    r"{name} = CASE WHEN excluded.version_hash = '\xff' THEN excluded.{name}
                                    ELSE coalesce(excluded.{name}, stored.{name}) END"
                );
            }
            OnUpsert::KeepDeletion => format!("excluded.version_deleted_at IS NULL AND {same}"),
            OnUpsert::KeepContent => same.to_owned(),
        };
        format!("{name} = CASE WHEN {stays} THEN stored.{name} ELSE excluded.{name} END")
    });
    format!(
        r#"INSERT INTO "{schema}".{table} AS stored ({names})
           SELECT * FROM unnest({arrays}) AS new ({names}) ORDER BY new.id COLLATE "C"
           ON CONFLICT (id) DO UPDATE SET {set}
           WHERE stored.version_revision = excluded.version_revision - 1
           RETURNING stored.id, {undone}, stored.version_revision, {has_triggers}"#,
        undone = is_undone(resource),
        has_triggers = has_triggers(schema, resource.table),
        table = resource.table,
        arrays = listed(arrays),
        set = listed(set),
    )
}
