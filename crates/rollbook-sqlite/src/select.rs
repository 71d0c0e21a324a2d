//! One SELECT.

use rusqlite::{Connection, Params, Row};

/// Runs a SELECT and reads its rows. The statement stays prepared.
pub(crate) fn select<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(values, read)?.collect()
}
