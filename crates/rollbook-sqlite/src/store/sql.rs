//! The statements of each table, built once from the catalog. Only its identifiers are written into
//! SQL; values are always bound.

use std::collections::HashMap;

use rollbook_core::catalog::{RESOURCES, Resource};

/// The columns that decide which delivery wins, in the order in which they are compared.
const VERSION: &str = "version_dead, version_updated_at, version_event_at, version_hash";

/// The statements of one table.
pub(super) struct Table {
    /// What is known of one id: the version and the floor.
    pub(super) stored: String,
    /// Writes one row, where it is newer. Parameters in the order of [`columns`] and the version.
    pub(super) upsert: String,
    /// One row, in the order of [`columns`].
    pub(super) get: String,
    /// Rows in the order of their ids, in the order of [`columns`].
    pub(super) rows: String,
}

/// All statements.
pub(super) struct Statements(HashMap<&'static str, Table>);

/// A table's columns as an application sees them, in the order of statements and listings.
pub(super) fn columns(resource: &'static Resource) -> impl Iterator<Item = &'static str> {
    let typed = resource.columns.iter().map(|column| column.name);
    let (first, last) =
        (["id"], ["data", "created_at", "updated_at", "deleted_at", "synced_at", "synced_by"]);
    first.into_iter().chain(typed).chain(last)
}

impl Statements {
    pub(super) fn new() -> Self {
        Self(RESOURCES.into_iter().map(|resource| (resource.table, Table::new(resource))).collect())
    }

    /// The statements of a resource of the catalog.
    pub(super) fn of(&self, resource: &'static Resource) -> &Table {
        &self.0[resource.table]
    }
}

impl Table {
    fn new(resource: &'static Resource) -> Self {
        let table = resource.table;
        let columns: Vec<&str> = columns(resource).collect();
        let listed = columns.join(", ");
        let written: Vec<&str> = columns.iter().copied().chain(VERSION.split(", ")).collect();
        let values: Vec<String> = (1..=written.len()).map(|index| format!("?{index}")).collect();
        let set: Vec<String> =
            written.iter().skip(1).map(|column| format!("{column} = excluded.{column}")).collect();
        let qualified = |prefix: &str| format!("({prefix}{})", VERSION.replace(", ", &format!(", {prefix}")));
        Self {
            stored: format!("SELECT {VERSION}, version_floor FROM {table} WHERE id = ?1"),
            upsert: format!(
                "INSERT INTO {table} ({listed}, {VERSION}) VALUES ({values})
                 ON CONFLICT (id) DO UPDATE SET {set}
                 WHERE excluded.version_event_at > {table}.version_floor AND {new} > {old}",
                values = values.join(", "),
                set = set.join(", "),
                new = qualified("excluded."),
                old = qualified(&format!("{table}.")),
            ),
            get: format!("SELECT {listed} FROM {table} WHERE id = ?1"),
            rows: format!("SELECT {listed} FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2"),
        }
    }
}
