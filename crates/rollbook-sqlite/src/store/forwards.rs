//! Port of the forwarder.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::store::{
    FORWARD_CHANGES_MAX, Forward, ForwardChange, ForwardMove, ForwardProgress, ForwardState, ForwardStop,
    Forwards, LOCK_MAX, OpenChanges, Position, StoreError,
};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, Row, params};

use super::SqliteStore;
use super::changes::{bound, line};
use super::pending::as_limit;
use crate::select::{parsed, parsed_if_any, select};

/// A forward with the numbers of its recorded changes: (time); a condition or an order follows.
const FORWARD: &str =
    "SELECT name, position, epoch, coalesce(held_until > ?1, false), stopped_at, stop_reason, saved_at,
        (SELECT count(*) FROM forward_changes AS change WHERE change.forward = name AND state = 'waiting'),
        (SELECT count(*) FROM (SELECT DISTINCT resource, subject_id FROM forward_changes AS change
                               WHERE change.forward = name AND state = 'waiting')),
        (SELECT count(*) FROM forward_changes AS change WHERE change.forward = name AND state = 'failed'),
        CASE WHEN in_hand_at = position THEN in_hand END, generation, paused_until
    FROM forwards";

/// Name of a column in an error.
const COLUMN: &str = "a column of a forward";

/// Records changes, in the order of the columns that `line` reads.
const RECORD: &str = "INSERT OR REPLACE INTO forward_changes
        (forward, position, resource, subject_id, kind, changed, origin, cause, event_at, at,
         state, tries, attempts, failed_at, next_try_at, last_error)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    parsed(row, column, COLUMN, Timestamp::parse)
}

fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    parsed_if_any(row, column, COLUMN, Timestamp::parse)
}

fn forward(row: &Row<'_>) -> rusqlite::Result<Forward> {
    let reason: Option<String> = row.get(5)?;
    let stopped = optional_time(row, 4)?;
    Ok(Forward {
        name: row.get(0)?,
        position: row.get(1)?,
        epoch: row.get(2)?,
        is_held: row.get(3)?,
        stopped: stopped.map(|at| ForwardStop { at, reason: reason.unwrap_or_default() }),
        saved_at: time(row, 6)?,
        waiting: row.get(7)?,
        blocked: row.get(8)?,
        failed: row.get(9)?,
        open_changes: row.get::<_, Option<String>>(10)?.as_deref().and_then(OpenChanges::parse),
        generation: row.get(11)?,
        paused_until: optional_time(row, 12)?,
    })
}

fn change(row: &Row<'_>) -> rusqlite::Result<ForwardChange> {
    Ok(ForwardChange {
        line: line(row)?,
        state: parsed(row, 9, COLUMN, ForwardState::parse)?,
        tries: row.get(10)?,
        attempts: row.get(11)?,
        failed_at: optional_time(row, 12)?,
        next_try_at: time(row, 13)?,
        last_error: row.get(14)?,
    })
}

fn read(connection: &Connection, name: &str, now: Timestamp) -> rusqlite::Result<Option<Forward>> {
    let sql = format!("{FORWARD} WHERE name = ?2");
    Ok(select(connection, &sql, (now.to_string(), name), forward)?.pop())
}

fn record(connection: &Connection, name: &str, changes: &[ForwardChange]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(RECORD)?;
    for ForwardChange { line, state, tries, attempts, failed_at, next_try_at, last_error } in changes {
        statement.execute(params![
            name,
            bound(line.position),
            line.resource,
            line.subject_id,
            line.kind.as_str(),
            serde_json::Value::from(line.changed.clone()).to_string(),
            line.origin.as_str(),
            line.cause,
            line.event_at.map(|at| at.to_string()),
            line.at.to_string(),
            state.as_str(),
            tries,
            attempts,
            failed_at.map(|at| at.to_string()),
            next_try_at.to_string(),
            last_error,
        ])?;
    }
    Ok(())
}

fn save(
    connection: &Connection,
    name: &str,
    epoch: u64,
    held_until: Timestamp,
    progress: &ForwardProgress,
) -> rusqlite::Result<bool> {
    let sql = "UPDATE forwards SET position = ?3, saved_at = ?4, held_until = ?5,
                   stopped_at = coalesce(?6, stopped_at), stop_reason = coalesce(?7, stop_reason),
                   in_hand_at = ?3, in_hand = ?8, generation = ?9, paused_until = ?10
               WHERE name = ?1 AND epoch = ?2";
    let stopped = progress.stopped.as_ref();
    let saved = connection.prepare_cached(sql)?.execute(params![
        name,
        bound(epoch),
        bound(progress.position),
        progress.saved_at.to_string(),
        held_until.to_string(),
        stopped.map(|stop| stop.at.to_string()),
        stopped.map(|stop| &stop.reason),
        progress.open_changes.as_ref().map(OpenChanges::encode),
        progress.generation.map(bound),
        progress.paused_until.map(|until| until.to_string()),
    ])?;
    if saved == 0 {
        return Ok(false);
    }
    let mut remove =
        connection.prepare_cached("DELETE FROM forward_changes WHERE forward = ?1 AND position = ?2")?;
    progress.removed.iter().try_for_each(|position| remove.execute((name, bound(*position))).map(drop))?;
    record(connection, name, &progress.recorded)?;
    Ok(true)
}

/// Makes the process that has the forward take it anew.
fn bump(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "UPDATE forwards SET epoch = epoch + 1 WHERE name = ?1";
    Ok(connection.prepare_cached(sql)?.execute((name,))? == 1)
}

fn move_to(connection: &Connection, name: &str, to: ForwardMove) -> rusqlite::Result<bool> {
    if !bump(connection, name)? {
        return Ok(false);
    }
    let position = bound(to.position());
    let is_resume = matches!(to, ForwardMove::Resume(_));
    let sql =
        "UPDATE forwards SET position = ?2, in_hand_at = CASE WHEN ?3 AND in_hand_at = position THEN ?2 END,
                   stopped_at = NULL, stop_reason = NULL, generation = NULL, paused_until = NULL
               WHERE name = ?1";
    connection.prepare_cached(sql)?.execute((name, position, is_resume))?;
    if let ForwardMove::Replay(_) = to {
        let sql = "DELETE FROM forward_changes WHERE forward = ?1 AND position > ?2";
        connection.prepare_cached(sql)?.execute((name, position))?;
    }
    Ok(true)
}

impl SqliteStore {
    /// Changes dead letters, each by a statement with (forward, position), and then the epoch.
    async fn change_dead_letters(
        &self,
        name: &str,
        positions: &[Position],
        sql: String,
    ) -> Result<u64, StoreError> {
        let (name, positions) = (name.to_owned(), positions.to_vec());
        let work = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut changed = 0;
            for position in &positions {
                changed += statement.execute((&name, bound(*position)))? as u64;
            }
            if changed > 0 {
                bump(connection, &name)?;
            }
            Ok(changed)
        };
        Ok(self.database.run(work).await?)
    }
}

#[async_trait]
impl Forwards for SqliteStore {
    async fn take_forward(
        &self,
        name: &str,
        holder: &str,
        hold_for: Duration,
        begin: Position,
    ) -> Result<Option<Forward>, StoreError> {
        let (name, holder, clock) = (name.to_owned(), holder.to_owned(), Arc::clone(&self.clock));
        let take = move |connection: &Connection| {
            // Read under the file's write lock: the time does not pass while this waits for it.
            let now = clock.now();
            let sql = "INSERT INTO forwards (name, position, epoch, holder, held_until, saved_at)
                           VALUES (?1, ?2, 1, ?3, ?4, ?5)
                       ON CONFLICT (name) DO UPDATE
                       SET holder = excluded.holder, held_until = excluded.held_until, epoch = epoch + 1
                       WHERE holder IS NULL OR holder = excluded.holder OR held_until <= ?5 OR held_until > ?6";
            let until = now.plus(hold_for.min(LOCK_MAX)).to_string();
            // A lock that ends later than any may is of a clock that was ahead.
            let latest = now.plus(LOCK_MAX).to_string();
            let values = (&name, bound(begin), &holder, until, now.to_string(), latest);
            let is_taken = connection.prepare_cached(sql)?.execute(values)? == 1;
            if is_taken { read(connection, &name, now) } else { Ok(None) }
        };
        Ok(self.database.run(take).await?)
    }

    async fn save_forward(
        &self,
        name: &str,
        epoch: u64,
        hold_for: Duration,
        progress: &ForwardProgress,
    ) -> Result<bool, StoreError> {
        let (name, progress, clock) = (name.to_owned(), progress.clone(), Arc::clone(&self.clock));
        let work = move |connection: &Connection| {
            save(connection, &name, epoch, clock.now().plus(hold_for.min(LOCK_MAX)), &progress)
        };
        Ok(self.database.run(work).await?)
    }

    async fn release_forward(&self, name: &str, epoch: u64) -> Result<(), StoreError> {
        let sql = "UPDATE forwards SET holder = NULL, held_until = NULL WHERE name = ?1 AND epoch = ?2";
        Ok(self.database.execute(sql, (name.to_owned(), bound(epoch))).await?)
    }

    async fn forwards(&self) -> Result<Vec<Forward>, StoreError> {
        let sql = format!("{FORWARD} ORDER BY name");
        Ok(self.scans().await?.rows(sql, (self.clock.now().to_string(),), forward).await?)
    }

    async fn forward_changes(
        &self,
        name: &str,
        state: ForwardState,
        after: Position,
        limit: usize,
    ) -> Result<Vec<ForwardChange>, StoreError> {
        let sql = "SELECT position, resource, subject_id, kind, changed, origin, cause, event_at, at,
                          state, tries, attempts, failed_at, next_try_at, last_error
                   FROM forward_changes WHERE forward = ?1 AND state = ?2 AND position > ?3
                   ORDER BY position LIMIT ?4";
        let limit = as_limit(limit.min(FORWARD_CHANGES_MAX));
        let values = (name.to_owned(), state.as_str(), bound(after), limit);
        Ok(self.scans().await?.rows(sql, values, change).await?)
    }

    async fn move_forward(&self, name: &str, to: ForwardMove) -> Result<bool, StoreError> {
        let name = name.to_owned();
        Ok(self.database.run(move |connection| move_to(connection, &name, to)).await?)
    }

    async fn redrive_forward(
        &self,
        name: &str,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let sql = format!(
            "UPDATE forward_changes SET state = 'waiting', tries = 0, attempts = 0, failed_at = NULL, next_try_at = '{now}'
             WHERE forward = ?1 AND position = ?2 AND state = 'failed'"
        );
        self.change_dead_letters(name, positions, sql).await
    }

    async fn discard_forward(&self, name: &str, positions: &[Position]) -> Result<u64, StoreError> {
        let sql = "DELETE FROM forward_changes WHERE forward = ?1 AND position = ?2 AND state = 'failed'";
        self.change_dead_letters(name, positions, sql.to_owned()).await
    }
}
