//! The tables in one transaction: connection, statements, time, and the room for repairs of child rows.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rollbook_core::catalog::Resource;
use rollbook_core::change::Row;
use rollbook_core::merge::{self, Content, FromParents, Links, SubjectState};
use rollbook_core::time::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _};

use super::sql::Statements;

/// The tables in one transaction.
pub(super) struct Tables<'a> {
    pub(super) connection: &'a Connection,
    pub(super) statements: &'a Statements,
    pub(super) now: Timestamp,
    pub(super) cascading: Cascading,
}

/// Result of a transaction, shared with its caller.
#[derive(Debug, Default)]
pub(super) struct Trail {
    in_child: AtomicBool,
    has_noted: AtomicBool,
}

impl Trail {
    /// Whether the transaction failed while a child row was repaired.
    pub(super) fn failed_in_child(&self) -> bool {
        self.in_child.load(Ordering::Relaxed)
    }

    /// Whether the transaction noted pending work.
    pub(super) fn has_noted(&self) -> bool {
        self.has_noted.load(Ordering::Relaxed)
    }
}

/// Number of rows that a transaction may still repair.
pub(super) struct Cascading {
    room: Cell<usize>,
    has_repaired: Cell<bool>,
    trail: Arc<Trail>,
}

impl Cascading {
    /// Starts a transaction. With no room, each wrong row is noted instead of repaired.
    pub(super) fn new(room: usize, trail: &Arc<Trail>) -> Self {
        trail.in_child.store(false, Ordering::Relaxed);
        trail.has_noted.store(false, Ordering::Relaxed);
        Self { room: Cell::new(room), has_repaired: Cell::new(false), trail: Arc::clone(trail) }
    }

    /// Returns the number of rows that may still be repaired.
    pub(super) fn room(&self) -> usize {
        self.room.get()
    }

    /// Records that pending work was noted.
    pub(super) fn has_noted(&self) {
        self.trail.has_noted.store(true, Ordering::Relaxed);
    }

    /// Whether child rows were repaired.
    pub(super) fn has_repaired(&self) -> bool {
        self.has_repaired.get()
    }

    /// Reduces the room by this many rows, which are about to be repaired.
    pub(super) fn take(&self, rows: usize) {
        self.has_repaired.set(true);
        self.room.set(self.room.get().saturating_sub(rows));
    }

    /// Runs work about a child row: its failure is caused by that row.
    pub(super) fn in_child<T>(&self, work: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.trail.in_child.store(true, Ordering::Relaxed);
        let done = work()?;
        self.trail.in_child.store(false, Ordering::Relaxed);
        Ok(done)
    }
}

impl Tables<'_> {
    /// Returns the stored state of a subject.
    pub(super) fn stored(
        &self,
        resource: &'static Resource,
        id: &str,
    ) -> rusqlite::Result<Option<SubjectState>> {
        let mut known = self.connection.prepare_cached(&self.statements.of(resource).stored)?;
        known.query_row((id,), read_stored).optional()
    }

    /// Returns the state that a row takes from its parents. Parents of the same batch are already written.
    pub(super) fn state_from_parents(
        &self,
        resource: &'static Resource,
        row: &Row,
    ) -> rusqlite::Result<FromParents> {
        let mut known = HashMap::new();
        for (link, id) in merge::parents(resource, row) {
            known.insert((link.parent.table, id), self.stored(link.parent, id)?);
        }
        let parent = |of: &'static Resource, id: &str| known.get(&(of.table, id)).copied().flatten();
        Ok(merge::from_parents(resource, row, parent))
    }
}

/// Reads the state of a subject from a row of `Table::stored`.
pub(super) fn read_stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<SubjectState> {
    let hash = row.get_ref(2)?.as_blob()?;
    let unknown = || rusqlite::Error::InvalidColumnType(2, "version_hash".to_owned(), Type::Blob);
    let content = Content::from_columns(row.get(0)?, row.get(1)?, hash).ok_or_else(unknown)?;
    let links = row.get_ref(5)?.as_str_or_null()?;
    let odd = || rusqlite::Error::InvalidColumnType(5, "version_links".to_owned(), Type::Text);
    let links = Links::from_column(links, [row.get(6)?, row.get(7)?]).ok_or_else(odd)?;
    Ok(SubjectState { content, deleted_at: row.get(3)?, floor: row.get(4)?, links })
}
