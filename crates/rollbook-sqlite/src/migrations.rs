//! Migrations of the two schemas: steps that are applied once, in order. `PRAGMA user_version` counts the
//! applied steps. The table `rollbook_migrations` names them, from the first step that was applied by a
//! Rollbook with this table. It says whether a step `expands`: whether a Rollbook that does not know it works
//! correctly (decision 0170). A released step never changes: tests pin the checksums.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::connection;
use crate::fault::Fault;
use crate::feed::{self, Feed};

/// Schema of one of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// `queue.db`.
    Queue,
    /// `store.db`.
    Store,
}

/// Step of a schema: its name, its SQL, and whether it expands.
type Step = (&'static str, &'static str, bool);

macro_rules! step {
    ($folder:literal, $name:literal, expands: $expands:literal) => {
        ($name, include_str!(concat!("../../../migrations/sqlite/", $folder, "/", $name, ".sql")), $expands)
    };
}

const QUEUE: &[Step] = &[
    step!("queue", "0001_queue", expands: false),
    step!("queue", "0002_traceparent", expands: true),
    step!("queue", "0003_redriven", expands: true),
    step!("queue", "0004_discarded", expands: true),
];
const STORE: &[Step] = &[
    step!("store", "0001_mirror", expands: false),
    step!("store", "0002_whole_of_clerk", expands: false),
    step!("store", "0003_ends", expands: false),
    step!("store", "0006_ledger_order", expands: true),
    step!("store", "0007_links", expands: true),
    step!("store", "0008_ledger_buckets", expands: true),
    step!("store", "0009_cascades", expands: true),
    step!("store", "0010_reconcile", expands: true),
    step!("store", "0012_changes", expands: true),
    step!("store", "0013_forwards", expands: true),
    step!("store", "0016_generations", expands: true),
    step!("store", "0017_line_times", expands: true),
];

/// Number of SQLite instructions after which a migration checks for a request to stop: a few milliseconds.
const STOP_EVERY: i32 = 100_000;
/// Interval of log lines about a step in progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Maximum wait for another process that writes the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

impl Schema {
    const fn steps(self) -> &'static [Step] {
        match self {
            Self::Queue => QUEUE,
            Self::Store => STORE,
        }
    }

    /// Returns the page size of a new file. Bodies of two to three kilobytes, which come and go in order,
    /// fill pages of 8 KiB better than pages of 4 KiB. Rows change in many places, and a commit writes whole pages.
    const fn page_bytes(self) -> u32 {
        match self {
            Self::Queue => 8_192,
            Self::Store => 4_096,
        }
    }
}

/// Returns the names of the steps that the file at `path` lacks. A missing file lacks all steps, and is not created.
///
/// # Errors
/// The file can't be read, or a newer Rollbook made it.
pub fn pending_migrations(path: &Path, schema: Schema) -> Result<Vec<&'static str>, String> {
    let applied = if path.exists() {
        let connection = connection::open(path).map_err(|fault| fault.to_string())?;
        applied(&connection, schema).map_err(|fault| fault.to_string())?
    } else {
        0
    };
    Ok(schema.steps()[applied..].iter().map(|(name, ..)| *name).collect())
}

/// Applies pending steps, and creates a missing file. Returns the names of the steps. Rows of a store record their changes.
///
/// # Errors
/// The file can't be written, or a newer Rollbook made it.
pub fn apply_migrations(path: &Path, schema: Schema) -> Result<Vec<&'static str>, String> {
    apply_migrations_until(path, schema, Feed::On, || false)
}

/// Applies pending steps as [`apply_migrations`] does, until `stopped`: then all steps are rolled back. Rows of a store record
/// their changes, or do not.
///
/// # Errors
/// The file can't be written, a newer Rollbook made it, or the work was stopped.
pub fn apply_migrations_until(
    path: &Path,
    schema: Schema,
    feed: Feed,
    stopped: impl Fn() -> bool + Clone + Send + 'static,
) -> Result<Vec<&'static str>, String> {
    let mut connection = connection::make(path, schema.page_bytes()).map_err(|fault| fault.to_string())?;
    let under_way = UnderWay::default();
    let (asked, reported) = (stopped.clone(), under_way.clone());
    let handler = move || {
        reported.report();
        asked()
    };
    let asked = connection.progress_handler(STOP_EVERY, Some(handler)).map_err(Fault::from);
    let applied = asked.and_then(|()| apply(&mut connection, (schema, feed), &stopped, &under_way));
    applied.map_err(|fault| format!("{}: {fault}", path.display()))
}

fn apply(
    connection: &mut Connection,
    (schema, feed): (Schema, Feed),
    stopped: &dyn Fn() -> bool,
    under_way: &UnderWay,
) -> Result<Vec<&'static str>, Fault> {
    let steps = schema.steps();
    let has_feed = |connection: &Connection| -> Result<bool, Fault> {
        Ok(schema != Schema::Store || feed::difference(connection, feed)?.is_empty())
    };
    // A busy file that lacks no step is not waited for.
    if applied(connection, schema)? == steps.len() && has_feed(connection)? {
        return Ok(Vec::new());
    }
    lock(connection, stopped)?;
    let outcome = apply_locked(connection, schema, under_way).and_then(|names| {
        if schema == Schema::Store {
            for statement in feed::difference(connection, feed)? {
                connection.execute_batch(&statement)?;
            }
        }
        connection.execute_batch("COMMIT")?;
        Ok(names)
    });
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

/// Begins a transaction that writes. Another process that migrates the same file may hold the lock.
fn lock(connection: &Connection, stopped: &dyn Fn() -> bool) -> Result<(), Fault> {
    let since = Instant::now();
    loop {
        match connection.execute_batch("BEGIN IMMEDIATE").map_err(Fault::from) {
            Err(Fault::Unavailable(_)) if since.elapsed() < LOCK_PATIENCE && !stopped() => {
                tracing::warn!("a migration waits for another process that writes the file");
            }
            outcome => return outcome,
        }
    }
}

fn apply_locked(
    connection: &Connection,
    schema: Schema,
    under_way: &UnderWay,
) -> Result<Vec<&'static str>, Fault> {
    let steps = schema.steps();
    let known = applied(connection, schema)?;
    let pending = &steps[known..];
    let table = "CREATE TABLE IF NOT EXISTS rollbook_migrations (
                     number INTEGER PRIMARY KEY, name TEXT NOT NULL, expands INTEGER NOT NULL) STRICT";
    connection.execute_batch(table)?;
    for (number, (name, sql, expands)) in (known + 1..).zip(pending) {
        let since = Instant::now();
        under_way.begin(name);
        connection.execute_batch(sql)?;
        let seconds = since.elapsed().as_secs_f64();
        if known == 0 {
            // A new file: no process waits for it.
            tracing::debug!(step = name, seconds, "migration applied");
        } else {
            tracing::info!(step = name, seconds, "migration applied");
        }
        let row = "INSERT INTO rollbook_migrations (number, name, expands) VALUES (?1, ?2, ?3)";
        connection.execute(row, (number, name, expands))?;
    }
    if !pending.is_empty() {
        connection.pragma_update(None, "user_version", steps.len())?;
    }
    Ok(pending.iter().map(|(name, ..)| *name).collect())
}

/// Step in progress, for log lines while it takes long.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<Option<Current>>>);

struct Current {
    step: &'static str,
    since: Instant,
    reported_at: Instant,
}

impl UnderWay {
    fn begin(&self, step: &'static str) {
        let now = Instant::now();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Current { step, since: now, reported_at: now });
    }

    /// Logs the step if the last line is old enough.
    fn report(&self) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Current { step, since, reported_at }) =
            current.as_mut().filter(|current| current.reported_at.elapsed() >= PROGRESS_EVERY)
        {
            *reported_at = Instant::now();
            tracing::info!(step, seconds = since.elapsed().as_secs(), "migration is being applied");
        }
    }
}

/// The names of the steps of a newer Rollbook in a file that this one does not know and works with all the
/// same. A file that is not there has none.
///
/// # Errors
/// In words for a person: the file can't be read.
pub(crate) fn newer_migrations(path: &Path, schema: Schema) -> Result<Vec<String>, String> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let connection = connection::open(path).map_err(|fault| fault.to_string())?;
    let (version, known) = (version(&connection).map_err(|error| error.to_string())?, schema.steps().len());
    let unknown =
        (known + 1..).take_while(|number| i64::try_from(*number).is_ok_and(|number| number <= version));
    Ok(unknown.filter_map(|number| name_of(&connection, i64::try_from(number).ok()?)).collect())
}

/// Refuses a file that lacks steps, or has newer ones that change what this Rollbook relies on: to be asked
/// before it is used.
pub(crate) fn check(connection: &Connection, schema: Schema) -> Result<(), Fault> {
    match schema.steps().get(applied(connection, schema)?) {
        None => Ok(()),
        Some((name, ..)) => {
            Err(Fault::Deployment(format!("migration {name} is pending; run: rollbook migrate")))
        }
    }
}

/// The check of a file that is in use: another process may migrate it at any time.
pub(crate) struct Guard {
    schema: Schema,
    /// The version that was checked last.
    checked: Option<i64>,
}

impl Guard {
    pub(crate) const fn new(schema: Schema) -> Self {
        Self { schema, checked: None }
    }

    /// Refuses what [`check`] refuses. To be asked within each transaction, which keeps all others from migrating.
    pub(crate) fn check(&mut self, connection: &Connection) -> Result<(), Fault> {
        let version = version(connection)?;
        if self.checked != Some(version) {
            check(connection, self.schema)?;
            self.checked = Some(version);
        }
        Ok(())
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))
}

/// Returns the number of known steps that are applied.
fn applied(connection: &Connection, schema: Schema) -> Result<usize, Fault> {
    let (version, known) = (version(connection)?, schema.steps().len());
    match usize::try_from(version) {
        Ok(count) if count <= known => Ok(count),
        Ok(count) if all_expand(connection, known, count) => Ok(known),
        _ => Err(Fault::Deployment(format!(
            "the file is at migration {version}{} and this Rollbook knows {known}; use the Rollbook that made it, or a newer \
             one",
            name_of(connection, version).map(|name| format!(" ({name})")).unwrap_or_default()
        ))),
    }
}

/// Returns whether each of the steps after `known` up to `last` expands. Files of earlier builds do not say.
fn all_expand(connection: &Connection, known: usize, last: usize) -> bool {
    let sql = "SELECT count(*) FROM rollbook_migrations WHERE number > ?1 AND number <= ?2 AND expands";
    let expanding = connection.query_row(sql, (known, last), |row| row.get::<_, usize>(0));
    expanding.is_ok_and(|expanding| expanding == last - known)
}

fn name_of(connection: &Connection, number: i64) -> Option<String> {
    let sql = "SELECT name FROM rollbook_migrations WHERE number = ?1";
    connection.query_row(sql, (number,), |row| row.get(0)).ok()
}

#[cfg(test)]
mod tests;
