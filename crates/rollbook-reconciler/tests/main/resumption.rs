//! Runs that end early, and runs that meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, USERS};
use rollbook_core::source::SourceError;
use rollbook_core::store::{RunState, StoreError};
use rollbook_reconciler::{LOCK_FOR, Progress, ReconcileError, Resume, RunRequest};
use rollbook_testkit::events::organization;
use rollbook_testkit::faults::{Fault, FaultyStore};
use rollbook_testkit::memory::clerk::ClerkFault;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::scripted::{Request, Scripted};
use super::world::{World, at, organization_id, user_id, user_object};

/// Runs until this number of pages was asked for, and then drops the run, as a kill does: nothing of it goes
/// on, and its lock stays.
async fn killed_before_page(world: &World, page: u64, request: &RunRequest) -> bool {
    let (kill, seen) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let token = kill.clone();
    world.clerk.before_each_page(move |_, _| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == page {
            token.cancel();
        }
    });
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    let run = reconciler.run(request, &stop, watch::Sender::default());
    let ended = kill.run_until_cancelled(run).await;
    world.clerk.before_each_page(|_, _| {});
    ended.is_none()
}

#[tokio::test]
async fn a_run_killed_before_any_page_goes_on_and_ends_equal() {
    for page in 1.. {
        let mut world = World::new();
        // Every page is recorded.
        world.settings.save_every = Duration::ZERO;
        world.populate(170, 60, 110);
        if !killed_before_page(&world, page, &RunRequest::default()).await {
            assert!(page > 10, "the run has more pages");
            break;
        }
        let (before, _) = world.clerk.calls();
        assert!(
            matches!(world.resume().await, Err(ReconcileError::Busy(_))),
            "the killed run's lock has not ended"
        );
        world.clock.advance(LOCK_FOR);
        let report = world.resume().await.expect("a run");
        assert_eq!(report.state, RunState::Complete, "killed before page {page}");
        world.assert_equal().await;
        let (all, _) = world.clerk.calls();
        assert!(all - before < 30, "{} pages after page {page}", all - before);
    }
}

#[tokio::test]
async fn deletions_found_before_a_kill_are_not_forgotten() {
    for page in 1..12 {
        let mut world = World::new();
        world.settings.save_every = Duration::ZERO;
        world.populate(170, 60, 110);
        world.run().await.expect("a run");
        world.pass(3600);
        world.clerk.change(|objects| {
            for number in [0, 40, 80, 120, 160] {
                objects.remove(&USERS, &user_id(number));
            }
            objects.remove(&ORGANIZATION_MEMBERSHIPS, "orgmem_0003");
            // Memberships of deleted users are gone too.
            for number in [0, 40, 80] {
                objects.remove(&ORGANIZATION_MEMBERSHIPS, &format!("orgmem_{number:04}"));
            }
        });
        assert!(killed_before_page(&world, page, &RunRequest::default()).await);
        world.clock.advance(LOCK_FOR);
        world.resume().await.expect("a run");
        world.assert_equal().await;
    }
}

/// Runs until this call of the store, and drops the run then, before or after the call takes effect. Returns whether the
/// run had so many calls.
async fn killed_at_call(world: &mut World, request: &RunRequest, number: u64, takes_effect: bool) -> bool {
    let (kill, seen, store) = (CancellationToken::new(), AtomicU64::new(0), world.store.clone());
    let token = kill.clone();
    world.store = Arc::new(FaultyStore::new(store.clone(), move |_| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 < number {
            return Fault::None;
        }
        token.cancel();
        // The kill comes before the next call.
        let error = StoreError::Unavailable("killed".to_owned());
        if takes_effect { Fault::FailAfter(error) } else { Fault::Fail(error) }
    }));
    let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
    world.store = store;
    let run = reconciler.run(request, &stop, watch::Sender::default());
    kill.run_until_cancelled(run).await;
    kill.is_cancelled()
}

/// Objects of a list, by number.
struct Kind {
    resource: &'static Resource,
    page_size: usize,
    id: fn(usize) -> String,
    object: fn(usize) -> Value,
}

/// A list by cursor, and one by offset, of which the pages are written at the same time.
const KINDS: [Kind; 2] = [
    Kind { resource: &USERS, page_size: 40, id: user_id, object: user_object },
    Kind {
        resource: &ORGANIZATIONS,
        page_size: 25,
        id: organization_id,
        object: |number| organization(&organization_id(number), at(number)),
    },
];

#[tokio::test(start_paused = true)]
async fn a_run_killed_at_any_call_of_the_store_ends_as_if_it_had_not_been_killed() {
    let [users, organizations] = &KINDS;
    for (kind, gone, takes_effect) in [
        (users, 5, true),
        (users, 5, false),
        (users, 25, true),
        (users, 25, false),
        (organizations, 5, true),
        (organizations, 25, false),
    ] {
        let Kind { resource, page_size, id, object } = *kind;
        for number in 1.. {
            let mut world = World::new();
            // Every position is recorded.
            (world.settings.save_every, world.settings.page_size) = (Duration::ZERO, page_size);
            world.clerk.change(|objects| (0..60).for_each(|number| objects.put(resource, &object(number))));
            let request = RunRequest { only: vec![resource], ..RunRequest::default() };
            world.run_as(&request).await.expect("a run");
            world.pass(3600);
            world.clerk.change(|objects| {
                (20..20 + gone).for_each(|number| objects.remove(resource, &id(number)));
                objects.put(resource, &object(99));
            });
            let case = format!(
                "{}, {gone} deletions, killed at call {number}, with effect: {takes_effect}",
                resource.table
            );
            if !killed_at_call(&mut world, &request, number, takes_effect).await {
                assert!(number > 20, "{case}");
                break;
            }
            world.clock.advance(LOCK_FOR);
            let request = RunRequest { resume: Resume::IfUnfinished, ..request };
            let report = world.run_as(&request).await.expect("a run");
            if gone <= 20 {
                assert_eq!((report.state, world.difference().await), (RunState::Complete, None), "{case}");
                continue;
            }
            // More than the brake lets through: all of them wait, and none is deleted.
            assert_eq!((report.state, report.progress.sum(|of| of.held)), (RunState::Held, 25), "{case}");
            assert_eq!(world.living(resource).await.len(), 61, "{case}");
            let (reconciler, stop) = (world.reconciler(), CancellationToken::new());
            let approved = reconciler.approve(&report.run, &stop).await;
            assert_eq!(approved.expect("an approval").deleted, 25, "{case}");
            assert_eq!(world.difference().await, None, "{case}");
        }
    }
}

#[tokio::test]
async fn a_stopped_run_gives_its_lock_back_and_can_be_resumed() {
    let world = World::new();
    world.populate(170, 60, 110);
    let stop = CancellationToken::new();
    let token = stop.clone();
    world.clerk.before_each_page(move |_, page| {
        if page == 3 {
            token.cancel();
        }
    });
    let run = world.reconciler().run(&RunRequest::default(), &stop, watch::Sender::default()).await;
    assert!(matches!(run, Err(ReconcileError::Stopped)));
    world.resume().await.expect("a run");
    world.assert_equal().await;
}

#[tokio::test]
async fn a_new_run_takes_the_place_of_an_unfinished_one_and_resuming_needs_one() {
    let world = World::new();
    assert!(matches!(world.resume().await, Err(ReconcileError::NoSuchRun(_))));
    world.populate(170, 0, 0);
    assert!(killed_before_page(&world, 3, &RunRequest::default()).await);
    world.clock.advance(LOCK_FOR);
    let report = world.run().await.expect("a run");
    let states: Vec<RunState> =
        world.store.runs(10).await.expect("runs").into_iter().map(|run| run.state).collect();
    assert_eq!(states, [RunState::Complete, RunState::Failed]);
    let request = RunRequest { resume: Resume::IfUnfinished, ..RunRequest::default() };
    world.pass(60);
    assert_ne!(world.run_as(&request).await.expect("a run").run, report.run, "a new one");
}

#[tokio::test]
async fn two_runs_at_once_are_one_run() {
    let world = World::new();
    world.populate(170, 60, 110);
    let (one, other) = (world.reconciler(), world.reconciler());
    let (request, stop) = (RunRequest::default(), CancellationToken::new());
    let (one, other) = tokio::join!(
        one.run(&request, &stop, watch::Sender::default()),
        other.run(&request, &stop, watch::Sender::default()),
    );
    let busy = |result: &Result<_, ReconcileError>| matches!(result, Err(ReconcileError::Busy(_)));
    assert!(busy(&one) != busy(&other), "{one:?} {other:?}");
    world.assert_equal().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_keeps_its_lock_however_long_one_answer_takes() {
    let world = World::new();
    world.populate(60, 0, 0);
    let (clock, answered) = (world.clock.clone(), Arc::new(AtomicBool::new(false)));
    let (second, seen) = (world.reconciler(), answered.clone());
    let second = Arc::new(second);
    let source = Scripted::new(&world.clerk, move |_| {
        let (clock, second, seen) = (clock.clone(), second.clone(), seen.clone());
        async move {
            for _ in 0..12 {
                tokio::time::sleep(LOCK_FOR / 6).await;
                clock.advance(LOCK_FOR / 6);
            }
            let request = RunRequest { resume: Resume::IfUnfinished, ..RunRequest::default() };
            let run = second.run(&request, &CancellationToken::new(), watch::Sender::default()).await;
            assert!(matches!(run, Err(ReconcileError::Busy(_))), "{run:?}");
            seen.store(true, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    });
    let request = RunRequest { only: vec![&USERS], ..RunRequest::default() };
    let run = world.reconciler_of(source);
    run.run(&request, &CancellationToken::new(), watch::Sender::default()).await.expect("a run");
    assert!(answered.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_run_killed_among_the_suspects_of_one_page_does_not_read_them_again() {
    let mut world = World::new();
    world.settings.save_every = Duration::ZERO;
    world.populate(500, 0, 0);
    world.run().await.expect("a run");
    world.pass(3600);
    world.clerk.change(|objects| (0..450).for_each(|number| objects.remove(&USERS, &user_id(number))));
    let (_, before) = world.clerk.calls();
    let (kill, fetches) = (CancellationToken::new(), AtomicU64::new(0));
    let token = kill.clone();
    let source = Scripted::new(&world.clerk, move |request| {
        if matches!(request, Request::Fetch(_)) && fetches.fetch_add(1, Ordering::Relaxed) == 3 {
            token.cancel();
            return std::future::pending().boxed();
        }
        async { Ok(()) }.boxed()
    });
    let (reconciler, request, stop) =
        (world.reconciler_of(source), RunRequest::default(), CancellationToken::new());
    let run = reconciler.run(&request, &stop, watch::Sender::default());
    assert!(kill.run_until_cancelled(run).await.is_none());
    assert_eq!(world.clerk.calls().1 - before, 3);
    world.clock.advance(LOCK_FOR);
    let report = world.resume().await.expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.held)), (RunState::Held, 450));
    assert_eq!(world.clerk.calls().1 - before, 5, "five times a hundred");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_failed_at_a_list_is_resumed_at_that_list_and_keeps_what_it_reached() {
    let world = World::new();
    world.populate(120, 30, 30);
    let source = Scripted::new(&world.clerk, |request| {
        let error = || SourceError::Refused("402 unsupported_plan".to_owned());
        let refused = matches!(request, Request::Page(of) if of == &ORGANIZATION_MEMBERSHIPS);
        async move { if refused { Err(error()) } else { Ok(()) } }.boxed()
    });
    world.run_from(source, &CancellationToken::new()).await.expect_err("an error");
    let failed = world.store.runs(1).await.expect("runs").remove(0);
    let reached = Progress::parse(&failed.progress).expect("a progress");
    let done = |of: &Progress| of.resources.iter().filter(|of| of.is_done).count();
    assert_eq!((failed.state, done(&reached), reached.sum(|of| of.read)), (RunState::Failed, 8, 150));
    let (pages, _) = world.clerk.calls();
    let report = world.resume().await.expect("a run");
    assert_eq!((report.run, report.state), (failed.id, RunState::Complete));
    assert_eq!(world.clerk.calls().0 - pages, 2, "one list of one page, and the page behind");
    world.assert_equal().await;
    assert!(matches!(world.resume().await, Err(ReconcileError::NoSuchRun(_))), "it reached its end");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_refused_key_ended_goes_on_after_it_is_corrected_and_only_the_last_one_does() {
    let world = World::new();
    world.populate(120, 30, 30);
    let refuse = async || {
        world.clerk.fail([None, None, None].into_iter().chain([Some(ClerkFault::Refused); 2]));
        world.run().await.expect_err("an error");
    };
    refuse().await;
    let failed = world.store.runs(1).await.expect("runs").remove(0);
    assert_eq!(failed.state, RunState::Failed);
    assert_eq!(world.resume().await.expect("a run").run, failed.id);
    world.assert_equal().await;
    world.pass(60);
    refuse().await;
    world.clerk.fail([]);
    world.pass(60);
    world.run().await.expect("a run");
    assert!(matches!(world.resume().await, Err(ReconcileError::NoSuchRun(_))), "a later run took its place");
}
