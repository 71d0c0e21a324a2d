//! Lease requests of a lane: their limits and ids.
//!
//! * A request that failed keeps its id until it is answered. Its leases may have been given and its answer
//!   lost on the way: the queue gives them out again by the id, and no attempt is counted.
//! * The first repetition asks for as much as before. Each further one asks for half: where the answer is too
//!   large for the link and its time limit, a smaller one gets through.
//! * What got through grows by an eighth with each answer, up to the limits that are set. Growing faster
//!   would run into the next time-out at once, and a time-out costs as much time as many answers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::queue::{Lease, LeaseRequest, LeaseRequestId};

use crate::settings::Settings;

/// The least number of bytes that a request asks for.
const BYTES_MIN: usize = 64 * 1024;

/// The requests of a lane, one after the other.
#[derive(Debug)]
pub(crate) struct Requests {
    messages_max: usize,
    bytes_max: usize,
    lease_for: Duration,
    wait: Duration,
    present: Mutex<Present>,
}

#[derive(Debug)]
struct Present {
    id: LeaseRequestId,
    messages: usize,
    bytes: usize,
    failures: u32,
}

impl Requests {
    pub(crate) fn new(lane: usize, settings: &Settings) -> Self {
        // Each lane has its share, and one is left for what is on its way from the queue in a second copy:
        // all together hold no more than the limit.
        let (messages_max, bytes_max) =
            (settings.batch_max.max(1), settings.lease_bytes_max / (settings.lanes.max(1) + 1));
        // Processes count from different numbers: an id of another one repeats none of ours.
        let id = LeaseRequestId { lane: u32::try_from(lane).unwrap_or(u32::MAX), number: fastrand::u64(..) };
        Self {
            messages_max,
            bytes_max,
            lease_for: settings.lease_for,
            wait: settings.lease_wait,
            present: Mutex::new(Present { id, messages: messages_max, bytes: bytes_max, failures: 0 }),
        }
    }

    /// The request to send now, for at most `cap` messages.
    pub(crate) fn current(&self, cap: usize) -> LeaseRequest {
        let present = self.present();
        LeaseRequest {
            id: present.id,
            max: present.messages.min(cap.max(1)),
            bytes_max: present.bytes,
            lease_for: self.lease_for,
            wait: self.wait,
        }
    }

    /// Takes note of an answer. The next request is another one.
    pub(crate) fn answered(&self) {
        let mut present = self.present();
        present.id.number = present.id.number.wrapping_add(1);
        present.failures = 0;
        present.messages = (present.messages + (present.messages / 8).max(1)).min(self.messages_max);
        present.bytes = (present.bytes + present.bytes / 8).min(self.bytes_max);
    }

    /// Takes note of a failure. The next request repeats this one.
    pub(crate) fn failed(&self) {
        let mut present = self.present();
        present.failures = present.failures.saturating_add(1);
        if present.failures > 1 {
            present.messages = (present.messages / 2).max(1);
            present.bytes = (present.bytes / 2).max(BYTES_MIN.min(self.bytes_max));
        }
    }

    /// Returns whether a batch of at most `cap` messages may have left something behind that is due.
    pub(crate) fn is_full(&self, leases: &[Lease], cap: usize) -> bool {
        let bytes: usize = leases.iter().map(|lease| lease.body.len()).sum();
        leases.len() >= self.messages_max.min(cap) || bytes >= self.bytes_max / 2
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Requests {
        let settings = Settings { lanes: 3, batch_max: 100, lease_bytes_max: 1 << 22, ..Settings::default() };
        Requests::new(2, &settings)
    }

    fn limits(request: &LeaseRequest) -> (usize, usize) {
        (request.max, request.bytes_max)
    }

    #[test]
    fn a_failed_request_is_repeated_as_it_was_and_then_with_half_as_much_each_time() {
        let requests = requests();
        let first = requests.current(usize::MAX);
        assert_eq!(limits(&first), (100, 1 << 20));
        let mut asked = Vec::new();
        for _ in 0..9 {
            requests.failed();
            let repeated = requests.current(usize::MAX);
            assert_eq!(repeated.id, first.id);
            asked.push(limits(&repeated));
        }
        assert_eq!(asked[..3], [(100, 1 << 20), (50, 1 << 19), (25, 1 << 18)]);
        assert_eq!(asked[8], (1, BYTES_MIN), "and never less than one message");
    }

    #[test]
    fn an_answer_ends_the_request_and_what_is_asked_for_grows_by_an_eighth_up_to_the_limit() {
        let requests = requests();
        let first = requests.current(usize::MAX);
        for _ in 0..4 {
            requests.failed();
        }
        assert_eq!(requests.current(usize::MAX).max, 12);
        let mut asked = Vec::new();
        for _ in 0..40 {
            requests.answered();
            asked.push(requests.current(usize::MAX).max);
        }
        assert_eq!((&asked[..3], asked[39]), (&[13, 14, 15][..], 100));
        assert!(asked.is_sorted());
        assert_ne!(requests.current(usize::MAX).id, first.id);
        assert_eq!(requests.current(usize::MAX).bytes_max, 1 << 20);
    }

    #[test]
    fn two_workers_do_not_repeat_each_others_requests() {
        assert_ne!(requests().current(usize::MAX).id, requests().current(usize::MAX).id);
    }
}
