//! First runs: what they read of the store, and lists by offset, of which several pages are written at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::store::{RowView, RunState, StoreError};
use rollbook_reconciler::{ReconcileError, Resume, RunRequest, Settings};
use rollbook_testkit::events::organization;
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::world::{World, at, organization_id, user_id, user_object};

const PAGES: usize = 10;
const OBJECTS: usize = 50 * PAGES;

fn only(resource: &'static Resource) -> RunRequest {
    RunRequest { only: vec![resource], ..RunRequest::default() }
}

fn organization_object(number: usize) -> Value {
    let mut object = organization(&organization_id(number), at(number));
    object["created_at"] = json!(at(number));
    object
}

/// Counts the calls of the reconciler's port in a run.
async fn calls(world: &mut World, resource: &'static Resource) -> u64 {
    let (calls, store) = (Arc::new(AtomicU64::new(0)), world.store.clone());
    let counted = calls.clone();
    world.store = Arc::new(FaultyStore::new(store.clone(), move |call| {
        if matches!(call, StoreCall::Reconcile) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Fault::None
    }));
    world.run_as(&only(resource)).await.expect("a run");
    world.store = store;
    calls.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_run_that_begins_with_an_empty_table_looks_for_no_rows_that_clerk_lacks() {
    for resource in [&USERS, &ORGANIZATIONS] {
        let mut world = World::new();
        world.settings = Settings { save_every: Duration::MAX, ..world.settings };
        world.populate(OBJECTS, 0, 0);
        world.clerk.change(|objects| {
            (0..OBJECTS).for_each(|number| objects.put(&ORGANIZATIONS, &organization_object(number)));
        });
        let first = calls(&mut world, resource).await;
        world.pass(3600);
        let second = calls(&mut world, resource).await;
        // Nearly each page of the second run also looks for rows of its window.
        assert!(first + PAGES as u64 / 2 <= second, "{}: {first} calls, then {second}", resource.table);
    }
}

#[tokio::test]
async fn one_old_row_is_enough_for_a_first_run_to_look_for_rows_that_clerk_lacks() {
    let world = World::new();
    world.webhook("msg_1", "user.created", at(7) + 1, &user_object(7)).await;
    world.pass(3600);
    world.populate(OBJECTS, 0, 0);
    world.clerk.change(|objects| objects.remove(&USERS, &user_id(7)));
    let report = world.run_as(&only(&USERS)).await.expect("a run");
    assert_eq!((report.state, world.difference().await), (RunState::Complete, None));
    let deleted = world.rows(&USERS).await.into_iter().filter(RowView::is_deleted);
    assert_eq!(deleted.map(|row| row.id).collect::<Vec<_>>(), [user_id(7)]);
}

/// A world with ten pages of organizations, of which the writing takes this long by the number of the write.
fn slow(time: fn(u64) -> u64) -> World {
    let mut world = World::new();
    world.settings = Settings { page_size: 50, save_every: Duration::ZERO, ..Settings::default() };
    world.populate(0, OBJECTS, 0);
    let number = AtomicU64::new(0);
    world.store = Arc::new(FaultyStore::new(world.store.clone(), move |call| match call {
        StoreCall::Apply(_) => {
            Fault::Late(Duration::from_millis(time(number.fetch_add(1, Ordering::Relaxed))))
        }
        _ => Fault::None,
    }));
    world
}

#[tokio::test(start_paused = true)]
async fn several_pages_of_a_list_by_offset_are_written_at_the_same_time() {
    let world = slow(|_| 1_000);
    let begun = Instant::now();
    world.run_as(&only(&ORGANIZATIONS)).await.expect("a run");
    world.assert_equal().await;
    let elapsed = begun.elapsed();
    assert!((2..=4).contains(&elapsed.as_secs()), "eleven pages, four at a time: {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_an_early_page_is_still_written_loses_nothing() {
    // The first page is the last one that is written.
    let world = slow(|number| if number == 0 { 60_000 } else { 1 });
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    let request = only(&ORGANIZATIONS);
    let run = reconciler.run(&request, &stop, watch::Sender::default());
    let stopped = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        stop.cancel();
    };
    let (run, ()) = tokio::join!(run, stopped);
    assert!(matches!(run, Err(ReconcileError::Stopped)), "{run:?}");
    let written = world.rows(&ORGANIZATIONS).await.len();
    assert!((100..OBJECTS).contains(&written), "{written} rows of the pages after the first");
    let request = RunRequest { resume: Resume::Required, ..request };
    let report = world.run_as(&request).await.expect("a run");
    assert_eq!((report.state, world.difference().await), (RunState::Complete, None));
}

#[tokio::test]
async fn an_error_of_a_page_that_is_written_behind_the_walk_ends_the_walk() {
    let mut world = World::new();
    world.populate(0, OBJECTS, 0);
    let number = AtomicU64::new(0);
    world.store = Arc::new(FaultyStore::new(world.store.clone(), move |call| match call {
        StoreCall::Apply(_) if number.fetch_add(1, Ordering::Relaxed) == 5 => {
            Fault::Fail(StoreError::Deployment("a right is missing".to_owned()))
        }
        _ => Fault::None,
    }));
    let run = world.run_as(&only(&ORGANIZATIONS)).await;
    assert!(matches!(run, Err(ReconcileError::Store(_))), "{run:?}");
    let report = world.resume().await.expect("a run");
    assert_eq!((report.state, world.difference().await), (RunState::Complete, None));
}
