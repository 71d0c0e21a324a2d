//! The queue as an operator sees it: counts, messages, dead letters, what can be repaired.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::QueueError;
use crate::delivery::MessageId;
use crate::protection::Protection;
use crate::retry::Failure;
use crate::time::Timestamp;
use crate::trace::Traceparent;
use crate::weakness::Weakness;

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
    /// from behind `after`, and fewer where their bodies would exceed [`PAGE_BYTES_MAX`]. Reads only. What is
    /// there from the first page to the last is on one of them, whatever state it passes through; what comes or
    /// ends meanwhile may be missing, or be there twice.
    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError>;

    /// The message of this id, unless it is done or dead. Cheap, however many wait. Reads only.
    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError>;

    /// Removes these messages for good, with their bodies, in whatever state they are: waiting, delayed,
    /// leased or dead. Whoever has one leased learns it when settling: [`Settled::LeaseLost`](super::Settled::LeaseLost). The id may
    /// come again, as new. Returns how many were there. After an error some may be gone, and calling again
    /// is right.
    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError>;

    /// Whether what the queue takes in is on stable storage when it says so. Asks anew each time: a
    /// server's settings may change under us. Reads only.
    async fn durability(&self) -> Result<Durability, QueueError>;

    /// How connections to the queue are protected; `None` while that is not known. Asks nobody.
    fn protection(&self) -> Option<Protection> {
        Some(Protection::Local)
    }

    /// How much room is left where the queue is kept, as far as that can be told. Reads only, and cheap enough to be
    /// asked for at every scrape.
    async fn room(&self) -> Result<Room, QueueError> {
        Ok(Room::default())
    }

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
    /// Every way in which an acknowledged delivery could still be lost. Empty where a 200 means "on the disk".
    pub weaknesses: Vec<Weakness>,
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

/// The room that a queue takes and has left, in bytes. `None` where nobody can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Memory in use on the server; of several, on the one that is nearest to its limit.
    pub memory_used: Option<u64>,
    /// The memory that this server may use. `None` also where it has no limit of its own.
    pub memory_limit: Option<u64>,
    /// Bytes that may still be written to the file system of the queue's file.
    pub disk_available: Option<u64>,
    /// The size of that file system.
    pub disk_size: Option<u64>,
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
    /// [`Consumer::count_attempt`](super::Consumer::count_attempt).
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
