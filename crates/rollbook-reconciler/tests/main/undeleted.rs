//! Deletions that are proved and can't be applied: the run is not complete, and the row waits by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rollbook_core::catalog::USERS;
use rollbook_core::change::{Change, Effect};
use rollbook_core::store::{FullStore, HeldState, RunState, StoreError};
use rollbook_reconciler::{Approved, ReconcileError, ResyncOutcome, Status};
use rollbook_testkit::events::deleted;
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use tokio_util::sync::CancellationToken;

use super::world::{World, user_id};

/// A store with ten users, of which Clerk does not have the first two any more.
async fn world() -> World {
    let world = World::new();
    world.populate(10, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| (0..2).for_each(|number| objects.remove(&USERS, &user_id(number))));
    world
}

fn deletes(changes: &[Change], id: &str) -> bool {
    let is_it = |change: &Change| match &change.effect {
        Effect::Merge(subject) => subject.id == id && subject.version.is_deleted,
        Effect::Ignore { .. } => false,
    };
    changes.iter().any(is_it)
}

/// A store in which the deletion of the first user fails like this, until the flag is set.
fn refusing(inner: &Arc<dyn FullStore>, error: StoreError, is_over: Arc<AtomicBool>) -> Arc<dyn FullStore> {
    Arc::new(FaultyStore::new(inner.clone(), move |call| match call {
        StoreCall::Apply(changes) if deletes(changes, &user_id(0)) && !is_over.load(Ordering::Relaxed) => {
            Fault::Fail(error.clone())
        }
        _ => Fault::None,
    }))
}

#[tokio::test]
async fn a_row_that_refuses_its_deletion_is_held_by_name_and_approved_once_the_trigger_is_corrected() {
    let mut world = world().await;
    let (plain, is_over) = (world.store.clone(), Arc::new(AtomicBool::new(false)));
    world.store = refusing(&plain, StoreError::Event("a trigger refuses it".to_owned()), is_over.clone());
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.undeleted)), (RunState::Held, 1));
    assert_eq!(world.living(&USERS).await.len(), 9);
    let status = Status::read(&*plain, 1, 10).await.expect("the store answers");
    assert_eq!(status.waiting[0].ids, [user_id(0)]);
    let approve = async || {
        world.reconciler().approve(&report.run, &CancellationToken::new()).await.expect("an approval")
    };
    assert_eq!(approve().await, Approved { refused: 1, ..Approved::default() });
    let state = async || world.store.run(&report.run).await.expect("the store").expect("the run").state;
    assert_eq!(state().await, RunState::Held);
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(approve().await, Approved { deleted: 1, ..Approved::default() });
    assert_eq!(state().await, RunState::Complete, "nothing waits any more");
    world.assert_equal().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_unreachable_for_a_deletion_leaves_a_run_to_be_resumed() {
    let mut world = world().await;
    let (plain, is_over) = (world.store.clone(), Arc::new(AtomicBool::new(false)));
    world.store = refusing(&plain, StoreError::Unavailable("refused".to_owned()), is_over.clone());
    let error = world.run().await.expect_err("an error");
    assert!(matches!(error, ReconcileError::Store(StoreError::Unavailable(_))), "{error}");
    let run = plain.runs(1).await.expect("runs").remove(0);
    assert_eq!(run.state, RunState::Running);
    let collected = plain.held(&run.id, HeldState::Collected, None, 10).await.expect("held");
    assert_eq!(collected.len(), 2, "the proofs are kept");
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(world.resume().await.expect("a run").state, RunState::Complete);
    world.assert_equal().await;
}

#[tokio::test]
async fn a_deletion_that_the_merge_ignores_is_not_called_done() {
    let world = World::new();
    world.populate(10, 0, 0);
    world.run().await.expect("a run");
    // The deletion has a time a day ahead, and so has the floor of the row that an operator revives.
    let ahead = world.now() + 86_400_000;
    world.webhook("msg_1", "user.deleted", ahead, &deleted("user", &user_id(0))).await;
    let resynced = world.reconciler().resync(&[user_id(0)], true, &CancellationToken::new()).await;
    assert_eq!(resynced.expect("a resync")[0].outcome, ResyncOutcome::Revived);
    world.pass(3600);
    world.clerk.change(|objects| objects.remove(&USERS, &user_id(0)));
    let report = world.run().await.expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.undeleted)), (RunState::Held, 1));
    assert_eq!(world.living(&USERS).await.len(), 10);
    world.pass(86_400);
    assert_eq!(world.run().await.expect("a run").state, RunState::Complete, "its time has come");
    world.assert_equal().await;
}
