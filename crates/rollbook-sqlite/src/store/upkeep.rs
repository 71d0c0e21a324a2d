//! Statements of retention: removal of old ledger entries, and of the content of deleted rows.

use rollbook_core::catalog::Resource;
use rollbook_core::sweep::Cursor;
use rollbook_core::time::Timestamp;
use rusqlite::Connection;

use super::lines::as_limit;
use super::sql::Statements;
use super::tables::Tables;
use crate::fault::Undone;

/// Removes ledger entries that were written before a time.
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

/// Returns rows that were deleted before a time, in the order of their deletion, starting after a position.
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

/// Erases the content of rows, and that of their child rows as far as there is room. Returns how many of the rows had any.
pub(super) fn erase_content(
    tables: &Tables<'_>,
    resource: &'static Resource,
    ids: &[String],
) -> rusqlite::Result<u64> {
    let statements = tables.statements.of(resource);
    let mut erased = 0;
    for id in ids {
        let mut erase = tables.connection.prepare_cached(&statements.erase_content)?;
        let is_written = erase.execute((id,))? > 0;
        if tables.connection.prepare_cached(&statements.has_content)?.exists((id,))? {
            // Nothing but a trigger can keep it (`RAISE(IGNORE)`) or put it back.
            return Err(if is_written { Undone.into() } else { rusqlite::Error::StatementChangedRows(0) });
        }
        if is_written {
            tables.pass_on(resource, id, false)?;
            erased += 1;
        }
    }
    Ok(erased)
}
