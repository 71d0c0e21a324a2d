//! The queue as its three users see it: receiver, worker and operator.
//!
//! Every method takes and returns batches, so that one delivery costs a fraction of a commit. The conformance
//! suite in `rollbook-testkit` (`conformance::queue`) specifies the behaviour of a queue. Every engine passes it.

mod operator;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::operator::*;

/// Bounds of the buckets of `rollbook_batch_size`, which receiver and worker report, in messages.
pub const BATCH_SIZE_BUCKETS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
use crate::delivery::{Delivery, MessageId};
use crate::retry::Failure;
use crate::time::Timestamp;
use crate::trace::Traceparent;

/// Port of the receiver.
#[async_trait]
pub trait Producer: Send + Sync {
    /// Stores deliveries durably. Returns one result per delivery, in the same order. `Ok` means that the
    /// delivery survives `kill -9` and a power failure. An error says nothing about the other deliveries: if
    /// a part of the queue is unreachable or full, the other parts still accept theirs. Sending a refused
    /// delivery again is always safe.
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>>;

    /// Brings the state that all parts of the queue hold about this deployment up to date, before a delivery
    /// needs it. The caller repeats it until it succeeds. Further calls are harmless.
    async fn prepare(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// Notes that the signing secrets of this process were replaced by others with these fingerprints
    /// ([`crate::signature::SigningSecrets::fingerprints`]), for a queue that knows its deployment by them. The queue keeps
    /// the earlier ones. [`prepare`](Self::prepare) then brings all parts of the queue up to date.
    fn note_secrets(&self, fingerprints: &[String]) {
        let _ = fingerprints;
    }

    /// Writes a meaningless record as durably as a delivery. Success shows that the queue accepts deliveries
    /// again after a refusal. Returns `false` if the engine has no such write.
    async fn probe(&self) -> Result<bool, QueueError> {
        Ok(false)
    }

    /// Checks whether the queue would accept a delivery, without keeping one: by the probe, or by a delivery
    /// that is rolled back. Returns `false` if the engine does not support it. After a success a full disk
    /// may still refuse the next delivery.
    async fn rehearse(&self) -> Result<bool, QueueError> {
        self.probe().await
    }
}

/// Result of enqueueing one delivery. Both values mean that it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// The message is queued. A dead letter with the same id has left the dead letters and is processed again.
    Queued,
    /// A message with this id is already queued.
    Duplicate,
}

/// Port of the worker.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Leases due messages exclusively to this worker, oldest due first, and waits up to `wait` for the
    /// first. Each is invisible to other workers for `lease_for`. This call counts no attempt, because its
    /// answer may not reach the worker.
    ///
    /// If a call fails, its answer, and the leases in it, may have been lost. Repeat it with the same
    /// [`LeaseRequest::id`]: the messages that the failed call leased are returned again, within the limits
    /// of the new request, and the rest is released.
    ///
    /// Never cancel this call: the messages that it leased would stay invisible for the whole lease.
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError>;

    /// Counts the attempt of a lease before its message is processed, so that a message that crashes its
    /// worker is counted too. Without this call the attempt is counted when the lease is settled, unless it
    /// is released. Returns [`Settled::LeaseLost`] if another worker has the message.
    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError>;

    /// Settles leases. Returns one result per lease, in the same order. [`Settled::LeaseLost`] means that the
    /// lease expired and another worker has taken the message; nothing changes. An error says nothing about
    /// the other leases, as in [`Producer::enqueue_many`], and its effect is unknown.
    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>>;
}

/// Request for leases.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Id of the request, used to repeat it if its answer was lost.
    pub id: LeaseRequestId,
    /// Maximum number of messages. At least one.
    pub max: usize,
    /// Maximum total size of the bodies as received, in bytes. The first message is returned whatever its size.
    pub bytes_max: usize,
    /// Time for which the messages stay invisible to other workers.
    pub lease_for: Duration,
    /// Maximum time to wait for the first message. Zero means no waiting.
    pub wait: Duration,
}

/// Id of a lease request, unique within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseRequestId {
    /// Lane that makes the request. A lane has one request in flight at a time.
    pub lane: u32,
    /// Sequence number within the lane. Repeating the number of the lane's last request repeats that request.
    pub number: u64,
}

/// Token of one lease. Opaque to everyone but the queue that issued it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken(pub String);

/// A message leased to one worker for a limited time.
#[derive(Clone)]
pub struct Lease {
    /// Proof of the lease.
    pub token: LeaseToken,
    /// Message id.
    pub id: MessageId,
    /// Number of this attempt, from one: the attempts counted so far, plus this one.
    pub attempt: u32,
    /// Number of consecutive leases before this one that ended without a settlement: their workers crashed or
    /// stalled, or never received the answer.
    pub unsettled: u32,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Trace context of the delivery.
    pub traceparent: Option<Traceparent>,
    /// Signed bytes; of an unreadable entry, the bytes that are left.
    pub body: Bytes,
    /// Reason why the queue's entry cannot be read, if it cannot. The message must become a dead letter.
    pub unreadable: Option<String>,
}

impl fmt::Debug for Lease {
    /// Omits the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, attempt {}, {} bytes)", self.id, self.attempt, self.body.len())
    }
}

/// Settlement of a lease: the ways in which it can end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Success: the message is removed. A delivery with the same id is then a new message.
    Ack,
    /// Failure: the message is due again after a delay. The attempt stays counted.
    Retry {
        /// Time for which the message stays invisible.
        after: Duration,
        /// Reason of the failure.
        failure: Failure,
    },
    /// The message becomes a dead letter with its body, until an operator redrives or discards it.
    DeadLetter {
        /// Reason of the failure.
        failure: Failure,
    },
    /// The message is due at once, without counting an attempt.
    Release,
    /// Release that is not the fault of the message: the message is due again after a delay, and the attempt
    /// is not counted.
    Postpone {
        /// Time for which the message stays invisible.
        after: Duration,
    },
}

impl Settlement {
    /// Returns the name used in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry { .. } => "retry",
            Self::DeadLetter { .. } => "dead_letter",
            Self::Release => "release",
            Self::Postpone { .. } => "postpone",
        }
    }
}

/// Result of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The settlement took effect.
    Done,
    /// The settlement had no effect: another worker has the message, or has settled it.
    LeaseLost,
}

/// Reason why a queue call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The limit of queued messages is reached. If the queue has parts (shards), the numbers are those of the full part.
    #[error("the queue is full: it holds {depth} messages and the limit is {limit}")]
    Full {
        /// Number of queued messages.
        depth: u64,
        /// Configured limit.
        limit: u64,
    },
    /// The queue's server has no memory, or its disk no space, left. Nothing was stored.
    #[error("the queue has no room: {0}")]
    OutOfSpace(String),
    /// The queue cannot answer now: unreachable, busy, out of space. The effect is unknown; retrying is safe.
    #[error("the queue can't answer now: {0}")]
    Unavailable(String),
    /// The deployment is wrong (rights, schema, version, settings): manual action is needed.
    #[error("the queue is not set up right: {0}")]
    Deployment(String),
    /// The storage failed, and its content is unknown until it is opened again. The process must exit.
    #[error("the queue's storage failed, the process must restart: {0}")]
    Broken(String),
}
