//! One look through the whole queue, for what is a person's.

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{DeadLetterFilter, MessageState, QueueAdmin, QueueError};

use super::super::{DEAD_LETTERS_PAGE, MESSAGES_PAGE};
use super::person::{Bearing, Person};

/// Messages in one removal, so that none keeps the receiver waiting.
const STEP: usize = 500;

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Theirs, to be removed.
    pub(super) ids: Vec<MessageId>,
    /// How many of those wait for a worker.
    pub(super) waiting: u64,
    /// For a retry.
    pub(super) delayed: u64,
    /// Are in the hands of a worker.
    pub(super) leased: u64,
    /// Are dead letters.
    pub(super) dead: u64,
    /// How many of all those can't be read as an event.
    pub(super) unreadable: u64,
    /// How many are about others and name them. They stay.
    pub(super) mentions: u64,
    /// How many can't be read as an event and show neither the id nor an address. They stay.
    pub(super) unrecognized: u64,
    /// How many were looked at.
    pub(super) looked_at: u64,
}

/// Looks once through messages and dead letters.
pub(super) async fn through(queue: &dyn QueueAdmin, person: &mut Person) -> Result<Found, QueueError> {
    let mut found = Found::default();
    let mut after = None;
    loop {
        let page = queue.messages(after.as_ref(), MESSAGES_PAGE).await?;
        for message in page.messages {
            let place = match message.state {
                MessageState::Waiting => Place::Waiting,
                MessageState::Delayed { .. } => Place::Delayed,
                MessageState::Leased { .. } => Place::Leased,
            };
            found.note(message.id, place, person.bearing(&message.body));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    // Last: what dies meanwhile is found here.
    let mut after = None;
    loop {
        let page = queue.dead_letters(&DeadLetterFilter::default(), after, DEAD_LETTERS_PAGE).await?;
        // A page may be short of what was asked for: only an empty one is the end.
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.position);
        for letter in page {
            found.note(letter.id, Place::Dead, person.bearing(&letter.body));
        }
    }
}

/// Where a message is.
#[derive(Clone, Copy)]
enum Place {
    Waiting,
    Delayed,
    Leased,
    Dead,
}

impl Found {
    fn note(&mut self, id: MessageId, place: Place, bearing: Bearing) {
        self.looked_at += 1;
        match bearing {
            Bearing::None => return,
            Bearing::Mention => {
                self.mentions += 1;
                return;
            }
            Bearing::Unrecognized => {
                self.unrecognized += 1;
                return;
            }
            Bearing::Theirs => {}
            Bearing::Unreadable => self.unreadable += 1,
        }
        self.ids.push(id);
        match place {
            Place::Waiting => self.waiting += 1,
            Place::Delayed => self.delayed += 1,
            Place::Leased => self.leased += 1,
            Place::Dead => self.dead += 1,
        }
    }

    /// Adds what another look has found.
    pub(super) fn add(&mut self, other: &Self) {
        self.waiting += other.waiting;
        self.delayed += other.delayed;
        self.leased += other.leased;
        self.dead += other.dead;
        self.unreadable += other.unreadable;
        // The others look at the same messages again.
        self.mentions = other.mentions;
        self.unrecognized = other.unrecognized;
    }

    /// How many were found, here and by other looks.
    pub(super) fn all(&self) -> u64 {
        self.waiting + self.delayed + self.leased + self.dead
    }

    /// Removes them. Returns how many were still there.
    pub(super) async fn remove(&self, queue: &dyn QueueAdmin) -> Result<u64, QueueError> {
        let mut removed = 0;
        for step in self.ids.chunks(STEP) {
            removed += queue.remove_many(step).await? as u64;
        }
        Ok(removed)
    }
}
