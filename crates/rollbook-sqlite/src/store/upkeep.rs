//! Statements of retention: removal of old ledger entries, and of the content of deleted rows.

use std::collections::BTreeSet;

use rollbook_core::catalog::Resource;
use rollbook_core::sweep::Cursor;
use rollbook_core::time::Timestamp;
use rusqlite::Connection;

use super::pending::as_limit;
use super::sql::Statements;
use super::tables::Tables;
use crate::fault::NotKept;
use crate::select::select;

/// Returns the oldest ledger entries before a time, as `applied_at` and `svix-id`, from this `applied_at`,
/// without those in a JSON array.
pub(super) fn old_entries(
    connection: &Connection,
    before: Timestamp,
    (from, except): (&str, &str),
    limit: usize,
) -> rusqlite::Result<Vec<(String, String)>> {
    let sql = "SELECT applied_at, svix_id FROM deliveries
               WHERE applied_at < ?1 AND applied_at >= ?2 AND svix_id NOT IN (SELECT value FROM json_each(?3))
               ORDER BY applied_at LIMIT ?4";
    let values = (before.to_string(), from, except, as_limit(limit));
    select(connection, sql, values, |row| Ok((row.get(0)?, row.get(1)?)))
}

/// A row that was deleted by itself.
pub(super) struct Deleted {
    pub(super) cursor: Cursor,
    pub(super) is_erased: bool,
}

/// Returns rows that were deleted before a time, in the order of their deletion, starting after a position.
pub(super) fn deleted(
    connection: &Connection,
    statements: &Statements,
    resource: &'static Resource,
    (from, before): (&Cursor, Timestamp),
    limit: usize,
) -> rusqlite::Result<Vec<Deleted>> {
    let values = (from.moment(), before.to_string(), &from.id, as_limit(limit));
    select(connection, &statements.of(resource).deleted, values, |row| {
        let exact: String = row.get(1)?;
        let deleted_at = Timestamp::parse(&exact).unwrap_or(from.deleted_at);
        Ok(Deleted {
            cursor: Cursor { deleted_at, exact: Some(exact), id: row.get(0)? },
            is_erased: row.get(2)?,
        })
    })
}

/// Erases the content of rows, and that of their child rows as far as there is room. Returns how many of the
/// rows had any.
pub(super) fn erase_content(
    tables: &Tables<'_>,
    resource: &'static Resource,
    ids: &[String],
) -> rusqlite::Result<u64> {
    let statements = tables.statements.of(resource);
    let mut erased = BTreeSet::new();
    for id in ids {
        let mut erase = tables.connection.prepare_cached(&statements.erase_content)?;
        if erase.execute((id,))? > 0 {
            tables.pass_on_and_check(resource, id)?;
            erased.insert(id);
        }
    }
    for id in ids {
        if tables.connection.prepare_cached(&statements.has_content)?.exists((id,))? {
            // Only a trigger can keep the content (`RAISE(IGNORE)`) or restore it.
            let is_written = erased.contains(id);
            return Err(if is_written {
                NotKept::Undone.into()
            } else {
                rusqlite::Error::StatementChangedRows(0)
            });
        }
    }
    Ok(erased.len() as u64)
}
