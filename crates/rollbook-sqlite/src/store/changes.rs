//! Reading of the change feed, and the removal of old lines.

use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::USERS;
use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, Changes, ChangesError, ChangesPage, ChangesQuery, FeedState,
    Generation, PASSED_MAX, Position, RetentionLimits, StoreError,
};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, Row};
use tokio::time::{Instant, timeout_at};

use super::SqliteStore;
use super::pending::as_limit;
use crate::feed;
use crate::select::parsed;

/// Interval of reads while a reader waits: another process may have written.
const POLL: Duration = Duration::from_millis(100);
/// Name of a column in an error.
const COLUMN: &str = "a column of changes";

/// Returns the state of the feed.
pub(super) fn state(connection: &Connection) -> rusqlite::Result<FeedState> {
    let sql = "SELECT removed_through, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0), generation
               FROM changes_state";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([], |row| {
        let (removed_through, last, generation) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(FeedState { removed_through, last, generation, ..FeedState::default() })
    })
}

/// Returns a position as SQLite's integer.
pub(super) fn bound(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// Returns a page, with the state of the feed from the same snapshot.
fn page(connection: &Connection, query: &ChangesQuery) -> rusqlite::Result<(FeedState, Vec<ChangeLine>)> {
    let list = |names: Vec<&str>| (!names.is_empty()).then(|| serde_json::Value::from(names).to_string());
    let resources = list(query.resources.iter().map(|resource| resource.table).collect());
    let kinds = list(query.kinds.iter().map(|kind| kind.as_str()).collect());
    let mut statement = connection.prepare_cached(
        "SELECT position, resource, subject_id, kind, changed, origin, cause, event_at, at FROM changes
         WHERE position > ?1 AND position <= ?2 AND (?3 IS NULL OR resource IN (SELECT value FROM json_each(?3)))
               AND (?4 IS NULL OR kind IN (SELECT value FROM json_each(?4)))
         ORDER BY position LIMIT ?5",
    )?;
    let passed = bound(query.after.saturating_add(PASSED_MAX));
    let values = (bound(query.after), passed, resources, kinds, as_limit(query.lines_max()));
    let lines = statement.query_map(values, line)?.collect::<rusqlite::Result<_>>()?;
    Ok((state(connection)?, lines))
}

/// Reads a line from the first columns.
pub(super) fn line(row: &Row<'_>) -> rusqlite::Result<ChangeLine> {
    Ok(ChangeLine {
        position: row.get(0)?,
        resource: row.get(1)?,
        subject_id: row.get(2)?,
        kind: parsed(row, 3, COLUMN, ChangeKind::parse)?,
        changed: parsed(row, 4, COLUMN, |names| serde_json::from_str(names).ok())?,
        origin: parsed(row, 5, COLUMN, ChangeOrigin::parse)?,
        cause: row.get(6)?,
        event_at: row.get::<_, Option<String>>(7)?.as_deref().and_then(Timestamp::parse),
        at: parsed(row, 8, COLUMN, Timestamp::parse)?,
    })
}

/// Returns the position before the first line from a time on. Times grow with the positions.
fn before(connection: &Connection, at: Timestamp) -> rusqlite::Result<Position> {
    let FeedState { removed_through, last, .. } = state(connection)?;
    let (mut low, mut high) = (removed_through + 1, last + 1);
    let sql = "SELECT at < ?2 FROM changes WHERE position >= ?1 ORDER BY position LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    while low < high {
        let middle = low + (high - low) / 2;
        if statement.query_row((bound(middle), at.to_string()), |row| row.get(0))? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low - 1)
}

/// Removes the lines of the lowest positions. Returns their number.
fn remove(connection: &Connection, through: Position, limit: usize) -> rusqlite::Result<u64> {
    let from = state(connection)?.removed_through;
    let through = through.min(from.saturating_add(limit as u64));
    if through <= from {
        return Ok(0);
    }
    let removed = connection
        .prepare_cached("DELETE FROM changes WHERE position > ?1 AND position <= ?2")?
        .execute((bound(from), bound(through)))?;
    connection.prepare_cached("UPDATE changes_state SET removed_through = ?1")?.execute((bound(through),))?;
    Ok(removed as u64)
}

/// Sets the time of the lines of this transaction, and the origin of its readings, for the triggers. Returns whether there is a
/// feed: then [`end_lines`] must follow.
pub(super) fn begin_lines(connection: &Connection, reading: Option<&str>) -> rusqlite::Result<bool> {
    let (now, prefix, table) = (feed::NOW, feed::PREFIX, USERS.table);
    let sql = format!(
        "UPDATE changes_state SET reading = ?1, line_at = {now}
         WHERE EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = '{prefix}_{table}_update')"
    );
    connection.prepare_cached(&sql)?.execute((reading,)).map(|rows| rows > 0)
}

/// Ends what [`begin_lines`] has begun: lines of other writers have their own time and origin.
pub(super) fn end_lines(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE changes_state SET reading = NULL, line_at = NULL";
    connection.prepare_cached(sql)?.execute(()).map(drop)
}

impl SqliteStore {
    /// Removes old lines, in steps.
    pub(super) async fn prune_changes(&self, due: &RetentionLimits) -> Result<u64, StoreError> {
        let Some(at) = due.changes_before else { return Ok(0) };
        let through = self.database.read(move |connection| before(connection, at)).await?;
        let mut removed = 0;
        loop {
            let left = due.limit.saturating_sub(usize::try_from(removed).unwrap_or(usize::MAX));
            let limit = self.ledger_pace.size().min(left);
            let work = move |tables: &super::tables::Tables<'_>| remove(tables.connection, through, limit);
            let step = self.paced(&self.ledger_pace, limit, work).await?.map_err(StoreError::Event)?;
            removed += step;
            if limit == 0 || usize::try_from(step).is_ok_and(|step| step < limit) {
                return Ok(removed);
            }
        }
    }
}

#[async_trait]
impl Changes for SqliteStore {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
        let asked = query.clone();
        let read =
            self.scans().await.map_err(StoreError::from)?.read(move |connection| page(connection, &asked));
        let (state, lines) = read.await.map_err(StoreError::from)?;
        state.check(query.after)?;
        Ok(ChangesPage::new(lines, query, &state))
    }

    async fn feed(&self) -> Result<FeedState, StoreError> {
        let read =
            |connection: &Connection| Ok(FeedState { is_on: feed::is_on(connection)?, ..state(connection)? });
        // On the writing connection: another one would need some 700 KiB for the tables and triggers, in every process.
        Ok(self.database.read(read).await?)
    }

    async fn position_before(&self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.scans().await?.read(move |connection| before(connection, at)).await?)
    }

    async fn wait_for_change(&self, after: Position, timeout: Duration) -> Result<bool, StoreError> {
        let deadline = Instant::now() + timeout;
        let mut written = self.written.subscribe();
        loop {
            written.mark_unchanged();
            if self.scans().await?.read(state).await?.last > after {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            // The sender is a part of the store.
            _ = timeout_at(deadline.min(now + POLL), written.changed()).await;
        }
    }

    async fn renew_feed(&self) -> Result<Generation, StoreError> {
        let renew = |connection: &Connection| {
            let sql = "UPDATE changes_state SET generation = random() & 9223372036854775807";
            connection.prepare_cached(sql)?.execute([])?;
            Ok(state(connection)?.generation)
        };
        Ok(self.database.run(renew).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollbook_core::store::{Reconciliation as _, Store as _};
    use rollbook_testkit::clock::WallClock;
    use rollbook_testkit::events::{START, change_of, event, user};

    use super::*;
    use crate::migrations::{Schema, apply_migrations};

    #[tokio::test]
    async fn an_idle_store_has_one_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("tables");
        let store = SqliteStore::open(&path, Arc::new(WallClock)).expect("a store");
        assert_eq!(store.feed().await.map(|state| (state.last, state.is_on)), Ok((0, true)));
        assert_eq!(store.sequence().await.map(|step| step.last), Ok(Some(0)));
        assert_eq!(store.cascade().await.map(|step| step.due_in), Ok(None));
        assert_eq!(store.runs(10).await.map(|runs| runs.len()), Ok(0));
        assert_eq!(store.count_held(None).await.map(|counts| counts.len()), Ok(0));
        store.ping().await.expect("it answers");
        assert!(store.rehearse().await.expect("it takes what a worker writes"));
        assert!(store.scans.get().is_none(), "only a reader of many rows needs the second one");
        store.position_before(Timestamp::from_millis(0)).await.expect("a position");
        assert!(store.scans.get().is_some(), "the test sees it");
    }

    #[tokio::test]
    async fn lines_of_a_transaction_have_one_time_and_statements_of_others_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("tables");
        let store = SqliteStore::open(&path, Arc::new(WallClock)).expect("a store");
        let change = |number: i64| {
            let data = user(&format!("user_{number}"), START + number);
            change_of(&format!("msg_{number}"), &event("user.created", START + number, &data))
        };
        store.apply_many(&(0..100).map(change).collect::<Vec<_>>()).await.expect("it is applied");
        let other = crate::connection::open(&path).expect("a file");
        let left = "SELECT line_at IS NULL AND reading IS NULL FROM changes_state";
        assert_eq!(other.query_row(left, [], |row| row.get(0)), Ok(true), "nothing is left for others");
        let later = Timestamp::parse("2999-01-01T00:00:00.000Z").expect("a time").to_string();
        other.execute("UPDATE changes SET at = ?1 WHERE position = 100", (&later,)).expect("a clock ahead");
        other
            .execute("UPDATE users SET first_name = 'Other' WHERE id = 'user_7'", [])
            .expect("a statement of a team");
        store.apply_many(&[change(200), change(201)]).await.expect("it is applied");
        let page = store.changes(&ChangesQuery { limit: 1_000, ..ChangesQuery::default() }).await;
        let times: Vec<String> = page.expect("a page").lines.iter().map(|line| line.at.to_string()).collect();
        assert!(times[..99].iter().all(|at| *at == times[0] && *at < later), "{times:?}");
        assert_eq!(times[99..], [&*later; 4], "times never decrease");
    }
}
