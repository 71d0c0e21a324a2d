//! Port of the forwarder. Each call is one short transaction.

use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::store::{
    FORWARD_CHANGES_MAX, Forward, ForwardChange, ForwardMove, ForwardProgress, ForwardState, ForwardStop,
    Forwards, LOCK_MAX, OpenChanges, Position, StoreError,
};
use rollbook_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::changes::{bound, line_at, position};
use super::reconcile_sql::has_ended;
use crate::fault::Unreadable;
use crate::transaction::{Session, Work};
use crate::types::{Sql, Time};
use crate::values::Values;

/// A forward with the numbers of its recorded changes; a condition or an order follows.
fn forward_sql(schema: &str) -> String {
    format!(
        r#"SELECT forward.name, forward.position, forward.epoch, coalesce(forward.held_until > clock_timestamp(), false),
                  forward.stopped_at, forward.stop_reason, forward.saved_at, counted.*,
                  CASE WHEN forward.in_hand_at = forward.position THEN forward.in_hand END, forward.generation,
                  forward.paused_until
           FROM "{schema}".forwards AS forward
           CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE state = 'waiting'),
                                      count(DISTINCT (resource, subject_id)) FILTER (WHERE state = 'waiting'),
                                      count(*) FILTER (WHERE state = 'failed')
                               FROM "{schema}".forward_changes AS change
                               WHERE change.forward = forward.name) AS counted"#
    )
}

/// Records changes: (forward, one array for each column). The names of columns come as one JSON text for each change.
fn record_sql(schema: &str) -> String {
    format!(
        r#"INSERT INTO "{schema}".forward_changes
               (forward, position, resource, subject_id, kind, changed, origin, cause, event_at, at,
                state, tries, attempts, failed_at, next_try_at, last_error)
           SELECT $1, new.position, new.resource, new.subject_id, new.kind,
                  ARRAY(SELECT jsonb_array_elements_text(new.changed::jsonb)), new.origin, new.cause, new.event_at, new.at,
                  new.state, new.tries, new.attempts, new.failed_at, new.next_try_at, new.last_error
           FROM unnest($2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
                       $10::timestamptz[], $11::text[], $12::int8[], $13::int8[], $14::timestamptz[], $15::timestamptz[],
                       $16::text[])
                AS new (position, resource, subject_id, kind, changed, origin, cause, event_at, at,
                        state, tries, attempts, failed_at, next_try_at, last_error)
           ORDER BY new.position
           ON CONFLICT (forward, position) DO UPDATE
           SET state = excluded.state, tries = excluded.tries, attempts = excluded.attempts,
               failed_at = excluded.failed_at, next_try_at = excluded.next_try_at, last_error = excluded.last_error"#
    )
}

fn record_values(name: &str, changes: &[ForwardChange]) -> Values {
    fn column<'a, T>(changes: &'a [ForwardChange], read: impl Fn(&'a ForwardChange) -> T) -> Vec<T> {
        changes.iter().map(read).collect()
    }
    let names = |change: &ForwardChange| serde_json::Value::from(change.line.changed.clone()).to_string();
    Values::default()
        .with(name)
        .with(column(changes, |change| bound(change.line.position)))
        .with(column(changes, |change| change.line.resource.as_str()))
        .with(column(changes, |change| change.line.subject_id.as_str()))
        .with(column(changes, |change| change.line.kind.as_str()))
        .with(column(changes, names))
        .with(column(changes, |change| change.line.origin.as_str()))
        .with(column(changes, |change| change.line.cause.as_deref()))
        .with(column(changes, |change| change.line.event_at.map(Time)))
        .with(column(changes, |change| Time(change.line.at)))
        .with(column(changes, |change| change.state.as_str()))
        .with(column(changes, |change| i64::from(change.tries)))
        .with(column(changes, |change| i64::from(change.attempts)))
        .with(column(changes, |change| change.failed_at.map(Time)))
        .with(column(changes, |change| Time(change.next_try_at)))
        .with(column(changes, |change| change.last_error.as_deref()))
}

fn forward(row: &PgRow) -> sqlx::Result<Forward> {
    let reason: Option<String> = row.try_get(5)?;
    let stopped: Option<Time> = row.try_get(4)?;
    let count = |column| Ok::<u64, sqlx::Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
    Ok(Forward {
        name: row.try_get(0)?,
        position: position(row, 1)?,
        epoch: count(2)?,
        is_held: row.try_get(3)?,
        stopped: stopped.map(|Time(at)| ForwardStop { at, reason: reason.unwrap_or_default() }),
        saved_at: row.try_get::<Time, _>(6)?.0,
        waiting: count(7)?,
        blocked: count(8)?,
        failed: count(9)?,
        open_changes: row.try_get::<Option<&str>, _>(10)?.and_then(OpenChanges::parse),
        generation: row.try_get::<Option<i64>, _>(11)?.map(i64::unsigned_abs),
        paused_until: row.try_get::<Option<Time>, _>(12)?.map(|Time(at)| at),
    })
}

fn change(row: &PgRow) -> sqlx::Result<ForwardChange> {
    let number = |column| {
        Ok::<u32, sqlx::Error>(
            u32::try_from(row.try_get::<i64, _>(column)?.unsigned_abs()).unwrap_or(u32::MAX),
        )
    };
    Ok(ForwardChange {
        line: line_at(row, 0)?,
        state: ForwardState::parse(row.try_get(9)?).ok_or(Unreadable("forward_changes.state"))?,
        tries: number(10)?,
        attempts: number(11)?,
        failed_at: row.try_get::<Option<Time>, _>(12)?.map(|Time(at)| at),
        next_try_at: row.try_get::<Time, _>(13)?.0,
        last_error: row.try_get(14)?,
    })
}

fn millis(hold_for: Duration) -> i64 {
    i64::try_from(hold_for.min(LOCK_MAX).as_millis()).unwrap_or(i64::MAX)
}

/// Takes a forward and reads it.
struct Take<'a> {
    schema: &'a str,
    name: &'a str,
    holder: &'a str,
    hold_for: Duration,
    begin: Position,
}

impl Work for Take<'_> {
    type Output = Option<Forward>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Option<Forward>> {
        let Self { schema, name, holder, hold_for, begin } = *self;
        let until = "clock_timestamp() + $4::int8 * interval '1 millisecond'";
        let sql = format!(
            r#"INSERT INTO "{schema}".forwards AS forward (name, position, epoch, holder, held_until, saved_at)
                   VALUES ($1, $2, 1, $3, {until}, clock_timestamp())
               ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = {until}, epoch = forward.epoch + 1
               WHERE forward.holder IS NULL OR forward.holder = excluded.holder OR {has_ended}
               RETURNING true"#,
            has_ended = has_ended("forward.held_until"),
        );
        let values = Values::default().with(name).with(bound(begin)).with(holder).with(millis(hold_for));
        if session.fetch(&sql.into(), values.arguments()?).await?.is_empty() {
            return Ok(None);
        }
        let sql = format!("{} WHERE forward.name = $1", forward_sql(schema)).into();
        let rows = session.fetch(&sql, Values::default().with(name).arguments()?).await?;
        rows.first().map(forward).transpose()
    }
}

/// Saves progress.
struct Save<'a> {
    schema: &'a str,
    name: &'a str,
    epoch: u64,
    hold_for: Duration,
    progress: &'a ForwardProgress,
}

impl Work for Save<'_> {
    type Output = bool;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<bool> {
        let Self { schema, name, progress, .. } = self;
        let sql = format!(
            r#"UPDATE "{schema}".forwards
               SET position = $3, saved_at = $4, held_until = clock_timestamp() + $5::int8 * interval '1 millisecond',
                   stopped_at = coalesce($6::timestamptz, stopped_at), stop_reason = coalesce($7::text, stop_reason),
                   in_hand_at = $3, in_hand = $8, generation = $9, paused_until = $10
               WHERE name = $1 AND epoch = $2 RETURNING true"#
        );
        let stopped = progress.stopped.as_ref();
        let values = Values::default()
            .with(*name)
            .with(bound(self.epoch))
            .with(bound(progress.position))
            .with(Time(progress.saved_at))
            .with(millis(self.hold_for))
            .with(stopped.map(|stop| Time(stop.at)))
            .with(stopped.map(|stop| stop.reason.as_str()))
            .with(progress.open_changes.as_ref().map(OpenChanges::encode))
            .with(progress.generation.map(bound))
            .with(progress.paused_until.map(Time));
        if session.fetch(&sql.into(), values.arguments()?).await?.is_empty() {
            return Ok(false);
        }
        if !progress.removed.is_empty() {
            let positions = progress.removed.iter().map(|at| bound(*at)).collect::<Vec<i64>>();
            let sql = format!(
                r#"DELETE FROM "{schema}".forward_changes WHERE forward = $1 AND position = ANY ($2::int8[])"#
            );
            let values = Values::default().with(*name).with(positions);
            session.fetch(&sql.into(), values.arguments()?).await?;
        }
        if !progress.recorded.is_empty() {
            let values = record_values(name, &progress.recorded);
            session.fetch(&record_sql(schema).into(), values.arguments()?).await?;
        }
        Ok(true)
    }
}

/// Changes a forward, and then its recorded changes. The first statement must find the forward.
struct Command {
    first: (Sql, Values),
    then: Option<(Sql, Values)>,
}

impl Work for Command {
    type Output = bool;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<bool> {
        let (sql, values) = &self.first;
        if session.fetch(sql, values.arguments()?).await?.is_empty() {
            return Ok(false);
        }
        if let Some((sql, values)) = &self.then {
            session.fetch(sql, values.arguments()?).await?;
        }
        Ok(true)
    }
}

/// Changes dead letters. If there are any, the process that has the forward must take it anew.
struct ChangeDeadLetters<'a> {
    schema: &'a str,
    name: &'a str,
    sql: Sql,
    values: Values,
}

impl Work for ChangeDeadLetters<'_> {
    type Output = u64;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<u64> {
        let Self { schema, name, sql, values } = self;
        let name = || Values::default().with(*name).arguments();
        // The row of the forward is locked first, as in a save.
        let lock = format!(r#"SELECT true FROM "{schema}".forwards WHERE name = $1 FOR UPDATE"#);
        session.fetch(&lock.into(), name()?).await?;
        let changed = session.fetch(sql, values.arguments()?).await?.len() as u64;
        if changed > 0 {
            let bump = format!(r#"UPDATE "{schema}".forwards SET epoch = epoch + 1 WHERE name = $1"#);
            session.fetch(&bump.into(), name()?).await?;
        }
        Ok(changed)
    }
}

impl PostgresStore {
    async fn change_dead_letters(&self, name: &str, sql: String, values: Values) -> Result<u64, StoreError> {
        let change = ChangeDeadLetters { schema: &self.schema, name, sql: sql.into(), values };
        Ok(self.database.run(&change).await?)
    }
}

fn bounds(positions: &[Position]) -> Vec<i64> {
    positions.iter().map(|position| bound(*position)).collect()
}

#[async_trait]
impl Forwards for PostgresStore {
    async fn check_forwards(&self) -> Result<(), StoreError> {
        self.check_rights(&self.statements.forbidden_forwards).await
    }

    async fn take_forward(
        &self,
        name: &str,
        holder: &str,
        hold_for: Duration,
        begin: Position,
    ) -> Result<Option<Forward>, StoreError> {
        Ok(self.database.run(&Take { schema: &self.schema, name, holder, hold_for, begin }).await?)
    }

    async fn save_forward(
        &self,
        name: &str,
        epoch: u64,
        hold_for: Duration,
        progress: &ForwardProgress,
    ) -> Result<bool, StoreError> {
        Ok(self.database.run(&Save { schema: &self.schema, name, epoch, hold_for, progress }).await?)
    }

    async fn release_forward(&self, name: &str, epoch: u64) -> Result<(), StoreError> {
        let sql = format!(
            r#"UPDATE "{}".forwards SET holder = NULL, held_until = NULL WHERE name = $1 AND epoch = $2"#,
            self.schema
        );
        let values = Values::default().with(name).with(bound(epoch));
        self.database.run(&Command { first: (sql.into(), values), then: None }).await?;
        Ok(())
    }

    async fn forwards(&self) -> Result<Vec<Forward>, StoreError> {
        let sql = format!("{} ORDER BY forward.name", forward_sql(&self.schema)).into();
        Ok(self.database.rows(&sql, Values::default(), forward).await?)
    }

    async fn forward_changes(
        &self,
        name: &str,
        state: ForwardState,
        after: Position,
        limit: usize,
    ) -> Result<Vec<ForwardChange>, StoreError> {
        let sql = format!(
            r#"SELECT position, resource, subject_id, kind, changed, origin, cause, event_at, at,
                      state, tries, attempts, failed_at, next_try_at, last_error
               FROM "{}".forward_changes WHERE forward = $1 AND state = $2 AND position > $3
               ORDER BY position LIMIT $4"#,
            self.schema
        );
        let values = Values::default()
            .with(name)
            .with(state.as_str())
            .with(bound(after))
            .with_limit(limit.min(FORWARD_CHANGES_MAX));
        self.statement(sql, values, change).await
    }

    async fn move_forward(&self, name: &str, to: ForwardMove) -> Result<bool, StoreError> {
        let schema = &self.schema;
        let known = match to {
            ForwardMove::Resume(_) => "CASE WHEN in_hand_at = position THEN $2 END",
            ForwardMove::Replay(_) => "NULL",
        };
        let first = format!(
            r#"UPDATE "{schema}".forwards
               SET epoch = epoch + 1, position = $2, in_hand_at = {known}, stopped_at = NULL, stop_reason = NULL,
                   generation = NULL, paused_until = NULL
               WHERE name = $1 RETURNING true"#
        );
        let values = || Values::default().with(name).with(bound(to.position()));
        let then = match to {
            ForwardMove::Resume(_) => None,
            ForwardMove::Replay(_) => Some((
                format!(r#"DELETE FROM "{schema}".forward_changes WHERE forward = $1 AND position > $2"#)
                    .into(),
                values(),
            )),
        };
        Ok(self.database.run(&Command { first: (first.into(), values()), then }).await?)
    }

    async fn redrive_forward(
        &self,
        name: &str,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let sql = format!(
            r#"UPDATE "{}".forward_changes
               SET state = 'waiting', tries = 0, attempts = 0, failed_at = NULL, next_try_at = $3
               WHERE forward = $1 AND position = ANY ($2::int8[]) AND state = 'failed' RETURNING true"#,
            self.schema
        );
        let values = Values::default().with(name).with(bounds(positions)).with(Time(now));
        self.change_dead_letters(name, sql, values).await
    }

    async fn discard_forward(&self, name: &str, positions: &[Position]) -> Result<u64, StoreError> {
        let sql = format!(
            r#"DELETE FROM "{}".forward_changes
               WHERE forward = $1 AND position = ANY ($2::int8[]) AND state = 'failed' RETURNING true"#,
            self.schema
        );
        let values = Values::default().with(name).with(bounds(positions));
        self.change_dead_letters(name, sql, values).await
    }
}
