//! Bad messages: found, tried again, parked, and no neighbour the worse for them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::delivery::MessageId;
use rollbook_core::retry::{Reason, RetryPolicy};
use rollbook_core::store::StoreError;
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_worker::Settings;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{BEGIN, Bench, eventually, has_subject, run_until, user};

/// The size and the moment of every call to `apply_many`.
type Calls = Arc<Mutex<Vec<(usize, Instant)>>>;

/// A store that refuses `user_bad`, and its calls.
fn refusing(bench: &Bench) -> (FaultyStore, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let refuses = |changes: &[Change]| has_subject(changes, "user_bad");
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(changes) => {
            noted.lock().expect("no panic").push((changes.len(), Instant::now()));
            if refuses(changes) {
                Fault::Fail(StoreError::Event("value too large".into()))
            } else {
                Fault::None
            }
        }
        _ => Fault::None,
    });
    (store, calls)
}

#[tokio::test(start_paused = true)]
async fn one_refused_change_among_a_hundred_is_found_and_the_others_are_applied_at_once() {
    let mut bench = Bench::new();
    // Long enough that the refused message is not retried within the test.
    let backoff = Duration::from_secs(1 << 40);
    (bench.settings.retry.backoff, bench.settings.retry.backoff_max) = (backoff, backoff);
    bench.queue = Arc::new(MemoryQueue::new(1_000, bench.clock.clone()).with_due_within(backoff));
    bench.enqueue_users(0..57).await;
    bench.enqueue("msg_bad", user("user_bad")).await;
    bench.enqueue_users(58..100).await;
    let (store, calls) = refusing(&bench);
    let worker = bench.worker_with_store(store);
    let one_is_left = eventually(|| bench.queue.message_ids() == [MessageId::new("msg_bad")]);
    run_until(worker, one_is_left).await.expect("a clean end");

    assert_eq!(bench.user_ids().len(), 99);
    assert_eq!(bench.attempts(), [1; 99]);
    let calls = calls.lock().expect("no panic");
    assert_eq!(calls.first().map(|(size, _)| *size), Some(100));
    assert!(calls.len() <= 1 + 2 * 7, "{} calls", calls.len());
}

#[tokio::test(start_paused = true)]
async fn several_refused_changes_in_one_batch_are_all_found() {
    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 1;
    bench.enqueue_users(0..40).await;
    let bad = ["user_0", "user_19", "user_20", "user_39"];
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(changes) if bad.iter().any(|id| has_subject(changes, id)) => {
            Fault::Fail(StoreError::Event("no".into()))
        }
        _ => Fault::None,
    });
    run_until(bench.worker_with_store(store), bench.drained()).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 36);
    let dead: Vec<String> = bench.queue.dead().into_iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(dead, ["msg_0", "msg_19", "msg_20", "msg_39"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_tried_again_with_backoff_and_parked_after_its_last_attempt() {
    let bench = Bench {
        settings: Settings {
            lanes: 1,
            retry: RetryPolicy { attempts_max: 4, ..Settings::default().retry },
            ..Settings::default()
        },
        ..Bench::new()
    };
    bench.enqueue("msg_bad", user("user_bad")).await;
    let (store, calls) = refusing(&bench);
    run_until(bench.worker_with_store(store), bench.drained()).await.expect("a clean end");

    let calls = calls.lock().expect("no panic");
    let gaps: Vec<Duration> = calls.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    assert_eq!(gaps.len(), 3);
    for (gap, limit) in gaps.iter().zip([2, 4, 8]) {
        assert!(*gap <= Duration::from_secs(limit) + Duration::from_millis(10), "{gap:?} of {limit} s");
    }
    assert!(gaps.iter().any(|gap| *gap > Duration::from_millis(10)), "no backoff: {gaps:?}");
    let [letter] = &bench.queue.dead()[..] else { panic!("one dead letter") };
    assert_eq!((letter.id.as_str(), letter.attempts), ("msg_bad", 4));
    assert_eq!(letter.body, user("user_bad"));
    assert_eq!(letter.failure.reason, Reason::StoreRefused);
    assert_eq!(letter.failure.event_type.as_deref(), Some("user.updated"));
    assert_eq!(letter.failure.detail, "value too large");
    let metric = |name: &str| bench.metric(name);
    let retried = metric(r#"rollbook_settlements_total{reason="store_refused",settlement="retry"}"#);
    assert_eq!(retried.as_deref(), Some("3"));
    let parked = metric(r#"rollbook_settlements_total{reason="store_refused",settlement="dead_letter"}"#);
    assert_eq!(parked.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_parked_at_once_and_its_neighbours_are_applied() {
    let mut bench = Bench::new();
    bench.settings.instance_id = Some("ins_ours".into());
    let data = json!({"id": "user_x"});
    let foreign =
        json!({"type": "user.updated", "timestamp": BEGIN, "instance_id": "ins_other", "data": data});
    bench.enqueue_users(0..3).await;
    bench.enqueue("a_not_json", &b"\xff{"[..]).await;
    bench.enqueue("b_deep", "[".repeat(100_000)).await;
    bench.enqueue("c_no_event", r#"{"hello":1}"#).await;
    let no_id = json!({"type": "user.updated", "timestamp": BEGIN, "data": {}});
    bench.enqueue("d_no_id", no_id.to_string()).await;
    bench.enqueue("e_foreign", foreign.to_string()).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");

    assert_eq!(bench.user_ids(), ["user_0", "user_1", "user_2"]);
    let dead = bench.queue.dead();
    let reasons: Vec<(&str, Reason, u32)> =
        dead.iter().map(|letter| (letter.id.as_str(), letter.failure.reason, letter.attempts)).collect();
    assert_eq!(
        reasons,
        [
            ("a_not_json", Reason::InvalidJson, 1),
            ("b_deep", Reason::TooDeep, 1),
            ("c_no_event", Reason::NotAnEvent, 1),
            ("d_no_id", Reason::MissingId, 1),
            ("e_foreign", Reason::WrongInstance, 1),
        ]
    );
    assert_eq!(dead[0].body, &b"\xff{"[..]);
}

#[tokio::test(start_paused = true)]
async fn a_message_past_a_limit_that_was_lowered_is_tried_and_not_called_a_crash_loop() {
    let mut bench = Bench::new();
    bench.enqueue("msg_bad", user("user_bad")).await;
    let (store, calls) = refusing(&bench);
    let three_calls = eventually(|| calls.lock().expect("no panic").len() == 3);
    run_until(bench.worker_with_store(store), three_calls).await.expect("a clean end");

    bench.settings.retry.attempts_max = 1;
    bench.registry = prometheus::Registry::new();
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");
    assert_eq!(bench.user_ids(), ["user_bad"]);
    assert!(bench.queue.dead().is_empty());
}
