//! Progress of one turn of steps over many rows: of cascades, of retention, or of an erasure.
//!
//! The core reads no clock: the caller passes the time.

use std::time::Instant;

use super::cascades::{CascadeStep, TAKEN_FOR, TURN};
use super::{ErasedCounts, ErasureProgress};

/// Ledger entries that could not be removed.
#[derive(Debug, Default)]
pub struct Kept {
    /// Number of entries.
    pub count: u64,
    /// `svix-id` of one of the first.
    pub example: String,
    /// Reason for the first.
    pub why: String,
}

impl Kept {
    /// Adds entries. The example and the reason of the first ones stay.
    pub fn add(&mut self, count: u64, example: String, why: &str) {
        if self.count == 0 {
            (self.example, self.why) = (example, why.to_owned());
        }
        self.count += count;
    }

    /// Returns the text about the entries; `None` if all could be removed.
    pub fn text(&self) -> Option<String> {
        let Self { count, example, why } = self;
        let text =
            || format!("{count} ledger entries (table deliveries) about them stay, such as {example}: {why}");
        (*count > 0).then(text)
    }
}

/// Progress of a turn, and the time at which it ends. `Why` is an engine's reason of a refusal.
pub struct Turn<'a, Why> {
    /// Rows repaired and refused.
    pub done: CascadeStep,
    /// Ledger entries removed.
    pub ledger: u64,
    /// Reason of the last refusal.
    pub why: Option<Why>,
    /// Ledger entries that could not be removed.
    pub kept: Kept,
    deadline: Option<Instant>,
    held_at: Instant,
    progress: Option<&'a ErasureProgress<'a>>,
}

impl<'a, Why> Turn<'a, Why> {
    /// Begins a turn.
    pub fn new(now: Instant) -> Self {
        let (done, kept) = (CascadeStep::default(), Kept::default());
        Self { done, ledger: 0, why: None, kept, deadline: Some(now + TURN), held_at: now, progress: None }
    }

    /// Begins a turn without a time limit, which reports its progress.
    pub fn to_the_end(now: Instant, progress: &'a ErasureProgress<'a>) -> Self {
        Self { deadline: None, progress: Some(progress), ..Self::new(now) }
    }

    /// Restarts the time limit: retries and searches must not use up the time of the repairs.
    pub fn renew(&mut self, now: Instant) {
        self.deadline = self.deadline.map(|_| now + TURN);
    }

    /// Whether the time is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Whether the time is over, and refusals took part of it: retention, which has a limit of its own, goes on otherwise.
    pub fn is_stopped_by_refusals(&self, now: Instant) -> bool {
        self.done.refused > 0 && self.is_over(now)
    }

    /// Records that an entry was taken.
    pub const fn take(&mut self, now: Instant) {
        self.held_at = now;
    }

    /// Returns whether the entry must be kept from other workers for longer, and records that it is.
    pub fn must_hold(&mut self, now: Instant) -> bool {
        let is_due = now.duration_since(self.held_at) >= TAKEN_FOR / 4;
        if is_due {
            self.held_at = now;
        }
        is_due
    }

    /// Reports the progress, if someone asked for it.
    pub fn report(&self) {
        if let Some(progress) = self.progress {
            progress(ErasedCounts { rows: self.done.rows, ledger: self.ledger });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_turn_is_over_at_its_limit_and_an_erasure_has_none() {
        let earlier = Instant::now();
        let begin = earlier + Duration::from_nanos(1);
        let mut turn = Turn::<()>::new(begin);
        assert!(!turn.is_over(earlier + TURN) && turn.is_over(begin + TURN));
        assert!(!turn.is_stopped_by_refusals(begin + TURN), "nothing was refused");
        turn.done.refused = 1;
        assert!(turn.is_stopped_by_refusals(begin + TURN));
        turn.renew(begin + TURN);
        assert!(!turn.is_over(begin + TURN));
        let progress = |_| ();
        let mut erasure = Turn::<()>::to_the_end(begin, &progress);
        erasure.renew(begin);
        assert!(!erasure.is_over(begin + TURN * 1_000));
    }

    #[test]
    fn an_entry_is_held_for_longer_at_a_quarter_of_its_time() {
        let earlier = Instant::now();
        let begin = earlier + Duration::from_nanos(1);
        let mut turn = Turn::<()>::new(begin);
        turn.take(begin + TURN);
        let due = begin + TURN + TAKEN_FOR / 4;
        assert!(!turn.must_hold(earlier + TURN + TAKEN_FOR / 4));
        assert!(turn.must_hold(due) && !turn.must_hold(due), "once");
    }

    #[test]
    fn the_first_reason_stays_and_all_entries_count() {
        let mut kept = Kept::default();
        assert_eq!(kept.text(), None);
        kept.add(2, "msg_1".to_owned(), "refused");
        kept.add(3, "msg_2".to_owned(), "later");
        let text = "5 ledger entries (table deliveries) about them stay, such as msg_1: refused";
        assert_eq!(kept.text().as_deref(), Some(text));
    }
}
