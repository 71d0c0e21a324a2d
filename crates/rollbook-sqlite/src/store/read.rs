//! Reading rows and the ledger.

use rollbook_core::catalog::{Kind, Resource};
use rollbook_core::change::Applied;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{LedgerEntry, RowView};
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::{Map, Value};

use super::sql::{self, Statements};

/// One row.
pub(super) fn get(
    connection: &Connection,
    statements: &Statements,
    resource: &'static Resource,
    id: &str,
) -> rusqlite::Result<Option<RowView>> {
    let mut statement = connection.prepare_cached(&statements.of(resource).get)?;
    statement.query_row((id,), |row| view(resource, row)).optional()
}

/// Rows behind `after`, in the order of their ids.
pub(super) fn rows(
    connection: &Connection,
    statements: &Statements,
    resource: &'static Resource,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<RowView>> {
    let mut statement = connection.prepare_cached(&statements.of(resource).rows)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map((after, limit), |row| view(resource, row))?;
    rows.collect()
}

fn view(resource: &'static Resource, row: &Row<'_>) -> rusqlite::Result<RowView> {
    let columns = sql::columns(resource)
        .enumerate()
        .map(|(position, name)| Ok((name.to_owned(), value(resource, row, position, name)?)))
        .collect::<rusqlite::Result<Map<String, Value>>>()?;
    Ok(RowView { id: row.get(0)?, columns })
}

fn value(resource: &Resource, row: &Row<'_>, position: usize, name: &str) -> rusqlite::Result<Value> {
    let typed = resource.columns.iter().find(|column| column.name == name).map(|column| column.kind);
    let is_json = typed == Some(Kind::Json) || name == "data";
    Ok(match row.get_ref(position)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) if typed == Some(Kind::Bool) => Value::Bool(number != 0),
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Text(text) if is_json => {
            serde_json::from_slice(text).map_err(|error| unreadable(position, error))?
        }
        ValueRef::Text(text) => {
            Value::from(std::str::from_utf8(text).map_err(|error| unreadable(position, error))?)
        }
        other => {
            return Err(rusqlite::Error::InvalidColumnType(position, name.to_owned(), other.data_type()));
        }
    })
}

fn unreadable(position: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(position, Type::Text, Box::new(error))
}

/// The ledger's line of a delivery.
pub(super) fn delivery(connection: &Connection, id: &MessageId) -> rusqlite::Result<Option<LedgerEntry>> {
    let mut statement = connection.prepare_cached(
        "SELECT event_type, subject_id, outcome, attempts FROM deliveries WHERE svix_id = ?1",
    )?;
    let read = |row: &Row<'_>| {
        let outcome: String = row.get(2)?;
        Ok(LedgerEntry {
            event_type: row.get(0)?,
            subject_id: row.get(1)?,
            outcome: Applied::parse(&outcome).unwrap_or(Applied::Ignored),
            attempts: row.get(3)?,
        })
    };
    statement.query_row((id.as_str(),), read).optional()
}
