//! Subjects with a change that can be sent, and the order of their requests.

use std::collections::BTreeSet;

use rollbook_core::store::Position;
use rollbook_core::time::Timestamp;

use super::room::{Attempt, Request, Room};
use super::subject_changes::{Item, Subject};
use crate::limits::Limits;

/// Subjects by the time from which their first change can be sent, and its position.
type Times = BTreeSet<(Timestamp, Position, Subject)>;

/// First attempts and retries. Each has room of its own: objects for which the endpoint hangs hold up no other ones, and a
/// stream of new changes holds up no retry.
#[derive(Debug, Default)]
pub(super) struct Due {
    first: Times,
    retries: Times,
    room: Room,
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
    pub(super) fn begin(&mut self, limits: &Limits, now: Timestamp) -> Option<(Request, Subject)> {
        let is_ready = |times: &Times| times.first().is_some_and(|(at, ..)| *at <= now);
        let has_first = is_ready(&self.first);
        let has_retry = is_ready(&self.retries) && self.room.retrying() < limits.retries_max();
        if !(has_first || has_retry) || !self.room.make(limits, now) {
            return None;
        }
        let is_reserved = self.room.retrying() < limits.retries_reserved();
        let takes_turns = is_reserved && !self.was_retry && !self.room.wants_proof();
        let attempt = if has_retry && (!has_first || takes_turns) { Attempt::Retry } else { Attempt::First };
        let subject = self.take(attempt, now)?;
        self.was_retry = attempt == Attempt::Retry;
        Some((self.room.begin(attempt, now), subject))
    }

    /// Takes the subject that has waited longest. Where the endpoint seems to hang, the newest of the first attempts: objects at
    /// which it hangs often follow each other.
    fn take(&mut self, attempt: Attempt, now: Timestamp) -> Option<Subject> {
        if attempt == Attempt::First && self.room.wants_proof() {
            let newest = self.first.iter().rev().find(|(at, ..)| *at <= now).cloned()?;
            self.first.remove(&newest);
            return Some(newest.2);
        }
        self.times(attempt).pop_first().map(|(.., subject)| subject)
    }

    /// Notes that a request ended, and whether the endpoint accepted its change.
    pub(super) fn end(&mut self, request: Request, is_accepted: bool, now: Timestamp) {
        self.room.end(request, is_accepted, now);
    }

    /// Notes whether rows in requests take so much memory that no request may exceed `concurrency`.
    pub(super) const fn set_tight(&mut self, is_tight: bool) {
        self.room.set_tight(is_tight);
    }

    /// Time from which a request can begin without the end of another one; `None` if none can.
    pub(super) fn next_at(&self, limits: &Limits) -> Option<Timestamp> {
        let free_at = self.room.free_at(limits)?;
        let retry = self.retries.first().filter(|_| self.room.retrying() < limits.retries_max());
        self.first.first().into_iter().chain(retry).map(|(at, ..)| (*at).max(free_at)).min()
    }
}
