//! A worker between a queue and a store in memory, under a clock that follows tokio's paused time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::{Registry, TextEncoder};
use rollbook_core::catalog::USERS;
use rollbook_core::change::Change;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{Consumer, Lease, Producer, QueueAdmin, QueueStats};
use rollbook_core::store::Store;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::trace::Traceparent;
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::queues::{all_of, request};
use rollbook_worker::{Settings, Worker, WorkerError};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When every test begins, in milliseconds.
pub(crate) const BEGIN: i64 = 1_785_312_000_000;

/// Longer than any test needs, in paused time: what takes longer hangs.
const HANG: Duration = Duration::from_secs(3600);

/// Shows `BEGIN` plus what tokio's clock has moved since: leases run out and retries come due while
/// the runtime waits.
pub(crate) struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(BEGIN).plus(self.0.elapsed())
    }
}

pub(crate) struct Bench {
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) registry: Registry,
    pub(crate) settings: Settings,
}

impl Bench {
    /// One lane, where a test does not ask for more.
    pub(crate) fn new() -> Self {
        let clock = Arc::new(PausedClock(Instant::now()));
        let queue = Arc::new(MemoryQueue::new(1_000_000, clock.clone()));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let settings = Settings { lanes: 1, ..Settings::default() };
        Self { clock, queue, store, registry: Registry::new(), settings }
    }

    pub(crate) async fn enqueue(&self, id: &str, body: impl Into<Bytes>) {
        self.enqueue_traced(id, body, None).await;
    }

    pub(crate) async fn enqueue_traced(
        &self,
        id: &str,
        body: impl Into<Bytes>,
        traceparent: Option<Traceparent>,
    ) {
        let (id, received_at, body) = (MessageId::new(id), self.clock.now(), body.into());
        let delivery = Delivery { id, received_at, traceparent, body };
        all_of(self.queue.enqueue_many(&[delivery]).await).expect("there is room");
    }

    /// Enqueues an update of each user `user_N` as the message `msg_N`.
    pub(crate) async fn enqueue_users(&self, numbers: Range<usize>) {
        for number in numbers {
            self.enqueue(&format!("msg_{number}"), user(&format!("user_{number}"))).await;
        }
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker_between(self.queue.clone(), self.store.clone())
    }

    pub(crate) fn worker_with_store(&self, store: impl Store + 'static) -> Worker {
        self.worker_between(self.queue.clone(), Arc::new(store))
    }

    pub(crate) fn worker_with_queue(&self, queue: impl Consumer + 'static) -> Worker {
        self.worker_between(Arc::new(queue), self.store.clone())
    }

    fn worker_between(&self, queue: Arc<dyn Consumer>, store: Arc<dyn Store>) -> Worker {
        Worker::new(self.settings.clone(), queue, store, self.clock.clone(), &self.registry)
            .expect("a fresh registry")
    }

    pub(crate) async fn stats(&self) -> QueueStats {
        self.queue.stats().await.expect("the model answers")
    }

    /// Waits until no message is left but dead letters.
    pub(crate) async fn drained(&self) {
        eventually(|| self.queue.message_ids().is_empty()).await;
    }

    pub(crate) fn user_ids(&self) -> Vec<String> {
        self.store.rows_of(&USERS).into_iter().map(|row| row.id).collect()
    }

    /// Returns the number of leases of each message when it was applied.
    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.store.ledger().values().map(|entry| entry.attempts).collect()
    }

    /// Leases what is due, as another worker would.
    pub(crate) async fn lease_now(&self) -> Vec<Lease> {
        let request = request(1000, self.settings.lease_for, Duration::ZERO);
        self.queue.lease(request).await.expect("the model answers")
    }

    /// The value of a metric by its name and labels, as `/metrics` would show it.
    pub(crate) fn metric(&self, name: &str) -> Option<String> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).expect("metrics are text");
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned()))
    }
}

/// Runs the worker until `event`, then stops it; its early end is the result too.
pub(crate) async fn run_until(worker: Worker, event: impl Future<Output = ()>) -> Result<(), WorkerError> {
    let stop = CancellationToken::new();
    let running = async {
        let mut running = std::pin::pin!(worker.run(stop.clone()));
        tokio::select! {
            ended = &mut running => return ended,
            () = event => stop.cancel(),
        }
        running.await
    };
    tokio::time::timeout(HANG, running).await.expect("the worker hangs")
}

/// Waits for a condition, in paused time.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn event(event_type: &str, data: &serde_json::Value) -> String {
    json!({"type": event_type, "object": "event", "timestamp": BEGIN, "data": data}).to_string()
}

pub(crate) fn user(id: &str) -> String {
    event("user.updated", &json!({"id": id, "updated_at": BEGIN, "first_name": "Ada"}))
}

/// Returns whether one of the changes is about this subject.
pub(crate) fn has_subject(changes: &[Change], id: &str) -> bool {
    changes.iter().any(|change| change.subject_id() == Some(id))
}
