//! Applying a batch.

use std::collections::HashMap;

use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::change::{Applied, Assertion, Change, Effect, Field, Version};
use rollbook_core::merge::{self, Stored};
use rollbook_core::time::Timestamp;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, ToSql};

use super::sql::Statements;

/// Merges the changes into their tables and writes the ledger.
pub(super) fn apply(
    connection: &Connection,
    statements: &Statements,
    changes: &[Change],
    now: Timestamp,
) -> rusqlite::Result<Vec<Applied>> {
    let now = now.to_string();
    let mut outcomes = vec![Applied::Ignored; changes.len()];
    for resource in RESOURCES {
        let (positions, assertions): (Vec<usize>, Vec<(&Assertion, &str)>) = changes
            .iter()
            .enumerate()
            .filter_map(|(position, change)| match &change.effect {
                Effect::Merge(assertion) if assertion.resource == resource => {
                    Some((position, (&**assertion, change.origin.message_id.as_str())))
                }
                _ => None,
            })
            .unzip();
        if !assertions.is_empty() {
            let applied = apply_table(connection, statements, resource, &assertions, &now)?;
            for (position, outcome) in positions.into_iter().zip(applied) {
                outcomes[position] = outcome;
            }
        }
    }
    write_ledger(connection, changes, &outcomes, &now)?;
    Ok(outcomes)
}

fn apply_table(
    connection: &Connection,
    statements: &Statements,
    resource: &'static Resource,
    assertions: &[(&Assertion, &str)],
    now: &str,
) -> rusqlite::Result<Vec<Applied>> {
    let table = statements.of(resource);
    let mut known = connection.prepare_cached(&table.stored)?;
    let mut stored = HashMap::with_capacity(assertions.len());
    for (assertion, _) in assertions {
        if !stored.contains_key(assertion.id.as_str())
            && let Some(found) = known.query_row((&assertion.id,), read_stored).optional()?
        {
            stored.insert(assertion.id.as_str(), found);
        }
    }
    let changes: Vec<&Assertion> = assertions.iter().map(|(assertion, _)| *assertion).collect();
    let folded = merge::fold(&changes, |id| stored.get(id).copied());
    let mut upsert = connection.prepare_cached(&table.upsert)?;
    for winner in folded.winners {
        let (assertion, synced_by) = assertions[winner];
        write_row(&mut upsert, assertion, now, synced_by)?;
    }
    Ok(folded.outcomes)
}

fn read_stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<Stored> {
    let version =
        Version { dead: row.get(0)?, updated_at: row.get(1)?, event_at: row.get(2)?, hash: row.get(3)? };
    Ok(Stored { version: Some(version), floor: row.get(4)? })
}

/// A deleted row keeps its id, its version and when it was deleted: no content.
fn write_row(
    upsert: &mut CachedStatement<'_>,
    assertion: &Assertion,
    now: &str,
    synced_by: &str,
) -> rusqlite::Result<()> {
    let mut position = 1;
    let mut bind = |value: &dyn ToSql| {
        let bound = upsert.raw_bind_parameter(position, value);
        position += 1;
        bound
    };
    bind(&assertion.id)?;
    if let Some(row) = &assertion.row {
        for value in &row.values {
            bind(&Bound(value))?;
        }
        bind(&row.data)?;
        bind(&row.created_at.map(|at| at.to_string()))?;
        bind(&row.updated_at.map(|at| at.to_string()))?;
        bind(&Value::Null)?;
    } else {
        for _ in assertion.resource.columns {
            bind(&Value::Null)?;
        }
        for _ in ["data", "created_at", "updated_at"] {
            bind(&Value::Null)?;
        }
        bind(&Timestamp::from_millis(assertion.version.event_at).to_string())?;
    }
    bind(&now)?;
    bind(&synced_by)?;
    let version = &assertion.version;
    bind(&version.dead)?;
    bind(&version.updated_at)?;
    bind(&version.event_at)?;
    bind(&version.hash)?;
    upsert.raw_execute()?;
    Ok(())
}

/// A column's value as SQLite takes it.
struct Bound<'a>(&'a Field);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Field::Null => ToSqlOutput::Owned(Value::Null),
            Field::Text(text) | Field::Json(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Field::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Field::Bool(yes) => ToSqlOutput::Owned(Value::Integer(i64::from(*yes))),
            Field::Time(at) => ToSqlOutput::Owned(Value::Text(at.to_string())),
        })
    }
}

/// The first thing that became of a delivery stays: when it comes again there is nothing new to tell.
fn write_ledger(
    connection: &Connection,
    changes: &[Change],
    outcomes: &[Applied],
    now: &str,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO deliveries
             (svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (svix_id) DO NOTHING",
    )?;
    for (change, outcome) in changes.iter().zip(outcomes) {
        let origin = &change.origin;
        statement.execute((
            origin.message_id.as_str(),
            &origin.event_type,
            change.subject_id(),
            outcome.as_str(),
            origin.event_at.to_string(),
            origin.received_at.to_string(),
            now,
            origin.attempt,
        ))?;
    }
    Ok(())
}
