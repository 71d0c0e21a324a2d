//! The two schemas and their steps, each applied once and in order. `PRAGMA user_version` counts the applied ones, and
//! from the first step on that was applied by a Rollbook which knows of it, the table `rollbook_migrations` names them
//! and says whether each `expands`: whether a Rollbook that does not know it works rightly all the same (decision
//! 0170). A step that has been released never changes: tests pin their checksums.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::connection;
use crate::fault::Fault;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// `queue.db`.
    Queue,
    /// `store.db`.
    Store,
}

/// A step: its name, its SQL, and whether it expands.
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
];
const STORE: &[Step] = &[
    step!("store", "0001_mirror", expands: false),
    step!("store", "0002_whole_of_clerk", expands: false),
    step!("store", "0003_ends", expands: false),
    step!("store", "0006_ledger_order", expands: true),
];

/// After how many of SQLite's instructions a migration looks whether it is to stop: a few milliseconds.
const STOP_EVERY: i32 = 100_000;
/// How long another process that writes the file is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

impl Schema {
    const fn steps(self) -> &'static [Step] {
        match self {
            Self::Queue => QUEUE,
            Self::Store => STORE,
        }
    }

    /// The size of a new file's pages. Bodies of two to three kilobytes, which come and go in their order, fill pages
    /// of eight better than pages of four; rows change here and there, and a commit writes whole pages.
    const fn page_bytes(self) -> u32 {
        match self {
            Self::Queue => 8_192,
            Self::Store => 4_096,
        }
    }
}

/// The names of the steps that the file at `path` lacks. A file that is not there lacks all, and is
/// not made.
///
/// # Errors
/// In words for a person: the file can't be read, or a newer Rollbook made it.
pub fn pending_migrations(path: &Path, schema: Schema) -> Result<Vec<&'static str>, String> {
    let applied = if path.exists() {
        let connection = connection::open(path).map_err(|fault| fault.to_string())?;
        applied(&connection, schema).map_err(|fault| fault.to_string())?
    } else {
        0
    };
    Ok(schema.steps()[applied..].iter().map(|(name, ..)| *name).collect())
}

/// Applies what is pending, making the file where there is none. Returns the names.
///
/// # Errors
/// In words for a person: the file can't be written, or a newer Rollbook made it.
pub fn apply_migrations(path: &Path, schema: Schema) -> Result<Vec<&'static str>, String> {
    apply_migrations_until(path, schema, || false)
}

/// Likewise, until `stopped`: then all is as it was.
///
/// # Errors
/// Likewise, and that it was stopped.
pub fn apply_migrations_until(
    path: &Path,
    schema: Schema,
    stopped: impl Fn() -> bool + Clone + Send + 'static,
) -> Result<Vec<&'static str>, String> {
    let mut connection = connection::make(path, schema.page_bytes()).map_err(|fault| fault.to_string())?;
    let asked = connection.progress_handler(STOP_EVERY, Some(stopped.clone())).map_err(Fault::from);
    let applied = asked.and_then(|()| apply(&mut connection, schema, &stopped));
    applied.map_err(|fault| format!("{}: {fault}", path.display()))
}

fn apply(
    connection: &mut Connection,
    schema: Schema,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<&'static str>, Fault> {
    let steps = schema.steps();
    // A file that is busy and lacks nothing is not waited for.
    if applied(connection, schema)? == steps.len() {
        return Ok(Vec::new());
    }
    lock(connection, stopped)?;
    let outcome = apply_locked(connection, schema).and_then(|names| {
        connection.execute_batch("COMMIT")?;
        Ok(names)
    });
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

/// Begins a transaction that writes. Who has the lock may be another process that migrates the same file.
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

fn apply_locked(connection: &Connection, schema: Schema) -> Result<Vec<&'static str>, Fault> {
    let steps = schema.steps();
    let known = applied(connection, schema)?;
    let pending = &steps[known..];
    let table = "CREATE TABLE IF NOT EXISTS rollbook_migrations (
                     number INTEGER PRIMARY KEY, name TEXT NOT NULL, expands INTEGER NOT NULL) STRICT";
    connection.execute_batch(table)?;
    for (number, (name, sql, expands)) in (known + 1..).zip(pending) {
        tracing::debug!(step = name, "migration is being applied");
        connection.execute_batch(sql)?;
        let row = "INSERT INTO rollbook_migrations (number, name, expands) VALUES (?1, ?2, ?3)";
        connection.execute(row, (number, name, expands))?;
    }
    if !pending.is_empty() {
        connection.pragma_update(None, "user_version", steps.len())?;
    }
    Ok(pending.iter().map(|(name, ..)| *name).collect())
}

/// Refuses a file that lacks steps, or has newer ones that change what this Rollbook relies on: to be asked before it is
/// used.
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

/// How many of the known steps are applied.
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

/// Whether each of the steps after `known` up to `last` expands. Files of earlier builds do not say.
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
mod tests {
    use std::collections::BTreeSet;

    use rollbook_core::catalog::{COMMON_COLUMNS, Kind, RESOURCES};

    use super::*;

    #[test]
    fn migrations_are_pending_until_they_are_applied_and_then_not() {
        let folder = tempfile::tempdir().expect("a folder");
        for schema in [Schema::Queue, Schema::Store] {
            let all: Vec<&str> = schema.steps().iter().map(|(name, ..)| *name).collect();
            let path = folder.path().join(format!("{schema:?}.db"));
            assert_eq!(pending_migrations(&path, schema), Ok(all.clone()));
            assert!(!path.exists(), "asking must not make the file");
            assert_eq!(apply_migrations(&path, schema), Ok(all));
            assert_eq!(apply_migrations(&path, schema), Ok(vec![]));
            assert_eq!(pending_migrations(&path, schema), Ok(vec![]));
        }
    }

    #[test]
    fn the_tables_have_the_columns_of_the_catalog_in_its_types() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = connection::open(&path).expect("a file");
        for resource in RESOURCES {
            let mut columns =
                connection.prepare("SELECT name, type FROM pragma_table_info(?1)").expect("a query");
            let found = columns.query_map((resource.table,), |row| Ok((row.get(0)?, row.get(1)?)));
            let is_own = |(name, _): &(String, String)| {
                !COMMON_COLUMNS.contains(&name.as_str()) && !name.starts_with("version_")
            };
            let found: BTreeSet<(String, String)> =
                found.expect("rows").map(|row| row.expect("a column")).filter(is_own).collect();
            let typed = resource.columns.iter().map(|column| {
                let kind = match column.kind {
                    Kind::Integer | Kind::Bool => "INTEGER",
                    Kind::Text | Kind::IndexedText | Kind::Id | Kind::Time | Kind::Json => "TEXT",
                };
                (column.name.to_owned(), kind.to_owned())
            });
            assert_eq!(found, typed.collect(), "{resource:?}");
        }
    }

    #[test]
    fn a_step_keeps_the_rows_and_fills_what_it_adds_from_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let connection = connection::open(&path).expect("a file");
        connection.execute_batch(STORE[0].1).expect("the first step");
        connection.pragma_update(None, "user_version", 1).expect("a version");
        let said = [
            (Some(r#"{"deprovisioned": true}"#), Some(true)),
            (Some(r#"{"deprovisioned": false}"#), Some(false)),
            (Some(r#"{"deprovisioned": "x"}"#), None),
            (Some("{}"), None),
            (None, None),
        ];
        for (number, (data, _)) in said.iter().enumerate() {
            let insert = "INSERT INTO users VALUES
                (?1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?2, 0, 0, 0, 0, 0, 0, 0, 0, x'00', 0)";
            connection.execute(insert, (format!("user_{number}"), data)).expect("a row");
        }
        assert_eq!(
            apply_migrations(&path, Schema::Store),
            Ok(STORE[1..].iter().map(|step| step.0).collect())
        );
        let mut users = connection.prepare("SELECT deprovisioned FROM users ORDER BY id").expect("a query");
        let found: Vec<Option<bool>> =
            users.query_map((), |row| row.get(0)).expect("rows").map(|row| row.expect("a value")).collect();
        assert_eq!(found, said.map(|(_, deprovisioned)| deprovisioned));
    }

    #[test]
    fn what_was_deleted_before_the_step_about_ends_stays_so_with_all_that_hangs_on_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let connection = connection::open(&path).expect("a file");
        for (_, step, _) in &STORE[..2] {
            connection.execute_batch(step).expect("an earlier step");
        }
        connection.pragma_update(None, "user_version", 2).expect("a version");
        let version =
            "synced_at, synced_by, version_dead, version_updated_at, version_event_at, version_hash";
        let alive = "'t', 'msg', 0, 5, 5, x'00112233445566778899aabbccddeeff'";
        connection
            .execute_batch(&format!(
                "INSERT INTO users (id, deleted_at, {version}) VALUES ('user_1', 't7', 't', 'msg', 1, 0, 7, x'00');
                 INSERT INTO users (id, {version}) VALUES ('user_2', {alive});
                 INSERT INTO organizations (id, deleted_at, {version}) VALUES ('org_1', 't6', 't', 'msg', 1, 0, 6, x'00');
                 INSERT INTO sessions (id, user_id, {version}) VALUES ('sess_1', 'user_1', {alive}), ('sess_2', 'user_2', {alive});
                 INSERT INTO organization_memberships (id, user_id, organization_id, {version})
                 VALUES ('m_1', 'user_1', 'org_1', {alive}), ('m_2', 'user_2', 'org_1', {alive}), ('m_3', 'user_2', 'org_2', {alive});"
            ))
            .expect("rows");
        assert_eq!(
            apply_migrations(&path, Schema::Store),
            Ok(STORE[2..].iter().map(|step| step.0).collect())
        );
        let ends =
            "SELECT group_concat(id || ' ' || coalesce(deleted_at, '-') || ' ' || hex(version_hash), ', ')
                    FROM (SELECT id, deleted_at, version_hash FROM users UNION ALL
                          SELECT id, deleted_at, x'' FROM sessions UNION ALL
                          SELECT id, deleted_at, x'' FROM organization_memberships ORDER BY id)";
        let found: String = connection.query_row(ends, (), |row| row.get(0)).expect("rows");
        assert_eq!(
            found,
            "m_1 t6 , m_2 t6 , m_3 - , sess_1 t7 , sess_2 - , user_1 t7 , \
             user_2 - 00112233445566778899AABBCCDDEEFF"
        );
        let state = "SELECT version_deleted_at, version_updated_at = -9223372036854775808 FROM users WHERE id = 'user_1'";
        let found: (i64, bool) =
            connection.query_row(state, (), |row| Ok((row.get(0)?, row.get(1)?))).expect("a row");
        assert_eq!(found, (7, true));
    }

    #[test]
    fn what_waits_and_what_is_dead_stays_at_the_step_about_traces_and_earlier_statements_go_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue.db");
        let connection = connection::open(&path).expect("a file");
        connection.execute_batch(QUEUE[0].1).expect("the first step");
        connection.pragma_update(None, "user_version", 1).expect("a version");
        let enqueue = |id: &str| {
            let sql = "INSERT INTO messages (seq, id, received_at, enqueued_at, body)
                       VALUES ((SELECT count(*) + 1 FROM messages), ?1, 1, 1, x'7b7d')";
            connection.execute(sql, (id,)).expect("a message")
        };
        let park = |id: &str| {
            let sql =
                "INSERT INTO dead_letters (id, received_at, died_at, attempts, reason, detail, format, body)
                       SELECT id, received_at, 2, 1, 'r', 'd', format, body FROM messages WHERE id = ?1";
            connection.execute(sql, (id,)).expect("a dead letter")
        };
        enqueue("before");
        park("before");
        assert_eq!(
            apply_migrations(&path, Schema::Queue),
            Ok(QUEUE[1..].iter().map(|step| step.0).collect())
        );
        // As a process of an earlier build does that still has the file open.
        enqueue("after");
        park("after");
        for table in ["messages", "dead_letters"] {
            let sql = format!(
                "SELECT group_concat(id || ' ' || hex(body) || ' ' || (traceparent IS NULL), ', ')
                   FROM (SELECT * FROM {table} ORDER BY seq)"
            );
            let found: String = connection.query_row(&sql, (), |row| row.get(0)).expect("rows");
            assert_eq!(found, "before 7B7D 1, after 7B7D 1", "{table}");
        }
    }

    #[test]
    fn a_file_of_a_newer_rollbook_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue.db");
        connection::open(&path).expect("a file").pragma_update(None, "user_version", 99).expect("a version");
        let refusal = pending_migrations(&path, Schema::Queue).expect_err("a newer file");
        assert!(refusal.contains("migration 99"), "{refusal}");
    }

    #[test]
    fn a_file_of_a_newer_rollbook_is_opened_where_each_of_its_steps_expands() {
        let folder = tempfile::tempdir().expect("a folder");
        for schema in [Schema::Queue, Schema::Store] {
            let path = folder.path().join(format!("{schema:?}.db"));
            apply_migrations(&path, schema).expect("the migrations apply");
            let known = schema.steps().len();
            let newer = connection::open(&path).expect("a file");
            let add = |number: usize, expands: bool| {
                let row = "INSERT INTO rollbook_migrations VALUES (?1, ?2, ?3)";
                newer.execute(row, (number, format!("{number:04}_later"), expands)).expect("a row");
                newer.pragma_update(None, "user_version", number).expect("a version");
            };
            add(known + 1, true);
            add(known + 2, true);
            assert_eq!(check(&newer, schema), Ok(()));
            assert_eq!(pending_migrations(&path, schema), Ok(vec![]));
            assert_eq!(apply_migrations(&path, schema), Ok(vec![]), "and it stays as it is");
            assert_eq!(version(&newer), Ok(i64::try_from(known + 2).expect("few steps")));
            add(known + 3, false);
            let refusal = check(&newer, schema).expect_err("a newer file").to_string();
            assert!(refusal.contains("_later") && refusal.contains("newer"), "{refusal}");
            add(known + 4, true);
            assert!(check(&newer, schema).is_err(), "one that does not expand is among them");
        }
    }
}
