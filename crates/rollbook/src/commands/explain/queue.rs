//! What is in the queue: about one subject, by looking at messages and dead letters one by one; or one message.

use std::collections::BTreeMap;
use std::time::Duration;

use rollbook_core::catalog::Resource;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    DeadLetter, DeadLetterFilter, MessageState, QueueAdmin, QueueError, QueuedMessage,
};
use rollbook_core::retry::Reason;
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use tokio::time::Instant;

use super::super::whose::{About, holds};
use super::super::{DEAD_LETTERS_PAGE, MESSAGES_PAGE};
use super::story::Ask;

/// How long the queue is looked at.
const SCAN_FOR: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) messages: Vec<Waiting>,
    pub(super) dead_letters: Vec<Parked>,
    /// How many more there were than are told.
    pub(super) untold: u64,
    /// How many are about something that hangs on or belongs to the subject, by type.
    pub(super) of_its_own: BTreeMap<String, u64>,
    /// How many messages and dead letters were looked at.
    pub(super) looked_at: u64,
    /// Whether there were more.
    pub(super) is_cut_short: bool,
}

/// A message that is neither done nor dead.
pub(super) struct Waiting {
    pub(super) id: MessageId,
    pub(super) event_type: Option<String>,
    pub(super) state: MessageState,
    pub(super) received_at: Timestamp,
    pub(super) traceparent: Option<Traceparent>,
    pub(super) attempts: u32,
}

/// A dead letter.
pub(super) struct Parked {
    pub(super) id: MessageId,
    pub(super) event_type: Option<String>,
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) received_at: Timestamp,
    pub(super) traceparent: Option<Traceparent>,
    /// When it was parked.
    pub(super) at: Timestamp,
    pub(super) attempts: u32,
}

impl Seen {
    pub(super) fn has_something(&self) -> bool {
        !self.messages.is_empty() || !self.dead_letters.is_empty()
    }
}

/// One message.
pub(super) async fn one(queue: &dyn QueueAdmin, id: &MessageId) -> Result<Seen, QueueError> {
    let mut seen = Seen::default();
    if let Some(message) = queue.message(id).await? {
        let event_type = About::read(&message.body).event_type;
        seen.messages.push(Waiting::new(message, event_type));
    }
    let filter = DeadLetterFilter { id: Some(id.clone()), ..DeadLetterFilter::default() };
    for letter in queue.dead_letters(&filter, None, 1).await? {
        seen.dead_letters.push(Parked::new(letter, None));
    }
    Ok(seen)
}

/// Messages about a subject of this kind.
pub(super) async fn about(
    queue: &dyn QueueAdmin,
    resource: Option<&'static Resource>,
    ask: &Ask<'_>,
) -> Result<Seen, QueueError> {
    let mut scan = Scan { seen: Seen::default(), resource, ask, until: Instant::now() + SCAN_FOR, told: 0 };
    // The dead first: they are few, and what is told of them is what must be done.
    scan.dead_letters(queue).await?;
    scan.messages(queue).await?;
    scan.seen.messages.sort_by(|one, other| (one.received_at, &one.id).cmp(&(other.received_at, &other.id)));
    Ok(scan.seen)
}

struct Scan<'a> {
    seen: Seen,
    resource: Option<&'static Resource>,
    ask: &'a Ask<'a>,
    until: Instant,
    told: usize,
}

impl Scan<'_> {
    /// How many may still be looked at, at most a page.
    fn space(&mut self, page: usize) -> usize {
        let left = self.ask.scan.saturating_sub(self.seen.looked_at);
        let left = if Instant::now() < self.until { left } else { 0 };
        self.seen.is_cut_short |= left == 0;
        page.min(usize::try_from(left).unwrap_or(page))
    }

    async fn dead_letters(&mut self, queue: &dyn QueueAdmin) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let room = self.space(DEAD_LETTERS_PAGE);
            if room == 0 {
                return Ok(());
            }
            let page = queue.dead_letters(&DeadLetterFilter::default(), after, room).await?;
            // A page may be short of what was asked for: only an empty one is the end.
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.position);
            for letter in page {
                if let Some(about) = self.look(&letter.body) {
                    self.seen.dead_letters.push(Parked::new(letter, about.event_type));
                }
            }
        }
    }

    async fn messages(&mut self, queue: &dyn QueueAdmin) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let room = self.space(MESSAGES_PAGE);
            if room == 0 {
                return Ok(());
            }
            let page = queue.messages(after.as_ref(), room).await?;
            for message in page.messages {
                if let Some(about) = self.look(&message.body) {
                    self.seen.messages.push(Waiting::new(message, about.event_type));
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// What a body says, where it is to be told.
    fn look(&mut self, body: &[u8]) -> Option<About> {
        self.seen.looked_at += 1;
        let about = About::read(body);
        let id = self.ask.id;
        let is_about = about.is_of(id) || (!about.readable && holds(body, id));
        if is_about && self.told < self.ask.limit {
            self.told += 1;
            return Some(about);
        }
        if is_about {
            self.seen.untold += 1;
        } else if self.resource.is_some_and(|resource| about.belongs_to(resource, id)) {
            *self.seen.of_its_own.entry(about.event_type.unwrap_or_default()).or_default() += 1;
        }
        None
    }
}

impl Waiting {
    fn new(message: QueuedMessage, event_type: Option<String>) -> Self {
        let QueuedMessage { id, received_at, traceparent, attempts, state, .. } = message;
        Self { id, event_type, state, received_at, traceparent, attempts }
    }
}

impl Parked {
    fn new(letter: DeadLetter, event_type: Option<String>) -> Self {
        Self {
            id: letter.id,
            event_type: letter.failure.event_type.or(event_type),
            reason: letter.failure.reason,
            detail: letter.failure.detail,
            received_at: letter.received_at,
            traceparent: letter.traceparent,
            at: letter.parked_at,
            attempts: letter.attempts,
        }
    }
}
