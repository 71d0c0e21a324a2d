//! The queue as an operator sees it: counts, messages, dead letters and repairs.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::QueueError;
use crate::delivery::MessageId;
use crate::protection::Protection;
use crate::retry::{Failure, Reason};
use crate::time::Timestamp;
use crate::trace::Traceparent;
use crate::weakness::Weakness;

/// Port of the operator.
#[async_trait]
pub trait QueueAdmin: Send + Sync {
    /// Returns counts, cheaply enough for every scrape. Reads only. If parts of the queue are unreachable,
    /// returns the counts of the others: [`Durability::unreachable`] lists the unreachable parts.
    async fn stats(&self) -> Result<QueueStats, QueueError>;

    /// Returns matching dead letters, oldest first: at most the limit of the page, and fewer if their bodies would exceed
    /// [`PAGE_BYTES_MAX`]. Only an empty page marks the end.
    async fn dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError>;

    /// Returns matching dead letters, newest first. Bounded like [`dead_letters`](Self::dead_letters).
    async fn newest_dead_letters(&self, page: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError>;

    /// Counts matching dead letters by reason and event type in one step: examines those of the page, matching or not. Reads
    /// only; an engine that can avoids reading bodies.
    async fn sum_dead_letters(&self, page: &DeadLetterPage) -> Result<DeadLetterSums, QueueError> {
        let letters = self.dead_letters(page).await?;
        let mut sums =
            DeadLetterSums { next: letters.last().map(|last| last.position), ..Default::default() };
        for letter in &letters {
            sums.add(&letter.failure, letter.parked_at);
        }
        Ok(sums)
    }

    /// Redrives matching dead letters, oldest first, in one step: same id, same body, attempts from zero. A
    /// step examines the dead letters of the page, matching or not, so that it blocks deliveries and workers no longer than a
    /// batch does.
    ///
    /// # Errors
    /// [`QueueError::Full`] if there is no room for even the first match.
    async fn redrive(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError>;

    /// Counts matching dead letters in one step: [`BulkStep::changed`] is the number that a redrive would
    /// change. Bounded like [`redrive`](Self::redrive). Reads only; an engine that can avoids reading bodies.
    async fn count_dead_letters(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        let letters = self.dead_letters(page).await?;
        Ok(BulkStep { changed: letters.len(), next: letters.last().map(|letter| letter.position) })
    }

    /// Deletes matching dead letters permanently, oldest first, in one step, and records each in the same transaction (see
    /// [`discards`](Self::discards)). Bounded like [`redrive`](Self::redrive).
    async fn discard(&self, page: &DeadLetterPage) -> Result<BulkStep, QueueError>;

    /// Returns the records of discards of this message, oldest first. An engine keeps the last [`DISCARDS_KEPT`] records
    /// of each of its parts. Reads only.
    async fn discards(&self, id: &MessageId) -> Result<Vec<Discard>, QueueError>;

    /// Returns one page of the messages that are not settled, in no particular order: at most
    /// `limit` (at least one) starting after `after`, and fewer if their bodies would exceed
    /// [`PAGE_BYTES_MAX`]. Reads only. A message that exists from the first page to the last is on one of
    /// them, whatever states it passes through. A message that arrives or is settled meanwhile may be missing
    /// or occur twice.
    async fn messages(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError>;

    /// Returns the message with this id, unless it is done or dead. Cheap however many messages are queued. Reads only.
    async fn message(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError>;

    /// Removes these messages permanently, with their bodies, in any state: waiting, delayed, leased or dead.
    /// A worker with a lease on one gets [`Settled::LeaseLost`](super::Settled::LeaseLost) when it settles. A
    /// later delivery with the same id is a new message. Returns the number of messages removed. After an
    /// error some may be removed already; calling again is safe.
    async fn remove_many(&self, ids: &[MessageId]) -> Result<usize, QueueError>;

    /// Checks whether the queue has a delivery on stable storage when it acknowledges it. Checks anew with
    /// each call, because a server's settings may change at any time. Reads only.
    async fn durability(&self) -> Result<Durability, QueueError>;

    /// Returns the protection of connections to the queue, or `None` while it is unknown. Makes no request.
    fn protection(&self) -> Option<Protection> {
        Some(Protection::Local)
    }

    /// Returns the room left on the queue's server or disk, as far as it is known. Reads only, cheaply enough
    /// for every scrape.
    async fn space(&self) -> Result<StorageSpace, QueueError> {
        Ok(StorageSpace::default())
    }

    /// Returns when a server of the queue has restarted since the last call: an audit finds whether it has loaded all of its data.
    /// Never returns where the queue has no server.
    async fn restarted(&self) {
        std::future::pending::<()>().await;
    }

    /// Compares the bodies with the indexes that refer to them, and the counts with both. With `repair` the
    /// bodies are trusted: missing index entries are restored, dangling ones removed. Works in short steps,
    /// so that deliveries and workers continue; their changes meanwhile are not reported as damage. An engine
    /// that finds its messages without an index has nothing to compare.
    async fn audit(&self, repair: bool) -> Result<Audit, QueueError> {
        _ = repair;
        Ok(Audit { messages: self.stats().await?.depth(), ..Audit::default() })
    }
}

/// Number of records of discards that a queue, or each of its shards, keeps: the last ones.
pub const DISCARDS_KEPT: usize = 10_000;

/// Record of a discarded dead letter: why it was one, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Time of the discard.
    pub discarded_at: Timestamp,
    /// Time at which the message became a dead letter.
    pub parked_at: Timestamp,
    /// Number of the last attempt.
    pub attempts: u32,
    /// Reason of the last failure.
    pub failure: Failure,
}

/// Result of one step of counting dead letters by reason and type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterSums {
    /// Counts of this step, by reason and event type.
    pub groups: BTreeMap<(Reason, Option<String>), DeadLetterSum>,
    /// Position after which the next step continues; `None` at the end of the dead letters.
    pub next: Option<DeadLetterPosition>,
}

/// Dead letters with one reason and one event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterSum {
    /// Number of dead letters.
    pub count: u64,
    /// Time at which the newest one became a dead letter.
    pub newest_at: Timestamp,
}

impl DeadLetterSums {
    /// Counts a dead letter.
    pub fn add(&mut self, failure: &Failure, parked_at: Timestamp) {
        let sum = DeadLetterSum { count: 1, newest_at: parked_at };
        self.add_sum((failure.reason, failure.event_type.clone()), sum);
    }

    /// Adds the sum of other dead letters with this reason and type.
    pub fn add_sum(&mut self, group: (Reason, Option<String>), other: DeadLetterSum) {
        let sum = self.groups.entry(group).or_insert(DeadLetterSum { count: 0, ..other });
        sum.count = sum.count.saturating_add(other.count);
        sum.newest_at = sum.newest_at.max(other.newest_at);
    }
}

/// Maximum total size of the bodies on one page of messages or dead letters, in bytes. The first body is
/// included whatever its size.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// Result of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Messages compared.
    pub messages: u64,
    /// Messages without an index entry: they would never become due. A repair makes them due.
    pub stranded: u64,
    /// Index entries without a message. A repair removes them.
    pub dangling: u64,
    /// Descriptions of wrong counts, without ids or bodies. A repair corrects the counts.
    pub notes: Vec<String>,
}

impl Audit {
    /// Returns whether the audit found no damage.
    pub const fn is_clean(&self) -> bool {
        self.stranded == 0 && self.dangling == 0 && self.notes.is_empty()
    }
}

/// Durability of the queue's acknowledgements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// Every way in which an acknowledged delivery could still be lost, with its fix. Empty if a 200 means "on the disk",
    /// or if the operator vouches for the rest.
    pub weaknesses: Vec<Weakness>,
    /// Properties of the disk that the server does not prove, and for which the operator vouches.
    pub vouched: Vec<String>,
    /// Unreachable parts of the queue, each with the reason. Their deliveries are refused, their messages
    /// wait, and [`QueueStats`] does not count them. All other parts work.
    pub unreachable: Vec<String>,
}

impl Durability {
    /// Returns whether an acknowledgement guarantees less than "on the disk".
    pub const fn is_degraded(&self) -> bool {
        !self.weaknesses.is_empty()
    }
}

/// Storage space used and left, in bytes. `None` if unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageSpace {
    /// Memory in use on the server; with several servers, on the one nearest to its limit.
    pub memory_used: Option<u64>,
    /// Memory limit of that server. `None` also if the server has no limit of its own.
    pub memory_limit: Option<u64>,
    /// Bytes available on the file system of the queue's file.
    pub disk_available: Option<u64>,
    /// Size of that file system.
    pub disk_size: Option<u64>,
}

/// Counts of the queue. `ready + leased + delayed` is the depth; dead letters are counted separately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages that are due and not leased.
    pub ready: u64,
    /// Messages leased to a worker.
    pub leased: u64,
    /// Messages that wait for their backoff to pass.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Time at which the oldest message that is not settled was received.
    pub oldest_received_at: Option<Timestamp>,
}

impl QueueStats {
    /// Messages that are not settled.
    pub const fn depth(&self) -> u64 {
        self.ready + self.leased + self.delayed
    }
}

/// A message that is not settled, as an operator sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Message id.
    pub id: MessageId,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Trace context of the delivery.
    pub traceparent: Option<Traceparent>,
    /// Number of attempts counted so far. The attempt of a current lease is not included, see
    /// [`Consumer::count_attempt`](super::Consumer::count_attempt).
    pub attempts: u32,
    /// State of the message.
    pub state: MessageState,
    /// Signed bytes; of an unreadable entry, the bytes that are left, as in a dead letter.
    pub body: Bytes,
}

impl fmt::Debug for QueuedMessage {
    /// Omits the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, state, attempts, body, .. } = self;
        write!(f, "QueuedMessage({id}, {state:?}, {attempts} attempts, {} bytes)", body.len())
    }
}

/// State of a message that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// Waits for a worker: it is due and not leased, or its lease has expired.
    Waiting,
    /// Waits for its backoff to pass.
    Delayed {
        /// Time at which it becomes due.
        until: Timestamp,
    },
    /// Leased to a worker.
    Leased {
        /// Time at which the lease expires.
        until: Timestamp,
    },
}

/// One page of a listing of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesPage {
    /// At most as many messages as requested. An empty page is not necessarily the end.
    pub messages: Vec<QueuedMessage>,
    /// Cursor of the next page; `None` at the end.
    pub next: Option<MessagesCursor>,
}

/// Position in a listing of messages. Opaque to everyone but the queue that issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesCursor(pub String);

/// A dead letter: a message that could not be applied, kept with its body and the reason.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Position in the listing.
    pub position: DeadLetterPosition,
    /// Message id.
    pub id: MessageId,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Trace context of the delivery.
    pub traceparent: Option<Traceparent>,
    /// Time at which the message became a dead letter.
    pub parked_at: Timestamp,
    /// Number of the last attempt.
    pub attempts: u32,
    /// Reason of the last failure.
    pub failure: Failure,
    /// Signed bytes.
    pub body: Bytes,
}

impl fmt::Debug for DeadLetter {
    /// Omits the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeadLetter({}, {}, {} bytes)", self.id, self.failure.reason, self.body.len())
    }
}

/// Result of one step of a bulk operation on dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkStep {
    /// Number of dead letters changed or counted.
    pub changed: usize,
    /// Position after which the next step continues; `None` at the end of the dead letters.
    pub next: Option<DeadLetterPosition>,
}

/// Position in the listing of dead letters. Opaque, but ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterPosition(pub i64);

/// Filter for dead letters. All criteria that are set must match; a filter without criteria matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Message id.
    pub id: Option<MessageId>,
    /// Event type.
    pub event_type: Option<String>,
    /// Reason of the last failure (see [`crate::retry::Reason`]).
    pub reason: Option<String>,
    /// Earliest time at which the message became a dead letter, inclusive.
    pub since: Option<Timestamp>,
}

impl DeadLetterFilter {
    /// Returns a page of the dead letters for this filter.
    pub fn page(&self, after: Option<DeadLetterPosition>, limit: usize) -> DeadLetterPage {
        DeadLetterPage { filter: self.clone(), after, limit }
    }
}

/// Dead letters that one call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// Filter.
    pub filter: DeadLetterFilter,
    /// Position of the last one before the page, in the order of the call; `None` for the first page.
    pub after: Option<DeadLetterPosition>,
    /// Maximum number.
    pub limit: usize,
}
