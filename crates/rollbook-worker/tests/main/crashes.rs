//! Workers that are killed, and messages that kill them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use rollbook_core::catalog::USERS;
use rollbook_core::change::{Applied, Change};
use rollbook_core::queue::Consumer as _;
use rollbook_core::retry::Reason;
use rollbook_core::store::{RetentionLimits, RetentionStep, Store, StoreError};
use rollbook_testkit::faults::{Fault, FaultyConsumer, FaultyStore, Gate, QueueCall, StoreCall};
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_worker::{Settings, WorkerError};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, event, has_subject, run_until, user};

/// More lives than any of these tests may need.
const LIVES_MAX: usize = 40;

const INNOCENT: usize = 50;

async fn bench_with_a_killer(lanes: usize, batch_max: usize) -> Bench {
    let mut bench = Bench { settings: Settings { lanes, batch_max, ..Settings::default() }, ..Bench::new() };
    bench.settings.retry.attempts_max = 6;
    bench.enqueue_users(0..INNOCENT / 2).await;
    bench.enqueue("msg_killer", user("user_killer")).await;
    bench.enqueue_users(INNOCENT / 2..INNOCENT).await;
    bench
}

fn assert_only_the_killer_is_parked(bench: &Bench, innocent: usize) {
    let mut expected: Vec<String> = (0..innocent).map(|number| format!("user_{number}")).collect();
    expected.sort();
    assert_eq!(bench.user_ids(), expected);
    let [letter] = &bench.queue.dead()[..] else { panic!("one dead letter: {:?}", bench.queue.dead()) };
    assert_eq!((letter.id.as_str(), letter.failure.reason), ("msg_killer", Reason::CrashLoop));
    assert_eq!(letter.body, user("user_killer"));
    // Two deaths make it a suspect. Then six attempts may kill; the seventh parks without reading.
    assert_eq!(letter.attempts, 7);
    assert!(letter.failure.detail.starts_with("6 attempts before this one"), "{}", letter.failure.detail);
}

async fn panics_until_parked(lanes: usize, batch_max: usize) {
    let mut bench = bench_with_a_killer(lanes, batch_max).await;
    let mut deaths = 0;
    for _ in 0..LIVES_MAX {
        bench.registry = Registry::new();
        let store = FaultyStore::new(bench.store.clone(), |call| match call {
            StoreCall::Apply(changes) if has_subject(changes, "user_killer") => Fault::Panic,
            _ => Fault::None,
        });
        match run_until(bench.worker_with_store(store), bench.drained()).await {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, WorkerError::Panicked { .. }), "{error}"),
        }
        deaths += 1;
        if deaths >= 4 {
            // After the third it has seen more deaths than its neighbours, and they go first.
            assert_eq!(bench.user_ids().len(), INNOCENT);
        }
        tokio::time::sleep(bench.settings.lease_for).await;
    }
    assert_eq!(deaths, 8);
    assert_only_the_killer_is_parked(&bench, INNOCENT);
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_panics_its_lane_is_parked_alone() {
    panics_until_parked(1, 100).await;
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_panics_one_of_several_lanes_is_parked_alone() {
    panics_until_parked(3, 4).await;
}

/// A store in which a batch takes a while, and which kills the process when it sees the killer.
struct Lethal {
    inner: Arc<MemoryStore>,
    death: Arc<Notify>,
}

#[async_trait]
impl Store for Lethal {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if has_subject(changes, "user_killer") {
            self.death.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.inner.apply_many(changes).await
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        self.inner.retain(due).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_kills_the_process_affects_no_message_of_another_lane() {
    const FRESH: usize = 200;
    let mut bench = bench_with_a_killer(3, 20).await;
    let death = Arc::new(Notify::new());
    let (mut deaths, mut innocent) = (0, INNOCENT);
    for _ in 0..LIVES_MAX {
        bench.registry = Registry::new();
        let store = Lethal { inner: bench.store.clone(), death: Arc::clone(&death) };
        // Dropping the run is a kill -9: every lease in every lane is left as it is.
        let worker = bench.worker_with_store(store);
        tokio::select! {
            ended = worker.run(CancellationToken::new()) => panic!("{ended:?}"),
            () = death.notified() => {}
            () = bench.drained() => break,
        }
        deaths += 1;
        if deaths > 2 {
            let stats = bench.stats().await;
            assert_eq!(stats.leased, 1, "all hands are empty but for the killer");
            // By the fifth only the killer is a suspect, met first and in the midst of fresh traffic.
            assert!(
                deaths < 5 || stats.ready >= FRESH as u64 / 2,
                "nobody leases on while it waits: {stats:?}"
            );
        }
        tokio::time::sleep(bench.settings.lease_for).await;
        if deaths < 8 {
            bench.enqueue_users(innocent..innocent + FRESH).await;
            innocent += FRESH;
        }
    }
    assert_eq!(deaths, 8);
    assert_only_the_killer_is_parked(&bench, innocent);
    // A crash caused by a neighbour does not count as an attempt.
    assert!(bench.attempts().into_iter().all(|attempts| attempts == 1), "{:?}", bench.attempts());
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_between_commit_and_acknowledgement_another_worker_acknowledges_and_changes_nothing() {
    let mut bench = Bench::new();
    bench.enqueue_users(0..3).await;
    let settling = Gate::new();
    let held = settling.clone();
    let queue = FaultyConsumer::new(bench.queue.clone(), move |call| match call {
        QueueCall::Settle(_) => Fault::Wait(held.clone()),
        _ => Fault::None,
    });
    // Dropping the run is a kill -9: the batch is committed, and its leases are left as they are.
    tokio::select! {
        ended = bench.worker_with_queue(queue).run(CancellationToken::new()) => panic!("{ended:?}"),
        () = settling.arrived(1) => {}
    }
    let committed = (bench.store.rows_of(&USERS), bench.store.ledger());
    assert_eq!((committed.0.len(), committed.1.len(), bench.stats().await.leased), (3, 3, 3));

    bench.registry = Registry::new();
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");
    assert!((bench.store.rows_of(&USERS), bench.store.ledger()) == committed, "applied a second time");
    let acks = bench.metric(r#"rollbook_settlements_total{reason="none",settlement="ack"}"#);
    assert_eq!(acks.as_deref(), Some("3"));
    assert!(bench.queue.dead().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_one_time_password_that_kills_its_workers_is_dropped_and_not_parked() {
    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 2;
    bench.enqueue("msg_1", event("sms.created", &json!({"id": "sms_1", "message": "424242"}))).await;
    for _ in 0..2 {
        let [lease] = &bench.lease_now().await[..] else { panic!("one is due") };
        bench.queue.count_attempt(lease).await.expect("the model counts");
        tokio::time::sleep(bench.settings.lease_for).await;
    }
    run_until(bench.worker(), bench.drained()).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty() && bench.store.ledger().is_empty());
    let dropped = bench.metric(r#"rollbook_events_total{outcome="dropped",type="sms.created"}"#);
    assert_eq!(dropped.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn an_innocent_suspect_is_applied_alone_and_batches_are_full_again_after_it() {
    let bench = Bench::new();
    bench.enqueue("msg_suspect", user("user_suspect")).await;
    for _ in 0..2 {
        assert_eq!(bench.lease_now().await.len(), 1);
        tokio::time::sleep(bench.settings.lease_for).await;
    }
    bench.enqueue_users(0..99).await;
    let largest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&largest);
    let store = FaultyStore::new(bench.store.clone(), move |call| {
        if let StoreCall::Apply(changes) = call {
            let is_alone = changes.len() == 1 || !has_subject(changes, "user_suspect");
            assert!(is_alone, "{} changes with the suspect", changes.len());
            seen.fetch_max(changes.len(), Ordering::SeqCst);
        }
        Fault::None
    });
    run_until(bench.worker_with_store(store), bench.drained()).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 100);
    assert_eq!(largest.load(Ordering::SeqCst), 99);
}
