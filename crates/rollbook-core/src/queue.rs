//! The queue, as its three users see it: receiver, worker, operator.
//!
//! Every method takes and gives batches, so that a delivery costs a share of one commit and never a
//! whole one. What each must keep is written as a conformance suite in `rollbook-testkit`
//! (`conformance::queue`), which every engine passes.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

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

    /// Writes something that means nothing, as durably as a delivery: evidence that deliveries are taken again
    /// after some were refused. `false` from an engine that has no such write.
    async fn probe(&self) -> Result<bool, QueueError> {
        Ok(false)
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
}

impl Settlement {
    /// A short name for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry { .. } => "retry",
            Self::DeadLetter { .. } => "dead_letter",
            Self::Release => "release",
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

/// What an operator needs.
#[async_trait]
pub trait QueueAdmin: Send + Sync {
    /// Counts, cheap enough to be asked for at every scrape. Reads only. Where parts of the queue do not answer,
    /// the counts of the others: [`Durability::unreachable`] names them.
    async fn stats(&self) -> Result<QueueStats, QueueError>;

    /// Dead letters that match, oldest first, from behind the position `after`: at most `limit`, and fewer where
    /// their bodies would exceed [`PAGE_BYTES_MAX`]. Only an empty page is the end.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError>;

    /// One step of sending dead letters that match, oldest first, back to the queue: same id, same body,
    /// attempts from zero. A step looks at no more than `limit` dead letters from behind `after`, whether they
    /// match or not, so that deliveries and workers wait for it no longer than for a batch.
    ///
    /// # Errors
    /// [`QueueError::Full`] where there is no room for even the first that matches.
    async fn redrive(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError>;

    /// One step of counting dead letters that match: [`BulkStep::changed`] says how many of them a redrive would
    /// change. Bounded as [`redrive`](Self::redrive). Reads only, and an engine that can reads no bodies.
    async fn count_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        let page = self.dead_letters(filter, after, limit).await?;
        Ok(BulkStep { changed: page.len(), next: page.last().map(|letter| letter.position) })
    }

    /// One step of deleting dead letters that match, oldest first, for good. Bounded as
    /// [`redrive`](Self::redrive).
    async fn discard(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError>;

    /// Messages that are neither done nor dead, in no order, page by page: at most `limit` (at least one)
    /// from behind `after`, and fewer where their bodies would exceed [`PAGE_BYTES_MAX`]. Reads only. What is there from the first page to the last is on one of them,
    /// whatever state it passes through; what comes or ends meanwhile may be missing, or be there twice.
    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError>;

    /// The message of this id, unless it is done or dead. Cheap, however many wait. Reads only.
    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError>;

    /// Removes these messages for good, with their bodies, in whatever state they are: waiting, delayed,
    /// leased or dead. Whoever has one leased learns it when settling: [`Settled::LeaseLost`]. The id may
    /// come again, as new. Returns how many were there. After an error some may be gone, and calling again
    /// is right.
    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError>;

    /// Whether what the queue takes in is on stable storage when it says so. Asks anew each time: a
    /// server's settings may change under us. Reads only.
    async fn durability(&self) -> Result<Durability, QueueError>;

    /// Compares the bodies with the indexes that lead to them, and the counts with both. With `repair` the bodies
    /// are believed: what was lost is restored, what leads nowhere is removed. Works in short steps, so that
    /// deliveries and workers go on meanwhile; what they change meanwhile is not reported as damage. An engine
    /// that finds its messages without an index has nothing to compare.
    async fn audit(&self, repair: bool) -> Result<Audit, QueueError> {
        _ = repair;
        Ok(Audit { messages: self.stats().await?.depth(), ..Audit::default() })
    }
}

/// The most bytes of bodies on one page of messages or dead letters. The first body is on it whatever its size.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Messages compared.
    pub messages: u64,
    /// Messages that no index led to: they would have waited for ever. A repair makes them due.
    pub stranded: u64,
    /// Index entries that led to no message. A repair removes them.
    pub dangling: u64,
    /// Counts that were wrong, in words; no ids, no bodies. A repair corrects them.
    pub notes: Vec<String>,
}

impl Audit {
    /// Whether everything was as it should be.
    pub const fn is_clean(&self) -> bool {
        self.stranded == 0 && self.dangling == 0 && self.notes.is_empty()
    }
}

/// What a queue's acknowledgement is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// Every way in which an acknowledged delivery could still be lost, each with its mend in one
    /// line. Empty where a 200 means "on the disk".
    pub weaknesses: Vec<String>,
    /// Parts of the queue that do not answer, each with the reason. What belongs there is refused, what is there
    /// waits, and [`QueueStats`] count neither. All other parts work.
    pub unreachable: Vec<String>,
}

impl Durability {
    /// Whether an acknowledgement means less than "on the disk".
    pub const fn is_degraded(&self) -> bool {
        !self.weaknesses.is_empty()
    }
}

/// The queue in numbers. `ready + leased + delayed` is its depth; dead letters are beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages that are due and that nobody has.
    pub ready: u64,
    /// Messages in the hands of a worker.
    pub leased: u64,
    /// Messages that wait for their backoff to pass.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// When the oldest message that is neither done nor dead was received.
    pub oldest_received_at: Option<Timestamp>,
}

impl QueueStats {
    /// Messages that are neither done nor dead.
    pub const fn depth(&self) -> u64 {
        self.ready + self.leased + self.delayed
    }
}

/// A message that is neither done nor dead, as an operator sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct QueuedMessage {
    /// The message's name.
    pub id: MessageId,
    /// When the receiver had read it.
    pub received_at: Timestamp,
    /// The trace that it came in, as in the delivery.
    pub traceparent: Option<Traceparent>,
    /// The attempts counted so far: that of a lease under way is not counted yet, see
    /// [`Consumer::count_attempt`].
    pub attempts: u32,
    /// What it waits for.
    pub state: MessageState,
    /// The signed bytes; of an entry that can't be read what there is of them, as in a dead letter.
    pub body: Bytes,
}

impl fmt::Debug for QueuedMessage {
    /// Never the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, state, attempts, body, .. } = self;
        write!(f, "QueuedMessage({id}, {state:?}, {attempts} attempts, {} bytes)", body.len())
    }
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// For a worker: it is due and nobody has it, or whoever had it let the lease run out.
    Waiting,
    /// For its backoff to pass.
    Delayed {
        /// When it will be due.
        until: Timestamp,
    },
    /// For the worker that has it.
    Leased {
        /// When the lease runs out.
        until: Timestamp,
    },
}

/// A part of a listing of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesPage {
    /// As many as were asked for, or fewer: even none is not yet the end.
    pub messages: Vec<QueuedMessage>,
    /// Where the next page begins. `None` at the end.
    pub next: Option<MessagesCursor>,
}

/// A place in a listing of messages, for the queue that gave it. Opaque to everyone else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesCursor(pub String);

/// A message that was parked.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stands in the listing.
    pub position: DeadLetterPosition,
    /// The message's name.
    pub id: MessageId,
    /// When the receiver had read it.
    pub received_at: Timestamp,
    /// The trace that it came in, as in the delivery.
    pub traceparent: Option<Traceparent>,
    /// When it was parked.
    pub died_at: Timestamp,
    /// The number of the attempt that failed last.
    pub attempts: u32,
    /// Why it was parked.
    pub failure: Failure,
    /// The signed bytes.
    pub body: Bytes,
}

impl fmt::Debug for DeadLetter {
    /// Never the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadLetter({}, {}, {} bytes)", self.id, self.failure.reason, self.body.len())
    }
}

/// What one step of a bulk operation on dead letters did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkStep {
    /// How many dead letters were changed, or counted.
    pub changed: usize,
    /// Where the next step begins. `None` at the end of the dead letters.
    pub next: Option<DeadLetterPosition>,
}

/// A place in the listing of dead letters. Opaque, but ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterPosition(pub i64);

/// Which dead letters are meant. Everything that is set must hold; nothing set means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// This one.
    pub id: Option<MessageId>,
    /// Events of this type.
    pub event_type: Option<String>,
    /// Parked for this reason (see [`crate::retry::Reason`]).
    pub reason: Option<String>,
    /// Parked at this moment or later.
    pub since: Option<Timestamp>,
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
    /// The server that holds the queue has no memory left for it, and took nothing.
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
