//! A store that is slow: every row, one row, one table, or all of it.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::ORGANIZATIONS;
use rollbook_core::change::Change;
use rollbook_core::retry::Reason;
use rollbook_core::store::{SlowCause, StoreError};
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use tokio::time::sleep;

use crate::support::{Bench, PausedClock, event, has_subject, run_until, user};

/// The time limit of a statement.
const LIMIT: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(1 << 30);

fn too_slow(cause: SlowCause) -> StoreError {
    StoreError::Slow { cause, detail: "a statement took longer than statement_timeout".into() }
}

/// A store that takes this long for each change, and fails at the time limit.
fn slow_store(
    bench: &Bench,
    takes: impl Fn(&Change, &PausedClock) -> Duration + Send + Sync + 'static,
) -> FaultyStore {
    let clock = Arc::clone(&bench.clock);
    FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(changes) => {
            let time = changes
                .iter()
                .map(|change| takes(change, &clock))
                .fold(Duration::ZERO, Duration::saturating_add);
            if time > LIMIT {
                Fault::FailLate(LIMIT, too_slow(SlowCause::Statement))
            } else {
                Fault::Late(time)
            }
        }
        _ => Fault::None,
    })
}

/// Waits as [`Bench::drained`] does, for tests that take hours of test time.
async fn drained(bench: &Bench) {
    while !bench.queue.message_ids().is_empty() {
        sleep(Duration::from_secs(1)).await;
    }
}

fn metric(bench: &Bench, name: &str) -> u64 {
    bench.metric(name).and_then(|value| value.parse().ok()).expect("a number")
}

async fn enqueue_organizations(bench: &Bench, count: usize) {
    for number in 0..count {
        let data = serde_json::json!({"id": format!("org_{number}")});
        bench.enqueue(&format!("msg_org_{number}"), event("organization.updated", &data)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_slower_than_the_time_limit_is_made_smaller_until_it_passes() {
    for millis in [250, 4_000, 15_000] {
        let mut bench = Bench::new();
        bench.settings.lanes = 3;
        bench.enqueue_users(0..150).await;
        let store = slow_store(&bench, move |_, _| Duration::from_millis(millis));
        run_until(bench.worker_with_store(store), drained(&bench)).await.expect("a clean end");
        assert_eq!(bench.attempts(), [1; 150], "no message is to blame");
        assert_eq!(metric(&bench, "rollbook_leases_lost_total"), 0, "{millis} ms a row");
        let slow = metric(&bench, r#"rollbook_apply_slow_total{cause="statement_timeout"}"#);
        assert!((1..=21).contains(&slow), "{slow} batches were cut short with {millis} ms a row");
        assert!(metric(&bench, "rollbook_apply_batch_limit") * millis <= 20_000);
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_of_batches_recovers_when_the_store_is_fast_again() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..3000).await;
    let store = slow_store(&bench, |_, clock| {
        let is_slow =
            clock.now() < Timestamp::from_millis(crate::support::BEGIN).plus(Duration::from_secs(600));
        if is_slow { Duration::from_secs(4) } else { Duration::ZERO }
    });
    run_until(bench.worker_with_store(store), drained(&bench)).await.expect("a clean end");
    assert_eq!(bench.attempts(), [1; 3000]);
    assert_eq!(metric(&bench, "rollbook_apply_batch_limit"), 100);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_too_slow_by_itself_becomes_a_dead_letter_and_no_other_spends_an_attempt() {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    bench.settings.retry.attempts_max = 3;
    bench.enqueue_users(0..120).await;
    let store = slow_store(&bench, |change, _| {
        if has_subject(std::slice::from_ref(change), "user_33") { NEVER } else { Duration::ZERO }
    });
    run_until(bench.worker_with_store(store), drained(&bench)).await.expect("a clean end");
    assert_eq!(bench.attempts(), [1; 119]);
    let [letter] = &bench.queue.dead()[..] else { panic!("one dead letter") };
    assert_eq!((letter.id.as_str(), letter.attempts), ("msg_33", 3));
    assert_eq!(letter.failure.reason, Reason::StoreTimeout);
    assert_eq!(letter.failure.detail, "a statement took longer than statement_timeout");
    assert_eq!(metric(&bench, "rollbook_leases_lost_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_row_that_is_the_only_message_becomes_a_dead_letter_too() {
    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 3;
    bench.enqueue("msg_1", user("user_1")).await;
    let store = slow_store(&bench, |_, _| NEVER);
    run_until(bench.worker_with_store(store), drained(&bench)).await.expect("a clean end");
    assert_eq!(bench.queue.dead().len(), 1);
}

/// Half an hour in which nothing that matches passes.
async fn outlives_a_lock(bench: &Bench, locked: fn(&Change) -> bool) {
    let until = bench.clock.now().plus(Duration::from_secs(1800));
    let store = slow_store(
        bench,
        move |change, clock| {
            if locked(change) && clock.now() < until { NEVER } else { Duration::ZERO }
        },
    );
    run_until(bench.worker_with_store(store), drained(bench)).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty(), "{:?}", bench.queue.dead());
    assert_eq!(metric(bench, "rollbook_leases_lost_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn while_every_row_is_slow_the_gate_is_closed_and_no_attempt_is_spent() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..300).await;
    outlives_a_lock(&bench, |_| true).await;
    assert_eq!(bench.attempts(), [1; 300]);
    let slow = metric(&bench, r#"rollbook_apply_slow_total{cause="statement_timeout"}"#);
    assert!(slow < 100, "{slow} calls in 30 minutes, of 20 s each");
}

#[tokio::test(start_paused = true)]
async fn a_locked_table_spends_no_attempt_and_the_other_tables_go_on() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..40).await;
    enqueue_organizations(&bench, 40).await;
    let applied = async {
        sleep(Duration::from_secs(1500)).await;
        assert_eq!(bench.store.rows_of(&ORGANIZATIONS).len(), 40, "while the users are locked");
        assert!(bench.user_ids().is_empty());
    };
    let is_user = |change: &Change| change.resource_name() == "users";
    tokio::join!(outlives_a_lock(&bench, is_user), applied);
    assert_eq!(bench.attempts(), [1; 80]);
}

#[tokio::test(start_paused = true)]
async fn refusals_that_take_long_to_find_let_no_lease_run_out() {
    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 2;
    bench.enqueue_users(0..64).await;
    let store = FaultyStore::new(bench.store.clone(), |call| match call {
        StoreCall::Apply(changes) if has_subject(changes, "user_63") || has_subject(changes, "user_5") => {
            Fault::FailLate(Duration::from_secs(15), StoreError::Event("no".into()))
        }
        StoreCall::Apply(_) => Fault::Late(Duration::from_secs(15)),
        _ => Fault::None,
    });
    run_until(bench.worker_with_store(store), drained(&bench)).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 62);
    assert_eq!(bench.queue.dead().len(), 2);
    assert_eq!(metric(&bench, "rollbook_leases_lost_total"), 0);
}
