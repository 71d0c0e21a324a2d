//! What an operator or time takes away.

use std::collections::BTreeSet;

use rollbook_core::catalog::{LINKS_MAX, RESOURCES, Resource};
use rollbook_core::store::ErasedCounts;
use rollbook_core::sweep::Cursor;
use rollbook_core::time::Timestamp;
use rusqlite::Connection;

use super::apply::Tables;
use super::sql::Statements;
use super::write::{Write, Writer};

/// What an erasure is told by, in the place of a `svix-id`.
const ERASED_BY: &str = "erase";

/// Removes what is kept of these subjects and of what is theirs.
pub(super) fn erase(
    tables: &Tables<'_>,
    subjects: &[(&'static Resource, String)],
) -> rusqlite::Result<ErasedCounts> {
    let mut gone: BTreeSet<String> = BTreeSet::new();
    for (resource, id) in subjects {
        gone.insert(id.clone());
        gone.extend(dependents(tables, resource, id)?);
        let before = tables.stored(resource, id)?;
        let state = before.unwrap_or_default().forgotten(tables.now);
        let write = Write { id, row: None, parents: [None; LINKS_MAX], before, state, synced_by: ERASED_BY };
        Writer::new(tables, resource)?.write(&write)?;
        tables.pass_on(resource, id, true)?;
    }
    let mut forget = tables
        .connection
        .prepare_cached("DELETE FROM deliveries WHERE subject_id IN (SELECT value FROM json_each(?1))")?;
    let ids: serde_json::Value = gone.iter().map(String::as_str).collect();
    let ledger = forget.execute((ids.to_string(),))?;
    Ok(ErasedCounts { rows: gone.len() as u64, ledger: ledger as u64 })
}

fn dependents(tables: &Tables<'_>, parent: &Resource, id: &str) -> rusqlite::Result<Vec<String>> {
    let mut ids = Vec::new();
    for table in RESOURCES.into_iter().map(|resource| tables.statements.of(resource)) {
        for dependents in table.links.iter().filter(|one| one.link.parent == parent) {
            let mut statement = tables.connection.prepare_cached(&dependents.ids)?;
            for found in statement.query_map((id,), |row| row.get(0))? {
                ids.push(found?);
            }
        }
    }
    Ok(ids)
}

/// Removes some lines of the ledger that are older.
pub(super) fn prune(tables: &Tables<'_>, before: Timestamp, limit: usize) -> rusqlite::Result<u64> {
    let mut prune = tables.connection.prepare_cached(
        "DELETE FROM deliveries WHERE svix_id IN
             (SELECT svix_id FROM deliveries WHERE applied_at < ?1 ORDER BY applied_at LIMIT ?2)",
    )?;
    Ok(prune.execute((before.to_string(), as_limit(limit)))? as u64)
}

/// A row that was deleted by itself.
pub(super) struct Deleted {
    pub(super) cursor: Cursor,
    pub(super) is_erased: bool,
}

/// Rows that were deleted before a moment, in the order in which they were, from behind a place.
pub(super) fn deleted(
    connection: &Connection,
    statements: &Statements,
    resource: &'static Resource,
    (from, before): (&Cursor, Timestamp),
    limit: usize,
) -> rusqlite::Result<Vec<Deleted>> {
    let mut statement = connection.prepare_cached(&statements.of(resource).deleted)?;
    let values = (from.moment(), before.to_string(), &from.id, as_limit(limit));
    let rows = statement.query_map(values, |row| {
        let exact: String = row.get(1)?;
        let deleted_at = Timestamp::parse(&exact).unwrap_or(from.deleted_at);
        Ok(Deleted {
            cursor: Cursor { deleted_at, exact: Some(exact), id: row.get(0)? },
            is_erased: row.get(2)?,
        })
    })?;
    rows.collect()
}

/// Erases the content of rows and of their child rows. Returns how many of the rows had any.
pub(super) fn erase_content(
    tables: &Tables<'_>,
    resource: &'static Resource,
    ids: &[String],
) -> rusqlite::Result<u64> {
    let mut erased = 0;
    for id in ids {
        let mut erase = tables.connection.prepare_cached(&tables.statements.of(resource).erase_content)?;
        if erase.execute((id,))? > 0 {
            tables.pass_on(resource, id, false)?;
            erased += 1;
        }
    }
    Ok(erased)
}

fn as_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
