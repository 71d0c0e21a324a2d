//! Runs of a process that also works on deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::store::RunState;
use rollbook_reconciler::{RunRequest, Settings};
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use tokio::time::Instant;

use super::world::World;

const WRITING: Duration = Duration::from_millis(40);
const PAGES: u32 = 10;

/// Runs over ten pages of which the writing takes some time. Returns the duration and the largest number of pages that
/// were written at once.
async fn run(resource: &'static Resource, is_background: bool) -> Duration {
    let mut world = World::new();
    world.settings = Settings { page_size: 50, is_background, ..Settings::default() };
    world.populate(50 * PAGES as usize, 50 * PAGES as usize, 0);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = writes.clone();
    world.store = Arc::new(FaultyStore::new(world.store.clone(), move |call| match call {
        StoreCall::Apply(_) => {
            counted.fetch_add(1, Ordering::Relaxed);
            Fault::Late(WRITING)
        }
        _ => Fault::None,
    }));
    let begun = Instant::now();
    let request = RunRequest { only: vec![resource], ..RunRequest::default() };
    assert_eq!(world.run_as(&request).await.expect("a run").state, RunState::Complete);
    assert!(writes.load(Ordering::Relaxed) >= PAGES as usize, "each page is written");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_run_next_to_deliveries_pauses_after_each_page_for_as_long_as_its_work_took() {
    for resource in [&USERS, &ORGANIZATIONS] {
        let (alone, shared) = (run(resource, false).await, run(resource, true).await);
        assert!(shared >= WRITING * PAGES * 2, "one page at a time, and pauses: {shared:?}");
        assert!(alone <= shared / 2 + WRITING, "{alone:?} against {shared:?}");
    }
}
