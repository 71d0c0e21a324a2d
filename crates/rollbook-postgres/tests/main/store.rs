//! The store on Postgres is a store, for a worker that has no more than the documented rights.

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::store::{Keeping, Store};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_postgres::PostgresStore;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::store::StoreHarness;

use crate::world::World;

struct Harness {
    store: Option<Arc<PostgresStore>>,
    clock: Arc<ManualClock>,
    keeping: Keeping,
    world: World,
}

impl Harness {
    fn open(&self) -> Arc<PostgresStore> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let store = PostgresStore::new(self.world.settings.clone(), clock).expect("the settings are right");
        Arc::new(store.keeping(self.keeping))
    }
}

async fn open() -> Harness {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
    let (world, _) = World::with_roles().await;
    let mut harness = Harness { store: None, clock, keeping: Keeping::default(), world };
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
