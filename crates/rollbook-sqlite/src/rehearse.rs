//! Rehearsal: does work and rolls it back. Nothing of it stays, whatever else its transaction commits.

use rusqlite::Connection;

/// Runs `work` in a savepoint and rolls it back.
pub(crate) fn rolled_back<T>(
    connection: &Connection,
    work: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.execute_batch("SAVEPOINT rehearsal")?;
    let done = work();
    // Some errors have rolled back everything, and the savepoint with it: then the first error is the one to report.
    let ended = connection.execute_batch("ROLLBACK TO rehearsal; RELEASE rehearsal");
    let done = done?;
    ended?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use rollbook_core::catalog::RESOURCES;
    use rollbook_core::queue::{Producer as _, QueueAdmin as _, QueueError};
    use rollbook_core::store::{Store as _, StoreError};
    use rollbook_core::time::Timestamp;
    use rollbook_testkit::clock::ManualClock;

    use super::*;
    use crate::{QueueSettings, Schema, SqliteQueue, SqliteStore, apply_migrations};

    fn file(folder: &tempfile::TempDir, schema: Schema) -> (PathBuf, Arc<ManualClock>) {
        let path = folder.path().join("a.db");
        apply_migrations(&path, schema).expect("a file");
        (path, Arc::new(ManualClock::new(Timestamp::from_seconds(1_800_000_000))))
    }

    #[tokio::test]
    async fn a_store_keeps_nothing_of_a_rehearsal_and_says_what_would_refuse_a_worker() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, clock) = file(&folder, Schema::Store);
        let store = SqliteStore::open(&path, clock).expect("a store");
        let other = Connection::open(&path).expect("a second connection");
        let seen = "CREATE TABLE seen (id); CREATE TRIGGER see AFTER INSERT ON users
             BEGIN INSERT INTO seen VALUES (new.id); END";
        other.execute_batch(seen).expect("a trigger");
        assert_eq!(store.rehearse().await, Ok(true));
        for table in RESOURCES.map(|resource| resource.table).into_iter().chain(["deliveries", "seen"]) {
            let count = format!("SELECT count(*) FROM {table}");
            assert_eq!(other.query_row(&count, [], |row| row.get::<_, i64>(0)), Ok(0), "{table}");
        }
        let no = "CREATE TRIGGER no BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'no'); END";
        other.execute_batch(no).expect("a trigger");
        assert!(matches!(store.rehearse().await, Err(StoreError::Event(_))));
        other.execute_batch("DROP TRIGGER no; ALTER TABLE roles RENAME TO gone").expect("another schema");
        assert!(matches!(store.rehearse().await, Err(StoreError::Deployment(_))));
    }

    #[tokio::test]
    async fn a_queue_keeps_nothing_of_a_rehearsal_and_says_what_would_refuse_a_delivery() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, clock) = file(&folder, Schema::Queue);
        let settings = QueueSettings { depth_max: 1, due_ahead_max: Duration::from_secs(60) };
        let queue = SqliteQueue::open(&path, settings, clock).expect("a queue");
        for _ in 0..3 {
            assert_eq!(queue.rehearse().await, Ok(true), "there is room for one, and it is kept free");
        }
        assert_eq!(queue.stats().await.map(|stats| stats.depth()), Ok(0));
        assert!(queue.space().await.is_ok_and(|room| room.disk_available > Some(0)
            && room.disk_size >= room.disk_available
            && room.memory_used.is_none()));
        let other = Connection::open(&path).expect("a second connection");
        let no = "CREATE TRIGGER no BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'no'); END";
        other.execute_batch(no).expect("a trigger");
        assert!(matches!(queue.rehearse().await, Err(QueueError::Deployment(_))));
    }
}
