//! Reading of the change feed.

use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, Changes, ChangesError, ChangesPage, ChangesQuery, FeedState,
    GENERATION_MAX, Generation, PASSED_MAX, Position, StoreError, WAITING_COUNTED_MAX,
};
use rollbook_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::time::{Instant, timeout_at};

use super::PostgresStore;
use crate::fault::Unreadable;
use crate::migrations::feed::{COUNT, triggers_of};
use crate::transaction::{Database, Session, Work};
use crate::types::{Sql, Time, span};
use crate::values::Values;

/// Lines after a position, with the state of the feed from the same snapshot: (position, last position to pass over,
/// resources, kinds, limit).
fn page(schema: &str) -> Sql {
    Sql::from(format!(
        r#"SELECT state.last_position, state.removed_through, state.generation, state.tableoid::int8, line.position, line.resource, line.subject_id, line.kind,
                  line.changed, line.origin, line.cause, line.event_at, line.at
           FROM "{schema}".changes_state AS state
           LEFT JOIN LATERAL (SELECT * FROM "{schema}".changes
                              WHERE position > $1 AND position <= $2 AND ($3::text[] IS NULL OR resource = ANY ($3))
                                    AND ($4::text[] IS NULL OR kind = ANY ($4))
                              ORDER BY position LIMIT $5) AS line ON true
           ORDER BY line.position"#
    ))
}

/// State of the feed.
fn state(schema: &str) -> Sql {
    Sql::from(format!(
        r#"SELECT last_position, removed_through, (SELECT count(*) FROM ({triggers}) AS found),
                  (SELECT (extract(epoch FROM clock_timestamp() - noted_at) * 1000)::int8
                   FROM "{schema}".changes_pending ORDER BY number LIMIT 1),
                  (SELECT count(*) FROM (SELECT FROM "{schema}".changes_pending LIMIT {WAITING_COUNTED_MAX}) AS waiting),
                  generation, tableoid::int8
           FROM "{schema}".changes_state"#,
        triggers = triggers_of(schema),
    ))
}

/// Position before the first line from a time on: (time). Times grow with the positions, which have no gap.
fn before(schema: &str) -> Sql {
    Sql::from(format!(
        r#"WITH RECURSIVE search (low, high) AS (
               SELECT removed_through + 1, last_position + 1 FROM "{schema}".changes_state
               UNION ALL
               SELECT CASE WHEN is_early THEN middle + 1 ELSE low END, CASE WHEN is_early THEN high ELSE middle END
               FROM (SELECT low, high, (low + high) / 2 AS middle,
                            coalesce((SELECT at < $1 FROM "{schema}".changes WHERE position = (low + high) / 2), false)
                                AS is_early
                     FROM search WHERE low < high) AS step
           )
           SELECT max(low) - 1 FROM search"#
    ))
}

/// Last position.
pub(super) fn last_sql(schema: &str) -> Sql {
    format!(r#"SELECT last_position FROM "{schema}".changes_state"#).into()
}

/// Returns the last position.
pub(super) async fn last(database: &Database, sql: &Sql) -> Result<Position, StoreError> {
    let last = database.rows(sql, Values::default(), |row| position(row, 0)).await?;
    last.first().copied().ok_or_else(no_state)
}

/// Reads a position.
pub(super) fn position(row: &PgRow, column: usize) -> sqlx::Result<Position> {
    u64::try_from(row.try_get::<i64, _>(column)?)
        .map_err(|_| Unreadable("a position of the change feed").into())
}

/// Returns a position as a bigint.
pub(super) fn bound(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// Reads the generation of the feed, from two columns. The number of the table is part of it: a dump that is restored makes
/// the table anew.
fn generation(row: &PgRow, column: usize) -> sqlx::Result<Generation> {
    let stored = row.try_get::<i64, _>(column)?.unsigned_abs();
    let table = row.try_get::<i64, _>(column + 1)?.unsigned_abs();
    Ok((stored ^ table.wrapping_mul(0x9e37_79b9_7f4a_7c15)) & GENERATION_MAX)
}

/// Reads a line from the columns after the state; `None` where the page is empty.
fn line(row: &PgRow) -> sqlx::Result<Option<ChangeLine>> {
    if row.try_get::<Option<i64>, _>(4)?.is_none() {
        return Ok(None);
    }
    line_at(row, 4).map(Some)
}

/// Reads a line from the columns from this one on.
pub(super) fn line_at(row: &PgRow, first: usize) -> sqlx::Result<ChangeLine> {
    Ok(ChangeLine {
        position: position(row, first)?,
        resource: row.try_get(first + 1)?,
        subject_id: row.try_get(first + 2)?,
        kind: ChangeKind::parse(row.try_get(first + 3)?).ok_or(Unreadable("changes.kind"))?,
        changed: row.try_get(first + 4)?,
        origin: ChangeOrigin::parse(row.try_get(first + 5)?).ok_or(Unreadable("changes.origin"))?,
        cause: row.try_get(first + 6)?,
        event_at: row.try_get::<Option<Time>, _>(first + 7)?.map(|Time(at)| at),
        at: row.try_get::<Time, _>(first + 8)?.0,
    })
}

/// Reads a page.
struct Page<'a> {
    sql: Sql,
    query: &'a ChangesQuery,
}

impl Work for Page<'_> {
    type Output = (FeedState, Vec<ChangeLine>);

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Self::Output> {
        let ChangesQuery { after, resources, kinds, .. } = self.query;
        let names = resources.iter().map(|resource| resource.table).collect::<Vec<&str>>();
        let kinds = kinds.iter().map(|kind| kind.as_str()).collect::<Vec<&str>>();
        let values = Values::default()
            .with(bound(*after))
            .with(bound(after.saturating_add(PASSED_MAX)))
            .with(Some(names).filter(|names| !names.is_empty()))
            .with(Some(kinds).filter(|kinds| !kinds.is_empty()))
            .with_limit(self.query.lines_max());
        let rows = session.fetch(&self.sql, values.arguments()?).await?;
        let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let state = FeedState {
            last: position(first, 0)?,
            removed_through: position(first, 1)?,
            generation: generation(first, 2)?,
            ..FeedState::default()
        };
        let lines = rows.iter().filter_map(|row| line(row).transpose()).collect::<sqlx::Result<_>>()?;
        Ok((state, lines))
    }
}

#[async_trait]
impl Changes for PostgresStore {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
        let page = Page { sql: page(&self.schema), query };
        let (state, lines) = self.database.run(&page).await.map_err(StoreError::from)?;
        state.check(query.after)?;
        Ok(ChangesPage::new(lines, query, &state))
    }

    async fn feed(&self) -> Result<FeedState, StoreError> {
        let read = |row: &PgRow| {
            let waiting: Option<i64> = row.try_get(3)?;
            Ok(FeedState {
                last: position(row, 0)?,
                removed_through: position(row, 1)?,
                is_on: usize::try_from(row.try_get::<i64, _>(2)?).is_ok_and(|count| count == COUNT),
                waiting: position(row, 4)?,
                waiting_for: waiting.map(span),
                generation: generation(row, 5)?,
            })
        };
        let state = self.database.rows(&state(&self.schema), Values::default(), read).await?;
        state.first().copied().ok_or_else(no_state)
    }

    async fn position_before(&self, at: Timestamp) -> Result<Position, StoreError> {
        let values = Values::default().with(Time(at));
        let read = |row: &PgRow| row.try_get::<Option<i64>, _>(0);
        let found = self.database.rows(&before(&self.schema), values, read).await?.pop().flatten();
        found.map(i64::unsigned_abs).ok_or_else(no_state)
    }

    async fn wait_for_change(&self, after: Position, timeout: Duration) -> Result<bool, StoreError> {
        let deadline = Instant::now() + timeout;
        let mut waiter = self.bell.subscribe();
        let last = last(&self.database, &last_sql(&self.schema)).await?;
        if last > after {
            return Ok(true);
        }
        self.bell.set(last);
        // The bell is never dropped while the store is there.
        Ok(timeout_at(deadline, waiter.wait_for(|last| *last > after)).await.is_ok_and(|found| found.is_ok()))
    }

    async fn renew_feed(&self) -> Result<Generation, StoreError> {
        let sql = format!(
            r#"UPDATE "{}".changes_state SET generation = floor(random() * 9223372036854774784)::bigint
               RETURNING generation, tableoid::int8"#,
            self.schema
        );
        let renewed = self.database.rows(&sql.into(), Values::default(), |row| generation(row, 0)).await?;
        renewed.first().copied().ok_or_else(no_state)
    }
}

/// The migration writes the row, and nothing removes it.
const NO_STATE: &str =
    "the table changes_state has no row; insert it: INSERT INTO changes_state DEFAULT VALUES";

fn no_state() -> StoreError {
    StoreError::Deployment(NO_STATE.to_owned())
}
