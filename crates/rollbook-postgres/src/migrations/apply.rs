//! Application of migrations.
//!
//! Constraints:
//!
//! * A schema without migrations has no users: all migrations are one transaction.
//! * Otherwise a lock that blocks readers is waited for at most [`LOCK_WAIT`] at a time, because later
//!   sessions queue behind the waiting one; and it is held only as long as a change of the catalog takes.
//! * Progress is committed together with each phase. An interrupted migration continues from there.
//! * Statements that could refuse a later phase are tried before the first, and rolled back.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use tokio::time::{Instant, sleep, timeout};

use super::feed;
use super::refused;
use super::state::{State, UNFINISHED};
use super::steps::{Phase, STEPS, Step, at_once, drops_of_columns, phases};
use super::{Ask, Exists};
use crate::fault::{self, Fault, database_error};
use crate::settings::PostgresSettings;
use crate::transaction::{Database, Session, Work as _};
use crate::types::number;

/// Key of the advisory lock that is held while migrations are applied. Any number that nobody else uses is suitable.
const LOCK: i64 = i64::from_be_bytes(*b"rollbook");
/// Maximum duration of one transaction: a phase may read and write large tables.
const PHASE_MAX: Duration = Duration::from_secs(4 * 3600);
/// Maximum wait, at a time, for a lock that blocks readers. Readers may have to wait as long.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// Pause before a lock is requested again: waiting readers go first.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// Maximum total wait for a lock: after that, another session has likely left a transaction open.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);
/// Maximum wait for transactions on the old schema to end.
const WORKERS_WAIT: Duration = Duration::from_secs(60);

/// Name of the change feed's triggers in errors.
const FEED: &str = "of the change feed's triggers";
/// Interval of log lines about a migration that is still being applied.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Session settings, whatever the settings of role and database are.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("client_min_messages", "error"),
    ("synchronous_commit", "on"),
    ("standard_conforming_strings", "on"),
];

/// Applies pending migrations and returns their names. Then makes the triggers of the change feed, or drops them.
pub(super) async fn apply(
    database: &Database,
    schema: &str,
    settings: &PostgresSettings,
) -> Result<Vec<&'static str>, Fault> {
    let mut first = database.connect().await?;
    let first = &mut first.connection;
    let of_server = |error: sqlx::Error| fault::judge(database.address(), &error);
    let lock = format!("{}; SELECT pg_advisory_xact_lock({LOCK}); SAVEPOINT asked", begin(Duration::ZERO));
    let state = within(PHASE_MAX, async {
        script(first, &lock).await?;
        let state = Ask { schema }.run(&mut Session::of(first)).await?;
        // The lock on the table that was read must be released before a migration is announced.
        script(first, "ROLLBACK TO SAVEPOINT asked").await?;
        Ok(state)
    });
    let state: State = state.await.map_err(of_server)?;
    let pending = state.pending(database.address(), schema)?;
    if state.rows.is_empty() {
        make(database, schema, settings.changes, first).await?;
        return Ok(pending);
    }
    let session = &mut Session::of(first);
    let feed = within(PHASE_MAX, feed::difference(session, schema, settings.changes));
    let feed = feed.await.map_err(of_server)?;
    if pending.is_empty() && feed.is_empty() {
        script(first, "ROLLBACK").await.map_err(of_server)?;
        return Ok(pending);
    }
    // The first connection holds the lock. It is idle, so it does not block sessions that wait for old
    // snapshots to end.
    let mut second = database.connect().await?;
    // Whether a connection keeps its session outside of transactions.
    let own_session = !database.address().pooled;
    let mut run = Run { database, schema, connection: &mut second.connection, own_session };
    for step in STEPS.iter().filter(|step| pending.contains(&step.name)) {
        let is_begun = state.rows.iter().any(|row| row.name == format!("{}{UNFINISHED}", step.name));
        run.step(step, is_begun).await?;
    }
    run.feed(&feed, settings.changes).await?;
    script(first, "COMMIT").await.map_err(of_server)?;
    Ok(pending)
}

/// Creates the tables of a new schema.
async fn make(
    database: &Database,
    schema: &str,
    changes: bool,
    connection: &mut PgConnection,
) -> Result<(), Fault> {
    let of_server = |error: sqlx::Error| fault::judge(database.address(), &error);
    // Checked first: `IF NOT EXISTS` needs the right to create schemas even if the schema exists.
    let exists = Exists { schema }.run(&mut Session::of(connection)).await.map_err(of_server)?;
    let create = if exists { String::new() } else { format!(r#"CREATE SCHEMA "{schema}";"#) };
    let table = format!(
        r#"{create} SET LOCAL search_path TO "{schema}";
           CREATE TABLE IF NOT EXISTS rollbook_migrations (
               name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now(),
               expands boolean NOT NULL DEFAULT false, phase integer
           )"#
    );
    within(PHASE_MAX, script(connection, &table)).await.map_err(of_server)?;
    for step in STEPS {
        let sql = format!(
            "{}; INSERT INTO rollbook_migrations (name, expands) VALUES ('{}', {})",
            at_once(step.sql).trim_end().trim_end_matches(';'),
            step.name,
            step.expands
        );
        let made = within(PHASE_MAX, script(connection, &sql)).await;
        made.map_err(|error| refused::judge(database.address(), step.name, &error))?;
    }
    if changes {
        let made = within(PHASE_MAX, script(connection, &feed::make_all(schema))).await;
        made.map_err(|error| refused::judge(database.address(), FEED, &error))?;
    }
    script(connection, "COMMIT").await.map_err(of_server)
}

/// Application of migrations to a schema that is in use.
struct Run<'a> {
    database: &'a Database,
    schema: &'a str,
    connection: &'a mut PgConnection,
    own_session: bool,
}

impl Run<'_> {
    async fn step(&mut self, step: &Step, is_begun: bool) -> Result<(), Fault> {
        let since = Instant::now();
        let phase = AtomicUsize::new(0);
        let outcome = {
            let mut applying = pin!(self.phases(step, is_begun, &phase));
            loop {
                if let Ok(outcome) = timeout(PROGRESS_EVERY, &mut applying).await {
                    break outcome;
                }
                tracing::info!(
                    step = step.name,
                    phase = phase.load(Ordering::Relaxed),
                    of = phases(step.sql).len(),
                    seconds = since.elapsed().as_secs(),
                    "migration is being applied"
                );
            }
        };
        outcome.map_err(|error| refused::judge(self.database.address(), step.name, &error))?;
        let seconds = since.elapsed().as_secs_f64();
        tracing::info!(step = step.name, seconds, "migration applied");
        Ok(())
    }

    /// Changes the triggers of the change feed, a table at a time.
    async fn feed(&mut self, changes: &[(&str, String)], on: bool) -> Result<(), Fault> {
        for (table, sql) in changes {
            let applied = self.retried(FEED, &[sql], "COMMIT").await;
            applied.map_err(|error| refused::judge(self.database.address(), FEED, &error))?;
            tracing::debug!(table, on, "triggers of the change feed changed");
        }
        if !changes.is_empty() {
            tracing::info!(
                tables = changes.len(),
                on,
                "the change feed was switched, or its triggers renewed"
            );
        }
        Ok(())
    }

    /// Applies all phases of a migration. `current` receives the number of the current phase.
    async fn phases(&mut self, step: &Step, is_begun: bool, current: &AtomicUsize) -> sqlx::Result<()> {
        let rehearsed = if is_begun { Vec::new() } else { drops_of_columns(step.sql) };
        for statement in rehearsed {
            self.retried(step.name, &[&statement], "ROLLBACK").await?;
        }
        let mut done = self.begin_step(step).await?;
        let all = phases(step.sql);
        for (number, phase) in (1..).zip(&all).skip(done) {
            current.store(number, Ordering::Relaxed);
            tracing::debug!(step = step.name, phase = number, of = all.len(), "migration phase begins");
            let progress = format!(
                "UPDATE rollbook_migrations SET phase = {number} WHERE name = '{}{UNFINISHED}'",
                step.name
            );
            match phase {
                Phase::Brief(sql) => self.retried(step.name, &[sql, &progress], "COMMIT").await?,
                Phase::Long(sql) => self.long(step.name, [&[][..], &[sql, &progress]]).await?,
                Phase::Convert { table, rows, columns } => {
                    let lock = format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE");
                    self.long(step.name, [&[&lock, rows], &[columns, &progress]]).await?;
                }
                Phase::Concurrent(all) if self.own_session => {
                    self.outside(step.name, all).await?;
                    self.long(step.name, [&[], &[&progress]]).await?;
                }
                Phase::Concurrent(all) => {
                    let all = at_once(&all.join(";"));
                    self.long(step.name, [&[&all], &[&progress]]).await?;
                }
            }
            done = number;
        }
        let finished = format!(
            "UPDATE rollbook_migrations SET name = '{}', phase = NULL, applied_at = now() WHERE name = '{0}{UNFINISHED}'",
            step.name
        );
        debug_assert_eq!(done, all.len());
        self.retried(step.name, &[&finished], "COMMIT").await
    }

    /// Announces a migration, after all transactions on the old schema have ended. Returns the number of
    /// finished phases.
    async fn begin_step(&mut self, step: &Step) -> sqlx::Result<usize> {
        let (begin, search_path) = (begin(WORKERS_WAIT), self.search_path());
        let announce = format!(
            "{begin}; {search_path}; LOCK TABLE rollbook_migrations IN ACCESS EXCLUSIVE MODE;
             ALTER TABLE rollbook_migrations ADD COLUMN IF NOT EXISTS expands boolean NOT NULL DEFAULT false,
                                             ADD COLUMN IF NOT EXISTS phase integer;
             INSERT INTO rollbook_migrations (name, expands, phase) VALUES ('{}{UNFINISHED}', {}, 0) ON CONFLICT DO NOTHING;
             SELECT phase FROM rollbook_migrations WHERE name = '{0}{UNFINISHED}';
             COMMIT",
            step.name, step.expands
        );
        let rows = within(PHASE_MAX, raw_sql(AssertSqlSafe(announce)).fetch_all(&mut *self.connection)).await;
        match rows {
            Ok(rows) => rows.first().map_or(Ok(0), number),
            Err(error) => {
                script(self.connection, "ROLLBACK").await?;
                Err(error)
            }
        }
    }

    fn search_path(&self) -> String {
        format!(r#"SET LOCAL search_path TO "{}""#, self.schema)
    }

    /// Runs one transaction, repeated until it gets its locks.
    async fn retried(&mut self, step: &'static str, statements: &[&str], end: &str) -> sqlx::Result<()> {
        let sql = format!("{}; {}; {}; {end}", begin(LOCK_WAIT), self.search_path(), statements.join(";"));
        let mut patience = Patience::new(step);
        loop {
            let Err(error) = within(PHASE_MAX, script(self.connection, &sql)).await else { return Ok(()) };
            script(self.connection, "ROLLBACK").await?;
            patience.wait(error).await?;
        }
    }

    /// Runs one transaction: the first part once, the last part repeated until it gets its locks.
    async fn long(&mut self, step: &'static str, [first, last]: [&[&str]; 2]) -> sqlx::Result<()> {
        let begin = format!("{}; {}", begin(LOCK_WAIT), self.search_path());
        let mut patience = Patience::new(step);
        loop {
            let outcome = self.attempt(&begin, first, last, &mut patience).await;
            let Err(error) = outcome else { return Ok(()) };
            script(self.connection, "ROLLBACK").await?;
            patience.wait(error).await?;
        }
    }

    async fn attempt(
        &mut self,
        begin: &str,
        first: &[&str],
        last: &[&str],
        patience: &mut Patience,
    ) -> sqlx::Result<()> {
        script(self.connection, begin).await?;
        self.each(first).await?;
        let last = format!("SAVEPOINT locks; {}; COMMIT", last.join(";"));
        loop {
            let Err(error) = within(PHASE_MAX, script(self.connection, &last)).await else { return Ok(()) };
            if first.is_empty() || !is_lock_timeout(&error) {
                return Err(error);
            }
            // The first part is kept. Locks that block readers are released.
            script(self.connection, "ROLLBACK TO SAVEPOINT locks").await?;
            patience.wait(error).await?;
        }
    }

    /// Runs statements that can't be part of a transaction. They block no session and wait for all.
    async fn outside(&mut self, step: &'static str, statements: &[String]) -> sqlx::Result<()> {
        let settings = SETTINGS.map(|(name, value)| format!("SET {name} = {value};")).concat();
        let settings = format!(r#"{settings} SET lock_timeout = 0; SET search_path TO "{}""#, self.schema);
        script(self.connection, &settings).await?;
        let mut patience = Patience::new(step);
        loop {
            let Err(error) = self.each(statements).await else { return Ok(()) };
            patience.wait(error).await?;
        }
    }

    async fn each(&mut self, statements: &[impl AsRef<str>]) -> sqlx::Result<()> {
        for statement in statements {
            within(PHASE_MAX, script(self.connection, statement.as_ref())).await?;
        }
        Ok(())
    }
}

/// Wait of a migration for locks.
struct Patience {
    step: &'static str,
    since: Instant,
    is_logged: bool,
}

impl Patience {
    fn new(step: &'static str) -> Self {
        Self { step, since: Instant::now(), is_logged: false }
    }

    /// Pauses after an error that only another session's transaction causes. Returns any other error.
    async fn wait(&mut self, error: sqlx::Error) -> sqlx::Result<()> {
        if !is_lock_timeout(&error) || self.since.elapsed() > LOCK_PATIENCE {
            return Err(error);
        }
        if !self.is_logged {
            let step = self.step;
            tracing::warn!(
                step,
                "a migration waits for a lock: another session has an open transaction on the table; the migration \
                 continues when that transaction ends"
            );
            self.is_logged = true;
        }
        sleep(LOCK_PAUSE).await;
        Ok(())
    }
}

/// Returns whether a lock was not available in time, or was refused to resolve a deadlock.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| matches!(error.code(), "55P03" | "40P01"))
}

/// Begins a transaction with this limit for locks; zero means no limit.
fn begin(lock_wait: Duration) -> String {
    let settings = SETTINGS.map(|(name, value)| format!("SET LOCAL {name} = {value}"));
    // A deferred trigger of the team would prevent the change of columns after the rows.
    let settings = settings.join("; ");
    format!(
        "BEGIN; {settings}; SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL lock_timeout = {}",
        lock_wait.as_millis()
    )
}

async fn script(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
}

/// Limits the duration of a call.
async fn within<T>(limit: Duration, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time")))
    })
}
