//! The store or the queue is unreachable: no message is to blame, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::queue::{Consumer, Lease, LeaseRequest, QueueError, Settled, Settlement};
use rollbook_core::store::StoreError;
use rollbook_testkit::faults::{Fault, FaultyConsumer, FaultyStore, Gate, QueueCall, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_worker::WorkerError;
use tokio::time::sleep;

use crate::support::{Bench, eventually, has_subject, run_until, user};

/// The store answers nothing with `error` for ten minutes.
async fn outlives_an_absence(error: StoreError) {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    bench.settings.batch_max = 7;
    bench.enqueue_users(0..50).await;
    let down = Arc::new(AtomicBool::new(true));
    let (applies, pings) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (is_down, calls, pinged) = (Arc::clone(&down), Arc::clone(&applies), Arc::clone(&pings));
    let store = FaultyStore::new(bench.store.clone(), move |call| {
        match call {
            StoreCall::Apply(_) => _ = calls.fetch_add(1, Ordering::SeqCst),
            _ => _ = pinged.fetch_add(1, Ordering::SeqCst),
        }
        if is_down.load(Ordering::SeqCst) { Fault::Fail(error.clone()) } else { Fault::None }
    });
    let worker = bench.worker_with_store(store);
    let drive = async {
        sleep(Duration::from_secs(600)).await;
        assert!(applies.load(Ordering::SeqCst) <= 2, "each lane finds out once");
        // Ten minutes in steps between 5 s and 10 s, and the short ones before: one lane asks.
        let pings = pings.load(Ordering::SeqCst);
        assert!((60..=130).contains(&pings), "{pings}");
        let stats = bench.stats().await;
        assert_eq!((stats.ready, stats.leased, stats.dead), (50, 0, 0));
        down.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(worker, drive).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 50);
    assert_eq!(bench.attempts(), [1; 50]);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_unreachable_nothing_is_leased_and_no_attempt_is_spent() {
    outlives_an_absence(StoreError::Unavailable("connection refused".into())).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_not_set_up_right_spends_no_attempt_either() {
    outlives_an_absence(StoreError::Deployment("no such table".into())).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_pings_and_applies_nothing_is_tried_at_growing_intervals() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    let full = Arc::new(AtomicBool::new(true));
    let applies = Arc::new(AtomicUsize::new(0));
    let (is_full, counted) = (Arc::clone(&full), Arc::clone(&applies));
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(_) if is_full.load(Ordering::SeqCst) => {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Fail(StoreError::Unavailable("disk full".into()))
        }
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let drive = async {
        sleep(Duration::from_secs(600)).await;
        full.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(worker, drive).await.expect("a clean end");
    // As seldom as if the pings had failed.
    let applies = applies.load(Ordering::SeqCst);
    assert!((60..=130).contains(&applies), "{applies}");
    assert_eq!(bench.attempts(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_pings_and_applies_nothing_is_unhealthy_until_a_batch_is_applied() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    let refuses = Arc::new(AtomicBool::new(true));
    let is_refusing = Arc::clone(&refuses);
    let read_only = StoreError::Unavailable("it is read-only".into());
    let error = read_only.clone();
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(_) if is_refusing.load(Ordering::SeqCst) => Fault::Fail(error.clone()),
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let health = worker.store_health();
    assert!(health.outage().is_none(), "nothing was tried yet");
    let drive = async {
        eventually(|| health.outage().is_some()).await;
        // Pings succeed all the while.
        for _ in 0..60 {
            sleep(Duration::from_secs(10)).await;
            let outage = health.outage().expect("nothing was applied");
            assert_eq!(outage.error, read_only);
            assert!(outage.failed_ago() < Duration::from_secs(60), "it is tried again");
        }
        assert!(health.outage().expect("it lasts").lasts_for() >= Duration::from_secs(600));
        refuses.store(false, Ordering::SeqCst);
        bench.drained().await;
        assert!(health.outage().is_none());
    };
    run_until(worker, drive).await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn messages_applied_before_an_outage_of_the_store_are_acknowledged_and_the_rest_released() {
    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 1;
    bench.enqueue_users(0..8).await;
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        // Bisected: 0..4 is refused, 0..2 is refused, 0 is bad, 1 is good, 2..4 is good, then it goes.
        StoreCall::Apply(changes) if has_subject(changes, "user_0") => {
            Fault::Fail(StoreError::Event("no".into()))
        }
        StoreCall::Apply(changes) if has_subject(changes, "user_4") && is_down.load(Ordering::SeqCst) => {
            Fault::Fail(StoreError::Unavailable("gone".into()))
        }
        StoreCall::Ping if is_down.load(Ordering::SeqCst) => {
            Fault::Fail(StoreError::Unavailable("gone".into()))
        }
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let drive = async {
        eventually(|| bench.queue.message_ids().len() == 4).await;
        assert_eq!(bench.user_ids(), ["user_1", "user_2", "user_3"]);
        assert_eq!(bench.stats().await.ready, 4);
        down.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(worker, drive).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 7);
    assert_eq!(bench.attempts(), [1; 7]);
    assert_eq!(bench.queue.dead().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_queue_is_unreachable_the_worker_backs_off_and_then_goes_on() {
    let bench = Bench::new();
    bench.enqueue_users(0..3).await;
    let (leases, settles) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let queue = FaultyConsumer::new(bench.queue.clone(), move |call| {
        let (count, error) = match call {
            QueueCall::Lease(_) => (&leases, QueueError::Unavailable("busy".into())),
            _ => (&settles, QueueError::Deployment("read-only".into())),
        };
        if count.fetch_add(1, Ordering::SeqCst) < 5 { Fault::Fail(error) } else { Fault::None }
    });
    let began_at = tokio::time::Instant::now();
    run_until(bench.worker_with_queue(queue), bench.drained()).await.expect("a clean end");
    // Five waits of at least 100, 200, 400, 800 and 1600 ms, twice.
    assert!(began_at.elapsed() >= Duration::from_millis(6200), "{:?}", began_at.elapsed());
    assert_eq!(bench.attempts(), [1; 3]);
    assert!(bench.queue.dead().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_settlement_with_a_lost_answer_is_repeated_without_harm() {
    let bench = Bench::new();
    bench.enqueue_users(0..3).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let queue = FaultyConsumer::new(bench.queue.clone(), move |call| match call {
        QueueCall::Settle(_) if counted.fetch_add(1, Ordering::SeqCst) == 0 => Fault::FailAfter(reset()),
        _ => Fault::None,
    });
    let made_again = eventually(|| calls.load(Ordering::SeqCst) == 2);
    run_until(bench.worker_with_queue(queue), made_again).await.expect("a clean end");
    assert_eq!(bench.stats().await.depth(), 0);
    assert_eq!(bench.user_ids().len(), 3);
    let lost = bench.metric("rollbook_leases_lost_total");
    assert_eq!(lost.as_deref(), Some("0"), "no other worker has them");
}

fn reset() -> QueueError {
    QueueError::Unavailable("connection reset".into())
}

#[tokio::test(start_paused = true)]
async fn leases_with_a_lost_answer_are_requested_again_without_counting_an_attempt() {
    let bench = Bench::new();
    bench.enqueue_users(0..300).await;
    let calls = AtomicUsize::new(0);
    // Of four answers three are lost, for longer than a message has attempts.
    let queue = FaultyConsumer::new(bench.queue.clone(), move |call| match call {
        QueueCall::Lease(_) if calls.fetch_add(1, Ordering::SeqCst) % 4 != 3 => Fault::FailAfter(reset()),
        _ => Fault::None,
    });
    run_until(bench.worker_with_queue(queue), bench.drained()).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty(), "{:?}", bench.queue.dead());
    assert_eq!(bench.user_ids().len(), 300);
    assert!(bench.attempts().into_iter().all(|attempts| attempts == 1), "{:?}", bench.attempts());
}

/// A queue with a part that answers no settlement while the flag is set.
struct PartlyDown {
    inner: Arc<MemoryQueue>,
    down: Arc<AtomicBool>,
}

fn is_on_the_part(lease: &Lease) -> bool {
    lease.id.as_str().ends_with('3')
}

#[async_trait]
impl Consumer for PartlyDown {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        self.inner.lease(request).await
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        self.inner.count_attempt(lease).await
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        let is_down = self.down.load(Ordering::SeqCst);
        let mut answers = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            if is_down && is_on_the_part(&settlement.0) {
                answers.push(Err(reset()));
            } else {
                answers.extend(self.inner.settle_many(std::slice::from_ref(settlement)).await);
            }
        }
        answers
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_queue_that_settles_nothing_holds_up_no_other_part() {
    let bench = Bench::new();
    let down = Arc::new(AtomicBool::new(true));
    bench.enqueue_users(0..40).await;
    let queue = PartlyDown { inner: bench.queue.clone(), down: Arc::clone(&down) };
    let drive = async {
        let left = || bench.queue.message_ids();
        eventually(|| left().len() == 4).await;
        assert!(left().iter().all(|id| id.as_str().ends_with('3')), "{:?}", left());
        bench.enqueue_users(40..80).await;
        eventually(|| left().len() == 8).await;
        down.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(bench.worker_with_queue(queue), drive).await.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 80);
    assert!(bench.attempts().into_iter().all(|attempts| attempts == 1), "{:?}", bench.attempts());
}

#[tokio::test(start_paused = true)]
async fn messages_that_a_part_of_the_queue_never_settles_are_leased_again_after_their_lease() {
    let bench = Bench::new();
    let down = Arc::new(AtomicBool::new(true));
    bench.enqueue_users(0..10).await;
    let queue = PartlyDown { inner: bench.queue.clone(), down: Arc::clone(&down) };
    let drive = async {
        eventually(|| bench.queue.message_ids().len() == 1).await;
        sleep(bench.settings.lease_for * 2).await;
        down.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(bench.worker_with_queue(queue), drive).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_counted_and_changes_nothing() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    let gate = Gate::new();
    let held = gate.clone();
    let store = FaultyStore::new(bench.store.clone(), move |_| Fault::Wait(held.clone()));
    let worker = bench.worker_with_store(store);
    let drive = async {
        gate.arrived(1).await;
        sleep(bench.settings.lease_for).await;
        let [lease] = &bench.lease_now().await[..] else { panic!("the lease ran out") };
        assert_eq!((lease.attempt, lease.unsettled), (1, 1));
        gate.open();
        eventually(|| bench.metric("rollbook_leases_lost_total").as_deref() == Some("1")).await;
        let settled = bench.queue.settle_many(&[(lease.clone(), Settlement::Ack)]).await;
        assert_eq!(settled, [Ok(Settled::Done)]);
    };
    run_until(worker, drive).await.expect("a clean end");
    assert_eq!(bench.user_ids(), ["user_1"]);
    let acks = bench.metric(r#"rollbook_settlements_total{reason="none",settlement="ack"}"#);
    assert_eq!(acks.as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn broken_storage_of_the_queue_ends_the_worker() {
    for breaks_at_lease in [true, false] {
        let mut bench = Bench::new();
        bench.settings.lanes = 2;
        bench.enqueue("msg_1", user("user_1")).await;
        let broke = AtomicBool::new(false);
        let queue = FaultyConsumer::new(bench.queue.clone(), move |call| {
            let breaks = matches!(call, QueueCall::Lease(_)) == breaks_at_lease;
            let breaks = breaks && !broke.swap(true, Ordering::SeqCst);
            if breaks { Fault::Fail(QueueError::Broken("I/O error".into())) } else { Fault::None }
        });
        let began_at = tokio::time::Instant::now();
        let ended = run_until(bench.worker_with_queue(queue), std::future::pending()).await;
        assert!(matches!(ended, Err(WorkerError::Queue { .. })), "{ended:?}");
        assert!(began_at.elapsed() <= bench.settings.lease_wait, "the other lane gets the stop");
    }
}

#[tokio::test(start_paused = true)]
async fn broken_storage_of_the_store_ends_the_worker_and_releases_the_batch() {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    bench.enqueue_users(0..5).await;
    let store = FaultyStore::new(bench.store.clone(), |call| match call {
        StoreCall::Apply(_) => Fault::Fail(StoreError::Broken("I/O error".into())),
        _ => Fault::None,
    });
    let ended = run_until(bench.worker_with_store(store), std::future::pending()).await;
    assert!(matches!(ended, Err(WorkerError::Store { .. })), "{ended:?}");
    let leases = bench.lease_now().await;
    assert_eq!(leases.iter().map(|lease| lease.attempt).collect::<Vec<_>>(), [1; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_turns_out_broken_behind_the_closed_gate_ends_the_worker() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    let store = FaultyStore::new(bench.store.clone(), |call| match call {
        StoreCall::Ping => Fault::Fail(StoreError::Broken("I/O error".into())),
        _ => Fault::Fail(StoreError::Unavailable("down".into())),
    });
    let ended = run_until(bench.worker_with_store(store), std::future::pending()).await;
    assert!(matches!(ended, Err(WorkerError::Store { .. })), "{ended:?}");
}
