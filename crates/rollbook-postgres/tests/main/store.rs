//! Conformance suite of the store on Postgres, for a worker with only the documented rights.

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::{FullStore, RetentionChoices};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_postgres::PostgresStore;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::store::{Refusal, StoreHarness};

use crate::world::World;

struct Harness {
    store: Option<Arc<PostgresStore>>,
    clock: Arc<ManualClock>,
    retention: RetentionChoices,
    world: World,
}

impl Harness {
    fn open(&self) -> Arc<PostgresStore> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let store = PostgresStore::new(self.world.settings.clone(), clock).expect("the settings are right");
        Arc::new(store.with_retention(self.retention))
    }
}

async fn open() -> Harness {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_000)));
    let (world, _) = World::with_roles().await;
    let mut harness = Harness { store: None, clock, retention: RetentionChoices::default(), world };
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
        let mut sql = String::new();
        if let Some((refusal, ids)) = refusal {
            let action = match refusal {
                Refusal::Raise => "RAISE EXCEPTION 'no';",
                Refusal::Swallow => "RETURN NULL;",
            };
            sql = format!(
                "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF NEW.synced_by = OLD.synced_by AND starts_with(NEW.id, '{ids}') THEN {action} END IF;
                     RETURN NEW; END $$;"
            );
        }
        for resource in RESOURCES.into_iter().filter(|resource| !resource.links.is_empty()) {
            let table = format!("mirror_2.{}", resource.table);
            let trigger = match refusal {
                Some(_) => "CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON",
                None => "DROP TRIGGER IF EXISTS refuse ON",
            };
            let action = refusal.map_or("", |_| "FOR EACH ROW EXECUTE FUNCTION public.refuse()");
            sql.extend([trigger, " ", &table, " ", action, ";"]);
        }
        self.world.psql(&sql).await;
    }

    async fn make_due(&mut self) {
        self.world.psql("UPDATE mirror_2.rollbook_cascades SET next_try_at = now()").await;
    }
}

rollbook_testkit::store_conformance!(open);
rollbook_testkit::store_converges!(open);
