//! Answers of Clerk with a wrong time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::source::SourceError;
use rollbook_core::store::RunState;
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{CLOCK_TOLERANCE, ReconcileError, RunRequest};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::lying::Lying;
use super::world::{World, user_object};

const YEAR: i64 = 365 * 86_400_000;

fn moved(by: i64) -> impl Fn(Timestamp) -> Timestamp {
    move |date| Timestamp::from_millis(date.as_millis() + by)
}

#[tokio::test(start_paused = true)]
async fn one_old_answer_is_asked_for_again_and_nobody_is_missed() {
    for old in 0..9 {
        let world = World::new();
        world.populate(130, 130, 0);
        let answers = AtomicU64::new(0);
        let date = move |date| {
            let is_old = answers.fetch_add(1, Ordering::Relaxed) == old;
            if is_old { moved(-YEAR)(date) } else { date }
        };
        let report = Lying::new(&world).dates(date).run(&world, &[]).await.expect("a run");
        assert_eq!(report.state, RunState::Complete);
        world.assert_equal().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_beyond_the_tolerance_ends_a_run_at_once_and_nothing_is_written() {
    let beyond = i64::try_from(CLOCK_TOLERANCE.as_millis()).expect("a small number") + 2_000;
    for by in [beyond, -beyond, YEAR, -YEAR, -50 * YEAR] {
        let world = World::new();
        world.populate(60, 10, 0);
        let begun = tokio::time::Instant::now();
        let error = Lying::new(&world).dates(moved(by)).run(&world, &[]).await.expect_err("an error");
        assert!(matches!(error, ReconcileError::Source(SourceError::Clock(_))), "{error}");
        assert!(error.to_string().contains("NTP"), "{error}");
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
        assert_eq!(world.rows(&USERS).await.len() + world.rows(&ORGANIZATIONS).await.len(), 0);
        assert_eq!(world.store.freshness().await.expect("freshness"), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_that_goes_back_during_a_run_ends_it() {
    let world = World::new();
    world.populate(0, 130, 0);
    let answers = AtomicU64::new(0);
    let date = move |date| {
        let is_early = answers.fetch_add(1, Ordering::Relaxed) < 3;
        if is_early { date } else { moved(-60_000)(date) }
    };
    let error = Lying::new(&world).dates(date).run(&world, &[]).await.expect_err("an error");
    assert!(error.to_string().contains("60 s earlier than that of an earlier answer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn point_reads_and_checks_of_recent_users_have_the_same_rule() {
    let world = World::new();
    world.populate(3, 0, 0);
    let reconciler = world.reconciler_of(Arc::new(Lying::new(&world).dates(moved(YEAR))));
    let stop = CancellationToken::new();
    let is_clock = |error| matches!(error, ReconcileError::Source(SourceError::Clock(_)));
    let resynced = reconciler.resync(&["user_0000".to_owned()], true, &stop).await;
    assert!(is_clock(resynced.expect_err("an error")));
    let checked = reconciler.check_recent_users(Timestamp::from_millis(world.now()), &stop).await;
    assert!(is_clock(checked.expect_err("an error")));
    assert_eq!(world.rows(&USERS).await, []);
}

#[tokio::test]
async fn a_run_of_which_the_merge_ignores_the_differences_is_not_complete() {
    // Five seconds after 1970 every reading is below the first floor.
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(5_000)));
    let world = World::over(Arc::new(MemoryStore::new(clock.clone())), clock);
    world.clerk.change(|objects| {
        let mut user = user_object(0);
        user["created_at"] = json!(1);
        objects.put(&USERS, &user);
    });
    let request = RunRequest { only: vec![&USERS], ..RunRequest::default() };
    let report = world.run_as(&request).await.expect("a run");
    assert_eq!((report.state, report.progress.sum(|of| of.written)), (RunState::Held, 0));
    world.pass(3600);
    assert_eq!(world.run_as(&request).await.expect("a run").state, RunState::Complete);
    world.assert_equal().await;
}
