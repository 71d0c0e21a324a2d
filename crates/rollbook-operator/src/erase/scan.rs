//! Scan of the whole queue for messages of one person.

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{DeadLetterFilter, MessageState, QueueAdmin, QueueError};
use serde::Serialize;

use super::person::{Person, Relation};
use crate::{DEAD_LETTERS_PAGE, MESSAGES_PAGE};

/// Messages per removal, so that the receiver waits for a short time only.
const STEP: usize = 500;

/// Result of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Messages of the person, to be removed.
    #[serde(skip)]
    pub(super) ids: Vec<MessageId>,
    /// Number of those that wait for a worker.
    pub waiting: u64,
    /// Number of those that wait for a retry.
    pub delayed: u64,
    /// Number of those that a worker has leased.
    pub leased: u64,
    /// Number of those that are dead letters.
    pub dead_letters: u64,
    /// Number of those that cannot be read as an event.
    pub unreadable: u64,
    /// Number of messages about others that mention the person. They stay.
    pub mentions: u64,
    /// Number of messages that cannot be read as an event and contain neither the id nor an address. They stay.
    pub unrecognized: u64,
}

/// Calls `visit` with the id, the state and the body of every message and every dead letter, which has no state.
async fn scan(
    queue: &dyn QueueAdmin,
    mut visit: impl FnMut(MessageId, Option<MessageState>, &[u8]),
) -> Result<(), QueueError> {
    let mut after = None;
    loop {
        let page = queue.messages(after.as_ref(), MESSAGES_PAGE).await?;
        for message in page.messages {
            visit(message.id, Some(message.state), &message.body);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    // Dead letters last: a message that becomes one during the scan is found here.
    let mut after = None;
    loop {
        let page = queue.dead_letters(&DeadLetterFilter::default().page(after, DEAD_LETTERS_PAGE)).await?;
        // A page may have fewer than requested: only an empty page is the end.
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.position);
        for letter in page {
            visit(letter.id, None, &letter.body);
        }
    }
}

/// Reads the addresses in the person's own messages.
pub(super) async fn own_objects(queue: &dyn QueueAdmin, person: &mut Person) -> Result<(), QueueError> {
    scan(queue, |_, _, body| person.read_own_object(body)).await
}

/// Finds the messages of the person. Reads the addresses in messages that arrived since [`own_objects`], too.
pub(super) async fn messages_of(queue: &dyn QueueAdmin, person: &mut Person) -> Result<Found, QueueError> {
    let mut found = Found::default();
    scan(queue, |id, state, body| found.note(id, state, person.relation(body))).await?;
    Ok(found)
}

impl Found {
    fn note(&mut self, id: MessageId, state: Option<MessageState>, relation: Relation) {
        match relation {
            Relation::None => return,
            Relation::Mention => return self.mentions += 1,
            Relation::Unrecognized => return self.unrecognized += 1,
            Relation::Own => {}
            Relation::Unreadable => self.unreadable += 1,
        }
        self.ids.push(id);
        match state {
            Some(MessageState::Waiting) => self.waiting += 1,
            Some(MessageState::Delayed { .. }) => self.delayed += 1,
            Some(MessageState::Leased { .. }) => self.leased += 1,
            None => self.dead_letters += 1,
        }
    }

    /// Adds the result of another scan.
    pub(super) fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.delayed += other.delayed;
        self.leased += other.leased;
        self.dead_letters += other.dead_letters;
        self.unreadable += other.unreadable;
        // These messages stay, so every scan counts them again.
        self.mentions = other.mentions;
        self.unrecognized = other.unrecognized;
    }

    /// Number of messages of the person.
    pub fn all(&self) -> u64 {
        self.waiting + self.delayed + self.leased + self.dead_letters
    }

    /// Removes the messages. Returns how many still existed.
    pub(super) async fn remove(&self, queue: &dyn QueueAdmin) -> Result<u64, QueueError> {
        let mut removed = 0;
        for step in self.ids.chunks(STEP) {
            removed += queue.remove_many(step).await? as u64;
        }
        Ok(removed)
    }
}
