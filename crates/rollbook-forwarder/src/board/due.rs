//! Subjects with a change that can be sent, and the order of their requests.

use std::collections::BTreeSet;

use rollbook_core::store::Position;
use rollbook_core::time::Timestamp;

use super::queue::{Attempt, Item, Subject};
use crate::limits::Limits;

/// Subjects by the time from which their first change can be sent, and its position.
type Times = BTreeSet<(Timestamp, Position, Subject)>;

/// First attempts and retries. Each has room of its own: objects at which the receiver hangs hold up no other ones, and a
/// stream of new changes holds up no retry.
#[derive(Debug, Default)]
pub(super) struct Due {
    first: Times,
    retries: Times,
    /// Number of requests in progress.
    sending: usize,
    /// Number of those that are retries.
    retrying: usize,
    /// Whether the last request that began is a retry.
    was_retry: bool,
}

impl Due {
    fn times(&mut self, attempt: Attempt) -> &mut Times {
        match attempt {
            Attempt::First => &mut self.first,
            Attempt::Retry => &mut self.retries,
        }
    }

    pub(super) fn insert(&mut self, item: &Item, subject: &Subject) {
        let (at, position) = item.due();
        self.times(item.attempt()).insert((at, position, Subject::clone(subject)));
    }

    /// Removes a subject. Returns whether it was there.
    pub(super) fn remove(&mut self, item: &Item, subject: &Subject) -> bool {
        let (at, position) = item.due();
        self.times(item.attempt()).remove(&(at, position, Subject::clone(subject)))
    }

    /// Takes the subject of the next request, which begins now.
    pub(super) fn begin(&mut self, limits: &Limits, now: Timestamp) -> Option<(Attempt, Subject)> {
        if self.sending >= limits.concurrency {
            return None;
        }
        let is_ready = |times: &Times| times.first().is_some_and(|(at, ..)| *at <= now);
        let has_first = is_ready(&self.first);
        let has_retry = is_ready(&self.retries) && self.retrying < limits.retries_max();
        let takes_turns = self.retrying < limits.retries_reserved() && !self.was_retry;
        let attempt = match (has_first, has_retry) {
            (false, false) => return None,
            (true, true) if !takes_turns => Attempt::First,
            (_, true) => Attempt::Retry,
            (true, false) => Attempt::First,
        };
        let (_, _, subject) = self.times(attempt).pop_first()?;
        self.was_retry = attempt == Attempt::Retry;
        self.sending += 1;
        self.retrying += usize::from(self.was_retry);
        Some((attempt, subject))
    }

    /// Notes that a request ended.
    pub(super) fn end(&mut self, attempt: Attempt) {
        self.sending -= 1;
        self.retrying -= usize::from(attempt == Attempt::Retry);
    }

    /// Time from which a request can begin without the end of another one; `None` if none can.
    pub(super) fn next_at(&self, limits: &Limits) -> Option<Timestamp> {
        let has_room = self.sending < limits.concurrency;
        let first = self.first.first().filter(|_| has_room);
        let retry = self.retries.first().filter(|_| has_room && self.retrying < limits.retries_max());
        first.into_iter().chain(retry).map(|(at, ..)| *at).min()
    }
}
