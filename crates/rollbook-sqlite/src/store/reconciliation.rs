//! Port of the reconciler. Reads use the connection for scans, so that no delivery waits for them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::drift::Drift;
use rollbook_core::merge::SubjectState;
use rollbook_core::source::{Lookup, Window};
use rollbook_core::store::{
    Freshness, Head, Held, HeldCount, HeldKey, HeldState, LOCK_MAX, Living, PRUNED_MAX, RUNS_KEPT_FOR,
    RUNS_KEPT_MIN, Reconciliation, Reset, Run, StoreError,
};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, Params, Row};

use super::SqliteStore;
use super::pending::as_limit;
use super::reconcile_reads::{self as reads, RUNS, bound, id_list, lookup, optional_time, read_run, time};
use super::reset::reset;
use super::tables::read_stored;
use crate::select::parsed;

impl SqliteStore {
    /// Runs one SELECT on the connection for scans, and reads its rows.
    async fn scan<T: Send + 'static>(
        &self,
        sql: impl AsRef<str> + Send + 'static,
        values: impl Params + Clone + Send + 'static,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.scans().await?.rows(sql, values, read).await?)
    }
}

#[async_trait]
impl Reconciliation for SqliteStore {
    async fn heads(&self, resource: &'static Resource, ids: &[&str]) -> Result<Vec<Head>, StoreError> {
        let read = |row: &Row<'_>| Ok(Head { state: read_stored(row)?, id: row.get("id")? });
        self.scan(reads::heads_sql(resource), (id_list(ids),), read).await
    }

    async fn contents(
        &self,
        resource: &'static Resource,
        ids: &[&str],
    ) -> Result<Vec<(String, String)>, StoreError> {
        let sql = format!(
            "SELECT id, data FROM {} WHERE id IN (SELECT value FROM json_each(?1)) AND data IS NOT NULL",
            resource.table
        );
        self.scan(sql, (id_list(ids),), |row| Ok((row.get(0)?, row.get(1)?))).await
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
        let (from, to, since) = (bound(from), bound(window.to), untouched_since.to_string());
        let read = |row: &Row<'_>| Ok(Living { created_at: time(row, 3)?, lookup: lookup(row)? });
        self.scan(reads::living_sql(resource), (from, id.to_owned(), to, since, as_limit(limit)), read).await
    }

    async fn undated(
        &self,
        resource: &'static Resource,
        untouched_since: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Lookup>, StoreError> {
        let values = (untouched_since.to_string(), after.unwrap_or_default().to_owned(), as_limit(limit));
        self.scan(reads::undated_sql(resource), values, lookup).await
    }

    async fn count_living(&self, resource: &'static Resource) -> Result<u64, StoreError> {
        let counted: Vec<u64> = self.scan(reads::count_living_sql(resource), (), |row| row.get(0)).await?;
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
        let values = (id_list(ids), i64::try_from(limit).unwrap_or(i64::MAX));
        let sql = reads::count_children_sql(child, link);
        let counted: Vec<u64> = self.scan(sql, values, |row| row.get(0)).await?;
        Ok(counted.into_iter().sum())
    }

    async fn lock(&self, name: &str, holder: &str, hold_for: Duration) -> Result<bool, StoreError> {
        let (name, holder, clock) = (name.to_owned(), holder.to_owned(), Arc::clone(&self.clock));
        let lock = move |connection: &Connection| {
            // Read under the file's write lock: the time does not pass while this waits for it.
            let now = clock.now();
            let sql = "INSERT INTO reconcile_locks (name, holder, held_until) VALUES (?1, ?2, ?3)
                       ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
                       WHERE holder = excluded.holder OR held_until <= ?4 OR held_until > ?5";
            let until = now.plus(hold_for.min(LOCK_MAX)).to_string();
            // A lock that ends later than any may is of a clock that was ahead.
            let latest = now.plus(LOCK_MAX).to_string();
            let values = (&name, &holder, until, now.to_string(), latest);
            Ok(connection.prepare_cached(sql)?.execute(values)? == 1)
        };
        Ok(self.database.run(lock).await?)
    }

    async fn unlock(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM reconcile_locks WHERE name = ?1 AND holder = ?2";
        Ok(self.database.execute(sql, (name.to_owned(), holder.to_owned())).await?)
    }

    async fn save_run(&self, run: &Run) -> Result<(), StoreError> {
        let (run, before) = (run.clone(), self.clock.now().minus(RUNS_KEPT_FOR));
        let save = move |connection: &Connection| {
            save_run(connection, &run)?;
            if run.finished_at.is_some() { prune(connection, before) } else { Ok(()) }
        };
        Ok(self.database.run(save).await?)
    }

    async fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        let sql = format!("{RUNS} WHERE id = ?1");
        Ok(self.scan(sql, (id.to_owned(),), read_run).await?.pop())
    }

    async fn runs(&self, limit: usize) -> Result<Vec<Run>, StoreError> {
        // On the writing connection, as in `feed`: every worker asks, and there are few runs.
        let sql = format!("{RUNS} ORDER BY started_at DESC, id DESC LIMIT ?1");
        Ok(self.database.rows(sql, (as_limit(limit),), read_run).await?)
    }

    async fn hold(&self, run: &str, held: &[Held]) -> Result<(), StoreError> {
        let (run, held) = (run.to_owned(), held.to_vec());
        let insert = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "INSERT INTO reconcile_held (run, table_name, id, kind, state, noted_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO NOTHING",
            )?;
            for Held { key, kind, state, noted_at } in &held {
                let noted_at = noted_at.to_string();
                statement.execute((&run, &key.table, &key.id, kind.as_str(), state.as_str(), noted_at))?;
            }
            Ok(())
        };
        Ok(self.database.run(insert).await?)
    }

    async fn held(
        &self,
        run: &str,
        state: HeldState,
        after: Option<&HeldKey>,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError> {
        let (table, id) = after.cloned().map_or_else(Default::default, |after| (after.table, after.id));
        let sql = "SELECT table_name, id, kind, state, noted_at FROM reconcile_held
                   WHERE run = ?1 AND state = ?2 AND (table_name, id) > (?3, ?4) ORDER BY table_name, id LIMIT ?5";
        let values = (run.to_owned(), state.as_str(), table, id, as_limit(limit));
        let read = |row: &Row<'_>| {
            Ok(Held {
                key: HeldKey { table: row.get(0)?, id: row.get(1)? },
                kind: kind(row, 2)?,
                state: held_state(row, 3)?,
                noted_at: time(row, 4)?,
            })
        };
        self.scan(sql, values, read).await
    }

    async fn count_held(&self, run: Option<&str>) -> Result<Vec<HeldCount>, StoreError> {
        // Mostly nothing is held, and then no connection is opened for the count.
        let sql = "SELECT 1 FROM reconcile_held LIMIT 1";
        if !self.database.read(|connection| connection.prepare_cached(sql)?.exists(())).await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT run, table_name, kind, state, count(*) FROM reconcile_held
                   WHERE ?1 IS NULL OR run = ?1
                   GROUP BY run, table_name, kind, state ORDER BY run, table_name, kind, state";
        let read = |row: &Row<'_>| {
            Ok(HeldCount {
                run: row.get(0)?,
                table: row.get(1)?,
                kind: kind(row, 2)?,
                state: held_state(row, 3)?,
                count: row.get(4)?,
            })
        };
        self.scan(sql, (run.map(str::to_owned),), read).await
    }

    async fn settle_held(&self, run: &str, keys: &[HeldKey], state: HeldState) -> Result<(), StoreError> {
        let (run, keys) = (run.to_owned(), keys.to_vec());
        let settle = move |connection: &Connection| {
            let mut update = connection.prepare_cached(
                "UPDATE reconcile_held SET state = ?4 WHERE run = ?1 AND table_name = ?2 AND id = ?3",
            )?;
            keys.iter()
                .try_for_each(|key| update.execute((&run, &key.table, &key.id, state.as_str())).map(drop))
        };
        Ok(self.database.run(settle).await?)
    }

    async fn save_freshness(&self, freshness: &Freshness) -> Result<(), StoreError> {
        let sql = "INSERT INTO reconcile_walks (resource, complete_since, last_walk_at, drift) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (resource) DO UPDATE
                   SET complete_since = excluded.complete_since, last_walk_at = excluded.last_walk_at,
                       drift = excluded.drift";
        let Freshness { table, complete_since, last_walk_at, drift } = freshness.clone();
        let complete_since = complete_since.map(|at| at.to_string());
        let drift = i64::try_from(drift).unwrap_or(i64::MAX);
        Ok(self.database.execute(sql, (table, complete_since, last_walk_at.to_string(), drift)).await?)
    }

    async fn freshness(&self) -> Result<Vec<Freshness>, StoreError> {
        let sql =
            "SELECT resource, complete_since, last_walk_at, drift FROM reconcile_walks ORDER BY resource";
        let read = |row: &Row<'_>| {
            Ok(Freshness {
                table: row.get(0)?,
                complete_since: optional_time(row, 1)?,
                last_walk_at: time(row, 2)?,
                drift: row.get(3)?,
            })
        };
        self.scan(sql, (), read).await
    }

    async fn reset(
        &self,
        resource: &'static Resource,
        id: &str,
        expected: &SubjectState,
    ) -> Result<Reset, StoreError> {
        let (id, expected) = (id.to_owned(), *expected);
        let done = self.change_around_children(move |tables| reset(tables, resource, &id, &expected)).await?;
        // Child rows that are many, or that refuse their change, are pending.
        self.turn().await?;
        Ok(done)
    }
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<Drift> {
    parsed(row, column, "a kind of drift", Drift::parse)
}

fn held_state(row: &Row<'_>, column: usize) -> rusqlite::Result<HeldState> {
    parsed(row, column, "a state of a held object", HeldState::parse)
}

fn save_run(connection: &Connection, run: &Run) -> rusqlite::Result<()> {
    let sql = "INSERT INTO reconcile_runs
                   (id, started_at, saved_at, finished_at, state, is_dry, progress, last_error)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (id) DO UPDATE
               SET started_at = excluded.started_at, saved_at = excluded.saved_at, finished_at = excluded.finished_at,
                   state = excluded.state, is_dry = excluded.is_dry, progress = excluded.progress,
                   last_error = excluded.last_error";
    let values = (
        &run.id,
        run.started_at.to_string(),
        run.saved_at.to_string(),
        run.finished_at.map(|at| at.to_string()),
        run.state.as_str(),
        run.is_dry,
        &run.progress,
        &run.last_error,
    );
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// Removes old held objects that are settled or belong to a finished run, and old runs without any.
fn prune(connection: &Connection, before: Timestamp) -> rusqlite::Result<()> {
    let before = before.to_string();
    let held = format!(
        "DELETE FROM reconcile_held WHERE (run, table_name, id) IN
             (SELECT run, table_name, id FROM reconcile_held AS held
              WHERE noted_at < ?1 AND state <> 'waiting'
                    AND NOT EXISTS (SELECT 1 FROM reconcile_runs AS run
                                    WHERE run.id = held.run AND run.finished_at IS NULL)
              ORDER BY noted_at LIMIT {PRUNED_MAX})"
    );
    let runs = format!(
        "DELETE FROM reconcile_runs WHERE id IN
             (SELECT id FROM reconcile_runs AS run
              WHERE finished_at < ?1
                    AND NOT EXISTS (SELECT 1 FROM reconcile_held AS held WHERE held.run = run.id)
                    AND id NOT IN (SELECT id FROM reconcile_runs
                                   ORDER BY started_at DESC, id DESC LIMIT {RUNS_KEPT_MIN})
              ORDER BY started_at LIMIT {PRUNED_MAX})"
    );
    [held, runs].iter().try_for_each(|sql| connection.prepare_cached(sql)?.execute((&before,)).map(drop))
}
