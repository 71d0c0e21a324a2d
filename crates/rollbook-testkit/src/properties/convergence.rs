//! Convergence: delays, duplicates, other batches, several workers and crashes lead to the same rows as
//! Clerk's own state.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::Change;
use rollbook_core::store::{FullStore, RowView, Store as _, StoreError};
use rollbook_core::time::Timestamp;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::history::{History, histories};
use crate::conformance::store::{StoreHarness, work_off};
use crate::events::START;
use crate::memory::store::MemoryStore;

const CASES: u32 = 64;
/// More than the number of subjects in a history.
const ROWS_MAX: usize = 1000;
/// Time of an erasure after the start, in milliseconds: longer than any history.
const ERASED_AFTER: i64 = 100_000_000;

/// Generates tests that a store ends with the right rows in any order of arrival. Takes the same function as
/// [`store_conformance!`](crate::store_conformance).
#[macro_export]
macro_rules! store_converges {
    ($open:expr) => {
        #[test]
        fn the_rows_are_the_same_whatever_the_order_of_arrival() {
            $crate::properties::convergence::check($open);
        }

        #[test]
        fn every_order_of_every_five_event_history_of_one_user_ends_in_the_same_row() {
            $crate::properties::permutations::check($open);
        }
    };
}

/// Checks that a store converges.
///
/// # Panics
/// Panics if it does not, with the smallest history found that shows it.
pub fn check<H: StoreHarness, F: Future<Output = H>>(open: impl Fn() -> F) {
    let runtime = runtime();
    super::check(CASES, &histories(), |history| {
        runtime.block_on(async {
            let mut harness = open().await;
            converges(&mut harness, &history).await?;
            // Without an erasure, no delivery may be missing in the ledger.
            let kept = history.play().changes.into_iter().filter(|_| history.erasures.is_empty());
            for change in kept {
                let line = harness.store().delivery(change.origin.entry_id()).await;
                prop_assert!(
                    matches!(line, Ok(Some(_))),
                    "{} is not in the ledger",
                    change.origin.entry_id()
                );
            }
            Ok(())
        })
    });
}

pub(crate) fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built")
}

/// Applies a history in its order of arrival and compares the rows with its truth.
pub(crate) async fn converges(
    harness: &mut impl StoreHarness,
    history: &History,
) -> Result<(), TestCaseError> {
    let played = history.play();
    let truth = MemoryStore::new(harness.clock());
    truth.keep(history.retention);
    truth.apply_many(&played.truth).await.expect("the model applies changes");
    erase(&truth, history).await.expect("nothing refuses the model");
    harness.keep(history.retention).await;

    let batches = history.arrive(&played.changes);
    let (before, after) = batches.split_at(batches.len() / 2);
    if let Some(refusal) = history.refusal {
        harness.refuse_cascades(Some((refusal, ""))).await;
    }
    apply(harness.store(), before, history.lanes).await;
    match erase(&*harness.store(), history).await {
        // Workers finish it when nothing refuses it any more.
        Err(StoreError::Event(_)) if history.refusal.is_some() => {}
        erased => erased.expect("the store erases"),
    }
    if history.refusal.is_some() {
        harness.refuse_cascades(None).await;
    }
    harness.reopen().await;
    apply(harness.store(), after, history.lanes).await;
    if history.refusal.is_some() {
        harness.make_due().await;
    }
    let left = work_off(&*harness.store()).await;
    prop_assert_eq!((left.parents_left, left.rows_left), (0, 0), "what is left to do");
    harness.reopen().await;
    let store = harness.store();
    for resource in RESOURCES {
        let rows = store.rows(resource, None, ROWS_MAX).await.expect("the store lists rows");
        let expected = truth.rows_of(resource);
        prop_assert_eq!(without_sync(rows), without_sync(expected), "rows (left) and truth (right)");
    }
    Ok(())
}

/// Performs the operator's erasures. Their time is later than all events.
async fn erase(store: &dyn FullStore, history: &History) -> Result<(), StoreError> {
    if history.erasures.is_empty() {
        return Ok(());
    }
    let at = Timestamp::from_millis(START + ERASED_AFTER);
    store.erase(&history.erasures, at).await.map(drop)
}

/// Applies batches, distributed over `lanes` concurrent workers.
async fn apply(store: Arc<dyn FullStore>, batches: &[Vec<Change>], lanes: usize) {
    let mut workers = JoinSet::new();
    for lane in 0..lanes {
        let store = Arc::clone(&store);
        let batches: Vec<Vec<Change>> = batches.iter().skip(lane).step_by(lanes).cloned().collect();
        workers.spawn(async move {
            for batch in batches {
                store.apply_many(&batch).await.expect("the store applies changes");
            }
        });
    }
    workers.join_all().await;
}

/// Removes the columns `synced_at` and `synced_by`, which depend on the time and the delivery.
pub(crate) fn without_sync(mut rows: Vec<RowView>) -> Vec<RowView> {
    for row in &mut rows {
        row.columns.retain(|name, _| name != "synced_at" && name != "synced_by");
    }
    rows
}
