//! The queue suite on the model, and defective queues that it must detect.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    Consumer, Lease, LeaseRequest, Producer, QueueAdmin, QueueError, Settled, Settlement,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::conformance::queue::{QueueHarness, model};
use rollbook_testkit::memory::queue::MemoryQueue;

struct Memory {
    queue: Arc<MemoryQueue>,
    clock: Arc<ManualClock>,
}

fn memory(depth_max: u64) -> Memory {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_785_312_000_015)));
    Memory { queue: Arc::new(MemoryQueue::new(depth_max, clock.clone())), clock }
}

fn open(depth_max: u64) -> Ready<Memory> {
    ready(memory(depth_max))
}

#[async_trait]
impl QueueHarness for Memory {
    fn producer(&self) -> Arc<dyn Producer> {
        self.queue.clone()
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        self.queue.clone()
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.queue.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        self.clock.clone()
    }

    async fn corrupt(&mut self, id: &MessageId) {
        assert!(self.queue.corrupt(id));
    }

    /// The model keeps its state: memory is its disk.
    async fn reopen(&mut self) {}
}

rollbook_testkit::queue_conformance!(open);
rollbook_testkit::queue_agrees_with_model!(open);

/// A queue with one defect, which the comparison with the model must detect.
struct Wrong {
    right: Memory,
    forgets: bool,
    releases_count: bool,
}

impl Wrong {
    fn new(depth_max: u64) -> Self {
        Self { right: memory(depth_max), forgets: false, releases_count: false }
    }
}

#[async_trait]
impl QueueHarness for Wrong {
    fn producer(&self) -> Arc<dyn Producer> {
        self.right.producer()
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        if self.releases_count {
            Arc::new(ReleasesCount(self.right.queue.clone()))
        } else {
            self.right.consumer()
        }
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.right.admin()
    }

    fn clock(&self) -> Arc<ManualClock> {
        self.right.clock()
    }

    async fn corrupt(&mut self, id: &MessageId) {
        self.right.corrupt(id).await;
    }

    async fn reopen(&mut self) {
        if self.forgets {
            let clock = self.right.clock();
            self.right = Memory { queue: Arc::new(MemoryQueue::new(5, clock.clone())), clock };
        }
    }
}

/// Releases messages as if they had failed.
struct ReleasesCount(Arc<MemoryQueue>);

#[async_trait]
impl Consumer for ReleasesCount {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        self.0.lease(request).await
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        self.0.count_attempt(lease).await
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        let failure = Failure { reason: Reason::StoreRefused, detail: String::new(), event_type: None };
        let counted = |settlement| match settlement {
            Settlement::Release => Settlement::Retry { after: Duration::ZERO, failure: failure.clone() },
            other => other,
        };
        let settlements: Vec<_> =
            settlements.iter().cloned().map(|(lease, how)| (lease, counted(how))).collect();
        self.0.settle_many(&settlements).await
    }
}

#[test]
#[should_panic(expected = "PROPTEST_RNG_SEED")]
fn the_model_detects_a_queue_that_accepts_one_too_many() {
    model::check(|depth_max| ready(Wrong::new(depth_max + 1)));
}

#[test]
#[should_panic(expected = "PROPTEST_RNG_SEED")]
fn the_model_detects_a_queue_that_loses_messages_in_a_crash() {
    model::check(|depth_max| ready(Wrong { forgets: true, ..Wrong::new(depth_max) }));
}

#[test]
#[should_panic(expected = "PROPTEST_RNG_SEED")]
fn the_model_detects_a_queue_that_counts_released_attempts() {
    model::check(|depth_max| ready(Wrong { releases_count: true, ..Wrong::new(depth_max) }));
}
