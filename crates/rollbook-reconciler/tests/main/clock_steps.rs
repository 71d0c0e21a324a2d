//! A clock of this machine that was ahead, and is set back: nothing waits for the time that it showed.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::store::RunState;
use rollbook_core::time::Timestamp;
use rollbook_reconciler::{ReconcileMetrics, Reconciler, Schedule};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::lying::Lying;
use super::world::{World, user_object};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Keeps a schedule for this time. `during` runs at the same time.
async fn keep(reconciler: &Reconciler, time: Duration, during: impl Future<Output = ()>) {
    let metrics = ReconcileMetrics::new(&Registry::new()).expect("metrics");
    let schedule =
        Schedule { every: Some(Duration::from_secs(86_400)), check_every: Some(Duration::from_secs(300)) };
    let stop = CancellationToken::new();
    let ending = async {
        during.await;
        tokio::time::sleep(time).await;
        stop.cancel();
    };
    tokio::join!(reconciler.keep_schedule(schedule, metrics, stop.clone()), ending);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_began_while_the_clock_was_ahead_does_not_put_off_the_next_one() {
    let world = World::new();
    world.populate(60, 10, 0);
    let now = Timestamp::from_millis(world.now());
    world.clock.set(now.plus(YEAR));
    let ahead = Lying::new(&world).dates(|date| date.minus(YEAR));
    keep(&world.reconciler_of(Arc::new(ahead)), Duration::from_secs(60), async {}).await;
    let runs = world.store.runs(10).await.expect("runs");
    assert_eq!((runs.len(), runs[0].state), (1, RunState::Running), "Clerk's clock ends it");
    assert_eq!(world.living(&USERS).await.len(), 0);
    world.clock.set(now);
    // As after a kill: both locks were taken by the clock of then.
    for name in ["run", "schedule"] {
        world.clock.set(now.plus(YEAR));
        assert_eq!(world.store.lock(name, "killed", Duration::from_secs(60)).await, Ok(true));
        world.clock.set(now);
    }
    keep(&world.reconciler(), Duration::from_secs(60), async {}).await;
    world.assert_equal().await;
    assert_eq!(world.living(&ORGANIZATIONS).await.len(), 10);
    let runs = world.store.runs(10).await.expect("runs");
    let shown: Vec<_> = runs.iter().map(|run| (run.state, run.started_at <= now)).collect();
    assert_eq!(
        shown,
        [(RunState::Complete, true), (RunState::Failed, true)],
        "the last run is the first line"
    );
    let why = runs[1].last_error.as_deref().unwrap_or_default();
    assert!(why.contains("clock was ahead"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn checks_go_on_after_the_clock_was_set_back() {
    let world = World::new();
    world.populate(20, 0, 0);
    world.run().await.expect("the backfill");
    let now = Timestamp::from_millis(world.now());
    world.clock.set(now.plus(YEAR));
    let checked = async || world.clerk.calls().0;
    let reconciler = world.reconciler();
    keep(&reconciler, Duration::from_secs(700), async {
        // The walk that is due, and the first check.
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.clock.set(now);
        let before = checked().await;
        tokio::time::sleep(Duration::from_secs(700)).await;
        assert!(checked().await > before, "no check within five minutes");
    })
    .await;
}

#[tokio::test]
async fn a_user_with_a_change_in_the_future_does_not_end_later_checks_early() {
    let world = World::new();
    world.populate(3, 0, 0);
    let mut user = user_object(1);
    user["updated_at"] = json!(world.now() + 86_400_000);
    world.clerk.change(|objects| objects.put(&USERS, &user));
    let (now, stop) = (Timestamp::from_millis(world.now()), CancellationToken::new());
    let (repaired, next) = world.reconciler().check_recent_users(now, &stop).await.expect("a check");
    assert_eq!((repaired, next), (3, now));
}
