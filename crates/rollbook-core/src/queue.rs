//! The queue, as its three users see it: receiver, worker, operator.
//!
//! Every method takes and gives batches, so that a delivery costs a share of one commit and never a
//! whole one. What each must keep is written as a conformance suite in `rollbook-testkit`
//! (`conformance::queue`), which every engine passes.

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

/// What the receiver needs.
#[async_trait]
pub trait Producer: Send + Sync {
    /// Makes deliveries durable. One answer per delivery, in their order: `Ok` means that it survives a
    /// `kill -9` and a power cut. An error says nothing about its neighbours: where part of the queue is
    /// unreachable or full, the deliveries of the other parts are taken. Sending a refused delivery again is
    /// always right.
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>>;

    /// Brings what all parts of the queue know of this deployment up to date, before a delivery needs one of them.
    /// To be repeated until it succeeds, and harmless afterwards.
    async fn prepare(&self) -> Result<(), QueueError> {
        Ok(())
    }

    /// Writes something that means nothing, as durably as a delivery: evidence that deliveries are taken again
    /// after some were refused. `false` from an engine that has no such write.
    async fn probe(&self) -> Result<bool, QueueError> {
        Ok(false)
    }

    /// Tries whether a delivery would be taken, and keeps none: by the probe, or by a delivery that is rolled back.
    /// `false` from an engine that can't. Where it succeeds, a full disk may still refuse the next delivery.
    async fn rehearse(&self) -> Result<bool, QueueError> {
        self.probe().await
    }
}

/// What became of one delivery at the door. Both mean that it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits. A dead letter of the same id has left the dead letters and runs again.
    Queued,
    /// A message of this id waits already.
    Duplicate,
}

/// What a worker needs.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Takes due messages for this worker alone, oldest due first, waiting up to `wait` for the first. Each
    /// is invisible to others until `lease_for` has passed. No attempt is counted by this call: the answer
    /// may never reach the worker.
    ///
    /// The answer of a call that failed may have been lost on its way, and its leases with it. So ask again
    /// with the same [`LeaseRequest::id`]: what the failed call took is given out again, within the limits of
    /// the new request, and what does not fit into them is released.
    ///
    /// Never cancel this call: what it took would stay invisible for the whole lease.
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError>;

    /// Counts the attempt of a lease before its message is processed, so that a message that kills its
    /// worker is counted too. Without this call an attempt is counted when the lease is settled (unless
    /// released). [`Settled::LeaseLost`] where another worker has the message.
    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError>;

    /// Ends leases. One answer per lease, in their order; a lease that ran out and was taken by
    /// another worker is [`Settled::LeaseLost`] and changes nothing. An error says nothing about its
    /// neighbours, as in [`Producer::enqueue_many`], and its effect is unknown.
    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>>;
}

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Names the request, so that it can be repeated where its answer was lost.
    pub id: LeaseRequestId,
    /// The most messages to give. At least one.
    pub max: usize,
    /// The most bytes of bodies to give, as received. The first message is given whatever its size.
    pub bytes_max: usize,
    /// How long the messages stay invisible to others.
    pub lease_for: Duration,
    /// How long to wait for a first message. Zero asks once.
    pub wait: Duration,
}

/// Names a request for leases within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseRequestId {
    /// Who asks. A lane has one request under way at a time.
    pub lane: u32,
    /// Counts the lane's requests. The same number as in the lane's last request repeats that request.
    pub number: u64,
}

/// Names one lease to the queue that gave it. Opaque to everyone else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken(pub String);

/// A message, for a time, in the hands of one worker.
#[derive(Clone)]
pub struct Lease {
    /// Proof of the lease.
    pub token: LeaseToken,
    /// The message's name.
    pub id: MessageId,
    /// The number of this attempt, from one: the attempts counted so far and this one.
    pub attempt: u32,
    /// How many leases before this one, in a row, ended without a settlement: their workers died or stalled,
    /// or never had the answer.
    pub unsettled: u32,
    /// When the receiver had read it.
    pub received_at: Timestamp,
    /// The trace that it came in, as in the delivery.
    pub traceparent: Option<Traceparent>,
    /// The signed bytes; of an unreadable entry what there is of them.
    pub body: Bytes,
    /// Why the queue's entry can't be read, where it can't: it belongs into the dead letters.
    pub unreadable: Option<String>,
}

impl fmt::Debug for Lease {
    /// Never the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, attempt {}, {} bytes)", self.id, self.attempt, self.body.len())
    }
}

/// How a lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done: the message is gone. Its id may come again.
    Ack,
    /// Failed: again after this long. The attempt stays counted.
    Retry {
        /// How long the message stays invisible.
        after: Duration,
        /// Why.
        failure: Failure,
    },
    /// Parked, with its body, until someone redrives or discards it.
    DeadLetter {
        /// Why.
        failure: Failure,
    },
    /// Handed back untried: due at once, and the attempt is not counted.
    Release,
    /// Handed back for no fault of its own: again after this long, and the attempt is not counted.
    Postpone {
        /// How long the message stays invisible.
        after: Duration,
    },
}

impl Settlement {
    /// A short name for metrics.
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

/// What a settlement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// What it says.
    Done,
    /// Nothing: another worker has the message, or has ended it.
    LeaseLost,
}

/// Why a queue could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The limit on waiting messages is reached. Where the queue has parts (shards), the numbers are the full
    /// part's.
    #[error("the queue is full: {depth} messages wait and the limit is {limit}")]
    Full {
        /// Messages that wait.
        depth: u64,
        /// The configured limit.
        limit: u64,
    },
    /// No memory or no disk space is left where the queue is kept, and it took nothing.
    #[error("the queue has no room: {0}")]
    NoRoom(String),
    /// Not now: unreachable, busy, out of space. The effect is unknown; trying again is right.
    #[error("the queue can't answer now: {0}")]
    Unavailable(String),
    /// The deployment is wrong (rights, schema, version, settings): a person must mend it.
    #[error("the queue is not set up right: {0}")]
    Deployment(String),
    /// The storage failed under us and what it holds is unknown until it is opened anew: this
    /// process must end.
    #[error("the queue's storage failed, the process must restart: {0}")]
    Broken(String),
}

impl QueueError {
    /// Whether the same call may succeed later without anyone doing anything.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoRoom(_) | Self::Unavailable(_))
    }
}
