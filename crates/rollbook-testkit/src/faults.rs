//! Ports that fail as a test says: each wrapper calls a closure before every call, which chooses the fault.
//!
//! ```
//! # use std::sync::Arc;
//! # use rollbook_core::{store::StoreError, time::Timestamp};
//! # use rollbook_testkit::{clock::ManualClock, faults::{Fault, FaultyStore, StoreCall}, memory::store::MemoryStore};
//! # let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
//! let store = FaultyStore::new(Arc::new(MemoryStore::new(clock)), |call| match call {
//!     StoreCall::Ping => Fault::Fail(StoreError::Unavailable("unreachable".into())),
//!     _ => Fault::None,
//! });
//! ```

mod gate;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::Delivery;
use rollbook_core::protection::Protection;
use rollbook_core::queue::{
    Consumer, Enqueued, Lease, LeaseRequest, Producer, QueueAdmin, QueueError, Settled, Settlement,
};
use rollbook_core::store::{
    CascadeStep, ErasedCounts, Erasure, ErasureProgress, FullStore, RetentionLimits, RetentionStep,
    SequenceStep, Store, StoreError,
};
use rollbook_core::time::Timestamp;

pub use self::gate::Gate;
use crate::delegate::delegate;

/// Fault of one call.
#[derive(Clone, Debug)]
pub enum Fault<E> {
    /// No fault.
    None,
    /// The call fails without an effect.
    Fail(E),
    /// The call takes effect and then fails: the answer was lost.
    FailAfter(E),
    /// The call panics without an effect.
    Panic,
    /// The call takes effect once the gate is open.
    Wait(Gate),
    /// The call takes effect after this delay.
    Late(Duration),
    /// The call fails after this delay, without an effect.
    FailLate(Duration, E),
}

impl<E> Fault<E> {
    async fn strike<T>(self, call: impl Future<Output = Result<T, E>> + Send) -> Result<T, E> {
        match self {
            Self::None => call.await,
            Self::Fail(error) => Err(error),
            Self::FailAfter(error) => call.await.and(Err(error)),
            Self::Panic => panic!("a fault that the test asked for"),
            Self::Wait(gate) => {
                gate.pass().await;
                call.await
            }
            Self::Late(after) => {
                tokio::time::sleep(after).await;
                call.await
            }
            Self::FailLate(after, error) => {
                tokio::time::sleep(after).await;
                Err(error)
            }
        }
    }
}

/// A call to a store.
#[derive(Clone, Copy, Debug)]
pub enum StoreCall<'a> {
    /// `apply_many` with these changes.
    Apply(&'a [Change]),
    /// A read.
    Read,
    /// `erase`.
    Erase,
    /// `cascade`.
    Cascade,
    /// `sequence`.
    Sequence,
    /// `tidy` with these limits.
    Tidy(&'a RetentionLimits),
    /// `ping`.
    Ping,
    /// Any call of the reconciler's port.
    Reconcile,
    /// Any call of the forwarder's port.
    Forward,
}

/// A call to a queue.
#[derive(Clone, Copy, Debug)]
pub enum QueueCall<'a> {
    /// `enqueue_many` with these deliveries.
    Enqueue(&'a [Delivery]),
    /// `lease` with this request.
    Lease(&'a LeaseRequest),
    /// `count_attempt` with this lease.
    Count(&'a Lease),
    /// `settle_many` with these settlements.
    Settle(&'a [(Lease, Settlement)]),
    /// Any call of the operator's port.
    Admin,
}

type StoreScript = Box<dyn Fn(StoreCall<'_>) -> Fault<StoreError> + Send + Sync>;
type QueueScript = Box<dyn Fn(QueueCall<'_>) -> Fault<QueueError> + Send + Sync>;

/// A store that fails as its script says.
pub struct FaultyStore {
    inner: Arc<dyn FullStore>,
    script: StoreScript,
}

impl FaultyStore {
    /// Wraps a store. The script is called once before each call.
    pub fn new(
        inner: Arc<dyn FullStore>,
        script: impl Fn(StoreCall<'_>) -> Fault<StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, script: Box::new(script) }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        (self.script)(StoreCall::Apply(changes)).strike(self.inner.apply_many(changes)).await
    }

    async fn remember_instance(&self, id: &str) -> Result<(), StoreError> {
        self.inner.remember_instance(id).await
    }

    async fn cascade(&self) -> Result<CascadeStep, StoreError> {
        (self.script)(StoreCall::Cascade).strike(self.inner.cascade()).await
    }

    async fn cascade_pending(&self) {
        self.inner.cascade_pending().await;
    }

    async fn sequence(&self) -> Result<SequenceStep, StoreError> {
        (self.script)(StoreCall::Sequence).strike(self.inner.sequence()).await
    }

    async fn sequence_pending(&self) {
        self.inner.sequence_pending().await;
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        (self.script)(StoreCall::Tidy(due)).strike(self.inner.retain(due)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        (self.script)(StoreCall::Ping).strike(self.inner.ping()).await
    }

    fn protection(&self) -> Option<Protection> {
        self.inner.protection()
    }

    async fn rehearse(&self) -> Result<bool, StoreError> {
        (self.script)(StoreCall::Ping).strike(self.inner.rehearse()).await
    }

    async fn unpinned_triggers(&self) -> Result<Vec<String>, StoreError> {
        (self.script)(StoreCall::Read).strike(self.inner.unpinned_triggers()).await
    }
}

#[async_trait]
impl Erasure for FaultyStore {
    async fn erase_in_steps(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
        progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        (self.script)(StoreCall::Erase).strike(self.inner.erase_in_steps(subjects, at, progress)).await
    }

    async fn hidden_tables(&self) -> Result<Vec<String>, StoreError> {
        (self.script)(StoreCall::Read).strike(self.inner.hidden_tables()).await
    }
}

delegate!(Rows, FaultyStore, store => store.inner, call => (store.script)(StoreCall::Read).strike(call).await);
delegate!(Ledger, FaultyStore, store => store.inner, call => (store.script)(StoreCall::Read).strike(call).await);
delegate!(Access, FaultyStore, store => store.inner, call => (store.script)(StoreCall::Read).strike(call).await);
delegate!(Changes, FaultyStore, store => store.inner, call => (store.script)(StoreCall::Read).strike(call).await);
delegate!(Forwards, FaultyStore, store => store.inner, call => (store.script)(StoreCall::Forward).strike(call).await);
delegate!(Reconciliation, FaultyStore, store => store.inner, call => (store.script)(StoreCall::Reconcile).strike(call).await);

macro_rules! faulty_queue_port {
    ($name:ident, $port:ident, $what:literal) => {
        #[doc = concat!("The ", $what, "'s side of a queue that fails as its script says.")]
        pub struct $name {
            inner: Arc<dyn $port>,
            script: QueueScript,
        }

        impl $name {
            /// Wraps a queue. The script is called once before each call.
            pub fn new(
                inner: Arc<dyn $port>,
                script: impl Fn(QueueCall<'_>) -> Fault<QueueError> + Send + Sync + 'static,
            ) -> Self {
                Self { inner, script: Box::new(script) }
            }
        }
    };
}

faulty_queue_port!(FaultyProducer, Producer, "receiver");
faulty_queue_port!(FaultyConsumer, Consumer, "worker");
faulty_queue_port!(FaultyAdmin, QueueAdmin, "operator");

delegate!(QueueAdmin, FaultyAdmin, queue => queue.inner, call => (queue.script)(QueueCall::Admin).strike(call).await);

#[async_trait]
impl Producer for FaultyProducer {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        let call = async { Ok(self.inner.enqueue_many(deliveries).await) };
        let struck = (self.script)(QueueCall::Enqueue(deliveries)).strike(call).await;
        struck.unwrap_or_else(|error| vec![Err(error); deliveries.len()])
    }
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        (self.script)(QueueCall::Lease(&request)).strike(self.inner.lease(request)).await
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        (self.script)(QueueCall::Count(lease)).strike(self.inner.count_attempt(lease)).await
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        let call = async { Ok(self.inner.settle_many(settlements).await) };
        let struck = (self.script)(QueueCall::Settle(settlements)).strike(call).await;
        struck.unwrap_or_else(|error| vec![Err(error); settlements.len()])
    }
}
