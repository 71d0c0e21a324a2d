//! Positions of the change feed, and the removal of old lines.
//!
//! A change's line is written to `changes_pending` in the transaction of the change. One process at a time moves committed
//! lines to `changes`, in the order of their numbers, and gives them consecutive positions. Two transactions that change one
//! row are ordered by the row's lock, and each draws its number while it holds the lock: the later one's is greater, and where
//! it is visible, the earlier one's is visible too or was moved before. Transactions that are still open hold up nothing
//! (decision 0281).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rollbook_core::lock::lock;
use rollbook_core::store::{Changes as _, Position, RetentionLimits, SequenceStep, StoreError};
use sqlx::Row as _;
use sqlx::postgres::PgArguments;
use tokio::sync::Notify;

use super::PostgresStore;
use super::attempt::Failed;
use super::changes::position;
use super::floor::{Floor, writers};
use crate::migrations::feed::PREFIX;
use crate::transaction::{Session, Work};
use crate::types::{Sql, count, span};
use crate::values::Values;

/// Channel on which readers are notified of new lines. The payload is the schema, a colon and the last position.
pub(super) const CHANNEL: &str = "rollbook_changes";

/// Notification within the process that lines may wait for their positions.
#[derive(Default)]
pub(super) struct Noted {
    notify: Notify,
    /// Whether the schema had no triggers at the last look: then nothing is to be done after a batch.
    is_off: AtomicBool,
    floor: Mutex<Floor>,
}

impl Noted {
    pub(super) fn note(&self) {
        if !self.is_off.load(Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }

    /// Notifies if rows were written.
    pub(super) fn note_if(&self, rows: u64) {
        if rows > 0 {
            self.note();
        }
    }

    pub(super) async fn noted(&self) {
        self.notify.notified().await;
    }
}

impl PostgresStore {
    /// One step of sequencing.
    pub(super) async fn sequence_step(&self) -> Result<SequenceStep, StoreError> {
        let limit = self.feed_pace.size();
        let floor = lock(&self.noted.floor).now();
        let sequence = Sequence { schema: &self.schema, limit, floor };
        let found = match self.steps().paced(&self.feed_pace, limit, &sequence).await? {
            Ok(found) => found,
            Err(Failed::TimedOut(_)) if limit > 1 => {
                return Ok(SequenceStep { has_more: true, ..SequenceStep::default() });
            }
            Err(why) => return Err(why.into()),
        };
        self.noted.is_off.store(!found.is_on, Ordering::Relaxed);
        lock(&self.noted.floor).clone_from(&found.floor);
        if found.moved > 0 {
            self.bell.ring(found.last);
        }
        Ok(SequenceStep {
            moved: found.moved,
            last: Some(found.last),
            waited_for: found.waited_for.unwrap_or_default(),
            has_more: found.is_busy || usize::try_from(found.moved).is_ok_and(|moved| moved >= limit),
        })
    }

    /// Removes old lines, the lowest positions first.
    pub(super) async fn prune_changes(&self, due: &RetentionLimits) -> Result<u64, StoreError> {
        let Some(before) = due.changes_before else { return Ok(0) };
        let through = self.position_before(before).await?;
        let mut removed = 0;
        loop {
            let left = due.limit.saturating_sub(usize::try_from(removed).unwrap_or(usize::MAX));
            let limit = self.feed_pace.size().min(left);
            if limit == 0 {
                return Ok(removed);
            }
            let remove = Remove { schema: &self.schema, through, limit };
            match self.steps().paced(&self.feed_pace, limit, &remove).await? {
                Ok(count) => {
                    removed += count;
                    if usize::try_from(count).is_ok_and(|count| count < limit) {
                        return Ok(removed);
                    }
                }
                Err(Failed::TimedOut(_)) if limit > 1 => {}
                Err(why) => return Err(why.into()),
            }
        }
    }
}

/// Takes the sequencer's lock if a line after a number waits and no other process has it: (number). Returns the last position,
/// the age of the oldest line that waits, whether the lock is taken, and whether the schema has triggers. A statement of its own:
/// the next one's snapshot begins when the lock is held, and shows what the process before has moved.
fn lock_sql(schema: &str) -> Sql {
    Sql::from(format!(
        r#"SELECT state.last_position, oldest.age, mine.single IS NOT NULL,
                  EXISTS (SELECT FROM pg_catalog.pg_trigger
                          WHERE tgrelid = '"{schema}".users'::regclass AND tgname = '{PREFIX}_update')
           FROM "{schema}".changes_state AS state
           LEFT JOIN (SELECT (extract(epoch FROM clock_timestamp() - noted_at) * 1000)::int8 AS age
                      FROM "{schema}".changes_pending WHERE number > $1 ORDER BY number LIMIT 1) AS oldest ON true
           LEFT JOIN LATERAL (SELECT single FROM "{schema}".changes_state WHERE oldest.age IS NOT NULL
                              FOR UPDATE SKIP LOCKED) AS mine ON true"#
    ))
}

/// Moves lines after a number: (number, limit). Returns the count of lines, the last position and the greatest number.
fn move_lines_sql(schema: &str) -> Sql {
    Sql::from(format!(
        r#"WITH moved AS (
               DELETE FROM "{schema}".changes_pending
               WHERE number > $1 AND number <= (SELECT max(number) FROM (SELECT number FROM "{schema}".changes_pending
                                                                         WHERE number > $1 ORDER BY number LIMIT $2) AS first)
               RETURNING number, resource, subject_id, kind, changed, origin, cause, event_at
           ), counted AS (
               SELECT count(*) AS lines, max(number) AS number FROM moved
           ), state AS (
               UPDATE "{schema}".changes_state
               SET last_position = last_position + counted.lines, last_at = greatest(last_at, clock_timestamp())
               FROM counted WHERE counted.lines > 0
               RETURNING last_position, last_at, counted.lines, counted.number
           ), added AS (
               INSERT INTO "{schema}".changes
                   (position, resource, subject_id, kind, changed, origin, cause, event_at, at)
               SELECT state.last_position - state.lines + row_number() OVER (ORDER BY moved.number), moved.resource,
                      moved.subject_id, moved.kind, moved.changed, moved.origin, moved.cause, moved.event_at,
                      state.last_at
               FROM moved CROSS JOIN state
           )
           SELECT lines, last_position, number, pg_notify('{CHANNEL}', '{schema}:' || last_position)::text FROM state"#
    ))
}

/// Result of a step.
struct Sequenced {
    moved: u64,
    last: Position,
    waited_for: Option<Duration>,
    is_busy: bool,
    is_on: bool,
    floor: Floor,
}

/// Moves committed lines, if no other process does.
struct Sequence<'a> {
    schema: &'a str,
    limit: usize,
    floor: Floor,
}

impl Work for Sequence<'_> {
    type Output = Sequenced;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Sequenced> {
        let (mut floor, writers) = (self.floor.clone(), writers(self.schema));
        let is_reached = floor.is_reached(session, &writers).await?;
        let from = Values::default().with(floor.number);
        let row = session.fetch(&lock_sql(self.schema), from.arguments()?).await?;
        let row = row.first().ok_or(sqlx::Error::RowNotFound)?;
        let age: Option<i64> = row.try_get(1)?;
        let is_mine: bool = row.try_get(2)?;
        let mut found = Sequenced {
            moved: 0,
            last: position(row, 0)?,
            waited_for: age.map(span),
            is_busy: age.is_some() && !is_mine,
            is_on: row.try_get(3)?,
            floor,
        };
        let mut is_complete = age.is_none();
        if is_mine {
            let arguments = from.with_limit(self.limit).arguments()?;
            for row in session.fetch(&move_lines_sql(self.schema), arguments).await? {
                found.moved = count(&row, 0)?;
                found.last = position(&row, 1)?;
                found.floor.moved(session, &writers, found.moved, row.try_get(2)?).await?;
            }
            is_complete = usize::try_from(found.moved).is_ok_and(|moved| moved < self.limit);
        }
        if is_reached && is_complete {
            found.floor.raise();
        }
        Ok(found)
    }
}

/// Removes the lines of the lowest positions.
struct Remove<'a> {
    schema: &'a str,
    /// Last position that may be removed.
    through: Position,
    limit: usize,
}

impl Work for Remove<'_> {
    type Output = u64;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<u64> {
        let schema = self.schema;
        // The sequencer's lock.
        let lock = format!(r#"SELECT removed_through FROM "{schema}".changes_state FOR UPDATE"#).into();
        let state = session.fetch(&lock, PgArguments::default()).await?;
        let from: i64 = state.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        let through = i64::try_from(self.through).unwrap_or(i64::MAX);
        let through = through.min(from.saturating_add(i64::try_from(self.limit).unwrap_or(i64::MAX)));
        if through <= from {
            return Ok(0);
        }
        let remove = format!(
            r#"DELETE FROM "{schema}".changes WHERE position > $1 AND position <= $2 RETURNING true"#
        );
        let values = Values::default().with(from).with(through);
        let removed = session.fetch(&remove.into(), values.into_arguments()?).await?;
        let record = format!(r#"UPDATE "{schema}".changes_state SET removed_through = $1"#).into();
        session.fetch(&record, Values::default().with(through).into_arguments()?).await?;
        Ok(removed.len() as u64)
    }
}
