//! Queued messages and dead letters: of one subject, by a bounded scan of the queue, or one message by its id.

use std::collections::BTreeMap;
use std::time::Duration;

use rollbook_core::catalog::Resource;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    DeadLetter, DeadLetterFilter, Discard, MessageState, QueueAdmin, QueueError, QueuedMessage,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::trace::Traceparent;
use serde::Serialize;
use serde::ser::SerializeStruct as _;

use super::Question;
use crate::ownership::{Ownership, contains_word};
use crate::{DEAD_LETTERS_PAGE, MESSAGES_PAGE};

/// Maximum duration of a scan.
const SCAN_FOR: Duration = Duration::from_secs(10);

/// Messages and dead letters found in the queue.
#[derive(Debug, Default, Serialize)]
pub struct Queued {
    /// Messages that are not settled.
    pub messages: Vec<Message>,
    /// Dead letters.
    pub dead_letters: Vec<DeadMessage>,
    /// Discards of the message with the id of the question.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub discards: Vec<DiscardedMessage>,
    /// Number of further messages and dead letters, beyond the limit.
    #[serde(rename = "untold")]
    pub omitted: u64,
    /// Number of messages about child objects of the subject, by event type.
    #[serde(rename = "about_what_belongs_to_it")]
    pub of_children: BTreeMap<String, u64>,
    /// Number of messages and dead letters that were read.
    #[serde(rename = "looked_at")]
    pub scanned: u64,
    /// Whether the scan ended before the end of the queue.
    pub is_cut_short: bool,
}

/// A message that is not settled.
#[derive(Debug)]
pub struct Message {
    /// Message id (`svix-id`).
    pub id: MessageId,
    /// Event type, if the body shows it.
    pub event_type: Option<String>,
    /// State in the queue.
    pub state: MessageState,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Trace context of the delivery.
    pub traceparent: Option<Traceparent>,
    /// Number of counted attempts.
    pub attempts: u32,
}

impl Serialize for Message {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (state, until) = match self.state {
            MessageState::Waiting => ("waiting", None),
            MessageState::Delayed { until } => ("delayed", Some(until.to_string())),
            MessageState::Leased { until } => ("leased", Some(until.to_string())),
        };
        let mut message = serializer.serialize_struct("Message", 7)?;
        message.serialize_field("svix_id", self.id.as_str())?;
        message.serialize_field("type", &self.event_type)?;
        message.serialize_field("state", state)?;
        message.serialize_field("until", &until)?;
        message.serialize_field("received_at", &self.received_at.to_string())?;
        message.serialize_field("traceparent", &self.traceparent.map(|trace| trace.to_string()))?;
        message.serialize_field("attempts", &self.attempts)?;
        message.end()
    }
}

/// A dead letter.
#[derive(Debug, Serialize)]
pub struct DeadMessage {
    /// Message id (`svix-id`).
    #[serde(rename = "svix_id")]
    pub id: MessageId,
    /// Event type, if the body shows it.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Reason of the last failure.
    pub reason: Reason,
    /// Details of the last failure.
    pub detail: String,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Trace context of the delivery.
    pub traceparent: Option<Traceparent>,
    /// Time at which the message became a dead letter.
    pub parked_at: Timestamp,
    /// Number of counted attempts.
    pub attempts: u32,
}

/// Record of a discarded dead letter.
#[derive(Debug, Serialize)]
pub struct DiscardedMessage {
    /// Time of the discard.
    pub discarded_at: Timestamp,
    /// Time at which the message became a dead letter.
    pub parked_at: Timestamp,
    /// Event type, if it was known.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Reason of the last failure.
    pub reason: Reason,
    /// Details of the last failure.
    pub detail: String,
    /// Number of counted attempts.
    pub attempts: u32,
}

impl From<Discard> for DiscardedMessage {
    fn from(record: Discard) -> Self {
        let Discard { discarded_at, parked_at, attempts, failure } = record;
        let Failure { reason, detail, event_type } = failure;
        Self { discarded_at, parked_at, event_type, reason, detail, attempts }
    }
}

impl Queued {
    /// Returns whether a message or a dead letter was found, or a record of its discard.
    pub fn has_something(&self) -> bool {
        !self.messages.is_empty() || !self.dead_letters.is_empty() || !self.discards.is_empty()
    }
}

/// Reads one message by its id.
pub(super) async fn by_id(queue: &dyn QueueAdmin, id: &MessageId) -> Result<Queued, QueueError> {
    let mut queued = Queued::default();
    if let Some(message) = queue.message(id).await? {
        let event_type = Ownership::read(&message.body).event_type;
        queued.messages.push(Message::new(message, event_type));
    }
    let filter = DeadLetterFilter { id: Some(id.clone()), ..DeadLetterFilter::default() };
    for letter in queue.dead_letters(&filter.page(None, 1)).await? {
        queued.dead_letters.push(DeadMessage::new(letter, None));
    }
    queued.discards.extend(queue.discards(id).await?.into_iter().map(DiscardedMessage::from));
    Ok(queued)
}

/// Scans the queue for messages about a subject of this kind.
pub(super) async fn about(
    queue: &dyn QueueAdmin,
    clock: &dyn Clock,
    resource: Option<&'static Resource>,
    question: &Question<'_>,
) -> Result<Queued, QueueError> {
    let until = clock.now().plus(SCAN_FOR);
    let mut scan = Scan { queued: Queued::default(), resource, question, clock, until, listed: 0 };
    // Dead letters first: they are few, and they need manual action.
    scan.dead_letters(queue).await?;
    scan.messages(queue).await?;
    let mut queued = scan.queued;
    queued.messages.sort_by(|one, other| (one.received_at, &one.id).cmp(&(other.received_at, &other.id)));
    Ok(queued)
}

struct Scan<'a> {
    queued: Queued,
    resource: Option<&'static Resource>,
    question: &'a Question<'a>,
    clock: &'a dyn Clock,
    until: Timestamp,
    listed: usize,
}

impl Scan<'_> {
    /// Returns how many messages may still be read, at most a page.
    fn room(&mut self, page: usize) -> usize {
        let left = self.question.scan.saturating_sub(self.queued.scanned);
        let left = if self.clock.now() < self.until { left } else { 0 };
        self.queued.is_cut_short |= left == 0;
        page.min(usize::try_from(left).unwrap_or(page))
    }

    async fn dead_letters(&mut self, queue: &dyn QueueAdmin) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let room = self.room(DEAD_LETTERS_PAGE);
            if room == 0 {
                return Ok(());
            }
            let page = queue.dead_letters(&DeadLetterFilter::default().page(after, room)).await?;
            // A page may have fewer than requested: only an empty page is the end.
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.position);
            for letter in page {
                if let Some(ownership) = self.examine(&letter.body) {
                    self.queued.dead_letters.push(DeadMessage::new(letter, ownership.event_type));
                }
            }
        }
    }

    async fn messages(&mut self, queue: &dyn QueueAdmin) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let room = self.room(MESSAGES_PAGE);
            if room == 0 {
                return Ok(());
            }
            let page = queue.messages(after.as_ref(), room).await?;
            for message in page.messages {
                if let Some(ownership) = self.examine(&message.body) {
                    self.queued.messages.push(Message::new(message, ownership.event_type));
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads a body. Returns its ownership if the message is to be listed.
    fn examine(&mut self, body: &[u8]) -> Option<Ownership> {
        self.queued.scanned += 1;
        let ownership = Ownership::read(body);
        let id = self.question.id;
        let is_about = ownership.is_of(id) || (!ownership.readable && contains_word(body, id));
        if is_about && self.listed < self.question.limit {
            self.listed += 1;
            return Some(ownership);
        }
        if is_about {
            self.queued.omitted += 1;
        } else if self.resource.is_some_and(|resource| ownership.belongs_to(resource, id)) {
            *self.queued.of_children.entry(ownership.event_type.unwrap_or_default()).or_default() += 1;
        }
        None
    }
}

impl Message {
    fn new(message: QueuedMessage, event_type: Option<String>) -> Self {
        let QueuedMessage { id, received_at, traceparent, attempts, state, .. } = message;
        Self { id, event_type, state, received_at, traceparent, attempts }
    }
}

impl DeadMessage {
    fn new(letter: DeadLetter, event_type: Option<String>) -> Self {
        Self {
            id: letter.id,
            event_type: letter.failure.event_type.or(event_type),
            reason: letter.failure.reason,
            detail: letter.failure.detail,
            received_at: letter.received_at,
            traceparent: letter.traceparent,
            parked_at: letter.parked_at,
            attempts: letter.attempts,
        }
    }
}
