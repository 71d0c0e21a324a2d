//! Faults of Clerk's API during a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use rollbook_core::catalog::{ORGANIZATIONS, ROLES, Resource, USERS};
use rollbook_core::source::{Fetched, Instance, Lookup, Page, PageRequest, Source, SourceError, Window};
use rollbook_core::store::{Freshness, FullStore, RunState, StoreError};
use rollbook_reconciler::{ReconcileError, Status};
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use rollbook_testkit::memory::clerk::{ClerkFault, MemoryClerk};
use serde_json::Map;
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::{World, user_id, user_object};

/// A source with an object without an id at the end of every page of users.
pub(super) struct WithoutId(pub(super) Arc<MemoryClerk>);

#[async_trait]
impl Source for WithoutId {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.0.instance().await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        self.0.count(resource, window).await
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        let mut page = self.0.page(resource, request).await?;
        if resource == &USERS && !page.objects.is_empty() {
            page.objects.push(Map::new().into());
        }
        Ok(page)
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        self.0.recently_updated_users(offset, limit).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        self.0.fetch(resource, lookups).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_only_delays_a_run() {
    for fault in [ClerkFault::Unavailable, ClerkFault::Unreadable] {
        let world = World::new();
        world.populate(120, 30, 30);
        // With the pauses between them, seven failures take more than a minute.
        world.clerk.fail([None, None].into_iter().chain(std::iter::repeat_n(Some(fault), 7)));
        let report = world.run().await.expect("a run");
        assert_eq!(report.state, RunState::Complete, "{fault:?}");
        world.assert_equal().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_beyond_the_patience_leaves_a_run_that_can_be_resumed() {
    let world = World::new();
    world.populate(120, 30, 30);
    world.clerk.fail([None, None].into_iter().chain(std::iter::repeat_n(Some(ClerkFault::Unavailable), 40)));
    let error = world.run().await.expect_err("an error");
    assert!(error.is_temporary(), "{error}");
    let runs = world.store.runs(1).await.expect("runs");
    assert_eq!((runs[0].state, runs[0].last_error.is_some()), (RunState::Running, true));
    world.clerk.fail([]);
    loop {
        // The faults that are left meet the resumed run.
        if world.resume().await.is_ok() {
            break;
        }
    }
    world.assert_equal().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_ends_a_run_at_once_and_the_record_says_why() {
    let world = World::new();
    world.populate(120, 30, 30);
    world.clerk.fail([None, Some(ClerkFault::Refused), Some(ClerkFault::Refused)]);
    let begun = tokio::time::Instant::now();
    let error = world.run().await.expect_err("an error");
    assert_eq!((begun.elapsed().as_secs(), error.is_temporary()), (0, false));
    assert!(matches!(error, ReconcileError::Source(SourceError::Refused(_))));
    let runs = world.store.runs(1).await.expect("runs");
    assert_eq!(runs[0].state, RunState::Failed);
    assert!(runs[0].last_error.as_ref().is_some_and(|text| text.contains("clerk_key_invalid")));
}

#[tokio::test(start_paused = true)]
async fn a_single_empty_page_is_asked_for_again() {
    let world = World::new();
    world.populate(120, 120, 0);
    for at in 0..8 {
        let faults = std::iter::repeat_n(None, at).chain([Some(ClerkFault::EmptyPage)]);
        world.clerk.fail(faults);
        world.pass(3600);
        assert_eq!(world.run().await.expect("a run").state, RunState::Complete);
        world.assert_equal().await;
    }
}

/// A store of which the next calls fail, as many as the counter says.
fn failing(world: &World, fails: Arc<AtomicU32>) -> Arc<dyn FullStore> {
    let store = FaultyStore::new(world.store.clone(), move |_| {
        let fails =
            fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let error = || StoreError::Unavailable("the connection was refused".to_owned());
        if fails { Fault::Fail(error()) } else { Fault::None }
    });
    Arc::new(store)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_unreachable_during_a_walk_only_delays_it() {
    let mut world = World::new();
    world.populate(120, 30, 30);
    let fails = Arc::new(AtomicU32::new(0));
    let plain = world.store.clone();
    world.store = failing(&world, fails.clone());
    let mut outages = 0;
    world.clerk.before_each_page(move |_, page| {
        if page.is_multiple_of(4) && outages < 5 {
            outages += 1;
            fails.store(6, Ordering::Relaxed);
        }
    });
    let report = world.run().await.expect("a run");
    world.store = plain;
    assert_eq!(report.state, RunState::Complete);
    world.assert_equal().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_refused_keeps_no_other_list_from_being_read() {
    let world = World::new();
    world.populate(120, 30, 30);
    let source = Scripted::new(&world.clerk, |request| {
        let refused = matches!(request, Request::Page(of) if of == &ORGANIZATIONS || of == &ROLES);
        let error = || SourceError::Refused("402 unsupported_plan".to_owned());
        async move { if refused { Err(error()) } else { Ok(()) } }.boxed()
    });
    let run = world.run_from(source, &CancellationToken::new()).await;
    let text = run.expect_err("an error").to_string();
    assert!(["organizations", "roles", "unsupported_plan"].iter().all(|word| text.contains(word)), "{text}");
    assert_eq!(world.living(&USERS).await.len(), 120);
    let runs = world.store.runs(1).await.expect("runs");
    assert_eq!((runs[0].state, runs[0].last_error.as_ref()), (RunState::Failed, Some(&text)));
    let freshness = world.store.freshness().await.expect("records");
    let is_complete =
        |table: &str| freshness.iter().any(|of| of.table == table && of.complete_since.is_some());
    assert!(is_complete("users") && !is_complete("organizations"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_answer_of_clerk() {
    let world = World::new();
    world.populate(10, 0, 0);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let source = Scripted::new(&world.clerk, move |_| {
        token.cancel();
        std::future::pending().boxed()
    });
    let begun = tokio::time::Instant::now();
    let run = world.run_from(source, &stop);
    let run = tokio::time::timeout(Duration::from_secs(600), run).await.expect("it ends");
    assert!(matches!(run, Err(ReconcileError::Stopped)));
    assert!(begun.elapsed() < Duration::from_secs(1));
    let runs = world.store.runs(1).await.expect("runs");
    assert_eq!(runs[0].state, RunState::Running, "to be resumed");
}

#[tokio::test]
async fn rows_that_refuse_their_change_and_objects_without_an_id_wait_for_an_operator_by_name() {
    let mut world = World::new();
    world.populate(20, 0, 0);
    world.run().await.expect("a run");
    let complete = |freshness: Vec<Freshness>| {
        freshness.into_iter().find(|of| of.table == "users").and_then(|of| of.complete_since)
    };
    assert!(complete(world.store.freshness().await.expect("records")).is_some());
    world.pass(3600);
    world.clerk.change(|objects| (20..22).for_each(|number| objects.put(&USERS, &user_object(number))));
    let plain = world.store.clone();
    let refused = [user_id(20), user_id(21)];
    world.store = Arc::new(FaultyStore::new(plain.clone(), move |call| match call {
        StoreCall::Apply(changes)
            if changes
                .iter()
                .any(|of| of.subject_id().is_some_and(|id| refused.iter().any(|of| of == id))) =>
        {
            Fault::Fail(StoreError::Event("unique violation".to_owned()))
        }
        _ => Fault::None,
    }));
    let source = Arc::new(WithoutId(world.clerk.clone()));
    let report = world.run_from(source, &CancellationToken::new()).await.expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.refused)), (RunState::Held, 2));
    assert_eq!(report.progress.sum(|of| of.held), 0, "they are counted once");
    assert_eq!(complete(plain.freshness().await.expect("records")), None);
    let status = Status::read(&*plain, 1, 10).await.expect("the store answers");
    let waiting: Vec<_> =
        status.waiting.iter().map(|of| (of.resource.as_str(), of.count, of.ids.clone())).collect();
    assert_eq!(waiting, [("users", 1, vec![]), ("users", 2, vec![user_id(20), user_id(21)])]);
    assert!(status.waiting[1].fix.contains("rollbook resync user_0020"), "{}", status.waiting[1].fix);
    world.store = plain;
    world.pass(3600);
    assert_eq!(world.run().await.expect("a run").state, RunState::Complete);
    let status = Status::read(&*world.store, 1, 10).await.expect("the store answers");
    assert!(status.waiting.is_empty(), "{:?}", status.waiting);
    assert!(complete(world.store.freshness().await.expect("records")).is_some());
}
