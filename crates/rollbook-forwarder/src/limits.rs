//! Limits of a forward.

use std::time::Duration;

use rollbook_core::retry::RetryPolicy;

/// Time after which a first attempt is slow: it may give its room to another request.
pub(crate) const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Limits of a board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Backoff, and the number of attempts that count.
    pub(crate) retry: RetryPolicy,
    /// Time since the first failure after which a change becomes a dead letter.
    pub(crate) give_up_after: Duration,
    /// Maximum requests at once, without slow first attempts that gave their room to others.
    pub(crate) concurrency: usize,
    /// Maximum number of those.
    pub(crate) slow_max: usize,
    /// Maximum number of subjects with recorded changes that wait. At the limit no more is read.
    pub(crate) blocked_max: usize,
    /// Maximum number of recorded changes that wait. At the limit no more is read.
    pub(crate) waiting_max: u64,
    /// Maximum number of dead letters. At the limit no more is read.
    pub(crate) failed_max: u64,
    /// Number of changes that are neither settled nor recorded at which no more is read.
    pub(crate) fresh_max: usize,
    /// Maximum number of those of one subject: further ones are recorded, so that others are read.
    pub(crate) fresh_of_subject_max: usize,
}

impl Limits {
    /// Maximum requests at once that repeat an earlier one: first attempts always have room.
    pub(crate) const fn retries_max(&self) -> usize {
        if self.concurrency < 4 { 1 } else { self.concurrency / 2 }
    }

    /// Number of requests that repeat an earlier one below which these take turns with first attempts.
    pub(crate) const fn retries_reserved(&self) -> usize {
        if self.concurrency < 8 { 1 } else { self.concurrency / 4 }
    }
}
