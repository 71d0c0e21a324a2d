//! Reads of rows and of the ledger.

use rollbook_core::catalog::{Kind, Resource};
use rollbook_core::delivery::MessageId;
use rollbook_core::json::Document;
use rollbook_core::store::{LedgerEntry, RowText, RowView};
use rollbook_core::table_layout::columns;
use rollbook_core::time::Timestamp;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::{Map, Value};

use super::pending::as_limit;
use crate::select::{parsed, select};

/// Reads a row as a text.
pub(super) fn row_text(resource: &'static Resource, row: &Row<'_>) -> rusqlite::Result<RowText> {
    let text = |((name, kind), position): ((&str, Kind), usize)| {
        let text = match (kind, row.get_ref(position)?) {
            (Kind::Json, ValueRef::Text(json)) => {
                Document::read(json).map_err(|error| unreadable(position, error))?
            }
            _ => Document::from(&value(row, position, name, kind)?),
        };
        Ok((name.to_owned(), text))
    };
    let columns: rusqlite::Result<_> = columns(resource).zip(0..).map(text).collect();
    Ok(RowText::new(&columns?))
}

/// Reads a row as an application sees it.
pub(super) fn view(resource: &'static Resource, row: &Row<'_>) -> rusqlite::Result<RowView> {
    view_from(resource, row, 0)
}

/// Reads a row from the columns from this one on; `None` if its id is null, as of a row that a join did not find.
pub(super) fn view_at(
    resource: &'static Resource,
    row: &Row<'_>,
    first: usize,
) -> rusqlite::Result<Option<RowView>> {
    match row.get_ref(first)? {
        ValueRef::Null => Ok(None),
        _ => view_from(resource, row, first).map(Some),
    }
}

fn view_from(resource: &'static Resource, row: &Row<'_>, first: usize) -> rusqlite::Result<RowView> {
    let columns = columns(resource)
        .zip(first..)
        .map(|((name, kind), position)| Ok((name.to_owned(), value(row, position, name, kind)?)))
        .collect::<rusqlite::Result<Map<String, Value>>>()?;
    Ok(RowView { id: row.get(first)?, columns })
}

fn value(row: &Row<'_>, position: usize, name: &str, kind: Kind) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(position)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) if kind == Kind::Bool => Value::Bool(number != 0),
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Text(text) if kind == Kind::Json => {
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

const ENTRY: &str = "SELECT svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts FROM deliveries";
/// Selects the latest entries about a subject: (subject, limit). The query walks from bucket to bucket of the
/// ledger, one step in an index each (`0008_ledger_buckets.sql`).
const LATEST: &str = "
    WITH RECURSIVE buckets (number) AS (
        SELECT max(bucket) FROM deliveries
        UNION ALL
        SELECT (SELECT max(bucket) FROM deliveries WHERE bucket < buckets.number)
        FROM buckets WHERE buckets.number IS NOT NULL
    )
    SELECT svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts
    FROM buckets CROSS JOIN deliveries ON bucket = buckets.number AND subject_id = ?1
    ORDER BY applied_at DESC, svix_id DESC LIMIT ?2";

/// Reads the ledger entry of a delivery.
pub(super) fn delivery(connection: &Connection, id: &MessageId) -> rusqlite::Result<Option<LedgerEntry>> {
    let mut statement = connection.prepare_cached(&format!("{ENTRY} WHERE svix_id = ?1"))?;
    statement.query_row((id.as_str(),), entry).optional()
}

/// Reads the latest ledger entries about a subject, in the order in which they were written.
pub(super) fn deliveries(
    connection: &Connection,
    subject_id: &str,
    limit: usize,
) -> rusqlite::Result<Vec<LedgerEntry>> {
    let mut entries = select(connection, LATEST, (subject_id, as_limit(limit)), entry)?;
    entries.reverse();
    Ok(entries)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let time = |position| parsed(row, position, "a time", Timestamp::parse);
    let message_id = MessageId::new(row.get::<_, String>(0)?);
    let outcome = LedgerEntry::parse_outcome(&message_id, row.get_ref(3)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, Box::new(error)))?;
    Ok(LedgerEntry {
        message_id,
        event_type: row.get(1)?,
        subject_id: row.get(2)?,
        outcome,
        event_at: time(4)?,
        received_at: time(5)?,
        applied_at: time(6)?,
        attempts: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use rollbook_core::store::StoreError;

    use super::*;
    use crate::connection;
    use crate::fault::Fault;
    use crate::migrations::{Schema, apply_migrations};

    #[test]
    fn the_entries_of_a_subject_are_found_without_a_scan_of_the_ledger() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = connection::open(&path).expect("a file");
        let sql = LATEST.replace("?1", "'user_1'").replace("?2", "50");
        let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a query");
        let plan = explained.query_map([], |row| row.get::<_, String>("detail")).expect("a plan");
        let plan: Vec<String> = plan.map(|line| line.expect("a line")).collect();
        let by = "SEARCH deliveries USING INDEX deliveries_by_bucket (bucket=? AND subject_id=?)";
        assert!(plan.iter().any(|line| line == by), "{plan:?}");
        assert!(!plan.iter().any(|line| line.contains("SCAN deliveries")), "{plan:?}");
    }

    #[test]
    fn a_ledger_entry_with_an_unknown_outcome_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = connection::open(&path).expect("a file");
        let entry = "INSERT INTO deliveries VALUES ('msg_a', 'user.updated', 'user_1', ?1, ?2, ?2, ?2, 1, 1)";
        connection.execute(entry, ("merged_twice", "2026-07-29T08:01:00.000Z")).expect("an entry");
        for error in [
            delivery(&connection, &MessageId::new("msg_a")).unwrap_err(),
            deliveries(&connection, "user_1", 10).unwrap_err(),
        ] {
            let StoreError::Unreadable(text) = StoreError::from(Fault::from(error)) else {
                panic!("it is readable")
            };
            assert!(
                text.starts_with("the ledger entry of msg_a has the outcome \"merged_twice\", which"),
                "{text}"
            );
            assert!(text.contains("Fix: upgrade this Rollbook"), "{text}");
        }
    }

    #[test]
    fn only_the_latest_entries_of_many_buckets_are_found_in_their_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = connection::open(&path).expect("a file");
        assert_eq!(
            deliveries(&connection, "user_1", 10).map(|entries| entries.len()),
            Ok(0),
            "an empty ledger"
        );
        // Bucket 0 is that of an earlier build, which may still write.
        for (id, subject, at, bucket) in [
            ("msg_d", "user_1", "2026-07-29T08:01:30.000Z", 2),
            ("msg_b", "user_1", "2026-07-29T08:01:00.000Z", 1),
            ("msg_c", "user_1", "2026-07-29T08:01:00.000Z", 2),
            ("msg_x", "user_2", "2026-07-29T08:01:00.000Z", 2),
            ("msg_a", "user_1", "2026-07-28T23:59:59.999Z", 0),
            ("msg_e", "user_1", "2026-08-03T00:00:00.000Z", 7),
        ] {
            let entry =
                "INSERT INTO deliveries VALUES (?1, 'user.updated', ?2, 'updated', ?3, ?3, ?3, 1, ?4)";
            connection.execute(entry, (id, subject, at, bucket)).expect("an entry");
        }
        let found = |limit| {
            let entries = deliveries(&connection, "user_1", limit).expect("entries");
            entries.iter().map(|entry| entry.message_id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found(10), ["msg_a", "msg_b", "msg_c", "msg_d", "msg_e"]);
        assert_eq!(found(3), ["msg_c", "msg_d", "msg_e"]);
    }
}
