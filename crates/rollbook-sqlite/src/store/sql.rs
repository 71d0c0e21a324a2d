//! Statements of each table, built once from the catalog. Only identifiers of the catalog are written into
//! SQL; values are always bound.

use rollbook_core::catalog::{Kind, LINKS_MAX, Link, RESOURCES, Resource};
use rollbook_core::table_layout::{
    OnUpsert, STATE_COLUMNS, columns, erased_columns, links_column, on_upsert, searchable_column,
};

use super::columns::has_content;
use super::parents::{Dependents, Own};

/// Statements of one table.
pub(super) struct Table {
    /// State of one id: [`STATE_COLUMNS`], `version_links`, and whether each parent's id is set.
    pub(super) stored: String,
    /// Ids of one row's parents: (id).
    pub(super) parents: String,
    /// Writes one row. Parameters: [`columns`], the state, and its state from its parents if it has any.
    pub(super) upsert: String,
    /// Writes new content over an existing row if no indexed value changes. Parameters: as above.
    pub(super) refresh: String,
    /// Deletes an existing row and keeps its content: (id, `deleted_at`, now, `svix-id`, end, floor).
    pub(super) end: String,
    /// One row, in the order of [`columns`].
    pub(super) get: String,
    /// Rows in the order of their ids, in the order of [`columns`].
    pub(super) rows: String,
    /// Rows that were deleted by themselves, in the order of their deletion: (from, before, id to start
    /// after, limit). Returns id, `deleted_at` and whether the content is erased. Without rows that are known
    /// to refuse to lose it.
    pub(super) deleted: String,
    /// Erases the content of a row: (id).
    pub(super) erase_content: String,
    /// Whether a row is not erased, or has content although it is erased: (id).
    pub(super) has_content: String,
    /// Whether a row does not show its deletion, or has content although it is erased: (id, `deleted_at`).
    pub(super) is_undone: String,
    /// Statements about single rows, if rows have parents.
    pub(super) own: Option<Own>,
    /// For each link: statements about the rows that name a parent by it.
    pub(super) links: Vec<Dependents>,
}

/// All statements, in the order of [`RESOURCES`].
pub(super) struct Statements(Vec<Table>);

fn listed(resource: &'static Resource) -> String {
    columns(resource).map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// Rows of a resource with a value in a column of ids or texts: (value, limit).
pub(super) fn rows_where(resource: &'static Resource, column: &str) -> Option<String> {
    let column = searchable_column(resource, column)?;
    let (table, listed) = (resource.table, listed(resource));
    Some(format!("SELECT {listed} FROM {table} WHERE {column} = ?1 ORDER BY id LIMIT ?2"))
}

impl Statements {
    pub(super) fn new() -> Self {
        Self(RESOURCES.into_iter().map(Table::new).collect())
    }

    /// Returns the statements about child rows of a deleted parent of this resource; with `survivors` also
    /// about child rows that outlive it.
    pub(super) fn dependents(
        &self,
        parent: &'static Resource,
        survivors: bool,
    ) -> impl Iterator<Item = (&'static Resource, &Dependents)> {
        let all = RESOURCES.into_iter().flat_map(|resource| {
            self.of(resource).links.iter().map(move |dependents| (resource, dependents))
        });
        all.filter(move |(_, one)| one.link.parent == parent && (one.link.cascades || survivors))
    }

    /// Returns the statements of a resource of the catalog.
    pub(super) fn of(&self, resource: &'static Resource) -> &Table {
        &self.0[resource.number]
    }
}

impl Table {
    fn new(resource: &'static Resource) -> Self {
        let table = resource.table;
        let listed = listed(resource);
        let any = has_content(resource, table);
        let nothing: Vec<String> = erased_columns(resource).map(|name| format!("{name} = NULL")).collect();
        Self {
            stored: format!("SELECT {}, {} FROM {table} WHERE id = ?1", STATE_COLUMNS.join(", "), named(resource)),
            parents: format!("SELECT {} FROM {table} WHERE id = ?1", parents(resource, "").join(", ")),
            upsert: upsert(resource),
            refresh: refresh(resource),
            end: format!(
                "UPDATE {table} SET deleted_at = ?2, synced_at = ?3, synced_by = ?4, version_deleted_at = ?5, version_floor = ?6
                 WHERE id = ?1"
            ),
            get: format!("SELECT {listed} FROM {table} WHERE id = ?1"),
            rows: format!("SELECT {listed} FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2"),
            deleted: format!(
                "SELECT id, deleted_at, version_hash = x'ff' AND NOT ({any}) FROM {table}
                 WHERE deleted_at >= ?1 AND deleted_at < ?2 AND version_deleted_at IS NOT NULL
                       AND (deleted_at > ?1 OR id > ?3)
                       AND NOT EXISTS (SELECT 1 FROM rollbook_cascades AS entry
                                       WHERE entry.table_name = '{table}' AND entry.id = {table}.id AND entry.what = 'content')
                 ORDER BY deleted_at, id LIMIT ?4"
            ),
            erase_content: format!(
                "UPDATE {table} SET {nothing}, version_updated_at = {max}, version_event_at = {max}, version_hash = x'ff',
                     version_floor = CASE WHEN version_hash = x'ff' THEN version_floor ELSE 0 END
                 WHERE id = ?1 AND (version_hash <> x'ff' OR {any})",
                nothing = nothing.join(", "),
                max = i64::MAX,
            ),
            has_content: format!("SELECT 1 FROM {table} WHERE id = ?1 AND (version_hash <> x'ff' OR {any})"),
            is_undone: format!(
                "SELECT 1 FROM {table} WHERE id = ?1 AND (deleted_at IS NOT ?2 OR version_hash = x'ff' AND {any})"
            ),
            own: Own::new(resource),
            links: Dependents::all(resource),
        }
    }
}

/// Returns the columns that an upsert writes, in the order of its parameters.
fn written(resource: &'static Resource) -> impl Iterator<Item = &'static str> {
    let from_parents = (!resource.links.is_empty()).then_some("version_parents_deleted_at");
    let shown = columns(resource).map(|(name, _)| name);
    shown.chain(STATE_COLUMNS).chain(from_parents).chain(links_column(resource))
}

/// Returns one term for each possible link: its column and what follows, or NULL.
fn parents(resource: &Resource, test: &str) -> Vec<String> {
    let term = |number| match resource.links.get(number) {
        Some(Link { column, .. }) => format!("{column}{test}"),
        None => format!("NULL{test}"),
    };
    (0..LINKS_MAX).map(term).collect()
}

pub(super) fn named(resource: &Resource) -> String {
    format!("{}, {}", links_column(resource).unwrap_or("NULL"), parents(resource, " IS NOT NULL").join(", "))
}

/// Returns the upsert. A change without content keeps the content, which the hash identifies. Erased
/// content is written again each time: a trigger may have restored some.
fn upsert(resource: &'static Resource) -> String {
    let table = resource.table;
    let values: Vec<String> = (1..=written(resource).count()).map(|index| format!("?{index}")).collect();
    let same = format!("excluded.version_hash = {table}.version_hash");
    let set = written(resource).skip(1).map(|name| {
        let stays = match on_upsert(resource, name) {
            OnUpsert::Replace => return format!("{name} = excluded.{name}"),
            OnUpsert::KeepLink => {
                return format!(
                    "{name} = CASE WHEN excluded.version_hash = x'ff' THEN excluded.{name} \
                     ELSE coalesce(excluded.{name}, {table}.{name}) END"
                );
            }
            OnUpsert::KeepDeletion => format!("excluded.version_deleted_at IS NULL AND {same}"),
            OnUpsert::KeepContent => format!("{same} AND excluded.version_hash <> x'ff'"),
        };
        format!("{name} = CASE WHEN {stays} THEN {table}.{name} ELSE excluded.{name} END")
    });
    format!(
        "INSERT INTO {table} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}",
        written(resource).collect::<Vec<_>>().join(", "),
        values.join(", "),
        set.collect::<Vec<_>>().join(", "),
    )
}

/// Returns the update of a row without a change of indexed values. SQLite writes an index entry again
/// whenever its columns are set, even to the same values, so this statement compares them instead.
fn refresh(resource: &'static Resource) -> String {
    let is_looked_up = |name: &str| {
        let column = resource.columns.iter().find(|column| column.name == name);
        matches!(name, "created_at" | "deleted_at")
            || column.is_some_and(|column| matches!(column.kind, Kind::IndexedText | Kind::Id))
    };
    let (mut set, mut same) = (Vec::new(), vec!["id = ?1".to_owned()]);
    for (index, name) in written(resource).enumerate().skip(1) {
        if is_looked_up(name) {
            same.push(format!("{name} IS ?{}", index + 1));
        } else {
            set.push(format!("{name} = ?{}", index + 1));
        }
    }
    format!("UPDATE {} SET {} WHERE {}", resource.table, set.join(", "), same.join(" AND "))
}

#[cfg(test)]
mod tests {
    use rollbook_core::source::RECONCILED;
    use rusqlite::Connection;

    use super::*;
    use crate::migrations::{Schema, apply_migrations};

    /// Returns the number of index entries that a statement's program writes.
    fn entries_written(connection: &Connection, sql: &str) -> usize {
        let mut program = connection.prepare(&format!("EXPLAIN {sql}")).expect("a statement");
        let steps = program.raw_query().mapped(|row| row.get::<_, String>(1));
        steps.filter(|step| step.as_deref() == Ok("IdxInsert")).count()
    }

    #[test]
    fn new_content_writes_no_index_and_a_deletion_only_the_index_by_deletion() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("tables");
        let connection = crate::connection::open(&path).expect("a file");
        for resource in RESOURCES {
            let table = Table::new(resource);
            let written =
                [&table.refresh, &table.end, &table.upsert].map(|sql| entries_written(&connection, sql));
            let indexes_by_end = if RECONCILED.contains(&resource) { 2 } else { 1 };
            assert_eq!(written[..2], [0, indexes_by_end], "{}", resource.table);
            assert!(written[2] > 1, "an upsert writes all of them, and the test sees it");
        }
    }
}
