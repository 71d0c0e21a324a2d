//! One SELECT, and values of its rows.

use rusqlite::types::{Type, ValueRef};
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

/// Reads and parses a text. `what` names the column in the error.
pub(crate) fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let damaged = || rusqlite::Error::InvalidColumnType(column, what.to_owned(), Type::Text);
    let text = row.get_ref(column)?.as_str().map_err(|_| damaged())?;
    parse(text).ok_or_else(damaged)
}

/// Reads and parses a text that may be null.
pub(crate) fn parsed_if_any<T>(
    row: &Row<'_>,
    column: usize,
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    let is_null = row.get_ref(column)? == ValueRef::Null;
    if is_null { Ok(None) } else { parsed(row, column, what, parse).map(Some) }
}
