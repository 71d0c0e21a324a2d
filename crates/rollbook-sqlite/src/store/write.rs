//! Writes of rows.

use rollbook_core::catalog::{LINKS_MAX, Resource};
use rollbook_core::change::{Field, Row};
use rollbook_core::merge::{Content, FromParents, SubjectState};
use rollbook_core::time::Timestamp;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{CachedStatement, ToSql};

use super::tables::Tables;
use crate::fault::NotKept;

/// Change to write of one subject.
pub(super) struct Write<'a> {
    pub(super) id: &'a str,
    /// New content, if there is any.
    pub(super) row: Option<&'a Row>,
    /// Ids of parents to write, in the order of the resource's links; the others stay.
    pub(super) parents: [Option<&'a str>; LINKS_MAX],
    /// State in the table.
    pub(super) before: Option<SubjectState>,
    pub(super) state: SubjectState,
    pub(super) synced_by: &'a str,
}

/// Writes rows of one table.
pub(super) struct Writer<'a> {
    tables: &'a Tables<'a>,
    resource: &'static Resource,
    upsert: CachedStatement<'a>,
    refresh: CachedStatement<'a>,
    end: CachedStatement<'a>,
    now: String,
}

impl<'a> Writer<'a> {
    pub(super) fn new(tables: &'a Tables<'_>, resource: &'static Resource) -> rusqlite::Result<Self> {
        let statements = tables.statements.of(resource);
        Ok(Self {
            tables,
            resource,
            upsert: tables.connection.prepare_cached(&statements.upsert)?,
            refresh: tables.connection.prepare_cached(&statements.refresh)?,
            end: tables.connection.prepare_cached(&statements.end)?,
            now: tables.now.to_string(),
        })
    }

    /// Writes a row with the state that it takes from its parents.
    pub(super) fn write(&mut self, write: &Write<'_>) -> rusqlite::Result<()> {
        let Some(row) = write.row else { return self.write_end(write) };
        let from_parents = self.tables.state_from_parents(self.resource, row)?;
        // Most changes touch no indexed value.
        if write.before.is_some() {
            bind(&mut self.refresh, self.resource, write, from_parents, &self.now)?;
            if self.refresh.raw_execute()? == 1 {
                return Ok(());
            }
        }
        bind(&mut self.upsert, self.resource, write, from_parents, &self.now)?;
        must_write(self.upsert.raw_execute()?)
    }

    /// Writes a change without new content: the deletion, the erasure, or the id of a parent.
    fn write_end(&mut self, write: &Write<'_>) -> rusqlite::Result<()> {
        let Write { id, state, synced_by, .. } = write;
        let same_parents = write.parents.iter().all(Option::is_none);
        let is_erased = state.content == Content::Erased;
        if same_parents && !is_erased && write.before.is_some_and(|before| before.content == state.content) {
            let values = (id, time(state.deleted_at), &self.now, synced_by, state.deleted_at, state.floor);
            return must_write(self.end.execute(values)?);
        }
        bind(&mut self.upsert, self.resource, write, FromParents::default(), &self.now)?;
        must_write(self.upsert.raw_execute()?)
    }
}

/// Refuses a row that was written as deleted and does not show it, or has content although it is erased: a trigger undoes
/// the write. To be called after the last write of the transaction.
pub(super) fn must_show(
    tables: &Tables<'_>,
    resource: &'static Resource,
    id: &str,
    state: &SubjectState,
) -> rusqlite::Result<()> {
    let Some(deleted_at) = time(state.deleted_at) else { return Ok(()) };
    let mut is_undone = tables.connection.prepare_cached(&tables.statements.of(resource).is_undone)?;
    if is_undone.exists((id, deleted_at))? { Err(NotKept::Undone.into()) } else { Ok(()) }
}

/// Checks that a row was written: only a trigger (`RAISE(IGNORE)`) can prevent it.
fn must_write(rows: usize) -> rusqlite::Result<()> {
    if rows == 0 { Err(rusqlite::Error::StatementChangedRows(0)) } else { Ok(()) }
}

fn time(millis: Option<i64>) -> Option<String> {
    millis.map(|at| Timestamp::from_millis(at).to_string())
}

/// Binds a row to the parameters of a table's upsert, or of a statement with the same parameters.
fn bind(
    statement: &mut CachedStatement<'_>,
    resource: &'static Resource,
    write: &Write<'_>,
    from_parents: FromParents,
    now: &str,
) -> rusqlite::Result<()> {
    let Write { id, row, state, synced_by, .. } = write;
    let whole = row.filter(|_| !from_parents.erased);
    let mut position = 1;
    let mut bind = |value: &dyn ToSql| {
        let bound = statement.raw_bind_parameter(position, value);
        position += 1;
        bound
    };
    bind(id)?;
    for (index, column) in resource.columns.iter().enumerate() {
        if let Some(number) = resource.links.iter().position(|link| link.column == column.name) {
            bind(&write.parents[number])?;
        } else {
            bind(&whole.map(|row| Bound(&row.values[index])))?;
        }
    }
    bind(&whole.map(|row| &row.data))?;
    bind(&whole.and_then(|row| row.created_at).map(|at| at.to_string()))?;
    bind(&whole.and_then(|row| row.updated_at).map(|at| at.to_string()))?;
    bind(&time(state.deleted_at.or(from_parents.deleted_at)))?;
    bind(&now)?;
    bind(synced_by)?;
    let (updated_at, event_at, hash) = state.content.to_columns();
    bind(&updated_at)?;
    bind(&event_at)?;
    bind(&hash)?;
    bind(&state.deleted_at)?;
    bind(&state.floor)?;
    if !resource.links.is_empty() {
        bind(&time(from_parents.deleted_at))?;
        bind(&state.links.to_column())?;
    }
    Ok(())
}

/// Value of a column, bound as SQLite's type.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollbook_core::change::Change;
    use rollbook_core::store::Store as _;
    use rollbook_testkit::clock::WallClock;
    use rollbook_testkit::events::{START, change_of, event, user};
    use serde_json::json;

    use crate::{Schema, SqliteStore, apply_migrations};

    /// Number of times that the calling thread has written to a file or a socket.
    fn writes_of_this_thread() -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/io").expect("the kernel counts them");
        let line = text.lines().find_map(|line| line.strip_prefix("syscw: ")).expect("a count");
        line.parse().expect("a number")
    }

    #[tokio::test]
    async fn rows_are_written_to_the_log_alone_and_to_no_temporary_file() {
        const ROWS: u64 = 3_000;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("tables");
        let store = SqliteStore::open(&path, Arc::new(WallClock)).expect("a store");
        let writes = async || {
            store.database.read(|_| Ok(writes_of_this_thread())).await.expect("the store's thread counts")
        };
        let change = |number: u64| {
            let mut data = user(&format!("user_{number:027}"), START);
            data["private_metadata"] = json!({ "notes": "x".repeat(1_000) });
            change_of(&format!("msg_{number}"), &event("user.created", START, &data))
        };
        let changes: Vec<Change> = (0..ROWS).map(change).collect();
        let before = writes().await;
        for batch in changes.chunks(500) {
            store.apply_many(batch).await.expect("rows");
        }
        let writes = writes().await - before;
        // Each page that changed is written to the log with a head, and copied from there. With a file for the pages that
        // statements keep, it would be twice as many here, and more with more indexes that grow.
        assert!(2 * writes < 7 * ROWS, "{writes} writes for {ROWS} rows");
    }
}
