//! Requests in progress of a forward, and room for further ones.
//!
//! A first attempt that takes longer than [`SLOW_AFTER`] gives its room to another request, so that objects for which the endpoint
//! hangs for the first time do not take all of `concurrency` for `timeout`. It needs a proof: the endpoint accepted another
//! change within that time since the request began. An endpoint that is slow at everything, or down, gives no proof, and gets
//! no more requests than before. Where all of the room is taken by slow first attempts, nothing could give the proof: then one
//! of them gives its room without (decision 0204).

use std::collections::{BTreeMap, BTreeSet};

use rollbook_core::time::Timestamp;

use crate::limits::{Limits, SLOW_AFTER};

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// First request for a change.
    First,
    /// Repetition.
    Retry,
}

/// A request in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) attempt: Attempt,
    number: u64,
    began_at: Timestamp,
}

/// Requests in progress.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Number of requests that have begun.
    begun: u64,
    /// First attempts that count, with their beginning. Numbers are in the order of the beginnings.
    counted: BTreeMap<u64, Timestamp>,
    /// First attempts that gave their room to another request.
    slow: BTreeSet<u64>,
    /// Number of retries. They always count.
    retrying: usize,
    /// Requests up to this number had begun when the endpoint last accepted a change in time.
    proven: u64,
    /// The slow request that gave its room without a proof.
    unproven: Option<u64>,
    /// Whether its room is still free.
    wants_proof: bool,
    /// Whether requests with rows take so much memory that none gives its room.
    is_tight: bool,
}

impl Room {
    pub(super) const fn retrying(&self) -> usize {
        self.retrying
    }

    /// Whether the next request shall be one that can prove that the endpoint works.
    pub(super) const fn wants_proof(&self) -> bool {
        self.wants_proof
    }

    pub(super) const fn set_tight(&mut self, is_tight: bool) {
        self.is_tight = is_tight;
    }

    /// Makes room for a request, if there is none. Returns whether there is room.
    pub(super) fn make(&mut self, limits: &Limits, now: Timestamp) -> bool {
        if self.has_room(limits) {
            return true;
        }
        if self.gives_at(limits).is_none_or(|at| now < at) {
            return false;
        }
        let Some((number, _)) = self.counted.pop_first() else { return false };
        self.slow.insert(number);
        if number > self.proven {
            self.unproven = Some(number);
            self.wants_proof = true;
        }
        true
    }

    fn has_room(&self, limits: &Limits) -> bool {
        self.counted.len() + self.retrying < limits.concurrency
    }

    /// Time at which there is room without an answer; `None` if there will be none. No time has passed if there is some.
    pub(super) fn free_at(&self, limits: &Limits) -> Option<Timestamp> {
        if self.has_room(limits) { Some(Timestamp::from_millis(i64::MIN)) } else { self.gives_at(limits) }
    }

    /// Time at which the oldest first attempt that counts gives its room, where none is left.
    fn gives_at(&self, limits: &Limits) -> Option<Timestamp> {
        if self.is_tight || self.slow.len() >= limits.slow_max {
            return None;
        }
        let (number, began_at) = self.counted.first_key_value()?;
        if *number <= self.proven {
            return Some(began_at.plus(SLOW_AFTER));
        }
        let (_, last) = self.counted.last_key_value()?;
        self.unproven.is_none().then(|| last.plus(SLOW_AFTER))
    }

    pub(super) fn begin(&mut self, attempt: Attempt, now: Timestamp) -> Request {
        self.begun += 1;
        let number = self.begun;
        match attempt {
            Attempt::First => _ = self.counted.insert(number, now),
            Attempt::Retry => self.retrying += 1,
        }
        self.wants_proof = false;
        Request { attempt, number, began_at: now }
    }

    /// Notes that a request ended, and whether the endpoint accepted its change.
    pub(super) fn end(&mut self, request: Request, is_accepted: bool, now: Timestamp) {
        let Request { attempt, number, began_at } = request;
        match attempt {
            Attempt::First => {
                self.counted.remove(&number);
                self.slow.remove(&number);
            }
            Attempt::Retry => self.retrying -= 1,
        }
        if is_accepted && now.since(began_at) < SLOW_AFTER {
            self.proven = self.begun;
        }
        self.unproven = self.unproven.filter(|unproven| *unproven != number && *unproven > self.proven);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::board::tests::{LIMITS, at};

    const FEW: Limits = Limits { concurrency: 2, slow_max: 3, ..LIMITS };

    /// Begins as many first attempts as there is room for.
    fn fill(room: &mut Room, limits: &Limits, now: Timestamp) -> Vec<Request> {
        std::iter::from_fn(|| room.make(limits, now).then(|| room.begin(Attempt::First, now))).collect()
    }

    #[test]
    fn first_attempts_that_hang_give_their_room_after_a_proof_up_to_the_limit() {
        let mut room = Room::default();
        let first = fill(&mut room, &FEW, at(0));
        assert_eq!(first.len(), 2);
        let almost = at(1).minus(Duration::from_millis(1));
        assert!(fill(&mut room, &FEW, almost).is_empty(), "none is slow yet");
        assert_eq!(room.free_at(&FEW), Some(at(1)));
        let probe = fill(&mut room, &FEW, at(1));
        assert_eq!(probe.len(), 1, "one gives its room without a proof");
        assert!(fill(&mut room, &FEW, at(5)).is_empty() && room.free_at(&FEW).is_none());
        room.end(probe[0], true, at(1));
        assert_eq!(fill(&mut room, &FEW, at(5)).len(), 2, "the proof frees the room of the second");
        assert_eq!((fill(&mut room, &FEW, at(6)).len(), room.slow.len()), (1, FEW.slow_max));
        room.proven = room.begun;
        assert!(fill(&mut room, &FEW, at(99)).is_empty() && room.free_at(&FEW).is_none());
        room.end(first[0], false, at(99));
        assert_eq!(fill(&mut room, &FEW, at(99)).len(), 1, "one of them ended");
    }

    #[test]
    fn an_endpoint_that_is_slow_at_everything_gets_one_request_more() {
        let (mut room, mut requests) = (Room::default(), Vec::new());
        for second in 0..100 {
            requests.extend(fill(&mut room, &FEW, at(second)));
            assert!(requests.len() <= 3, "{}", requests.len());
            if second % 3 == 2 {
                // It accepts each after more than a second.
                room.end(requests.remove(0), true, at(second));
            }
        }
    }

    #[test]
    fn no_request_gives_its_room_with_a_limit_of_zero_or_while_memory_is_tight() {
        for (slow_max, is_tight) in [(0, false), (3, true)] {
            let limits = Limits { slow_max, ..FEW };
            let mut room = Room::default();
            room.set_tight(is_tight);
            let first = fill(&mut room, &limits, at(0));
            room.end(first[0], true, at(0));
            assert_eq!(fill(&mut room, &limits, at(0)).len(), 1);
            assert!(fill(&mut room, &limits, at(99)).is_empty(), "{slow_max} {is_tight}");
        }
    }
}
