//! Conformance suite of the queue on SQLite.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Consumer, Producer, QueueAdmin};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::queue::{DUE_WITHIN, QueueHarness};
use tempfile::TempDir;

struct Harness {
    queue: Option<Arc<SqliteQueue>>,
    clock: Arc<ManualClock>,
    depth_max: u64,
    folder: TempDir,
}

impl Harness {
    fn path(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }

    fn open(&self) -> Arc<SqliteQueue> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let settings = QueueSettings { depth_max: self.depth_max, due_ahead_max: DUE_WITHIN };
        Arc::new(SqliteQueue::open(&self.path(), settings, clock).expect("the queue opens"))
    }

    fn queue(&self) -> Arc<SqliteQueue> {
        Arc::clone(self.queue.as_ref().expect("the queue is open"))
    }
}

async fn open(depth_max: u64) -> Harness {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
    let folder = tempfile::tempdir().expect("a folder");
    let mut harness = Harness { queue: None, clock, depth_max, folder };
    apply_migrations(&harness.path(), Schema::Queue).expect("the migrations apply");
    harness.queue = Some(harness.open());
    harness
}

#[async_trait]
impl QueueHarness for Harness {
    fn producer(&self) -> Arc<dyn Producer> {
        self.queue()
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        self.queue()
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.queue()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn corrupt(&mut self, id: &MessageId) {
        let other = rusqlite::Connection::open(self.path()).expect("a second connection");
        let changed = other.execute("UPDATE messages SET format = 99 WHERE id = ?1", [id.as_str()]);
        assert_eq!(changed, Ok(1));
    }

    async fn reopen(&mut self) {
        self.queue = None;
        self.queue = Some(self.open());
    }
}

rollbook_testkit::queue_conformance!(open);
rollbook_testkit::queue_agrees_with_model!(open);
