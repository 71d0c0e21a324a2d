//! The reconciler's port. Each call is one short statement in a transaction of its own, except [`super::reset`].

use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::drift::Drift;
use rollbook_core::merge::SubjectState;
use rollbook_core::source::{Lookup, Window};
use rollbook_core::store::{
    Freshness, Head, Held, HeldCount, HeldKey, HeldState, LOCK_MAX, Living, RUNS_KEPT_FOR, Reconciliation,
    Reset, Run, RunState, StoreError,
};
use rollbook_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::known::{self, Asked};
use super::reconcile_sql as sql;
use super::sql::Statements;
use crate::fault::Unreadable;
use crate::transaction::{InOrder, Session, Statement, Work};
use crate::types::Time;
use crate::values::Values;

/// Adds one array for each column of keys.
fn with_keys<'v>(values: Values, keys: impl Iterator<Item = &'v HeldKey> + Clone) -> Values {
    let tables = keys.clone().map(|key| key.table.as_str()).collect::<Vec<&str>>();
    values.with(tables).with(keys.map(|key| key.id.as_str()).collect::<Vec<&str>>())
}

/// Reads the states of subjects.
struct Heads<'a> {
    statements: &'a Statements,
    resource: &'static Resource,
    ids: &'a [&'a str],
}

impl Work for Heads<'_> {
    type Output = Vec<Head>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<Head>> {
        let (number, mut asked) = (self.resource.number, Asked::default());
        asked.subjects[number].extend(self.ids);
        let mut known = known::read(self.statements, session, &asked).await?;
        let heads = std::mem::take(&mut known[number]).into_iter();
        Ok(heads.map(|(id, seen)| Head { id, state: seen.stored }).collect())
    }
}

impl PostgresStore {
    /// Runs one statement.
    pub(super) async fn statement<T: Send>(
        &self,
        sql: String,
        values: Values,
        read: fn(&PgRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.database.run(&InOrder(Statement { sql: &sql.into(), values, read })).await?)
    }

    /// Runs one statement that writes.
    async fn write(&self, sql: String, values: Values) -> Result<(), StoreError> {
        self.statement(sql, values, |_| Ok(())).await.map(drop)
    }
}

#[async_trait]
impl Reconciliation for PostgresStore {
    async fn check_records(&self) -> Result<(), StoreError> {
        self.check_rights(&self.statements.forbidden_records).await
    }

    async fn heads(&self, resource: &'static Resource, ids: &[&str]) -> Result<Vec<Head>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.database.run(&Heads { statements: &self.statements, resource, ids }).await?)
    }

    async fn contents(
        &self,
        resource: &'static Resource,
        ids: &[&str],
    ) -> Result<Vec<(String, String)>, StoreError> {
        let read = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        self.statement(sql::contents(&self.schema, resource), Values::default().with(ids), read).await
    }

    async fn living(
        &self,
        resource: &'static Resource,
        window: Window,
        untouched_since: Timestamp,
        after: Option<&Living>,
        limit: usize,
    ) -> Result<Vec<Living>, StoreError> {
        let after = after.filter(|after| after.created_at >= window.from);
        let (from, id) =
            after.map_or((window.from, ""), |after| (after.created_at, after.lookup.id.as_str()));
        let values = Values::default()
            .with(Time::bound(from))
            .with(id)
            .with(Time::bound(window.to))
            .with(Time(untouched_since))
            .with_limit(limit);
        let read =
            |row: &PgRow| Ok(Living { created_at: row.try_get::<Time, _>(3)?.0, lookup: sql::lookup(row)? });
        self.statement(sql::living(&self.schema, resource), values, read).await
    }

    async fn undated(
        &self,
        resource: &'static Resource,
        untouched_since: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Lookup>, StoreError> {
        let values =
            Values::default().with(Time(untouched_since)).with(after.unwrap_or_default()).with_limit(limit);
        self.statement(sql::undated(&self.schema, resource), values, sql::lookup).await
    }

    async fn count_living(&self, resource: &'static Resource) -> Result<u64, StoreError> {
        let counted = self
            .statement(sql::count_living(&self.schema, resource), Values::default(), |row| count(row, 0))
            .await?;
        Ok(counted.into_iter().sum())
    }

    async fn count_children(
        &self,
        child: &'static Resource,
        parent: &'static Resource,
        ids: &[&str],
        limit: u64,
    ) -> Result<u64, StoreError> {
        let Some(link) = child.link_to(parent) else { return Ok(0) };
        let values = Values::default().with(ids).with(i64::try_from(limit).unwrap_or(i64::MAX));
        let sql = sql::count_children(&self.schema, child, link);
        Ok(self.statement(sql, values, |row| count(row, 0)).await?.into_iter().sum())
    }

    async fn lock(&self, name: &str, holder: &str, hold_for: Duration) -> Result<bool, StoreError> {
        let millis = i64::try_from(hold_for.min(LOCK_MAX).as_millis()).unwrap_or(i64::MAX);
        let values = Values::default().with(name).with(holder).with(millis);
        let taken = self.statement(sql::lock(&self.schema), values, |_| Ok(())).await?;
        Ok(!taken.is_empty())
    }

    async fn unlock(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let sql = format!(r#"DELETE FROM "{}".reconcile_locks WHERE name = $1 AND holder = $2"#, self.schema);
        let values = Values::default().with(name).with(holder);
        self.write(sql, values).await
    }

    async fn save_run(&self, run: &Run) -> Result<(), StoreError> {
        let sql = format!(
            r#"INSERT INTO "{}".reconcile_runs
                   (id, started_at, saved_at, finished_at, state, is_dry, progress, last_error)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
               ON CONFLICT (id) DO UPDATE
               SET started_at = excluded.started_at, saved_at = excluded.saved_at, finished_at = excluded.finished_at,
                   state = excluded.state, is_dry = excluded.is_dry, progress = excluded.progress,
                   last_error = excluded.last_error"#,
            self.schema
        );
        let values = Values::default()
            .with(run.id.as_str())
            .with(Time(run.started_at))
            .with(Time(run.saved_at))
            .with(run.finished_at.map(Time))
            .with(run.state.as_str())
            .with(run.is_dry)
            .with(run.progress.as_str())
            .with(run.last_error.as_deref());
        self.write(sql, values).await?;
        if run.finished_at.is_none() {
            return Ok(());
        }
        let before = Time(self.clock.now().minus(RUNS_KEPT_FOR));
        self.write(sql::prune_held(&self.schema), Values::default().with(before)).await?;
        self.write(sql::prune_runs(&self.schema), Values::default().with(before)).await
    }

    async fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        let sql = format!("{} WHERE id = $1", sql::runs(&self.schema));
        Ok(self.statement(sql, Values::default().with(id), run).await?.pop())
    }

    async fn runs(&self, limit: usize) -> Result<Vec<Run>, StoreError> {
        let sql = format!("{} ORDER BY started_at DESC, id DESC LIMIT $1", sql::runs(&self.schema));
        self.statement(sql, Values::default().with_limit(limit), run).await
    }

    async fn hold(&self, run: &str, held: &[Held]) -> Result<(), StoreError> {
        let sql = format!(
            r#"INSERT INTO "{}".reconcile_held (run, table_name, id, kind, state, noted_at)
               SELECT $1, new.*
               FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
                    AS new (table_name, id, kind, state, noted_at)
               ORDER BY new.table_name COLLATE "C", new.id COLLATE "C"
               ON CONFLICT DO NOTHING"#,
            self.schema
        );
        let values = with_keys(Values::default().with(run), held.iter().map(|held| &held.key))
            .with(held.iter().map(|held| held.kind.as_str()).collect::<Vec<&str>>())
            .with(held.iter().map(|held| held.state.as_str()).collect::<Vec<&str>>())
            .with(held.iter().map(|held| Time(held.noted_at)).collect::<Vec<Time>>());
        self.write(sql, values).await
    }

    async fn held(
        &self,
        run: &str,
        state: HeldState,
        after: Option<&HeldKey>,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError> {
        let sql = format!(
            r#"SELECT table_name, id, kind, state, noted_at FROM "{}".reconcile_held
               WHERE run = $1 AND state = $2 AND (table_name, id) > ($3, $4)
               ORDER BY table_name, id LIMIT $5"#,
            self.schema
        );
        let (table, id) = after.map_or(("", ""), |after| (after.table.as_str(), after.id.as_str()));
        let values = Values::default().with(run).with(state.as_str()).with(table).with(id).with_limit(limit);
        let read = |row: &PgRow| {
            Ok(Held {
                key: HeldKey { table: row.try_get(0)?, id: row.try_get(1)? },
                kind: kind(row, 2)?,
                state: held_state(row, 3)?,
                noted_at: row.try_get::<Time, _>(4)?.0,
            })
        };
        self.statement(sql, values, read).await
    }

    async fn count_held(&self, run: Option<&str>) -> Result<Vec<HeldCount>, StoreError> {
        let sql = format!(
            r#"SELECT run, table_name, kind, state, count(*) FROM "{}".reconcile_held
               WHERE $1::text IS NULL OR run = $1
               GROUP BY run, table_name, kind, state
               ORDER BY run, table_name, kind COLLATE "C", state COLLATE "C""#,
            self.schema
        );
        let read = |row: &PgRow| {
            Ok(HeldCount {
                run: row.try_get(0)?,
                table: row.try_get(1)?,
                kind: kind(row, 2)?,
                state: held_state(row, 3)?,
                count: count(row, 4)?,
            })
        };
        self.statement(sql, Values::default().with(run), read).await
    }

    async fn settle_held(&self, run: &str, keys: &[HeldKey], state: HeldState) -> Result<(), StoreError> {
        let sql = format!(
            r#"UPDATE "{}".reconcile_held SET state = $4
               WHERE run = $1 AND (table_name, id) IN (SELECT * FROM unnest($2::text[], $3::text[]))"#,
            self.schema
        );
        let values = with_keys(Values::default().with(run), keys.iter()).with(state.as_str());
        self.write(sql, values).await
    }

    async fn save_freshness(&self, freshness: &Freshness) -> Result<(), StoreError> {
        let sql = format!(
            r#"INSERT INTO "{}".reconcile_walks (resource, complete_since, last_walk_at, drift)
               VALUES ($1, $2, $3, $4)
               ON CONFLICT (resource) DO UPDATE
               SET complete_since = excluded.complete_since, last_walk_at = excluded.last_walk_at, drift = excluded.drift"#,
            self.schema
        );
        let values = Values::default()
            .with(freshness.table.as_str())
            .with(freshness.complete_since.map(Time))
            .with(Time(freshness.last_walk_at))
            .with(i64::try_from(freshness.drift).unwrap_or(i64::MAX));
        self.write(sql, values).await
    }

    async fn freshness(&self) -> Result<Vec<Freshness>, StoreError> {
        let sql = format!(
            r#"SELECT resource, complete_since, last_walk_at, drift FROM "{}".reconcile_walks ORDER BY resource"#,
            self.schema
        );
        let read = |row: &PgRow| {
            Ok(Freshness {
                table: row.try_get(0)?,
                complete_since: row.try_get::<Option<Time>, _>(1)?.map(|Time(at)| at),
                last_walk_at: row.try_get::<Time, _>(2)?.0,
                drift: count(row, 3)?,
            })
        };
        self.statement(sql, Values::default(), read).await
    }

    async fn reset(
        &self,
        resource: &'static Resource,
        id: &str,
        expected: &SubjectState,
    ) -> Result<Reset, StoreError> {
        self.reset_row(resource, id, expected).await
    }
}

fn count(row: &PgRow, column: usize) -> sqlx::Result<u64> {
    Ok(row.try_get::<i64, _>(column)?.unsigned_abs())
}

fn kind(row: &PgRow, column: usize) -> sqlx::Result<Drift> {
    Drift::parse(row.try_get(column)?).ok_or_else(|| Unreadable("reconcile_held.kind").into())
}

fn held_state(row: &PgRow, column: usize) -> sqlx::Result<HeldState> {
    HeldState::parse(row.try_get(column)?).ok_or_else(|| Unreadable("reconcile_held.state").into())
}

fn run(row: &PgRow) -> sqlx::Result<Run> {
    Ok(Run {
        id: row.try_get(0)?,
        started_at: row.try_get::<Time, _>(1)?.0,
        saved_at: row.try_get::<Time, _>(2)?.0,
        finished_at: row.try_get::<Option<Time>, _>(3)?.map(|Time(at)| at),
        state: RunState::parse(row.try_get(4)?).ok_or(Unreadable("reconcile_runs.state"))?,
        is_dry: row.try_get(5)?,
        progress: row.try_get(6)?,
        last_error: row.try_get(7)?,
    })
}
