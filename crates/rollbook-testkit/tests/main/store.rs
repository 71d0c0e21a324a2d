//! The store suite on the model, and defective merges that it must detect.

use std::future::{Ready, ready};
use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::store::{FullStore, RetentionChoices};
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::store::StoreHarness;
use rollbook_testkit::events::START;
use rollbook_testkit::memory::store::MemoryStore;

struct Memory {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
}

fn open() -> Ready<Memory> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
    ready(Memory { store: Arc::new(MemoryStore::new(clock.clone())), clock })
}

#[async_trait]
impl StoreHarness for Memory {
    fn store(&self) -> Arc<dyn FullStore> {
        self.store.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        self.clock.clone()
    }

    /// The model keeps its state: memory is its disk.
    async fn reopen(&mut self) {}

    async fn keep(&mut self, retention: RetentionChoices) {
        self.store.keep(retention);
    }
}

rollbook_testkit::store_conformance!(open);
rollbook_testkit::store_converges!(open);
