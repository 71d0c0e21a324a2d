//! Conformance suite of the store on SQLite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::{FullStore, LOCK_MAX, RetentionChoices};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::store::{Refusal, StoreHarness};
use rusqlite::Connection;
use tempfile::TempDir;

struct Harness {
    store: Option<Arc<SqliteStore>>,
    clock: Arc<ManualClock>,
    retention: RetentionChoices,
    folder: TempDir,
}

impl Harness {
    fn open(&self) -> Arc<SqliteStore> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let store = SqliteStore::open(&self.folder.path().join("store.db"), clock).expect("the store opens");
        Arc::new(store.with_retention(self.retention))
    }
}

async fn open() -> Harness {
    let folder = tempfile::tempdir().expect("a folder");
    apply_migrations(&folder.path().join("store.db"), Schema::Store).expect("the migrations apply");
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
    let mut harness = Harness { store: None, clock, retention: RetentionChoices::default(), folder };
    harness.store = Some(harness.open());
    harness
}

#[async_trait]
impl StoreHarness for Harness {
    fn store(&self) -> Arc<dyn FullStore> {
        self.store.clone().expect("the store is open")
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn reopen(&mut self) {
        self.store = None;
        self.store = Some(self.open());
    }

    async fn keep(&mut self, retention: RetentionChoices) {
        self.retention = retention;
        self.reopen().await;
    }

    async fn refuse_cascades(&mut self, refusal: Option<(Refusal, &str)>) {
        let team = Connection::open(self.folder.path().join("store.db")).expect("the file opens");
        for resource in RESOURCES.into_iter().filter(|resource| !resource.links.is_empty()) {
            let table = resource.table;
            team.execute_batch(&format!("DROP TRIGGER IF EXISTS {table}_refuse")).expect("it goes");
            let Some((refusal, ids)) = refusal else { continue };
            let action = match refusal {
                Refusal::Raise => "ABORT, 'no'",
                Refusal::Swallow => "IGNORE",
            };
            let trigger = format!(
                "CREATE TRIGGER {table}_refuse BEFORE UPDATE ON {table}
                 WHEN NEW.synced_by = OLD.synced_by AND NEW.id GLOB '{ids}*' BEGIN SELECT RAISE({action}); END"
            );
            team.execute_batch(&trigger).expect("a trigger");
        }
    }

    /// Advances the clock beyond every wait.
    async fn make_due(&mut self) {
        self.clock.advance(Duration::from_secs(3_600));
    }
}

rollbook_testkit::store_conformance!(open);
rollbook_testkit::store_converges!(open);

#[tokio::test]
async fn locks_and_forwards_that_were_taken_while_the_clock_was_ahead_end_once_it_is_right() {
    let harness = open().await;
    let (store, clock, minute) = (harness.store(), harness.clock(), Duration::from_secs(60));
    let now = clock.now();
    for (ahead, is_free) in [(LOCK_MAX, false), (LOCK_MAX * 400, true)] {
        clock.set(now.plus(ahead));
        assert_eq!(store.lock("run", "killed", minute).await, Ok(true));
        assert!(store.take_forward("crm", "killed", minute, 0).await.expect("it takes").is_some());
        clock.set(now.plus(minute));
        assert_eq!(store.lock("run", "next", minute).await, Ok(is_free), "{ahead:?}");
        let taken = store.take_forward("crm", "next", minute, 0).await.expect("it takes");
        assert_eq!(taken.is_some(), is_free, "{ahead:?}");
    }
}
