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

/// Calls `visit` with the id, the state and the body of every message and every dead letter.
async fn scan(
    queue: &dyn QueueAdmin,
    mut visit: impl FnMut(MessageId, Place, &[u8]),
) -> Result<(), QueueError> {
    let mut after = None;
    loop {
        let page = queue.messages(after.as_ref(), MESSAGES_PAGE).await?;
        for message in page.messages {
            let place = match message.state {
                MessageState::Waiting => Place::Waiting,
                MessageState::Delayed { .. } => Place::Delayed,
                MessageState::Leased { .. } => Place::Leased,
            };
            visit(message.id, place, &message.body);
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
            visit(letter.id, Place::DeadLetter, &letter.body);
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
    scan(queue, |id, place, body| found.note(id, place, person.relation(body))).await?;
    Ok(found)
}

/// State of a message in the queue.
#[derive(Clone, Copy)]
enum Place {
    Waiting,
    Delayed,
    Leased,
    DeadLetter,
}

impl Found {
    fn note(&mut self, id: MessageId, place: Place, relation: Relation) {
        match relation {
            Relation::None => return,
            Relation::Mention => {
                self.mentions += 1;
                return;
            }
            Relation::Unrecognized => {
                self.unrecognized += 1;
                return;
            }
            Relation::Own => {}
            Relation::Unreadable => self.unreadable += 1,
        }
        self.ids.push(id);
        match place {
            Place::Waiting => self.waiting += 1,
            Place::Delayed => self.delayed += 1,
            Place::Leased => self.leased += 1,
            Place::DeadLetter => self.dead_letters += 1,
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
