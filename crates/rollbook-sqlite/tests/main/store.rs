//! The store on SQLite is a store.

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::store::{Keeping, Store};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::store::StoreHarness;
use tempfile::TempDir;

struct Harness {
    store: Option<Arc<SqliteStore>>,
    clock: Arc<ManualClock>,
    keeping: Keeping,
    folder: TempDir,
}

impl Harness {
    fn open(&self) -> Arc<SqliteStore> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let store = SqliteStore::open(&self.folder.path().join("store.db"), clock).expect("the store opens");
        Arc::new(store.keeping(self.keeping))
    }
}

async fn open() -> Harness {
    let folder = tempfile::tempdir().expect("a folder");
    apply_migrations(&folder.path().join("store.db"), Schema::Store).expect("the migrations apply");
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
    let mut harness = Harness { store: None, clock, keeping: Keeping::default(), folder };
    harness.store = Some(harness.open());
    harness
}

#[async_trait]
impl StoreHarness for Harness {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().expect("the store is open")
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn reopen(&mut self) {
        self.store = None;
        self.store = Some(self.open());
    }

    async fn keep(&mut self, keeping: Keeping) {
        self.keeping = keeping;
        self.reopen().await;
    }
}

rollbook_testkit::store_conformance!(open);
rollbook_testkit::store_converges!(open);
