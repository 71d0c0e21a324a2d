//! The usual case: a delivery becomes a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rollbook_core::change::Applied;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{Freshness, Ledger as _, Reconciliation as _, StoreError};
use rollbook_testkit::faults::{Fault, FaultyConsumer, FaultyStore, Gate, QueueCall, StoreCall};
use rollbook_worker::Settings;
use serde_json::json;

use crate::support::{BEGIN, Bench, event, eventually, run_until, user};

#[tokio::test(start_paused = true)]
async fn a_delivery_becomes_a_row_and_is_acknowledged() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");

    assert_eq!(bench.user_ids(), ["user_1"]);
    assert_eq!(bench.stats().await, rollbook_core::queue::QueueStats::default());
    let entry = bench.store.delivery(&MessageId::new("msg_1")).await.expect("the model answers");
    assert_eq!(entry.map(|entry| (entry.outcome, entry.attempts)), Some((Applied::Inserted, 1)));
}

#[tokio::test(start_paused = true)]
async fn many_lanes_and_small_batches_end_in_the_same_rows() {
    let bench =
        Bench { settings: Settings { lanes: 4, batch_max: 3, ..Settings::default() }, ..Bench::new() };
    bench.enqueue_users(0..100).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 100);
    assert_eq!(bench.attempts(), [1; 100]);
}

#[tokio::test(start_paused = true)]
async fn after_a_batch_that_was_not_full_arrivals_collect_into_the_next() {
    let mut bench = Bench::new();
    // Far longer than the test takes to see the first row.
    bench.settings.lease_linger = Duration::from_secs(10);
    let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let store = FaultyStore::new(bench.store.clone(), move |call| {
        if let StoreCall::Apply(changes) = call {
            seen.lock().expect("no test panicked in it").push(changes.len());
        }
        Fault::None
    });
    bench.enqueue("msg_0", user("user_0")).await;
    let arrive = async {
        eventually(|| bench.user_ids().len() == 1).await;
        // One after the other within the linger, as under light load.
        for number in 1..=4 {
            bench.enqueue(&format!("msg_{number}"), user(&format!("user_{number}"))).await;
            tokio::time::advance(bench.settings.lease_linger / 10).await;
        }
        bench.drained().await;
    };
    run_until(bench.worker_with_store(store), arrive).await.expect("a clean end");
    assert_eq!(*calls.lock().expect("no test panicked in it"), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn the_next_batch_is_leased_while_the_last_one_is_settled() {
    let mut bench = Bench::new();
    bench.settings.batch_max = 5;
    bench.enqueue_users(0..10).await;
    let (settling, leases) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (held, counted) = (settling.clone(), Arc::clone(&leases));
    let queue = FaultyConsumer::new(bench.queue.clone(), move |call| {
        if matches!(call, QueueCall::Settle(_)) {
            return Fault::Wait(held.clone());
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Fault::None
    });
    let worker = bench.worker_with_queue(queue);
    let drive = async {
        settling.arrived(1).await;
        eventually(|| leases.load(Ordering::SeqCst) == 2).await;
        settling.open();
        bench.drained().await;
    };
    run_until(worker, drive).await.expect("a clean end");
    assert_eq!(bench.attempts(), [1; 10]);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_an_unknown_type_gets_a_ledger_entry() {
    let bench = Bench::new();
    bench.enqueue("msg_1", event("vip.crowned", &json!({"id": "vip_1"}))).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");

    let ledger = bench.store.ledger();
    let entry = &ledger[&MessageId::new("msg_1")];
    assert_eq!((entry.outcome, entry.subject_id.as_deref()), (Applied::Ignored, Some("vip_1")));
    assert!(bench.queue.dead().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_one_time_password_is_acknowledged_and_counted_and_nothing_else() {
    let bench = Bench::new();
    bench.enqueue("msg_1", event("email.created", &json!({"id": "ema_1", "otp_code": "424242"}))).await;
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");

    let ledger = bench.store.ledger();
    assert_eq!(ledger[&MessageId::new("msg_1")].subject_id, None);
    let counted = bench.metric(r#"rollbook_applied_total{outcome="ignored",resource="none"}"#);
    assert_eq!(counted.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_one_time_password_that_fails_does_not_become_a_dead_letter() {
    let bench = Bench::new();
    bench.enqueue("msg_refused", event("sms.created", &json!({"id": "sms_1", "otp_code": "424242"}))).await;
    bench
        .enqueue("msg_unread", json!({"type": "email.created", "data": {"otp_code": "424242"}}).to_string())
        .await;
    let deep = format!(r#"{{"type":"email.created","data":{}424242{}}}"#, "[".repeat(200), "]".repeat(200));
    bench.enqueue("msg_deep", deep).await;
    let whole = event("sms.created", &json!({"id": "sms_1", "otp_code": "424242"}));
    bench.enqueue("msg_twice", whole.repeat(2)).await;
    let store = FaultyStore::new(bench.store.clone(), |call| match call {
        StoreCall::Apply(_) => Fault::Fail(StoreError::Event("no".into())),
        _ => Fault::None,
    });
    run_until(bench.worker_with_store(store), bench.drained()).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_instance_of_the_events_is_remembered_before_any_of_them_is_applied() {
    let mut bench = Bench::new();
    let data = json!({"id": "user_1", "object": "user", "updated_at": BEGIN});
    let of = |instance: &str, event_type: &str| {
        json!({"type": event_type, "timestamp": BEGIN, "instance_id": instance, "data": data}).to_string()
    };
    bench.enqueue("msg_1", of("ins_1", "user.updated")).await;
    bench.enqueue("msg_2", user("user_2")).await;
    // It changes no row.
    bench.enqueue("msg_3", of("ins_2", "unknown.created")).await;
    let refuses = FaultyStore::new(bench.store.clone(), |call| match call {
        StoreCall::Apply(_) => Fault::Fail(StoreError::Unavailable("refused".to_owned())),
        _ => Fault::None,
    });
    let store = bench.store.clone();
    let known = async || {
        let records = store.freshness().await.expect("records");
        records.iter().filter_map(Freshness::instance).map(str::to_owned).collect::<Vec<String>>()
    };
    let remembered = async {
        while known().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    run_until(bench.worker_with_store(refuses), remembered).await.expect("a clean end");
    assert_eq!((bench.user_ids().len(), known().await), (0, vec!["ins_1".to_owned()]));
    bench.registry = prometheus::Registry::new();
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");
    assert_eq!((bench.user_ids().len(), known().await), (2, vec!["ins_1".to_owned()]));
}
