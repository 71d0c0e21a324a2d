//! Stop: leased messages are finished or released, and no more are leased.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::queue::{Consumer, Lease, LeaseRequest, QueueError, Settled, Settlement};
use rollbook_core::store::StoreError;
use rollbook_testkit::faults::{Fault, FaultyConsumer, FaultyStore, Gate, QueueCall, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, run_until, user};

#[tokio::test(start_paused = true)]
async fn an_idle_worker_stops_within_one_wait_for_a_message() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    let stopped_at = async {
        sleep(Duration::from_millis(12_345)).await;
    };
    let began_at = Instant::now();
    run_until(bench.worker(), stopped_at).await.expect("a clean end");
    let took = began_at.elapsed().saturating_sub(Duration::from_millis(12_345));
    assert!(took <= bench.settings.lease_wait, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_behind_a_closed_gate_stops_at_once() {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    bench.enqueue("msg_1", user("user_1")).await;
    let store =
        FaultyStore::new(bench.store.clone(), |_| Fault::Fail(StoreError::Unavailable("down".into())));
    let began_at = Instant::now();
    let worker = bench.worker_with_store(store);
    run_until(worker, sleep(Duration::from_millis(60_007))).await.expect("a clean end");
    assert_eq!(began_at.elapsed(), Duration::from_millis(60_007));
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_an_unreachable_queue_stops_at_once() {
    let bench = Bench::new();
    let queue = FaultyConsumer::new(bench.queue.clone(), |_| {
        Fault::Fail(QueueError::Unavailable("connection refused".into()))
    });
    let began_at = Instant::now();
    let worker = bench.worker_with_queue(queue);
    run_until(worker, sleep(Duration::from_millis(60_007))).await.expect("a clean end");
    assert_eq!(began_at.elapsed(), Duration::from_millis(60_007));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_unreachable_when_it_is_time_to_stop_does_not_hold_the_worker() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    let queue = FaultyConsumer::new(bench.queue.clone(), |call| match call {
        QueueCall::Settle(_) => Fault::Fail(QueueError::Unavailable("connection refused".into())),
        _ => Fault::None,
    });
    let began_at = Instant::now();
    let worker = bench.worker_with_queue(queue);
    run_until(worker, sleep(Duration::from_secs(30))).await.expect("a clean end");
    assert!(began_at.elapsed() <= Duration::from_secs(31));
    assert_eq!(bench.user_ids(), ["user_1"]);
    assert_eq!(bench.stats().await.leased, 1);
}

#[tokio::test(start_paused = true)]
async fn the_current_batch_is_finished_and_nothing_more_is_leased() {
    let mut bench = Bench::new();
    bench.settings.batch_max = 4;
    bench.enqueue_users(0..20).await;
    let gate = Gate::new();
    let held = gate.clone();
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(_) => Fault::Wait(held.clone()),
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let stop = CancellationToken::new();
    let drive = async {
        gate.arrived(1).await;
        stop.cancel();
        sleep(Duration::from_secs(5)).await;
        gate.open();
    };
    let (ended, ()) = tokio::join!(worker.run(stop.clone()), drive);
    ended.expect("a clean end");
    assert_eq!(bench.user_ids().len(), 4);
    let leases = bench.lease_now().await;
    assert_eq!(leases.iter().map(|lease| lease.attempt).collect::<Vec<_>>(), [1; 16]);
}

/// A queue that answers the second lease while the worker is stopping.
struct StopsMidway {
    inner: Arc<MemoryQueue>,
    stop: CancellationToken,
    leases: AtomicUsize,
}

#[async_trait]
impl Consumer for StopsMidway {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let leases = self.inner.lease(request).await?;
        if self.leases.fetch_add(1, Ordering::SeqCst) == 1 {
            assert_eq!(leases.len(), 4, "there is something to hand back");
            self.stop.cancel();
        }
        Ok(leases)
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        self.inner.count_attempt(lease).await
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        self.inner.settle_many(settlements).await
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_come_with_the_stop_are_released_uncounted() {
    let mut bench = Bench::new();
    bench.settings.batch_max = 4;
    bench.enqueue_users(0..20).await;
    let stop = CancellationToken::new();
    let leases = AtomicUsize::new(0);
    let worker =
        bench.worker_with_queue(StopsMidway { inner: bench.queue.clone(), stop: stop.clone(), leases });
    worker.run(stop).await.expect("a clean end");

    assert_eq!(bench.user_ids().len(), 4);
    let released = bench.metric(r#"rollbook_settlements_total{reason="none",settlement="release"}"#);
    assert_eq!(released.as_deref(), Some("4"));
    let leases = bench.lease_now().await;
    assert_eq!(leases.iter().map(|lease| (lease.attempt, lease.unsettled)).collect::<Vec<_>>(), [(1, 0); 16]);
}
